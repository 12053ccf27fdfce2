"""Model files told apart by what they hold, whatever they are called."""

import hashlib
import json
from pathlib import Path
from typing import Any

from ldm.weights.formats import read_header

PIECES, PIECE = 64, 2**14                               # of each file, and bytes of one


def fingerprint(path: str | Path, ema: bool = True) -> str:
    """16 hexadecimal digits that tell a model file, or diffusers folder, from others.

    SHA-256 of each file's size and 64 pieces of 16 KB spread evenly over it, the first and the last bytes included,
    and of what a folder's configuration says: milliseconds, where all of a file would take longer than loading it. So
    it sees what changes weights all over a file, as training does, but may miss a change of a few layers. `ema` as in
    `open_checkpoint`.
    Raises CheckpointError for a folder that is no model, OSError for a file that cannot be read.
    """
    files, configuration = [Path(path)], dict[str, Any]()
    if files[0].is_dir():
        entries, configuration = read_header(path, ema)
        files = sorted({entry.path for entry in entries.values()})
    sha = hashlib.sha256(json.dumps(configuration, sort_keys=True).encode())
    for file in files:
        size = file.stat().st_size
        sha.update(size.to_bytes(8, "little"))
        with open(file, "rb") as data:
            for i in range(PIECES):
                data.seek(max(size - PIECE, 0) * i // (PIECES - 1))
                sha.update(data.read(PIECE))
    return sha.hexdigest()[:16]
