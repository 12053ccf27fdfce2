"""Pictures and masks of random content and size."""

import numpy as np
from PIL import Image


def sizes(rng: np.random.Generator, high: int = 90) -> tuple[int, int]:
    """Width and height, from 1 on and below `high`."""
    width, height = map(int, rng.integers(1, high, 2))
    return width, height


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def rectangle(width: int, height: int, box: tuple[int, int, int, int]) -> Image.Image:
    """A mask, white inside left, top, right, bottom."""
    mask = Image.new("L", (width, height))
    mask.paste(255, box)
    return mask


def random_mask(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """A mask of up to three rectangles, or single pixels."""
    mask = np.zeros((height, width), np.uint8)
    for _ in range(rng.integers(1, 4)):
        x, y = rng.integers(width), rng.integers(height)
        mask[y : y + rng.integers(1, height + 1), x : x + rng.integers(1, width + 1)] = 255
    return Image.fromarray(mask)
