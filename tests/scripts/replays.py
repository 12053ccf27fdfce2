"""Pictures in files, to be made again."""

import json
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ldm.images import save_image

FAST = {"steps": 4, "seed": 5}


def drawn(pipe, path, **settings):
    """A picture in a file."""
    [picture] = pipe("a cat", **{**FAST, **settings})
    return save_image(picture, path)


def retell(path: Path, told: dict) -> Path:
    """The picture of a PNG with other JSON."""
    info = PngInfo()
    info.add_itxt("ldm", json.dumps(told))
    with Image.open(path) as image:
        image.load()
        image.save(path, pnginfo=info)
    return path


def text_alone(path: Path, text: str) -> Path:
    """The picture of a file as A1111 would have written it: pixels and text of parameters."""
    info = PngInfo()
    info.add_text("parameters", text)
    with Image.open(path) as image:
        image.save(path.with_name("text.png"), pnginfo=info)
    return path.with_name("text.png")
