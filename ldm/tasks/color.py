"""Colorizing: the color of one picture on the brightness of another."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from ldm.images import on_white
from ldm.pipeline import Pipeline
from ldm.plan import Plan
from ldm.samplers import Step
from ldm.tasks.task import Task

LUMA = np.array([19595, 38470, 7471]) / 2**16           # Rec. 601, 0.299, 0.587, 0.114, as Pillow's convert("L") has it


def luma(image: Image.Image) -> Image.Image:
    """How bright a picture is, Rec. 601: any mode -> mode L.  Raises ValueError for 16-bit pictures, as `on_white`."""
    return on_white(image).convert("L")


def keep_luma(color: Image.Image, grey: Image.Image) -> Image.Image:
    """The chroma of one picture with the luma of another of its size, any modes -> RGB, with `color`'s metadata.

    `luma` of the result is within 1 of 255 of that of `grey`, everywhere.  Where a chroma would leave the range of
    8 bits it is scaled towards grey, so the hue stays; clipping would change the luma.
    Raises ValueError where the sizes differ.  ITU-R BT.601, sec. 2.5.1.
    """
    if color.size != grey.size:
        raise ValueError(f"the sizes {color.size} and {grey.size} differ; resize one picture to the other's size")
    y = np.asarray(luma(grey), float)[..., None]
    rgb = np.asarray(on_white(color), float)
    chroma = rgb - (rgb @ LUMA)[..., None]
    size, room = np.abs(chroma), np.where(chroma > 0, 255 - y, y)       # room: up to white, or down to black
    scale = np.divide(room, size, out=np.ones_like(size), where=size > room).min(axis=2, keepdims=True)
    result = Image.fromarray(np.rint(y + scale * chroma).astype(np.uint8))
    result.info = dict(color.info)
    return result


class Colorizer(Task):
    """Image to image that takes the color of what it draws, and keeps the brightness of the input: `keep_luma`.

    Called as the pipeline, with an image; only its luma counts.  A strength near 1 gives the most color, but the less
    it has to do with the shapes.  Raises ValueError without an image.
    """

    def __init__(self, pipe: Pipeline):
        super().__init__(pipe, task="colorize")

    def plan(self, prompt: str | Sequence[str], image: Image.Image | None = None, mask: Image.Image | None = None,
             **settings) -> Plan:
        if image is None:
            raise ValueError("there is no picture to colorize; give image")
        return super().plan(prompt, luma(image), mask, **settings)

    def finish(self, plan: Plan, step: Step) -> list[Image.Image]:
        assert plan.canvas                              # `plan` saw to it
        return [keep_luma(picture, plan.canvas.image) for picture in super().finish(plan, step)]
