"""Grids: any two settings against each other, every cell a file that is kept."""

import csv
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from ldm.images import read_metadata, readable, save_image
from ldm.pipeline import Pipeline
from ldm.plan import Plan
from ldm.samplers import Step
from ldm.settings import Settings

Watch = Callable[[Plan], Callable[[Iterator[Step]], Iterable[Step]]]     # a plan -> what wraps its steps: progress
NAMES = ("model", "vae")                                # of files, which their hashes tell apart
TYPES = {"prompt": str} | {f.name: f.metadata["type"] for f in fields(Settings) if f.name != "count"}


class Axis(NamedTuple):
    """A setting, or "prompt", and the values that it takes."""

    name: str
    values: list[Any]

    @property
    def labels(self) -> list[str]:
        return [f"{self.name} {value}" for value in self.values]


class Cell(NamedTuple):
    """What one picture is drawn with."""

    prompt: str
    settings: dict[str, Any]


def axis(text: str) -> Axis:
    """Read "steps=10,20".  A value that holds a comma goes into double quotes: 'prompt=a fox,"a cat, red"'.

    Raises ValueError for what is no setting, or a value that is none of its type.
    """
    name, _, listed = text.partition("=")
    name = name.strip().replace("-", "_")
    values = next(csv.reader([listed], skipinitialspace=True), [])
    if name not in TYPES or not values:
        raise ValueError(f"axis {text!r} is not NAME=VALUE,VALUE,...; NAME is one of {', '.join(TYPES)}")
    kind = TYPES[name]
    try:
        return Axis(name, [kind(value) for value in values])
    except ValueError as error:
        raise ValueError(f"axis {text!r} has a value that is no {kind.__name__}; give numbers") from error


def cells(prompt: str, settings: dict[str, Any], x: Axis, y: Axis | None = None) -> list[list[Cell]]:
    """The cells of a grid, a row for each value of y, a column for each of x; without y one row.

    Raises ValueError where both axes are one setting, and for settings out of range.
    """
    if y and x.name == y.name:
        raise ValueError(f"both axes are {x.name}; take another setting for one of them")
    changes = [{y.name: value} for value in y.values] if y else [{}]
    rows = [[{"prompt": prompt, **settings, **change, x.name: value} for value in x.values] for change in changes]
    grid = [[Cell(one.pop("prompt"), one) for one in row] for row in rows]
    for row in grid:
        for cell in row:
            Settings(**cell.settings)
    return grid


def draw_cells(pipe: Pipeline, cells: Sequence[Cell], folder: Path, image: Image.Image | None = None,
               watch: Watch = lambda plan: iter) -> Iterator[Path | Exception]:
    """Draw each cell into the folder, or find it there: yields its file, or why it could not be drawn.

    A file is taken for a cell where its metadata say the same model, settings, prompt and input picture.
    `watch` gives, for the plan of a cell that is drawn, what wraps its steps, as for `Pipeline.draw`.
    Raises ValueError for a setting out of range, before any work; OSError where a picture cannot be written.
    """
    plans = [pipe.plan(cell.prompt, image, **cell.settings) for cell in cells]
    return (draw_cell(pipe, plan, folder, watch) for plan in plans)


def draw_cell(pipe: Pipeline, plan: Plan, folder: Path, watch: Watch) -> Path | Exception:
    """The file of one cell, drawn unless it is there; or why it could not be drawn."""
    told = {name: value for name, value in pipe.metadata(plan, 0).items() if name not in NAMES}
    metadata = json.dumps(told, sort_keys=True)
    path = folder / f"{hashlib.sha256(metadata.encode()).hexdigest()[:16]}.png"
    if holds(path, json.loads(metadata)):
        return path
    try:
        [picture] = pipe.draw(plan, watch(plan))
    except (ArithmeticError, MemoryError, RuntimeError, ValueError) as error:
        return error                                    # the other cells do not suffer from it
    path.unlink(missing_ok=True)                        # a damaged one
    return save_image(picture, path)


def holds(path: Path, metadata: dict[str, Any]) -> bool:
    """Whether a file is a whole picture with these metadata, or more."""
    try:
        with Image.open(path) as image, readable(image):
            image.load()
        return metadata.items() <= read_metadata(path).items()
    except (OSError, ValueError):
        return False
