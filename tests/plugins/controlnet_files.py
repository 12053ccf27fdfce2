"""ControlNet files in the official layout."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ldm.plugins import ControlNet
from ldm.plugins.controlnet import PREFIX, rows
from ldm.weights.saving import to_official


def official(net: ControlNet, path: Path, prefix: str = PREFIX, beside: dict[str, Tensor] | None = None) -> Path:
    """Save a ControlNet as the official files are."""
    tensors = to_official(net.state_dict(), rows(net.cfg), prefix)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()} | (beside or {}), path)
    return path


def same(a: ControlNet, b: ControlNet) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
