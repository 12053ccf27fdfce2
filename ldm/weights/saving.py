"""Write weights back in the official layout, which other programs read."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ldm.files import write_atomically
from ldm.naming import Row
from ldm.weights import families, openclip

PREFIXES = families.PREFIXES["compvis"] | {"text": "cond_stage_model.transformer.text_model."}


def to_official(state: Mapping[str, Tensor], rows: Iterable[Row], prefix: str = "") -> dict[str, Tensor]:
    """Rename our state_dict to the CompVis names below `prefix`."""
    compvis = {ours: theirs for ours, theirs, _ in rows}
    renamed = {}
    for name, tensor in state.items():
        module, _, parameter = name.rpartition(".")
        renamed[f"{prefix}{compvis[module]}.{parameter}"] = tensor
    return renamed


def official_part(part: str, state: Mapping[str, Tensor], rows: Iterable[Row]) -> dict[str, Tensor]:
    """The tensors of "unet", "vae" or "text" by their full official names, OpenCLIP's fused."""
    tensors, prefix = to_official(state, rows), PREFIXES[part]
    if part == "text" and "ln_final.weight" in tensors:
        tensors, prefix = openclip.fuse(tensors), openclip.PREFIX
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def save_safetensors(path: str | Path, tensors: Mapping[str, Tensor],
                     metadata: Mapping[str, Any] | None = None) -> None:
    """Write a .safetensors file, whole or not at all.  `metadata` is stored as JSON under the key "ldm"."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = {"format": "pt"} | ({"ldm": json.dumps(dict(metadata), sort_keys=True)} if metadata else {})
    write_atomically(path, lambda p: save_file(plain, p, metadata=header))


def save_checkpoint(path: str | Path, parts: Mapping[str, tuple[Mapping[str, Tensor], Iterable[Row]]],
                    metadata: Mapping[str, Any] | None = None, vocabulary: Tensor | None = None) -> None:
    """Write a full model as one official .safetensors file.

    `parts` maps "unet", "vae" and "text" to (state_dict, name rows).  `metadata` holds what shapes cannot say: heads,
    prediction, scale_factor, size, guidance.  `vocabulary` [n] (token ids) stores these rows of the token embedding
    alone, with their ids as `token_embedding.rows`; only this library reads such a file.
    """
    tensors: dict[str, Tensor] = {}
    for part, (state, rows) in parts.items():
        tensors |= official_part(part, state, rows)
    if vocabulary is not None:
        embedding = next(name.removesuffix(".weight") for name in tensors if name.endswith("token_embedding.weight"))
        tensors[f"{embedding}.weight"] = tensors[f"{embedding}.weight"][vocabulary]
        tensors[f"{embedding}.rows"] = vocabulary.to(torch.int32)
    save_safetensors(path, tensors, metadata)
