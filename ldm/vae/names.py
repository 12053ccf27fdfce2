"""Names of the VAE's weights in three layouts, and its configuration from the shapes of a file."""

from collections.abc import Iterator, Mapping

from ldm.naming import Row, nest
from ldm.vae.vae import VAEConfig

#             ours    CompVis        diffusers
RES: list[Row] = [(n, n, n) for n in ("norm1", "conv1", "norm2", "conv2")] + [("skip", "nin_shortcut", "conv_shortcut")]
ATTN: list[Row] = [("norm", "norm", "group_norm"), ("q", "q", "to_q"), ("k", "k", "to_k"), ("v", "v", "to_v"),
                   ("out", "proj_out", "to_out.0")]
ENDS: list[Row] = [("conv_in", "conv_in", "conv_in"), ("norm_out", "norm_out", "conv_norm_out"),
                   ("conv_out", "conv_out", "conv_out")]


def rows(cfg: VAEConfig) -> Iterator[Row]:
    """Every module that may hold weights, as (ours, CompVis, diffusers)."""
    levels = len(cfg.multipliers)
    yield "encoder.quant", "quant_conv", "quant_conv"
    yield "decoder.post_quant", "post_quant_conv", "post_quant_conv"
    for part in ("encoder", "decoder"):
        yield from nest(ENDS, part, part, part)
        yield from nest(RES, f"{part}.mid.res1", f"{part}.mid.block_1", f"{part}.mid_block.resnets.0")
        yield from nest(ATTN, f"{part}.mid.attn", f"{part}.mid.attn_1", f"{part}.mid_block.attentions.0")
        yield from nest(RES, f"{part}.mid.res2", f"{part}.mid.block_2", f"{part}.mid_block.resnets.1")
    for n in range(levels):
        ours, compvis, diffusers = f"encoder.down.{n}", f"encoder.down.{n}", f"encoder.down_blocks.{n}"
        for i in range(cfg.res_blocks):
            yield from nest(RES, f"{ours}.res.{i}", f"{compvis}.block.{i}", f"{diffusers}.resnets.{i}")
        if n < levels - 1:
            yield f"{ours}.downsample.conv", f"{compvis}.downsample.conv", f"{diffusers}.downsamplers.0.conv"
        # CompVis numbers the decoder's levels by resolution, the others by order of execution
        ours, compvis, diffusers = f"decoder.up.{n}", f"decoder.up.{levels - 1 - n}", f"decoder.up_blocks.{n}"
        for i in range(cfg.res_blocks + 1):
            yield from nest(RES, f"{ours}.res.{i}", f"{compvis}.block.{i}", f"{diffusers}.resnets.{i}")
        if n < levels - 1:
            yield f"{ours}.upsample.conv", f"{compvis}.upsample.conv", f"{diffusers}.upsamplers.0.conv"


def config_from(shapes: Mapping[str, tuple[int, ...]], scale_factor: float = 0.18215,
                groups: int = 32) -> VAEConfig:
    """VAEConfig from the shapes of a file's tensors (CompVis or diffusers names, without prefix).

    Raises KeyError where a tensor that every VAE has is missing.
    """
    channels, image_channels = shapes["encoder.conv_in.weight"][:2]
    compvis = "encoder.mid.block_1.norm1.weight" in shapes
    down, block = ("encoder.down", "block") if compvis else ("encoder.down_blocks", "resnets")
    levels = len({k.split(".")[2] for k in shapes if k.startswith(f"{down}.")})
    widths = [shapes[f"{down}.{n}.{block}.0.conv2.weight"][0] for n in range(levels)]
    return VAEConfig(
        image_channels=image_channels,
        latent_channels=shapes["decoder.conv_in.weight"][1],
        channels=channels,
        multipliers=tuple(w // channels for w in widths),
        res_blocks=len({k.split(".")[4] for k in shapes if k.startswith(f"{down}.0.{block}.")}),
        groups=groups,
        scale_factor=scale_factor,
    )
