"""Canny's edges of a picture, as a hint for a ControlNet; no model, no further library."""

import numpy as np
from PIL import Image

from ldm.images import on_white
from ldm.settings import within

# In units of 2^-15: the tangents of 22.5 and 67.5 degrees, which part the four directions of a gradient
TAN_22, TAN_67 = 13573, 13573 + 2 * 2**15


def canny(image: Image.Image, low: int = 100, high: int = 200) -> Image.Image:
    """White edges, one pixel wide, on black.  RGB, of the picture's size.

    An edge is where the gradient (Sobel, |dx| + |dy|, 0 to 2040) is the largest across it, above `low`, and joined to
    a place above `high`.  Of a colored picture the steepest channel counts.  The defaults are those that the official
    ControlNet was trained with.
    Raises ValueError as `check_thresholds`.
    Canny 1986; as OpenCV's Canny with an aperture of 3, without smoothing.
    """
    check_thresholds(low, high)
    dx, dy = gradient(np.asarray(on_white(image), np.int32))
    size = np.abs(dx) + np.abs(dy)
    ridge = is_ridge(dx, dy, size) & (size > low)
    edges = joined(ridge & (size > high), ridge)
    return Image.fromarray(edges.astype(np.uint8) * 255).convert("RGB")


def check_thresholds(low: int, high: int) -> None:
    """Raises ValueError unless 0 <= low <= high <= 2040."""
    within("high", high, 0, 2040)
    within("low", low, 0, high)


def gradient(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sobel's dx and dy, each [H W], of the channel that is steepest.  pixels [H W C]; the border is repeated."""
    p = np.pad(pixels, ((1, 1), (1, 1), (0, 0)), mode="edge")
    down = p[:-2] + 2 * p[1:-1] + p[2:]                             # smoothed from top to bottom, [H W+2 C]
    along = p[:, :-2] + 2 * p[:, 1:-1] + p[:, 2:]                   # from left to right, [H+2 W C]
    dx, dy = down[:, 2:] - down[:, :-2], along[2:] - along[:-2]
    steepest = (np.abs(dx) + np.abs(dy)).argmax(axis=2, keepdims=True)
    return np.take_along_axis(dx, steepest, 2)[..., 0], np.take_along_axis(dy, steepest, 2)[..., 0]


def is_ridge(dx: np.ndarray, dy: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Where the gradient is larger than before it and not smaller than behind it, in its own direction.  [H W] bool.

    Level and upright gradients may equal the neighbor on the right or below, so that an edge of even width has one
    pixel; diagonal ones are larger than both.
    """
    p = np.pad(size, 1)
    height, width = size.shape

    def at(y: int, x: int) -> np.ndarray:
        """The sizes y rows below and x columns to the right."""
        return p[1 + y : 1 + y + height, 1 + x : 1 + x + width]

    level = np.abs(dy) * 2**15 < np.abs(dx) * TAN_22
    upright = np.abs(dy) * 2**15 > np.abs(dx) * TAN_67
    falling = (dx < 0) == (dy < 0)                                  # from the upper left to the lower right
    diagonal = np.where(falling, (size > at(-1, -1)) & (size > at(1, 1)), (size > at(-1, 1)) & (size > at(1, -1)))
    return np.where(level, (size > at(0, -1)) & (size >= at(0, 1)),
                    np.where(upright, (size > at(-1, 0)) & (size >= at(1, 0)), diagonal))


def joined(seeds: np.ndarray, among: np.ndarray) -> np.ndarray:
    """The seeds and all that is joined to them, side by side or across corners, within `among`.  [H W] bool."""
    reached = seeds & among
    while True:
        p = np.pad(reached, 1)
        rows = p[:-2] | p[1:-1] | p[2:]
        grown = (rows[:, :-2] | rows[:, 1:-1] | rows[:, 2:]) & among
        if (grown == reached).all():
            return reached
        reached = grown
