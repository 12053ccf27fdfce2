"""Names of the UNet's weights in three layouts, and its configuration from the shapes of a file."""

from collections.abc import Iterator, Mapping

from ldm.naming import Row, nest
from ldm.unet.unet import UNetConfig

#                  ours     CompVis               diffusers
ENDS: list[Row] = [("time.linear1", "time_embed.0", "time_embedding.linear_1"),
                   ("time.linear2", "time_embed.2", "time_embedding.linear_2"),
                   ("label", "label_emb", "class_embedding"),
                   ("conv_in", "input_blocks.0.0", "conv_in"),
                   ("norm_out", "out.0", "conv_norm_out"),
                   ("conv_out", "out.2", "conv_out")]
RES: list[Row] = [("norm1", "in_layers.0", "norm1"), ("conv1", "in_layers.2", "conv1"),
                  ("time", "emb_layers.1", "time_emb_proj"), ("norm2", "out_layers.0", "norm2"),
                  ("conv2", "out_layers.3", "conv2"), ("skip", "skip_connection", "conv_shortcut")]
#        ours     both others
BLOCK = [("norm1", "norm1"), ("norm2", "norm2"), ("norm3", "norm3"),
         ("ff.proj", "ff.net.0.proj"), ("ff.out", "ff.net.2"),
         *((f"{ours}.{a}", f"{theirs}.{b}") for ours, theirs in (("self_attn", "attn1"), ("cross_attn", "attn2"))
           for a, b in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("out", "to_out.0")))]


def transformer_rows(depth: int) -> list[Row]:
    """Rows of a spatial transformer with `depth` blocks."""
    table: list[Row] = [(n, n, n) for n in ("norm", "proj_in", "proj_out")]
    for d in range(depth):
        parent = f"transformer_blocks.{d}"
        table += [(f"blocks.{d}.{ours}", f"{parent}.{theirs}", f"{parent}.{theirs}") for ours, theirs in BLOCK]
    return table


def rows(cfg: UNetConfig) -> Iterator[Row]:
    """Every module that may hold weights, as (ours, CompVis, diffusers)."""
    attn, last = transformer_rows(cfg.depth), len(cfg.multipliers) - 1
    n = cfg.res_blocks + 1                                      # CompVis numbers blocks flat, n per level
    yield from ENDS
    yield from nest(RES, "mid.res1", "middle_block.0", "mid_block.resnets.0")
    yield from nest(attn, "mid.attn", "middle_block.1", "mid_block.attentions.0")
    yield from nest(RES, "mid.res2", "middle_block.2", "mid_block.resnets.1")
    for level, has_attn in enumerate(cfg.attn_levels):
        ours, theirs = f"down.{level}", f"down_blocks.{level}"
        for i in range(cfg.res_blocks):
            compvis = f"input_blocks.{n * level + 1 + i}"
            yield from nest(RES, f"{ours}.res.{i}", f"{compvis}.0", f"{theirs}.resnets.{i}")
            if has_attn:
                yield from nest(attn, f"{ours}.attn.{i}", f"{compvis}.1", f"{theirs}.attentions.{i}")
        if level < last:
            yield f"{ours}.downsample.conv", f"input_blocks.{n * (level + 1)}.0.op", f"{theirs}.downsamplers.0.conv"
    for level, has_attn in enumerate(reversed(cfg.attn_levels)):
        ours, theirs = f"up.{level}", f"up_blocks.{level}"
        for i in range(n):
            compvis = f"output_blocks.{n * level + i}"
            yield from nest(RES, f"{ours}.res.{i}", f"{compvis}.0", f"{theirs}.resnets.{i}")
            if has_attn:
                yield from nest(attn, f"{ours}.attn.{i}", f"{compvis}.1", f"{theirs}.attentions.{i}")
        if level < last:
            compvis = f"output_blocks.{n * level + n - 1}.{2 if has_attn else 1}.conv"
            yield f"{ours}.upsample.conv", compvis, f"{theirs}.upsamplers.0.conv"


def count(shapes: Mapping[str, tuple[int, ...]], parent: str) -> int:
    """How many numbered children the module `parent` has; at least 1, so that a missing one is looked up and missed."""
    depth = parent.count(".") + 1
    return max(1, len({name.split(".")[depth] for name in shapes if name.startswith(f"{parent}.")}))


def counts(shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, int, int]:
    """Levels, ResBlocks per level, blocks per spatial transformer: what the names tell, and depend on."""
    if "input_blocks.0.0.weight" not in shapes:
        return (count(shapes, "down_blocks"), count(shapes, "down_blocks.0.resnets"),
                count(shapes, "mid_block.attentions.0.transformer_blocks"))
    blocks = count(shapes, "input_blocks")
    n = next((i for i in range(blocks) if f"input_blocks.{i}.0.op.weight" in shapes), blocks)
    return blocks // n, n - 1, count(shapes, "middle_block.1.transformer_blocks")


def config_from(shapes: Mapping[str, tuple[int, ...]], heads: int | None = None, groups: int = 32,
                head_channels: int | None = None) -> UNetConfig:
    """UNetConfig from the shapes of a file's tensors (CompVis or diffusers names, without prefix).

    Two numbers leave no trace in the shapes: `groups`, and `heads`, or the channels of each.  Without either there are
    8 heads, or where proj_in is linear (SD 2) as many as are 64 channels wide, but for the x4 upscaler, which has class
    labels.
    Raises KeyError where a tensor that every UNet has is missing.
    """
    levels, res_blocks, depth = counts(shapes)
    named_alike = UNetConfig(multipliers=(1,) * levels, attn_levels=(True,) * levels, cross_only=(False,) * levels,
                             res_blocks=res_blocks, depth=depth)
    column = 1 if "input_blocks.0.0.weight" in shapes else 2
    name = {row[0]: f"{row[column]}.weight" for row in rows(named_alike)}       # ours -> the file's

    channels, in_channels = shapes[name["conv_in"]][:2]
    widths = [shapes[name[f"down.{level}.res.0.conv2"]][0] for level in range(levels)]
    # Input width of each level's first attention; a context as wide as the level is taken for the level itself
    first_k = [shapes.get(name[f"down.{level}.attn.0.blocks.0.self_attn.k"]) for level in range(levels)]
    linear = len(shapes[name["mid.attn.proj_in"]]) == 2
    classes = shapes[name["label"]][0] if name["label"] in shapes else None
    if heads is None and head_channels is None and linear and classes is None:
        head_channels = 64
    return UNetConfig(
        in_channels=in_channels,
        out_channels=shapes[name["conv_out"]][0],
        channels=channels,
        multipliers=tuple(width // channels for width in widths),
        attn_levels=tuple(k is not None for k in first_k),
        cross_only=tuple(k is not None and k[1] != width for k, width in zip(first_k, widths, strict=True)),
        res_blocks=res_blocks,
        depth=depth,
        context_width=shapes[name["mid.attn.blocks.0.cross_attn.k"]][1],
        heads=heads or 8,
        head_channels=head_channels,
        linear_proj=linear,
        groups=groups,
        classes=classes,
    )
