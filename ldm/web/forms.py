"""From what stands in a form to an order, and from a picture's metadata back to what stands in the form.

A form's values have the names of the fields of `Settings` and of the tasks' OPTIONS, besides prompt, task, model, vae,
prediction, image and editor.  An empty field is None or "".
"""

import csv
import io
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ldm.images import read_metadata, read_parameters
from ldm.metadata import from_parameters, with_tags
from ldm.settings import Settings
from ldm.web.a1111 import BATCH_PIXELS, PROMPT_CHARS
from ldm.web.orders import OPTIONS, Order
from ldm.web.uploads import check_pixels, open_picture
from ldm.weights.fingerprint import fingerprint

SETTINGS = {f.name: f for f in fields(Settings)}
DEFAULTS = asdict(Settings())
SIZE, PICTURE = ("width", "height"), ("image", "strength")
MAIN = ("negative_prompt", "steps", "guidance", "sampler", "spacing", "seed", "count")
OF_TASK: dict[str, tuple[str, ...]] = {                 # beside the task's options: what not every task asks for
    "txt2img": SIZE,
    "img2img": (*PICTURE, *SIZE),
    "inpaint": ("editor", "strength", "mask_blur", "only_masked", *SIZE),
    "outpaint": (*PICTURE, "mask_blur"),
    "upscale": (*PICTURE, *SIZE),
    "colorize": PICTURE,
    "variations": (*PICTURE, *SIZE),
    "grid": (*PICTURE, *SIZE),
}
SOME = {name for names in OF_TASK.values() for name in names}
MORE = tuple(name for name in SETTINGS if name not in {*MAIN, *SOME})   # what the form shows last
WHOLE = {"left", "top", "right", "bottom", "unet_tile", "noise_level"}   # options that are whole numbers
SHEET_PIXELS = 2**26                                    # of all cells of a grid: 256 of 512x512
SIDE = 512                                              # in pixels, supposed where only the model knows
ANY_SEED = 2**32                                        # random seeds are below, as those of other programs are
TASKS = {"variation": "variations", "colorize": "colorize", "outpaint": "outpaint", "upscale": "upscale",
         "grid": "grid"}                                # as metadata say


class Filled(NamedTuple):
    """What a picture's metadata put into the form, and what is to be said of it: a key of texts, and its gaps."""

    values: dict[str, Any]
    notes: list[tuple[str, dict[str, str]]]


def parts_of(task: str) -> set[str]:
    """The names of what a task's form has beyond what every task has."""
    return {*OF_TASK[task], *OPTIONS[task]}


def order(values: Mapping[str, Any]) -> Order:
    """The order that a form means; fields that its task does not show do not count.

    Raises ValueError for what is wrong, as `Order` does, and for text in place of a number or no picture.
    """
    task = values["task"]
    names = {*MAIN, *MORE, *OF_TASK[task]} & SETTINGS.keys()
    settings = {name: typed(name, values[name]) for name in names if not blank(values[name])}
    settings["seed"] = seed(values["seed"])
    options = {name: values[name] for name in OPTIONS[task] if not blank(values[name]) and name != "variation_seed"}
    for name in options.keys() & WHOLE:
        options[name] = number(name, options[name], int)
    if task == "variations":
        options["variation_seed"] = seed(values["variation_seed"], "variation_seed")
    has_image = "image" in OF_TASK[task] and values["image"]
    image, mask = open_picture(Path(values["image"]).read_bytes()) if has_image else None, None
    if task == "inpaint":
        image, mask = brushed(values["editor"])
    made = Order(values["prompt"] or "", task, settings, image, mask, options, values["model"] or "",
                 values["vae"] or "", values["prediction"] or None, previews=True)
    check_size(made)
    return made


def check_size(order: Order) -> None:
    """Raises ValueError for more than BATCH_PIXELS at once, SHEET_PIXELS in all, and PROMPT_CHARS of a prompt; and for
    an enlarged picture of more than an upload has.
    """
    longest = max(map(len, (order.prompt, order.settings.get("negative_prompt", ""), *order.axis_prompts())))
    if longest > PROMPT_CHARS:
        raise ValueError(f"a prompt of {longest:,} characters is above {PROMPT_CHARS:,}; make it shorter")
    total = 0
    for settings in [cell.settings for row in order.cells() for cell in row] if order.task == "grid" else [
            order.settings]:
        own = order.image.size if order.image else (SIDE, SIDE)
        width, height = (settings.get(name) or side for name, side in zip(SIZE, own, strict=True))
        if order.task == "outpaint":
            width += order.option("left") + order.option("right")
            height += order.option("top") + order.option("bottom")
        count = settings.get("count", 1)
        total += width * height
        if width * height * count > BATCH_PIXELS:
            raise ValueError(f"{count} pictures of {width}x{height} pixels are more than the {BATCH_PIXELS:,} pixels "
                             "drawn at once; take fewer or smaller ones")
        if order.task == "upscale":
            check_pixels(round(width * order.option("scale")), round(height * order.option("scale")))
    if total > SHEET_PIXELS:
        raise ValueError(f"a grid of {total:,} pixels is above {SHEET_PIXELS:,}; take fewer or smaller cells")


