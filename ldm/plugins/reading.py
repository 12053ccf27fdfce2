"""What the readers of plug-in files share: tensors by name, and what a file was made for."""

from pathlib import Path

import torch
from torch import Tensor

from ldm.weights import CheckpointError
from ldm.weights.entries import Entry, Reader
from ldm.weights.families import Kind, identify
from ldm.weights.formats import read_header

WIDTHS = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 1280: "Stable Diffusion XL",
          2048: "Stable Diffusion XL"}


def read_entries(path: str | Path) -> dict[str, Entry]:
    """Where each tensor of a file lies, by name.  Raises CheckpointError as `ldm.weights.formats.read_header`."""
    return read_header(path).entries


def read_tensor(reader: Reader, name: str, entry: Entry) -> Tensor:
    """A tensor of a file in float32.  Raises CheckpointError where it holds no numbers, or some that are not finite."""
    if not isinstance(entry.dtype, torch.dtype) or entry.dtype.is_complex:
        raise CheckpointError(f"{entry.path} stores {name} as {entry.dtype}, which is not supported; take float16")
    tensor = reader.read(entry, torch.float32)
    if not tensor.isfinite().all():
        raise CheckpointError(f"{entry.path} holds numbers in {name} that are not finite; take another file")
    return tensor


def kind_of(entries: dict[str, Entry]) -> Kind:
    """What a file is, from its tensors."""
    return identify({name: entry.shape for name, entry in entries.items()})


def not_a(what: str, path: str | Path, kind: Kind) -> CheckpointError:
    """The error for a file of another kind: "x.safetensors is Stable Diffusion 1, not a LoRA: ..."."""
    return CheckpointError(f"{path} is {kind.what}, not {what}: {kind.because}")


def family(width: int) -> str:
    """The model that has a text encoder or context of this width, in words."""
    return WIDTHS.get(width, f"a model of width {width}")
