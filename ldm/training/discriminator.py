"""The patch discriminator of adversarial VAE training."""

from torch import Tensor, nn


class PatchGAN(nn.Module):
    """Says real or not for every patch.  image [B 3 H W] -> scores [B 1 H/8-2 W/8-2].

    Isola et al. 2017, sec. 3.2.2, with GroupNorm, which does not depend on the batch.
    """

    def __init__(self, channels: int = 64, layers: int = 3):
        super().__init__()
        blocks: list[nn.Module] = [nn.Conv2d(3, channels, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        c = channels
        for n in range(1, layers + 1):
            width = channels * min(2**n, 8)
            stride = 2 if n < layers else 1
            blocks += [nn.Conv2d(c, width, 4, stride=stride, padding=1), nn.GroupNorm(8, width), nn.LeakyReLU(0.2)]
            c = width
        self.net = nn.Sequential(*blocks, nn.Conv2d(c, 1, 4, padding=1))

    def forward(self, image: Tensor) -> Tensor:
        return self.net(image)
