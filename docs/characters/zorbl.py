"""Draw the pictures of a zorbl, the character of docs/characters.md: ellipsoids under a lamp, seen from several sides.

    python docs/characters/zorbl.py docs/characters/zorbl

MIT, like the rest of the repository.
"""

import json
import sys
from math import cos, radians, sin
from pathlib import Path

import numpy as np
from PIL import Image

SIDE_PX, FINER = 128, 4                                 # of a picture; drawn so many times larger
LAMP, VIEW = np.array([-0.5, -0.7, 0.8]), np.array([0.0, 0.0, 1.0])     # x to the right, y down, z towards the eye
MINT, ORANGE, WHITE, BLUE, BLACK, PINK = "#4fd0a5", "#f7902d", "#ffffff", "#2b62d9", "#15151f", "#f26ca7"
#           center              radii              color
PARTS = [((0, 0.06, 0), (0.62, 0.60, 0.56), MINT),                                      # body
         ((0, 0.32, 0.22), (0.38, 0.30, 0.36), "#c9f5d9"),                              # belly
         ((0, -0.14, 0.36), (0.30, 0.30, 0.26), WHITE),                                 # one eye
         ((0, -0.12, 0.55), (0.16, 0.16, 0.09), BLUE),
         ((0, -0.11, 0.62), (0.08, 0.08, 0.04), BLACK),
         *(((side * x, y, z), radii, color) for side in (-1, 1) for (x, y, z), radii, color in [
             ((0.27, -0.60, 0.0), (0.05, 0.22, 0.05), ORANGE),                          # feelers
             ((0.27, -0.84, 0.0), (0.12, 0.12, 0.12), PINK),
             ((0.64, 0.14, 0.06), (0.14, 0.22, 0.14), MINT),                            # arms
             ((0.27, 0.66, 0.12), (0.22, 0.13, 0.27), ORANGE)])]                        # feet
BACKGROUNDS = {"white": "#ffffff", "blue": "#2f6fd8", "yellow": "#f7d64a", "gray": "#9a9a9a", "red": "#d8392f",
               "black": "#101010"}
TURNS = -25, 20, 0, 35, -10, 10                         # degrees, to the picture's right


def rgb(color: str) -> np.ndarray:
    return np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255


def turn(degrees: float) -> np.ndarray:
    """Rotation about the upright axis."""
    c, s = cos(radians(degrees)), sin(radians(degrees))
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def shade(normal: np.ndarray, color: np.ndarray) -> np.ndarray:
    """Phong 1975: ambient, diffuse and specular light on points of one color.  [N 3] -> [N 3]."""
    lamp = LAMP / np.linalg.norm(LAMP)
    half = (lamp + VIEW) / np.linalg.norm(lamp + VIEW)
    diffuse, specular = (normal @ lamp).clip(0, None), (normal @ half).clip(0, None) ** 40
    return (0.6 + 0.5 * diffuse)[:, None] * color + 0.45 * specular[:, None]


def render(degrees: float, side: int) -> Image.Image:
    """The character on nothing: RGBA, side x side pixels, turned by so many degrees."""
    n, turned = side * FINER, turn(degrees)
    y, x = np.mgrid[-1 : 0.84 : n * 1j, -0.92 : 0.92 : n * 1j]
    depth, picture = np.full((n, n), -np.inf), np.zeros((n, n, 4))
    for center, radii, color in PARTS:
        m, c = turned @ np.diag(1 / np.square(radii)) @ turned.T, turned @ center
        flat = np.stack([x - c[0], y - c[1]], -1)               # z solves m[2, 2] z^2 + 2 b z + rest = 0
        b, rest = flat @ m[:2, 2], np.einsum("hwi,ij,hwj->hw", flat, m[:2, :2], flat) - 1
        root = b * b - m[2, 2] * rest
        z = (np.sqrt(root.clip(0)) - b) / m[2, 2]
        seen = (root > 0) & (z + c[2] > depth)
        normal = np.concatenate([flat[seen], z[seen][:, None]], -1) @ m
        picture[seen, :3] = shade(normal / np.linalg.norm(normal, axis=-1, keepdims=True), rgb(color))
        picture[seen, 3], depth[seen] = 1, (z + c[2])[seen]
    pixels = (picture.clip(0, 1) * 255).round().astype(np.uint8)
    return Image.fromarray(pixels, "RGBA").resize((side, side), Image.Resampling.BOX)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for (name, color), degrees in zip(BACKGROUNDS.items(), TURNS, strict=True):
        picture, zorbl = Image.new("RGB", (SIDE_PX, SIDE_PX), color), render(degrees, SIDE_PX - 12)
        picture.paste(zorbl, (6, 6), zorbl)
        picture.save(folder / f"{name}.png", optimize=True)
        lines.append(json.dumps({"file_name": f"{name}.png", "text": f"3d render of a zorbl on a {name} background"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
