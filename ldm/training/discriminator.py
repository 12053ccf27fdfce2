"""The patch discriminator of adversarial VAE training."""

from torch import Tensor, nn


class PatchGAN(nn.Module):
    """Says real or not for every patch.  image [B 3 H W] -> scores [B 1 H/8-2 W/8-2].

    Raises ValueError for pictures below 24 pixels.  Isola et al. 2017, sec. 3.2.2, with GroupNorm, which does not
    depend on the batch.
    """

    def __init__(self, channels: int = 64):
        super().__init__()
        blocks: list[nn.Module] = [nn.Conv2d(3, channels, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        c = channels
        for width, stride in ((2 * channels, 2), (4 * channels, 2), (8 * channels, 1)):
            blocks += [nn.Conv2d(c, width, 4, stride=stride, padding=1), nn.GroupNorm(8, width), nn.LeakyReLU(0.2)]
            c = width
        self.net = nn.Sequential(*blocks, nn.Conv2d(c, 1, 4, padding=1))

    def forward(self, image: Tensor) -> Tensor:
        if min(image.shape[2:]) < 24:
            raise ValueError(f"pictures of {min(image.shape[2:])} pixels are too small to criticise; give 24 or more")
        return self.net(image)
