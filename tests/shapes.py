"""Small captioned pictures of coloured shapes: something to learn in seconds."""

import json
from itertools import product
from pathlib import Path

from PIL import Image, ImageDraw

COLORS = ("red", "green", "blue", "black", "orange", "purple")
SHAPES = ("disc", "square", "ring", "bar")


def draw(color: str, shape: str, size: int = 64) -> Image.Image:
    image = Image.new("RGB", (size, size), "white")
    pen, a, b = ImageDraw.Draw(image), size // 4, 3 * size // 4
    match shape:
        case "disc":
            pen.ellipse((a, a, b, b), fill=color)
        case "square":
            pen.rectangle((a, a, b, b), fill=color)
        case "ring":
            pen.ellipse((a, a, b, b), outline=color, width=size // 8)
        case "bar":
            pen.rectangle((0, a, size, a + size // 4), fill=color)
    return image


def write_shapes(folder: Path) -> Path:
    """24 pictures of 64 x 64 pixels and a metadata.jsonl."""
    folder.mkdir()
    lines = []
    for color, shape in product(COLORS, SHAPES):
        name = f"{color}-{shape}.png"
        draw(color, shape).save(folder / name)
        lines.append(json.dumps({"file_name": name, "text": [f"a {color} {shape}", f"{shape} in {color}"]}))
    (folder / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder
