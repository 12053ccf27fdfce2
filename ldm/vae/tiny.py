"""TAESD, a tiny autoencoder for the latents of Stable Diffusion: pictures at a fraction of the cost, less exactly.

Its latents are scaled already, as the UNet sees them.  So `scale_factor` is 1, and `TinyVAE.decode` takes what
`VAE.decode` takes times that VAE's scale_factor.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.vae.vae import VAE

STAGES = 3                                              # each halves, or doubles, the picture
BLOCKS = 3                                              # in each stage
RANGE = 3.0                                             # latents are squeezed into -3..3
CERTAIN = -30.0                                         # log variance of an encoder that has none


@dataclass(frozen=True)
class TinyVAEConfig:
    """Shape of a tiny autoencoder; the defaults are TAESD's for Stable Diffusion 1 and 2."""

    latent_channels: int = 4
    channels: int = 64                                  # width of every layer
    encodes: bool = True                                # False: a decoder alone, which is all that previews need

    image_channels = 3
    factor = 2**STAGES                                  # pixels per latent, along each side
    scale_factor = 1.0


class Block(nn.Module):
    """Three convolutions with ReLUs between them, plus the input.  x [B C H W] -> [B C H W]."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1, self.conv2, self.conv3 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.conv1(x))
        h = F.relu(self.conv2(h))
        return F.relu(x + self.conv3(h))


class DownStage(nn.Module):
    """Half the size, then blocks.  x [B C H W] -> [B C H/2 W/2]."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1, bias=False)
        self.blocks = nn.Sequential(*(Block(channels) for _ in range(BLOCKS)))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.conv(x))


class UpStage(nn.Module):
    """Blocks, then twice the size.  x [B C h w] -> [B C 2h 2w]."""

    def __init__(self, channels: int):
        super().__init__()
        self.blocks = nn.Sequential(*(Block(channels) for _ in range(BLOCKS)))
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(self.blocks(x), scale_factor=2.0, mode="nearest"))


class TinyEncoder(nn.Module):
    """Image [B 3 H W] -> moments [B 2x4 H/8 W/8]: the latents, and next to no variance."""

    def __init__(self, cfg: TinyVAEConfig):
        super().__init__()
        self.conv_in = nn.Conv2d(cfg.image_channels, cfg.channels, 3, padding=1)
        self.block = Block(cfg.channels)
        self.down = nn.Sequential(*(DownStage(cfg.channels) for _ in range(STAGES)))
        self.conv_out = nn.Conv2d(cfg.channels, cfg.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        z = self.conv_out(self.down(self.block(self.conv_in((x + 1) / 2))))      # it was trained on pictures in 0..1
        return torch.cat([z, torch.full_like(z, CERTAIN)], dim=1)


class TinyDecoder(nn.Module):
    """Scaled latents [B 4 h w] -> image [B 3 8h 8w]."""

    def __init__(self, cfg: TinyVAEConfig):
        super().__init__()
        self.conv_in = nn.Conv2d(cfg.latent_channels, cfg.channels, 3, padding=1)
        self.up = nn.Sequential(*(UpStage(cfg.channels) for _ in range(STAGES)))
        self.block = Block(cfg.channels)
        self.conv_out = nn.Conv2d(cfg.channels, cfg.image_channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = F.relu(self.conv_in(RANGE * torch.tanh(z / RANGE)))
        return 2 * self.conv_out(self.block(self.up(h))) - 1


class TinyVAE(VAE):
    """A stand-in for `VAE`, with its methods.  madebyollin/taesd taesd.py, Encoder and Decoder.

    `encode` gives a Posterior whose mean are the scaled latents, certain but for rounding.
    """

    cfg: TinyVAEConfig

    def __init__(self, cfg: TinyVAEConfig = TinyVAEConfig()):  # noqa: B008  (frozen, so safe as a default)
        nn.Module.__init__(self)                        # other networks than VAE's
        self.cfg = cfg
        self.encoder = TinyEncoder(cfg) if cfg.encodes else None
        self.decoder = TinyDecoder(cfg)

    def check_encoder(self) -> None:
        """Raises ValueError where there is a decoder alone."""
        if self.encoder is None:
            raise ValueError("this tiny autoencoder is a decoder alone; give one with an encoder, or the model's VAE")
