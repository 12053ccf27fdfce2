"""The ResNet and cross-attention UNet that removes noise.  `from ldm.unet import UNet, UNetConfig`."""

from ldm.unet.unet import UNet, UNetConfig

__all__ = ["UNet", "UNetConfig"]
