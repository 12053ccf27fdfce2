"""Checkpoints that training resumes from: written whole or not at all, the last few kept."""

import os
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from ldm.files import remove_partials, write_atomically
from ldm.training.distributed import cut, gather, is_main


def save_state(path: Path, **state: Any) -> None:
    """Write a resumable checkpoint: objects with `state_dict()`, or plain values.

    Of several ranks all have to call it and the main one writes; sharded weights are written whole, so that a run may
    go on with another number of ranks.
    """
    def write(partial: Path) -> None:
        torch.save(plain, partial)
        with partial.open("rb+") as file:               # on the disk before it gets its name
            os.fsync(file.fileno())

    plain = {k: gather(v.state_dict()) if hasattr(v, "state_dict") else v for k, v in state.items()}
    if is_main():
        write_atomically(path, write)


def load_state(path: Path, **state: Any) -> dict[str, Any]:
    """Load a checkpoint into the objects given by name; returns its plain values.

    Raises ValueError where it is of a run with other settings, or no checkpoint.
    """
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, UnpicklingError) as error:
        raise ValueError(f"{path} is no whole checkpoint; remove it, so that the one before is taken") from error
    for name, target in state.items():
        try:
            target.load_state_dict(cut(saved.pop(name), target))
        except (KeyError, RuntimeError, ValueError) as error:
            raise ValueError(f"{path} does not fit the {name}: it is of a run with other settings; give those, "
                             "or write to another folder") from error
    return saved


def check_run(path: Path, saved: dict[str, Any], told: dict[str, Any]) -> None:
    """Compare what a checkpoint says that its run learns, under "run", with what this one does.

    Raises ValueError where they differ.  One of a version that did not say it passes.
    """
    before = saved.get("run", told)
    if other := [name for name in told if before.get(name) != told[name]]:
        raise ValueError(f"{path} is of a run that differs in {' and '.join(other)}; give the same as there, or "
                         "write to another folder")


def state_path(folder: Path, step: int) -> Path:
    """Where the checkpoint after so many steps lies."""
    return folder / f"state-{step:08d}.pt"


def newest(folder: Path) -> Path | None:
    """The last checkpoint of a run, or None."""
    return max(folder.glob("state-*.pt"), default=None)


def prune(folder: Path, keep: int) -> None:
    """Remove all checkpoints but the last `keep`, and what a killed run left half-written."""
    for path in sorted(folder.glob("state-*.pt"))[:-keep]:
        path.unlink()
    remove_partials(folder)
