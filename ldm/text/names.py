"""Names of the text encoder's weights in three layouts, and its configuration from the shapes of a file.

The CompVis names are those below `cond_stage_model.transformer.text_model.`, or for OpenCLIP below
`cond_stage_model.model.` once `ldm.weights` has made q, k and v three layers, and the positions one.
"""

from collections.abc import Iterator, Mapping

from ldm.naming import Row, nest
from ldm.text.clip import CLIPTextConfig

#      ours    OpenCLIP    transformers, and CompVis for CLIP
ENDS: list[Row] = [("token_embedding", "token_embedding", "embeddings.token_embedding"),
                   ("position_embedding", "positional_embedding", "embeddings.position_embedding"),
                   ("final_norm", "ln_final", "final_layer_norm")]
LAYER: list[Row] = [("norm1", "ln_1", "layer_norm1"), ("attn.q", "attn.q_proj", "self_attn.q_proj"),
                    ("attn.k", "attn.k_proj", "self_attn.k_proj"), ("attn.v", "attn.v_proj", "self_attn.v_proj"),
                    ("attn.out", "attn.out_proj", "self_attn.out_proj"), ("norm2", "ln_2", "layer_norm2"),
                    ("mlp.fc1", "mlp.c_fc", "mlp.fc1"), ("mlp.fc2", "mlp.c_proj", "mlp.fc2")]
BLOCKS = "transformer.resblocks"                        # OpenCLIP's layers


def rows(cfg: CLIPTextConfig) -> Iterator[Row]:
    """Every module that holds weights, as (ours, CompVis, diffusers); for CLIP they differ by `text_model.` alone."""
    table = list(ENDS)
    for i in range(cfg.layers):
        table += nest(LAYER, f"layers.{i}", f"{BLOCKS}.{i}", f"encoder.layers.{i}")
    for ours, open_clip, transformers in table:
        yield ours, open_clip if cfg.open_clip else transformers, f"text_model.{transformers}"


def config_from(shapes: Mapping[str, tuple[int, ...]], open_clip: bool = False) -> CLIPTextConfig:
    """CLIPTextConfig from the shapes of a file's tensors (CompVis or transformers names, without prefix).

    OpenCLIP's own names tell it; transformers' do not, so `open_clip` says it for them.
    Raises KeyError where an embedding is missing.
    """
    by_name = any(name.startswith(f"{BLOCKS}.") for name in shapes)
    token, position = (row[1] if by_name else row[2] for row in ENDS[:2])
    layers = BLOCKS if by_name else "encoder.layers"
    vocab, width = shapes[f"{token}.weight"]
    length, _ = shapes[f"{position}.weight"]
    found = {name.split(".")[2] for name in shapes if name.startswith(f"{layers}.")}
    return CLIPTextConfig(vocab=vocab, length=length, width=width, layers=len(found), open_clip=by_name or open_clip)
