"""Run a convolutional map over overlapping squares and blend the seams, so that memory stays bounded."""

from collections.abc import Callable

import torch
from torch import Tensor


def starts(length: int, tile: int, step: int) -> list[int]:
    """Where tiles begin along one side: every `step`, the last one flush with the end."""
    return [*range(0, max(length - tile, 0), step), max(length - tile, 0)]


def ramp(length: int, overlap: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Blending weight along one side: rises over `overlap` samples, flat, falls; never 0."""
    x = torch.arange(length, device=device, dtype=torch.float32) + 0.5
    return (torch.minimum(x, length - x) / max(overlap, 1)).clamp(max=1).to(dtype)


def map_tiles(f: Callable[[Tensor], Tensor], x: Tensor, tile: int, down: int, up: int) -> Tensor:
    """Apply `f` to overlapping squares of x and blend linearly.  x [B C H W] -> [B C' H*up/down W*up/down].

    `tile` is in samples of x; neighbours overlap by a quarter.  One of `down`, `up` is 1.  Approximate wherever
    f looks further than the overlap (GroupNorm and attention see one tile only).
    Raises ValueError where the tile is too small to overlap or not a multiple of `down`.
    """
    if tile < 4 * down or tile % down:
        raise ValueError(f"tile {tile} must be a multiple of {down} and at least {4 * down}; try {8 * down}")
    height, width = x.shape[2:]
    step = max(tile * 3 // 4 // down, 1) * down
    overlap = (tile - step) * up // down
    out, total = None, None
    for top in starts(height, tile, step):
        for left in starts(width, tile, step):
            y = f(x[:, :, top : top + tile, left : left + tile])
            weight = ramp(y.shape[2], overlap, y.dtype, y.device)[:, None] * ramp(y.shape[3], overlap, y.dtype, y.device)
            if out is None or total is None:
                out = y.new_zeros(len(y), y.shape[1], height * up // down, width * up // down)
                total = out.new_zeros(out.shape[2:])
            rows = slice(top * up // down, top * up // down + y.shape[2])
            cols = slice(left * up // down, left * up // down + y.shape[3])
            out[:, :, rows, cols] += y * weight
            total[rows, cols] += weight
    assert out is not None and total is not None
    return out / total
