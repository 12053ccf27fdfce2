"""What a training run leaves behind: checkpoints, losses as a table and a curve, sample grids."""

import csv
import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ldm.files import write_atomically


def save_state(path: Path, **state: Any) -> None:
    """Write a resumable checkpoint: objects with `state_dict()`, or plain values."""
    plain = {k: v.state_dict() if hasattr(v, "state_dict") else v for k, v in state.items()}
    write_atomically(path, lambda p: torch.save(plain, p))


def load_state(path: Path, **state: Any) -> dict[str, Any]:
    """Load a checkpoint into the objects given by name; returns its plain values.

    Raises ValueError where it is of a run with other settings.
    """
    saved = torch.load(path, map_location="cpu", weights_only=True)
    for name, target in state.items():
        try:
            target.load_state_dict(saved.pop(name))
        except (KeyError, RuntimeError, ValueError) as error:
            raise ValueError(f"{path} does not fit the {name}: it is of a run with other settings; give those, "
                             "or write to another folder") from error
    return saved


def cosine(step: int, steps: int, warmup: int) -> float:
    """Learning-rate factor: up linearly over `warmup` steps, then a half cosine down to 0.01."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))


class Losses:
    """A table of losses in a CSV file, with a curve drawn beside it."""

    def __init__(self, path: Path, columns: Sequence[str]):
        if find_spec("matplotlib") is None:             # said at once, not after hours
            raise ValueError("the curve of losses needs matplotlib; try pip install 'ldm[train]'")
        self.path, self.columns = path, ["step", *columns]
        self.rows: list[list[float]] = []
        if path.exists():
            with path.open(newline="") as file:
                self.rows = [[int(step), *map(float, values)] for step, *values in list(csv.reader(file))[1:]]

    def add(self, step: int, *values: float) -> None:
        """Append a row and write the table; rows at or after `step`, from before a restart, are replaced."""
        self.rows = [row for row in self.rows if row[0] < step] + [[step, *values]]
        write_atomically(self.path, self._write)

    def _write(self, path: Path) -> None:
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([self.columns, *self.rows])

    def draw(self) -> None:
        """Draw every column against the step, in `<table>.png`.  Needs matplotlib (extra `train`)."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.add_subplot(xlabel="step", ylabel="loss", yscale="log")
        for n, name in enumerate(self.columns[1:], start=1):
            axes.plot([row[0] for row in self.rows], [row[n] for row in self.rows], label=name)
        axes.legend()
        write_atomically(self.path.with_suffix(".png"), lambda p: figure.savefig(p, dpi=100))


def grid(images: Sequence[Image.Image], columns: int, gap_px: int = 2) -> Image.Image:
    """Lay pictures of one size out in rows on white."""
    width, height = images[0].width + gap_px, images[0].height + gap_px
    sheet = Image.new("RGB", (width * columns + gap_px, height * -(-len(images) // columns) + gap_px), "white")
    for n, image in enumerate(images):
        sheet.paste(image, (gap_px + n % columns * width, gap_px + n // columns * height))
    return sheet
