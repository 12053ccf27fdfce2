"""ControlNet: a copy of the UNet's way down that looks at a picture, and adds what it finds to the UNet's features."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from math import ceil, floor, inf
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from ldm.images import on_white, pad_to_multiple, to_tensor
from ldm.loading import shapes_of
from ldm.naming import Row
from ldm.plugins.reading import family, not_a
from ldm.prepare import prepare
from ldm.samplers import Schedule
from ldm.settings import within
from ldm.unet import UNet, UNetConfig
from ldm.unet.blocks import Attention, repeat_to
from ldm.unet.names import config_from
from ldm.unet.names import rows as unet_rows
from ldm.weights import CheckpointError, Part, fill
from ldm.weights.checkpoint import survey

HINT = (3, 16, 16, 32, 32, 96, 96, 256)                 # channels of the hint's convolutions
HALVING = (2, 4, 6)                                     # which of them halve the picture
PREFIX = "control_model."                               # in official files
View = tuple[float, float, float, float]                # left, top, right, bottom, as shares of a picture's sides
WHOLE: View = (0, 0, 1, 1)
IN_DIFFUSERS = ["conv_in", *(f"blocks.{i}" for i in range(len(HINT) - 2)), "conv_out"]


class ControlNet(UNet):
    """The way down and the middle of a UNet, with a hint added to the first features, and one output per skip.

    Zhang et al. 2023, sec. 3.2; lllyasviel/ControlNet cldm/cldm.py, ControlNet.
    """

    def __init__(self, cfg: UNetConfig):
        super().__init__(cfg)
        del self.up, self.norm_out, self.conv_out
        layers: list[nn.Module] = []
        for i, (c_in, c_out) in enumerate(zip(HINT, [*HINT[1:], cfg.channels], strict=True)):
            layers += [nn.Conv2d(c_in, c_out, 3, padding=1, stride=2 if i in HALVING else 1), nn.SiLU()]
        self.hint = nn.Sequential(*layers[:-1])
        widths = [cfg.channels]                         # of the skips
        for width, stage in zip(cfg.widths, self.down, strict=True):
            widths += [width] * (cfg.res_blocks + (stage.downsample is not None))
        self.zeros = nn.ModuleList(nn.Conv2d(width, width, 1) for width in widths)     # trained from zero
        self.zero_mid = nn.Conv2d(widths[-1], widths[-1], 1)

    def look(self, picture: Tensor) -> Tensor:
        """Features of a hint, which are the same at every step.  [B 3 8h 8w] in [0, 1] -> [B C h w]."""
        weight = self.conv_in.weight
        return self.hint(picture.to(weight.device, weight.dtype))

    def forward(self, x: Tensor, t: Tensor, context: Tensor, seen: Tensor) -> tuple[list[Tensor], Tensor]:
        """What to add to each skip of the UNet, and to its middle, all of the context's batch.

        x [B C h w] (further channels are not looked at), t [B] or [1], context [nB S W]; `seen` [1 or B, C h w] is
        what `look` gave.
        """
        dtype = self.conv_in.weight.dtype
        emb, context = self.embed(t), context.to(dtype)
        features = [self.conv_in(x[:, : self.cfg.in_channels].to(dtype)) + seen]
        for stage in self.down:
            features += stage(features[-1], emb, context)
        mid = self.mid(features[-1], emb, context)
        outputs = [zero(h) for zero, h in zip(self.zeros, features, strict=True)]
        return [repeat_to(out, len(context)) for out in outputs], self.zero_mid(mid)


def rows(cfg: UNetConfig) -> Iterator[Row]:
    """Every module that may hold weights, as (ours, official, diffusers); the official names are below PREFIX."""
    yield from unet_rows(cfg)
    for i, theirs in enumerate(IN_DIFFUSERS):
        yield f"hint.{2 * i}", f"input_hint_block.{2 * i}", f"controlnet_cond_embedding.{theirs}"
    for i in range(len(cfg.widths) * (cfg.res_blocks + 1)):
        yield f"zeros.{i}", f"zero_convs.{i}.0", f"controlnet_down_blocks.{i}"
    yield "zero_mid", "middle_block_out.0", "controlnet_mid_block"


def load_controlnet(path: str | Path, unet: UNet) -> ControlNet:
    """A ControlNet for this UNet: an official file, or a file or folder of diffusers.  It is prepared as the UNet is.

    Raises CheckpointError where the file is damaged or no ControlNet, or was made for another family of models.
    """
    source = survey(path)
    if source.family != "controlnet":
        raise not_a("a ControlNet", path, source.kind)
    prefix = PREFIX if any(name.startswith(PREFIX) for name in source.unknown) else ""
    entries = {name.removeprefix(prefix): entry for name, entry in source.unknown.items() if name.startswith(prefix)}
    layout = "compvis" if "input_blocks.0.0.weight" in entries else "diffusers"
    part = Part("ControlNet", layout, source.path, entries)
    shapes = part.shapes
    shapes["out.2.weight"] = shapes["conv_out.weight"] = (unet.cfg.out_channels,)       # a UNet's end, which it lacks
    with shapes_of(source):
        heads = None if unet.cfg.head_channels else unet.cfg.heads
        cfg = config_from(shapes, heads, unet.cfg.groups, unet.cfg.head_channels)
        check_family(path, cfg, unet.cfg)
        net = ControlNet(cfg)
    weight = unet.conv_in.weight
    fill(net, rows(cfg), part, weight.dtype, weight.device, torch.channels_last)
    prepare(net, next(part.kernels for part in unet.modules() if isinstance(part, Attention)))
    return net


def check_family(path: str | Path, cfg: UNetConfig, wanted: UNetConfig) -> None:
    """Raises CheckpointError where a ControlNet was made for another UNet, which may take a mask besides."""
    if cfg.context_width != wanted.context_width:
        raise CheckpointError(f"{path} is a ControlNet for {family(cfg.context_width)}; this model is "
                              f"{family(wanted.context_width)}")
    told = [f.name for f in fields(UNetConfig) if f.name not in ("in_channels", "heads")]       # heads: by the UNet
    differ = [name for name in told if getattr(cfg, name) != getattr(wanted, name)]
    if differ or cfg.in_channels > wanted.in_channels:
        differ = differ or ["in_channels"]
        told = ", ".join(f"{name} {getattr(cfg, name)}, not {getattr(wanted, name)}" for name in differ)
        raise CheckpointError(f"{path} is a ControlNet for another UNet ({told}); take one for this model")


def check_control(strength: float, start: float, end: float) -> None:
    """Raises ValueError for a strength outside 0..10, or unless 0 <= start < end <= 1."""
    within("strength", strength, 0, 10)
    within("start", start, 0, 1)
    within("end", end, 0, 1)
    if start >= end:
        raise ValueError(f"start {start} is not below end {end}; try 0 and 1")


@dataclass(frozen=True)
class Control:
    """A ControlNet, what it looks at, how strongly it acts, and in which share of the steps.

    Raises ValueError as `check_control`.
    """

    net: ControlNet
    image: Image.Image                                  # the hint, of any size
    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0
    name: str = ""                                      # of the file, and its `fingerprint`, for the metadata of
    digest: str = ""                                    # pictures

    def __post_init__(self) -> None:
        check_control(self.strength, self.start, self.end)

    def hint(self, size: tuple[int, int], view: View = WHOLE) -> Tensor:
        """A part of the picture at this size, padded at right and bottom to multiples of 8.  [1 3 H W] in [0, 1]."""
        image = on_white(self.image)
        (left, top, right, bottom), (w, h) = view, image.size
        sized = image.resize(size, Image.Resampling.LANCZOS, (left * w, top * h, right * w, bottom * h))
        return pad_to_multiple((to_tensor(sized) + 1) / 2, 8)

    def span(self, sigmas: Sequence[float], schedule: Schedule) -> tuple[float, float]:
        """Timesteps (above, up to) at which it acts: of n steps, those from start * n on that end by end * n.

        Raises ValueError where that is none.
        """
        n = len(sigmas) - 1
        first, stop = ceil(self.start * n - 1e-9), floor(self.end * n + 1e-9)
        if first >= stop:
            raise ValueError(f"a ControlNet from {self.start} to {self.end} acts in none of {n} steps; widen that, or "
                             "take more steps")
        high = inf if first == 0 else schedule.timestep(sigmas[first])
        low = -inf if stop == n else schedule.timestep(sigmas[stop])
        return low, high


class Controlled:
    """A UNet with ControlNets, whose outputs add up.  Called as the UNet; the network of a `Denoiser`.

    One is made for each run, where the hints are looked at once: its noise levels; its size, width and height in
    pixels; and the part of the picture that is painted, as shares of its sides.
    Raises ValueError as `Control.span`, and as the UNet.
    """

    def __init__(self, unet: UNet, controls: Sequence[Control], sigmas: Sequence[float], schedule: Schedule,
                 size: tuple[int, int], view: View = WHOLE):
        self.unet, self.controls = unet, controls
        self.spans = [control.span(sigmas, schedule) for control in controls]
        self.seen = [control.net.look(control.hint(size, view)) for control in controls]

    def __call__(self, x: Tensor, t: Tensor, context: Tensor, labels: Tensor | None = None) -> Tensor:
        """x [B C h w], t [B] or [1], context [nB S W] -> [nB C h w]."""
        unet = self.unet
        unet.check(x, t, context, labels)
        dtype = unet.conv_in.weight.dtype
        emb, tokens = unet.embed(t, labels), context.to(dtype)
        h, skips = unet.encode(x.to(dtype), emb, tokens)
        h = unet.mid(h, emb, tokens)
        for control, seen in self.active(t):
            outputs, mid = control.net(x, t, context, seen)
            skips = [skip + control.strength * out for skip, out in zip(skips, outputs, strict=True)]
            h = h + control.strength * mid
        return unet.decode(h, skips, emb, tokens).to(x.dtype)

    def active(self, t: Tensor) -> Iterator[tuple[Control, Tensor]]:
        """The ControlNets that act at timestep t [B] or [1], with what each saw."""
        for control, seen, (low, high) in zip(self.controls, self.seen, self.spans, strict=True):
            always = low == -inf and high == inf
            if always or rounded(low) < t[0].item() <= rounded(high):      # .item() makes a GPU wait
                yield control, seen


def rounded(t: float) -> float:
    """A number as float32 has it, which the timesteps that a network is given are."""
    return torch.tensor(t, dtype=torch.float32).item()
