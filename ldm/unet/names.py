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
#                   ours, and both others
BLOCK = [("norm1", "norm1"), ("norm2", "norm2"), ("norm3", "norm3"),
         ("ff.proj", "ff.net.0.proj"), ("ff.out", "ff.net.2"),
         *((f"{ours}.{a}", f"{theirs}.{b}") for ours, theirs in (("self_attn", "attn1"), ("cross_attn", "attn2"))
           for a, b in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("out", "to_out.0")))]


def transformer_rows(depth: int) -> list[Row]:
    """Rows of a spatial transformer with `depth` blocks."""
    ends = [(n, n, n) for n in ("norm", "proj_in", "proj_out")]
    return ends + [(f"blocks.{d}.{a}", f"transformer_blocks.{d}.{b}", f"transformer_blocks.{d}.{b}")
                   for d in range(depth) for a, b in BLOCK]


def rows(cfg: UNetConfig) -> Iterator[Row]:
    """Every module that may hold weights, as (ours, CompVis, diffusers)."""
    attn, levels = transformer_rows(cfg.depth), len(cfg.multipliers)
    yield from ENDS
    yield from nest(RES, "mid.res1", "middle_block.0", "mid_block.resnets.0")
    yield from nest(attn, "mid.attn", "middle_block.1", "mid_block.attentions.0")
    yield from nest(RES, "mid.res2", "middle_block.2", "mid_block.resnets.1")
    n = cfg.res_blocks + 1                                      # CompVis numbers blocks flat, n per level
    for level, has_attn in enumerate(cfg.attn_levels):
        for i in range(cfg.res_blocks):
            ours, compvis, theirs = f"down.{level}", f"input_blocks.{1 + n * level + i}", f"down_blocks.{level}"
            yield from nest(RES, f"{ours}.res.{i}", f"{compvis}.0", f"{theirs}.resnets.{i}")
            if has_attn:
                yield from nest(attn, f"{ours}.attn.{i}", f"{compvis}.1", f"{theirs}.attentions.{i}")
        yield f"down.{level}.downsample.conv", f"input_blocks.{n * (level + 1)}.0.op", f"down_blocks.{level}.downsamplers.0.conv"
    for level, has_attn in enumerate(reversed(cfg.attn_levels)):
        for i in range(n):
            ours, compvis, theirs = f"up.{level}", f"output_blocks.{n * level + i}", f"up_blocks.{level}"
            yield from nest(RES, f"{ours}.res.{i}", f"{compvis}.0", f"{theirs}.resnets.{i}")
            if has_attn:
                yield from nest(attn, f"{ours}.attn.{i}", f"{compvis}.1", f"{theirs}.attentions.{i}")
        if level < levels - 1:
            upsample = f"output_blocks.{n * level + n - 1}.{2 if has_attn else 1}.conv"
            yield f"up.{level}.upsample.conv", upsample, f"up_blocks.{level}.upsamplers.0.conv"


def config_from(shapes: Mapping[str, tuple[int, ...]], heads: int = 8, groups: int = 32) -> UNetConfig:
    """UNetConfig from the shapes of a file's tensors (CompVis or diffusers names, without prefix).

    Two numbers leave no trace in the shapes: `heads`, 8 or 64 channels a head where proj_in is linear (SD 2), and `groups`.
    Raises KeyError where a tensor that every UNet has is missing.
    """
    compvis = "input_blocks.0.0.weight" in shapes
    conv_in, conv_out = ("input_blocks.0.0", "out.2") if compvis else ("conv_in", "conv_out")
    channels, in_channels = shapes[f"{conv_in}.weight"][:2]
    if compvis:
        downs = [int(k.split(".")[1]) for k in shapes if k.startswith("input_blocks.") and k.endswith(".0.op.weight")]
        blocks = 1 + max(int(k.split(".")[1]) for k in shapes if k.startswith("input_blocks."))
        per_level = min(downs, default=blocks)
        level_of = [f"input_blocks.{1 + i}" for i in range(0, blocks - 1, per_level)]
        res, attn, res_blocks = "{}.0.out_layers.3.weight", "{}.1", per_level - 1
    else:
        level_of = [f"down_blocks.{i}" for i in range(len({k.split(".")[1] for k in shapes if k.startswith("down_blocks.")}))]
        res, attn = "{}.resnets.0.conv2.weight", "{}.attentions.0"
        res_blocks = len({k.split(".")[3] for k in shapes if k.startswith("down_blocks.0.resnets.")})
    mid = "middle_block.1" if compvis else "mid_block.attentions.0"
    attn_levels = tuple(f"{attn.format(level)}.norm.weight" in shapes for level in level_of)
    block = f"{mid}.transformer_blocks.0"
    context_width = shapes[f"{block}.attn2.to_k.weight"][1]
    linear = len(shapes[f"{mid}.proj_in.weight"]) == 2
    label = shapes.get("label_emb.weight") or shapes.get("class_embedding.weight")
    cross_only = tuple(
        has and shapes[f"{attn.format(level)}.transformer_blocks.0.attn1.to_k.weight"][1] == context_width
        and context_width != shapes[f"{attn.format(level)}.norm.weight"][0]
        for level, has in zip(level_of, attn_levels, strict=True))
    return UNetConfig(
        in_channels=in_channels,
        out_channels=shapes[f"{conv_out}.weight"][0],
        channels=channels,
        multipliers=tuple(shapes[res.format(level)][0] // channels for level in level_of),
        attn_levels=attn_levels,
        cross_only=cross_only,
        res_blocks=res_blocks,
        depth=1 + max(int(k.split(".")[3 if compvis else 4]) for k in shapes if k.startswith(f"{mid}.transformer_blocks.")),
        context_width=context_width,
        heads=heads,
        head_channels=64 if linear else None,
        linear_proj=linear,
        groups=groups,
        classes=label[0] if label else None,
    )
