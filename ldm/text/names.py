"""Names of the text encoder's weights in three layouts, and its configuration from the shapes of a CompVis file.

The CompVis names are those below `cond_stage_model.transformer.text_model.`.
"""

from collections.abc import Iterator, Mapping

from ldm.naming import Row, nest
from ldm.text.clip import CLIPTextConfig

#                ours    theirs
ENDS = [("token_embedding", "embeddings.token_embedding"), ("position_embedding", "embeddings.position_embedding"),
        ("final_norm", "final_layer_norm")]
LAYER = [("norm1", "layer_norm1"), ("attn.q", "self_attn.q_proj"), ("attn.k", "self_attn.k_proj"),
         ("attn.v", "self_attn.v_proj"), ("attn.out", "self_attn.out_proj"), ("norm2", "layer_norm2"),
         ("mlp.fc1", "mlp.fc1"), ("mlp.fc2", "mlp.fc2")]


def rows(cfg: CLIPTextConfig) -> Iterator[Row]:
    """Every module that holds weights, as (ours, CompVis, diffusers); the last two differ by `text_model.` alone."""
    for ours, theirs in ENDS:
        yield ours, theirs, f"text_model.{theirs}"
    table: list[Row] = [(ours, theirs, theirs) for ours, theirs in LAYER]
    for i in range(cfg.layers):
        yield from nest(table, f"layers.{i}", f"encoder.layers.{i}", f"text_model.encoder.layers.{i}")


def config_from(shapes: Mapping[str, tuple[int, ...]]) -> CLIPTextConfig:
    """CLIPTextConfig of a file in the CompVis layout, from the shapes of its tensors (names without prefix).

    Raises KeyError where an embedding is missing.
    """
    vocab, width = shapes["embeddings.token_embedding.weight"]
    length, _ = shapes["embeddings.position_embedding.weight"]
    layers = {name.split(".")[2] for name in shapes if name.startswith("encoder.layers.")}
    return CLIPTextConfig(vocab=vocab, length=length, width=width, layers=len(layers))
