"""Building blocks of the autoencoder.  Every block maps [B C H W] to [B C' H' W']."""

import torch.nn.functional as F
from torch import Tensor, nn

from ldm.attention import Kernels, attention

EPS = 1e-6  # CompVis ldm/modules/diffusionmodules/model.py, Normalize


class ResBlock(nn.Module):
    """GroupNorm-SiLU-conv twice, plus the input.  x [B Cin H W] -> [B Cout H W]."""

    def __init__(self, c_in: int, c_out: int, groups: int = 32):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(groups, c_in, EPS), nn.Conv2d(c_in, c_out, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(groups, c_out, EPS), nn.Conv2d(c_out, c_out, 3, padding=1)
        self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x), inplace=True))
        h = self.conv2(F.silu(self.norm2(h), inplace=True))
        return self.skip(x) + h


class Attention(nn.Module):
    """Single-head self-attention over all pixels, plus the input.  x [B C H W] -> [B C H W]."""

    kernels: Kernels = "auto"

    def __init__(self, channels: int, groups: int = 32):
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, EPS)
        self.q, self.k, self.v = (nn.Conv2d(channels, channels, 1) for _ in range(3))
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (f(h).permute(0, 2, 3, 1).flatten(1, 2) for f in (self.q, self.k, self.v))
        h = attention(q, k, v, heads=1, kernels=self.kernels).unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)
        return x + self.out(h)


class Downsample(nn.Module):
    """Halve the picture.  Pads right and bottom only, as the official encoder does (model.py, Downsample)."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double the picture: nearest neighbour, then a convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class DownStage(nn.Module):
    """ResBlocks of one level, then half the size on all levels but the last."""

    def __init__(self, c_in: int, c_out: int, blocks: int, groups: int, last: bool):
        super().__init__()
        self.res = nn.Sequential(*(ResBlock(c_in if i == 0 else c_out, c_out, groups) for i in range(blocks)))
        self.downsample = nn.Identity() if last else Downsample(c_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.downsample(self.res(x))


class UpStage(nn.Module):
    """ResBlocks of one level, then twice the size on all levels but the last."""

    def __init__(self, c_in: int, c_out: int, blocks: int, groups: int, last: bool):
        super().__init__()
        self.res = nn.Sequential(*(ResBlock(c_in if i == 0 else c_out, c_out, groups) for i in range(blocks)))
        self.upsample = nn.Identity() if last else Upsample(c_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.upsample(self.res(x))


class Mid(nn.Module):
    """ResBlock, attention, ResBlock at the lowest resolution."""

    def __init__(self, channels: int, groups: int = 32):
        super().__init__()
        self.res1 = ResBlock(channels, channels, groups)
        self.attn = Attention(channels, groups)
        self.res2 = ResBlock(channels, channels, groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.res2(self.attn(self.res1(x)))
