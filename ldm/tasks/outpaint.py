"""Outpainting: what lies beyond the sides of a picture is painted."""

from collections.abc import Sequence
from dataclasses import replace

from PIL import Image

from ldm.images import digest, on_white
from ldm.masks import Fill, extend
from ldm.pipeline import Pipeline
from ldm.plan import Plan
from ldm.tasks.task import Task


class Outpainter(Task):
    """Draws on beyond the sides of a picture, so many pixels each; the picture itself stays bit for bit.

    Called as the pipeline, with a picture and without a mask.  `fill` as for `extend`.
    Raises ValueError where `plan` gets no picture, or a mask, and as `extend`.
    """

    def __init__(self, pipe: Pipeline, left: int = 0, top: int = 0, right: int = 0, bottom: int = 0,
                 fill: Fill = "edge"):
        super().__init__(pipe, task="outpaint", left=left, top=top, right=right, bottom=bottom, fill=fill)
        self.added = left, top, right, bottom, fill

    def plan(self, prompt: str | Sequence[str], image: Image.Image | None = None, mask: Image.Image | None = None,
             **settings) -> Plan:
        if image is None or mask is not None:
            raise ValueError("outpainting takes a picture and makes the mask itself; give image, and no mask")
        plan = super().plan(prompt, *extend(image, *self.added), **settings)
        assert plan.canvas
        given = {"image_sha256": digest(on_white(image))}                   # which remakes the rest
        return replace(plan, canvas=replace(plan.canvas, sources=given))
