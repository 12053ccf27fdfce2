"""Model and plug-in files told apart by what they hold, whatever they are called."""

import hashlib
import json
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ldm.weights.entries import Entry
from ldm.weights.formats import read_header

PIECE = 2**10                                           # bytes read at both ends of each tensor


def fingerprint(path: str | Path, ema: bool = True) -> str:
    """16 hexadecimal digits that tell a file of weights, or diffusers folder, from others.  `ema` as in `read_header`.

    Raises CheckpointError for what is no such file or folder, OSError for a file that cannot be read.
    """
    header = read_header(path, ema)
    return digest(header.entries, header.metadata)


def digest(entries: Mapping[str, Entry], said: Any) -> str:
    """SHA-256 of names, shapes and both ends of all tensors, and of what a file says besides; its first 16 digits.

    Milliseconds, where all of a file would take longer than loading it.  A tensor that was trained, merged or
    converted differs at its ends, too; one changed in its middle alone is not noticed.
    """
    told = [said, sorted((name, list(entry.shape), str(entry.dtype)) for name, entry in entries.items())]
    sha = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    for path, own in groupby(sorted(entries.values(), key=lambda e: (e.path, e.offset)), lambda e: e.path):
        with open(path, "rb") as file:
            for entry in own:
                for start in (0, max(entry.nbytes - PIECE, 0)):
                    file.seek(entry.offset + start)
                    sha.update(file.read(min(PIECE, entry.nbytes)))
    return sha.hexdigest()[:16]


def digest_of_weights(*modules: nn.Module) -> str:
    """SHA-256 of all weights of networks in memory, in hexadecimal digits."""
    sha = hashlib.sha256()
    for module in modules:
        for tensor in module.state_dict().values():
            sha.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return sha.hexdigest()
