"""The noise-predicting UNet of Stable Diffusion."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.unet.blocks import Downsample, ResBlock, SpatialTransformer, Upsample, repeat_to


@dataclass(frozen=True)
class UNetConfig:
    """Shape of a UNet; the defaults are SD 1.5's (CompVis configs/stable-diffusion/v1-inference.yaml)."""

    in_channels: int = 4                                        # 9 to inpaint: latents, mask, masked picture
    out_channels: int = 4
    channels: int = 320                                         # width of the first level, a multiple of `groups`
    multipliers: tuple[int, ...] = (1, 2, 4, 4)                 # width of each level over `channels`
    attn_levels: tuple[bool, ...] = (True, True, True, False)   # which levels have transformers
    cross_only: tuple[bool, ...] = (False, False, False, False) # levels whose first attention looks at the context too
    res_blocks: int = 2                                         # per level on the way down, one more on the way up
    depth: int = 1                                              # transformer blocks in each spatial transformer
    context_width: int = 768
    heads: int = 8                                              # attention heads, unless head_channels says their width
    head_channels: int | None = None                            # SD 2: 64
    linear_proj: bool = False                                   # SD 2: linear layers around the transformer blocks
    groups: int = 32                                            # of every GroupNorm
    classes: int | None = None                                  # class labels, e.g. the x4 upscaler's 1000 noise levels

    def __post_init__(self):
        if not len(self.multipliers) == len(self.attn_levels) == len(self.cross_only):
            raise ValueError(f"multipliers {self.multipliers}, attn_levels {self.attn_levels} and cross_only "
                             f"{self.cross_only} differ in length; give one entry per level")

        for width in self.widths:
            heads = self.head_channels or self.heads
            if width % self.groups or width % heads:
                raise ValueError(f"width {width} is not a multiple of groups {self.groups} and of heads {heads}; "
                                 "choose channels, groups and heads that divide it")

    @property
    def widths(self) -> list[int]:
        return [self.channels * m for m in self.multipliers]

    @property
    def family(self) -> str:
        """What the structure tells: "sd1", "sd2", "sd1_inpaint", "sd2_inpaint", or "x4" for the upscaler."""
        if self.classes:
            return "x4"
        return ("sd2" if self.linear_proj else "sd1") + ("_inpaint" if self.in_channels == 9 else "")

    def heads_of(self, width: int) -> int:
        return width // self.head_channels if self.head_channels else self.heads


def timestep_embedding(t: Tensor, channels: int, max_period: float = 10000.0) -> Tensor:
    """Sinusoids of t [B] (float or int) -> [B channels] float32, cosines first.

    Vaswani et al. 2017, sec. 3.5; CompVis ldm/modules/diffusionmodules/util.py, timestep_embedding.
    """
    half = channels // 2
    frequencies = torch.exp(-math.log(max_period) * torch.arange(half, device=t.device, dtype=torch.float32) / half)
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class TimeEmbedding(nn.Module):
    """Two linear layers over the sinusoids of t.  t [B] -> [B 4 channels]."""

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels
        self.linear1, self.linear2 = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, 4 * channels)

    def forward(self, t: Tensor) -> Tensor:
        sinusoids = timestep_embedding(t, self.channels).to(self.linear1.bias.dtype)
        return self.linear2(F.silu(self.linear1(sinusoids)))


def transformer(cfg: UNetConfig, level: int) -> SpatialTransformer:
    """The spatial transformer of one level."""
    width = cfg.widths[level]
    return SpatialTransformer(width, cfg.heads_of(width), cfg.context_width, cfg.depth, cfg.linear_proj,
                              cfg.cross_only[level], cfg.groups)


class NoAttention(nn.Module):
    """Returns its first argument: the place of a transformer in a level without attention."""

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        return x


