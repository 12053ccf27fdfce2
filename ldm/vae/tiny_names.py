"""Names of the tiny autoencoder's weights in three layouts, and its configuration from the shapes of a file."""

from collections.abc import Iterator, Mapping

from ldm.naming import Row, nest
from ldm.vae.tiny import BLOCKS, STAGES, TinyVAEConfig

BLOCK: list[Row] = [(f"conv{i + 1}", f"conv.{2 * i}", f"conv.{2 * i}") for i in range(3)]


def encoder_layers() -> Iterator[tuple[int, str]]:
    """The encoder's layers that hold weights, by their place in the official sequence."""
    yield 0, "conv_in"
    yield 1, "block"
    first = 2
    for stage in range(STAGES):
        yield first, f"down.{stage}.conv"
        for i in range(BLOCKS):
            yield first + 1 + i, f"down.{stage}.blocks.{i}"
        first += 1 + BLOCKS
    yield first, "conv_out"


def decoder_layers() -> Iterator[tuple[int, str]]:
    """The decoder's; in its sequence there are also a clamp (0), a ReLU (2) and the doublings (before each conv)."""
    yield 1, "conv_in"
    first = 3
    for stage in range(STAGES):
        for i in range(BLOCKS):
            yield first + i, f"up.{stage}.blocks.{i}"
        yield first + BLOCKS + 1, f"up.{stage}.conv"
        first += BLOCKS + 2
    yield first, "block"
    yield first + 1, "conv_out"


def rows(cfg: TinyVAEConfig) -> Iterator[Row]:
    """Every module that holds weights, as (ours, official, diffusers); diffusers counts no clamp."""
    halves = [("encoder", encoder_layers(), 0)] if cfg.encodes else []
    for half, layers, clamps in [*halves, ("decoder", decoder_layers(), 1)]:
        for n, layer in layers:
            row = f"{half}.{layer}", f"{half}.{n}", f"{half}.layers.{n - clamps}"
            yield from nest(BLOCK, *row) if "block" in layer else [row]


def config_from(shapes: Mapping[str, tuple[int, ...]]) -> TinyVAEConfig:
    """TinyVAEConfig from the shapes of a file's tensors (`encoder.`, `decoder.` and official or diffusers names).

    Raises KeyError where the decoder is missing.
    """
    diffusers = any(".layers." in name for name in shapes)
    channels, latent_channels = shapes["decoder.layers.0.weight" if diffusers else "decoder.1.weight"][:2]
    return TinyVAEConfig(latent_channels, channels, encodes=any(name.startswith("encoder.") for name in shapes))