def blank(value: object) -> bool:
    """Whether a field is empty, so that the default counts."""
    return value is None or value == ""


def typed(name: str, value: Any) -> Any:
    """The value of a setting in its own type, from text or from a browser's number.  Raises ValueError."""
    kind = SETTINGS[name].metadata["type"]
    return number(name, value, kind) if kind in (int, float) else value


def number(name: str, value: Any, kind: type) -> Any:
    """A field's value as int or float.  Raises ValueError for what is none, such as 1.5 pictures."""
    try:
        found = float(value) if kind is float or isinstance(value, float) else int(value)
        if kind(found) == found:
            return kind(found)
    except ValueError:
        pass
    raise ValueError(f"{name} {value!r} is not a {'whole ' * (kind is int)}number; give one")


def seed(value: object, name: str = "seed") -> int:
    """The seed in a field, where -1, or nothing, is any.  Raises ValueError for what is no whole number."""
    text = str(value if value is not None else "").strip()
    return secrets.randbelow(ANY_SEED) if text in ("", "-1") else number(name, text, int)


def brushed(drawn: Mapping[str, Any] | None) -> tuple[Image.Image | None, Image.Image | None]:
    """The picture in an editor, and the mask of what was brushed over: white there; None where nothing was."""
    if not drawn or drawn["background"] is None:
        return None, None
    alphas = [np.asarray(layer.convert("RGBA"))[..., 3] for layer in drawn["layers"]]
    mask = np.any([alpha > 0 for alpha in alphas], axis=0) if alphas else np.zeros(1, bool)
    return drawn["background"], Image.fromarray(np.where(mask, 255, 0).astype(np.uint8)) if mask.any() else None


def read_settings(path: str | Path, models: Mapping[str, Path]) -> Filled:
    """What a picture file, ours or A1111's, puts into the form.  `models`: files by name.

    Raises ValueError where the file says nothing, OSError where it is no picture.
    """
    try:
        told = read_metadata(path)
    except ValueError:
        found = from_parameters(read_parameters(path))
        values = {"prompt": found.prompt, **DEFAULTS, **found.settings}
        rest = "; ".join(f"{key}: {value}" for key, value in found.rest.items())
        return Filled(values, [("note.unused", {"what": rest})] if rest else [])
    return from_metadata(told, models)


def from_metadata(told: Mapping[str, Any], models: Mapping[str, Path]) -> Filled:
    """What our JSON puts into the form."""
    notes: list[tuple[str, dict[str, str]]] = []
    task = TASKS.get(told.get("task", ""), "inpaint" if "mask_sha256" in told else
                     "img2img" if "image_sha256" in told else "txt2img")
    values = {"task": task, "prompt": with_tags(told), "prediction": told.get("prediction") or "",
              **DEFAULTS, **{name: told[name] for name in SETTINGS if name in told}}
    values |= {name: told[name] for name in OPTIONS[task] if told.get(name) is not None}
    if task == "grid":
        values |= {name: written(told[name]) for name in ("x", "y") if told.get(name)}
    for name in ("model", "vae"):
        values[name] = named(told.get(name, ""), told.get(f"{name}_hash"), models)
        if values[name] is None:
            notes.append((f"note.{name}", {"model": told[name]}))
            del values[name]
    if "image_sha256" in told or "mask_sha256" in told:
        notes.append(("note.inputs", {}))
    return Filled(values, notes)


def named(file: str, told: str | None, models: Mapping[str, Path]) -> str | None:
    """The name of the model whose file has this name and fingerprint; "" for none, None for one that is not there."""
    if not file:
        return ""
    same = (name for name, path in models.items() if path.name == file and told in (None, fingerprint(path)))
    return next(same, None)


def written(axis: Iterable[Any]) -> str:
    """An axis of a grid as it stands in the form: "steps=4,8"."""
    name, values = axis
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(values)
    return f"{name}={line.getvalue()}"
