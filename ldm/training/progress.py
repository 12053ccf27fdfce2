"""What a training run leaves behind: losses as a table and a curve, sample grids."""

import csv
import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from ldm.files import write_atomically
from ldm.training.distributed import is_main


def cosine(step: int, steps: int, warmup: int) -> float:
    """Learning-rate factor: up linearly over `warmup` steps, then a half cosine down to 0.01."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))


def constant(step: int, steps: int, warmup: int) -> float:
    """Learning-rate factor: up linearly over `warmup` steps, then 1."""
    return min((step + 1) / max(warmup, 1), 1)


SCHEDULES = {"cosine": cosine, "constant": constant}


class Losses:
    """A table of losses in a CSV file, with a curve drawn beside it; in the folder `board` for TensorBoard too.

    Of several ranks only the main one writes.  `start` is the step that a run goes on from.
    Raises ValueError where matplotlib or tensorboard is missing.
    """

    def __init__(self, path: Path, columns: Sequence[str], board: Path | None = None, start: int = 0):
        for name in ("matplotlib", "tensorboard")[: 2 if board else 1]:     # said at once, not after hours
            if find_spec(name) is None:
                raise ValueError(f"the record of losses needs {name}; try pip install 'ldm[train]'")
        self.board = None
        if board and is_main():
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(board), purge_step=start)
        self.path, self.columns = path, ["step", *columns]
        self.rows: list[list[float]] = []
        if path.exists():
            with path.open(newline="") as file:
                self.rows = [[int(step), *map(float, values)] for step, *values in list(csv.reader(file))[1:]]

    def add(self, step: int, *values: float) -> None:
        """Append a row and write the table; rows at or after `step`, from before a restart, are replaced.

        Raises ValueError for a loss that is not finite.
        """
        if broken := [value for value in values if not math.isfinite(value)]:
            raise ValueError(f"the loss at step {step} is {broken[0]}: training has diverged; go on from an earlier "
                             "checkpoint with a smaller --lr")
        self.rows = [row for row in self.rows if row[0] < step] + [[step, *values]]
        if is_main():
            write_atomically(self.path, self._write)
        if self.board:
            for name, value in zip(self.columns[1:], values, strict=True):
                self.board.add_scalar(f"loss/{name}", value, step)
            self.board.flush()

    def show(self, step: int, picture: Image.Image) -> None:
        """Write `samples.png` beside the table."""
        if is_main():
            write_atomically(self.path.with_name("samples.png"), picture.save)
        if self.board:
            self.board.add_image("samples", np.asarray(picture), step, dataformats="HWC")

    def _write(self, path: Path) -> None:
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([self.columns, *self.rows])

    def draw(self) -> None:
        """Draw every column against the step, in `<table>.png`.  Needs matplotlib (extra `train`)."""
        if not is_main():
            return
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