class Stage(nn.Module):
    """ResBlocks of one level, each followed by a transformer where the level has attention."""

    def __init__(self, cfg: UNetConfig, level: int, c_ins: list[int]):
        super().__init__()
        width = cfg.widths[level]
        self.res = nn.ModuleList(ResBlock(c_in, width, 4 * cfg.channels, cfg.groups) for c_in in c_ins)
        self.attn = nn.ModuleList(transformer(cfg, level) if cfg.attn_levels[level] else NoAttention() for _ in c_ins)


class DownStage(Stage):
    """A level on the way down; all but the last end by halving.  h [B C h w] -> the features after every block."""

    def __init__(self, cfg: UNetConfig, level: int, c_ins: list[int]):
        super().__init__(cfg, level, c_ins)
        self.downsample = Downsample(cfg.widths[level]) if level < len(cfg.widths) - 1 else None

    def forward(self, h: Tensor, emb: Tensor, context: Tensor) -> list[Tensor]:
        features = []
        for res, attn in zip(self.res, self.attn, strict=True):
            h = attn(res(h, emb), context)
            features.append(h)
        return features if self.downsample is None else [*features, self.downsample(h)]


class UpStage(Stage):
    """A level on the way up, one skip per block, popped from the list; all but the last end by enlarging.

    `blocks` says which blocks to run: the last level can be left and entered before its last block.
    """

    def __init__(self, cfg: UNetConfig, level: int, c_ins: list[int]):
        super().__init__(cfg, level, c_ins)
        self.upsample = Upsample(cfg.widths[level]) if level > 0 else None

    def forward(self, h: Tensor, skips: list[Tensor], emb: Tensor, context: Tensor,
                blocks: slice = slice(None)) -> Tensor:
        for res, attn in list(zip(self.res, self.attn, strict=True))[blocks]:
            h = attn(res(torch.cat([h, skips.pop()], dim=1), emb), context)
        return h if self.upsample is None else self.upsample(h, skips[-1].shape[2:])


class Mid(nn.Module):
    """ResBlock, transformer, ResBlock at the lowest resolution.  h [B C h w], context [nB S W] -> [nB C h w]."""

    def __init__(self, cfg: UNetConfig):
        super().__init__()
        width = cfg.widths[-1]
        self.res1 = ResBlock(width, width, 4 * cfg.channels, cfg.groups)
        self.attn = transformer(cfg, len(cfg.widths) - 1)
        self.res2 = ResBlock(width, width, 4 * cfg.channels, cfg.groups)

    def forward(self, h: Tensor, emb: Tensor, context: Tensor) -> Tensor:
        return self.res2(self.attn(self.res1(h, emb), context), emb)


