"""Orders: what somebody wants drawn, and how each task draws it with a pipeline."""

import json
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, Literal, get_args

from PIL import Image

from ldm.images import KEY, on_white, with_metadata
from ldm.pipeline import Pipeline
from ldm.plugins import extract_loras
from ldm.samplers import Prediction
from ldm.settings import Settings
from ldm.tasks import (
    Axis,
    Cell,
    Colorizer,
    Enlarger,
    Outpainter,
    Task,
    Varied,
    X4Upscaler,
    axis,
    cells,
    check_variation,
    draw_cells,
    is_x4,
    sheet,
    tiled,
)
from ldm.tasks.grid import Watch

CELLS = 256                                             # of a grid, at most
TaskName = Literal["txt2img", "img2img", "inpaint", "outpaint", "upscale", "colorize", "variations", "grid"]
OPTIONS = {                                             # of each task: the options it takes, with their defaults
    "txt2img": {},
    "img2img": {},
    "inpaint": {},
    "outpaint": {"left": 0, "top": 0, "right": 0, "bottom": 0, "fill": "edge"},
    "upscale": {"scale": 2.0, "unet_tile": None, "noise_level": 20},
    "colorize": {},
    "variations": {"variation_seed": 0, "variation_strength": 0.5},
    "grid": {"x": "", "y": ""},
}


@dataclass(frozen=True)
class Order:
    """What somebody wants drawn.  `settings` are fields of `Settings`, `options` those of the task in OPTIONS.

    Raises ValueError for what is wrong, as far as that can be said without the model.
    """

    prompt: str
    task: TaskName = "txt2img"
    settings: dict[str, Any] = field(default_factory=dict)
    image: Image.Image | None = None
    mask: Image.Image | None = None
    options: dict[str, Any] = field(default_factory=dict)
    model: str = ""                                     # a name of `Studio.models`; "" is the one chosen last
    vae: str = ""                                       # likewise; "" is the model's own
    prediction: Prediction | None = None                # "eps", "v" or "x0"; None: what the file says
    previews: bool = False

    def __post_init__(self) -> None:
        if self.task not in get_args(TaskName):
            raise ValueError(f"task {self.task!r} is unknown; try one of {', '.join(get_args(TaskName))}")
        unknown = self.options.keys() - OPTIONS[self.task].keys()
        if unknown:
            raise ValueError(f"{self.task} has no option {', '.join(sorted(unknown))}; "
                             f"it has {', '.join(OPTIONS[self.task]) or 'none'}")
        Settings(**self.settings)
        if self.image is None and self.task in ("img2img", "inpaint", "outpaint", "colorize"):
            raise ValueError(f"{self.task} needs a picture; give one")
        if self.mask is None and self.task == "inpaint":
            raise ValueError("inpaint needs a mask, white where to repaint; draw one")
        if self.task == "variations":
            check_variation(self.option("variation_seed"), self.option("variation_strength"))
        if self.task == "grid":
            count = prod(len(a.values) for a in self.axes())
            if count > CELLS:
                raise ValueError(f"a grid of {count:,} cells is above {CELLS}; take fewer values")
            self.cells()
            for text in self.axis_prompts():
                if extract_loras(text)[1]:
                    raise ValueError(f"{text!r} on an axis has a LoRA, but LoRAs are put on once, for all cells; "
                                     "write it into the prompt")

    def option(self, name: str) -> Any:
        """An option of the task, or its default."""
        return self.options.get(name, OPTIONS[self.task][name])

    def axes(self) -> list[Axis]:
        """The axes of a grid, one or two; of another task none."""
        names = ("x", "y") if self.task == "grid" else ()
        return [axis(self.option(name)) for name in names if self.option(name) or name == "x"]

    def axis_prompts(self) -> list[str]:
        """The prompts and negative prompts on the axes of a grid."""
        return [text for a in self.axes() if a.name in ("prompt", "negative_prompt") for text in a.values]

    def cells(self) -> list[list[Cell]]:
        """The cells of a grid, row by row."""
        return cells(self.prompt, {**self.settings, "count": 1}, *self.axes())


def draw(pipe: Pipeline, order: Order, watch: Watch, cells_dir: Path) -> list[Image.Image]:
    """The pictures of an order, with metadata that remake them.  `watch` is asked once for each pass."""
    match order.task:
        case "grid":
            return [draw_grid(pipe, order, watch, cells_dir)]
        case "upscale":
            return draw_upscaled(pipe, order, watch)
    pipe, image, mask = as_asked(pipe, order)
    plan = pipe.plan(order.prompt, image, mask, **order.settings)
    return pipe.draw(plan, watch(plan))


def as_asked(pipe: Pipeline, order: Order) -> tuple[Pipeline, Image.Image | None, Image.Image | None]:
    """The pipeline, picture and mask of a task that draws in one pass."""
    image = on_white(order.image) if order.image else None
    match order.task:
        case "outpaint":
            return Outpainter(pipe, **{name: order.option(name) for name in OPTIONS["outpaint"]}), image, None
        case "colorize":
            return Colorizer(pipe), image, None
        case "variations":
            return Varied(pipe, order.option("variation_seed"), order.option("variation_strength")), image, None
    return pipe, image, order.mask


def draw_upscaled(pipe: Pipeline, order: Order, watch: Watch) -> list[Image.Image]:
    """Enlarge the order's picture, or pictures that are drawn first, one after the other."""
    settings, image = dict(order.settings), order.image
    if order.option("unet_tile"):
        pipe = tiled(pipe, order.option("unet_tile"))
    if is_x4(pipe):
        if image is None:
            raise ValueError("this model is the x4 upscaler, which draws nothing without a picture; give one")
        x4 = X4Upscaler(pipe, image, order.option("noise_level"))
        plan = x4.plan(order.prompt, **{**settings, "width": None, "height": None})
        return x4.draw(plan, watch(plan))
    if image is None:
        plan = pipe.plan(order.prompt, **settings)
        smalls = pipe.draw(plan, watch(plan))
        settings["count"] = 1
    else:
        smalls = [on_white(image)]
    made = []
    for i, small in enumerate(smalls):
        told = {"first": json.loads(small.info[KEY])} if image is None else {}
        enlarger = Enlarger(Task(pipe, **told), order.option("scale"))
        seed = settings.get("seed", 0) + i
        plan = enlarger.plan(order.prompt, small, **{**settings, "seed": seed, "width": None, "height": None})
        made += enlarger.draw(plan, watch(plan))
    return made


def passes(order: Order) -> int:
    """How often `draw` asks `watch`."""
    match order.task:
        case "grid":
            return sum(map(len, order.cells()))
        case "upscale" if order.image is None:
            return 1 + order.settings.get("count", 1)
    return 1


def draw_grid(pipe: Pipeline, order: Order, watch: Watch, folder: Path) -> Image.Image:
    """One picture of all cells, labelled.  The cells are kept in the folder, and found there again."""
    rows = order.cells()
    image = on_white(order.image) if order.image else None
    found = draw_cells(pipe, [cell for row in rows for cell in row], folder, image, watch)
    pictures = [[str(cell) if isinstance(cell, Exception) else Image.open(cell).convert("RGB")
                 for cell in (next(found) for _ in row)] for row in rows]
    x, *y = order.axes()
    told = {"task": "grid", "prompt": order.prompt, **order.settings, "x": x, "y": y[0] if y else None}
    return with_metadata(sheet(pictures, x.labels, y[0].labels if y else [""]), told)
