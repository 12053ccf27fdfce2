"""OpenCLIP's text encoder as official files of Stable Diffusion 2 hold it: q, k and v in one, and more than is used."""

import re
from collections.abc import Collection, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ldm.weights.entries import Entry

PREFIX = "cond_stage_model.model."
POSITIONS, PROJECTION = "positional_embedding", "text_projection"      # parameters of no module
BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.")
FUSED = re.compile(r"(.+\.attn)\.in_proj_(weight|bias)")
QUERY = re.compile(r"(.+\.attn)\.q_proj\.(weight|bias)")
VIT_H = 24                                              # blocks of the whole text encoder


def unused(names: Collection[str]) -> set[str]:
    """Names of what Stable Diffusion 2 leaves out of a whole OpenCLIP: its projection and its last block.

    Files made from diffusers folders have neither, so a projection, or all the blocks, tells a whole one.
    Stability-AI/stablediffusion ldm/modules/encoders/modules.py, FrozenOpenCLIPEmbedder, layer "penultimate".
    """
    block_of = {name: int(block[1]) for name in names if (block := BLOCK.match(name))}
    last = max(block_of.values(), default=None)
    whole = PROJECTION in names or last == VIT_H - 1
    return {name for name in names if name == PROJECTION or whole and block_of.get(name, -1) == last}


def separate(entries: Mapping[str, Entry]) -> dict[str, Entry]:
    """Entries by names of modules: q, k and v, which lie one after the other, apart; the positions as a weight."""
    apart: dict[str, Entry] = {}
    for name, entry in entries.items():
        fused = FUSED.fullmatch(name)
        if fused and entry.shape and entry.shape[0] % 3 == 0 and isinstance(entry.dtype, torch.dtype):
            rows = entry.shape[0] // 3
            step = rows * entry.stride[0] * entry.dtype.itemsize
            for i, letter in enumerate("qkv"):
                apart[f"{fused[1]}.{letter}_proj.{fused[2]}"] = replace(
                    entry, offset=entry.offset + i * step, shape=(rows, *entry.shape[1:]))
        else:
            apart[f"{POSITIONS}.weight" if name == POSITIONS else name] = entry
    return apart


def fuse(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `separate`, on tensors."""
    fused: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        query = QUERY.fullmatch(name)
        if query:
            parts = [tensors[f"{query[1]}.{letter}_proj.{query[2]}"] for letter in "qkv"]
            fused[f"{query[1]}.in_proj_{query[2]}"] = torch.cat(parts)
        elif not re.fullmatch(r".+\.attn\.[kv]_proj\..+", name):
            fused[POSITIONS if name == f"{POSITIONS}.weight" else name] = tensor
    return fused