class UNet(nn.Module):
    """Predict noise (or v, or x0) in latents.  Rombach et al. 2022, sec. 3.3; CompVis openaimodel.py, UNetModel.

    x [B C h w], t [B] or [1] (float or int, may be fractional), context [nB S W] -> [nB C h w], any h and w.
    Where n > 1 each latent meets n contexts (row i of x goes with rows i, B+i, 2B+i, ... of the context): what lies
    before the first use of the context is computed once.  Computes in the dtype of its weights, returns the dtype of x.
    `labels` [B] or [1] are class indices, exactly where the model has classes.
    Raises ValueError where the inputs do not fit the model or one another.
    """

    def __init__(self, cfg: UNetConfig = UNetConfig()):  # noqa: B008  (frozen, so safe as a default)
        super().__init__()
        self.cfg = cfg
        self.time = TimeEmbedding(cfg.channels)
        self.label = nn.Embedding(cfg.classes, 4 * cfg.channels) if cfg.classes else None
        self.conv_in = nn.Conv2d(cfg.in_channels, cfg.channels, 3, padding=1)

        self.down = nn.ModuleList()
        c, skips = cfg.channels, [cfg.channels]
        for level, width in enumerate(cfg.widths):
            stage = DownStage(cfg, level, [c] + [width] * (cfg.res_blocks - 1))
            skips += [width] * (cfg.res_blocks + (stage.downsample is not None))
            self.down.append(stage)
            c = width

        self.mid = Mid(cfg)

        self.up = nn.ModuleList()
        for level, width in reversed(list(enumerate(cfg.widths))):
            c_ins = [h + skips.pop() for h in [c] + [width] * cfg.res_blocks]
            self.up.append(UpStage(cfg, level, c_ins))
            c = width

        self.norm_out = nn.GroupNorm(cfg.groups, c)
        self.conv_out = nn.Conv2d(c, cfg.out_channels, 3, padding=1)

    def embed(self, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Time embedding of t [B], plus that of the class labels [B] where the model has classes -> [B 4 channels]."""
        emb = self.time(t)
        return emb if self.label is None else emb + self.label(labels)

    def encode(self, x: Tensor, emb: Tensor, context: Tensor, levels: int | None = None) -> tuple[Tensor, list[Tensor]]:
        """The way down.  x [B C h w], emb [B E], context [nB S W] -> features, and the skips, each of full batch nB.

        `levels` goes down the first so many levels only; 0 leaves one skip, that of the first convolution.
        """
        skips = [self.conv_in(x)]
        for stage in self.down[:levels]:
            skips += stage(skips[-1], emb, context)
        return skips[-1], [repeat_to(skip, len(context)) for skip in skips]

    def decode(self, h: Tensor, skips: list[Tensor], emb: Tensor, context: Tensor) -> Tensor:
        """The way up, with the skips from the last to the first -> prediction [nB C h w]."""
        return self.finish(self.ascend(h, skips, emb, context), skips, emb, context)

    def ascend(self, h: Tensor, skips: list[Tensor], emb: Tensor, context: Tensor) -> Tensor:
        """The way up to before its last block -> features [nB C h w]."""
        skips = list(skips)
        for stage in self.up[:-1]:
            h = stage(h, skips, emb, context)
        return self.up[-1](h, skips, emb, context, slice(-1))

    def finish(self, h: Tensor, skips: list[Tensor], emb: Tensor, context: Tensor) -> Tensor:
        """The last block, which needs the first skip alone, and the output -> prediction [nB C h w]."""
        h = self.up[-1](h, skips[:1], emb, context, slice(-1, None))
        return self.conv_out(F.silu(self.norm_out(h), inplace=True))

    def forward(self, x: Tensor, t: Tensor, context: Tensor, labels: Tensor | None = None) -> Tensor:
        self.check(x, t, context, labels)
        dtype = self.conv_in.weight.dtype
        emb, context = self.embed(t, labels), context.to(dtype)
        h, skips = self.encode(x.to(dtype), emb, context)
        h = self.mid(h, emb, context)
        return self.decode(h, skips, emb, context).to(x.dtype)

    def check(self, x: Tensor, t: Tensor, context: Tensor, labels: Tensor | None) -> None:
        """Raise ValueError where the inputs do not fit the model or one another."""
        if x.ndim != 4 or x.shape[1] != self.cfg.in_channels:
            raise ValueError(f"x has shape {tuple(x.shape)}; this UNet takes [B {self.cfg.in_channels} h w]")
        batch = len(x)
        if context.ndim != 3 or context.shape[-1] != self.cfg.context_width or len(context) % batch:
            raise ValueError(f"context has shape {tuple(context.shape)}; this UNet takes [n*{batch} S "
                             f"{self.cfg.context_width}] with x of batch {batch}")
        if (self.label is None) != (labels is None):
            raise ValueError(f"labels are {labels} but the model has {self.cfg.classes or 'no'} classes; pass labels "
                             "exactly where it has classes")
        for name, value in (("t", t), ("labels", labels)):
            if value is not None and value.shape not in ((1,), (batch,)):
                raise ValueError(f"{name} has shape {tuple(value.shape)}; give [1], or [{batch}], the batch of x")
