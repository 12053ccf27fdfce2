"""Building blocks of the UNet.  Feature maps are [B C H W], tokens [B L C], time embeddings [B E]."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.attention import Kernels, attention


def repeat_to(x: Tensor, batch: int) -> Tensor:
    """Repeat x [B ...] to [batch ...], B dividing batch.

    The conditions of CFG part here, at the first use of the context.  Concatenates rather than expands, which keeps
    channels_last.  Returns x itself where nothing is to be repeated.
    """
    return x if len(x) == batch else torch.cat([x] * (batch // len(x)))


class ResBlock(nn.Module):
    """GroupNorm-SiLU-conv twice with the time embedding added between.  x [B Cin H W], emb [B E] -> [B Cout H W].

    CompVis ldm/modules/diffusionmodules/openaimodel.py, ResBlock.
    """

    def __init__(self, c_in: int, c_out: int, c_emb: int, groups: int = 32):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(groups, c_in), nn.Conv2d(c_in, c_out, 3, padding=1)
        self.time = nn.Linear(c_emb, c_out)
        self.norm2, self.conv2 = nn.GroupNorm(groups, c_out), nn.Conv2d(c_out, c_out, 3, padding=1)
        self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x), inplace=True))
        h = h + repeat_to(self.time(F.silu(emb)), len(h))[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h), inplace=True))
        return self.skip(x) + h


class Attention(nn.Module):
    """Multi-head attention of tokens to themselves or to a context.  x [B L C], context [B S W] -> [B L C]."""

    kernels: Kernels = "auto"

    def __init__(self, channels: int, heads: int, context_width: int | None = None):
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(channels, channels, bias=False)
        self.k = nn.Linear(context_width or channels, channels, bias=False)
        self.v = nn.Linear(context_width or channels, channels, bias=False)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        context = x if context is None else context
        return self.out(attention(self.q(x), self.k(context), self.v(context), self.heads, kernels=self.kernels))


class GEGLU(nn.Module):
    """Gated feed-forward: one half times the GELU of the other.  x [B L C] -> [B L C].  Shazeer 2020, eq. 6."""

    def __init__(self, channels: int, expansion: int = 4):
        super().__init__()
        self.proj = nn.Linear(channels, 2 * expansion * channels)
        self.out = nn.Linear(expansion * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return self.out(value * F.gelu(gate))


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention to the context, feed-forward.  x [B L C], context [nB S W] -> [nB L C].

    `cross_only` lets the first attention look at the context too (x4 upscaler).
    CompVis ldm/modules/attention.py, BasicTransformerBlock.
    """

    def __init__(self, channels: int, heads: int, context_width: int, cross_only: bool = False):
        super().__init__()
        self.cross_only = cross_only
        self.norm1 = nn.LayerNorm(channels)
        self.self_attn = Attention(channels, heads, context_width if cross_only else None)
        self.norm2 = nn.LayerNorm(channels)
        self.cross_attn = Attention(channels, heads, context_width)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = GEGLU(channels)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        if self.cross_only:
            x = repeat_to(x, len(context))
        x = x + self.self_attn(self.norm1(x), context if self.cross_only else None)
        x = repeat_to(x, len(context))
        x = x + self.cross_attn(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """Transformer blocks over the pixels, plus the input.  x [B C H W], context [nB S W] -> [nB C H W].

    CompVis ldm/modules/attention.py, SpatialTransformer: 1x1 convolutions around the blocks in SD 1, linear in SD 2.
    """

    def __init__(self, channels: int, heads: int, context_width: int, depth: int = 1, linear: bool = False,
                 cross_only: bool = False, groups: int = 32):
        super().__init__()
        self.linear = linear
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels) if linear else nn.Conv2d(channels, channels, 1)
        self.blocks = nn.ModuleList(TransformerBlock(channels, heads, context_width, cross_only) for _ in range(depth))
        self.proj_out = nn.Linear(channels, channels) if linear else nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        h = self.project(self.proj_in, self.norm(x))
        tokens = h.permute(0, 2, 3, 1).flatten(1, 2)                        # [B C H W] -> [B HW C]
        for block in self.blocks:
            tokens = block(tokens, context)
        h = tokens.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)            # [nB HW C] -> [nB C H W]
        return repeat_to(x, len(h)) + self.project(self.proj_out, h)

    def project(self, layer: nn.Module, h: Tensor) -> Tensor:
        """Apply a layer that mixes channels, convolution or linear, to [B C H W]."""
        return layer(h.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) if self.linear else layer(h)


class Downsample(nn.Module):
    """Halve the feature map with a strided convolution; odd sides round up."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Upsample(nn.Module):
    """Enlarge to the size of the next skip (twice, or one less), nearest neighbour, then a convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        return self.conv(F.interpolate(x, size=size, mode="nearest"))
