"""Run a convolutional map over overlapping squares and blend the seams, so that memory stays bounded."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

MIN_TILE = 4        # neighbours overlap by a quarter of a tile, and by one sample at least


def spans(length: int, tile: int) -> list[tuple[int, int]]:
    """Begin and end of the tiles along one side: neighbours overlap by a quarter, the last is flush with the end."""
    last = max(length - tile, 0)
    return [(start, min(start + tile, length)) for start in [*range(0, last, tile * 3 // 4), last]]


def ramp(length: int, overlap: int, device: torch.device) -> Tensor:
    """Blending weight along one side: rises over `overlap` samples, flat, falls; never 0.

    A raised cosine, which trusts the outermost samples, where f met padding for neighbours, less than a line would.
    """
    x = torch.arange(length, device=device, dtype=torch.float32) + 0.5
    return torch.sin((torch.minimum(x, length - x) / overlap).clamp(max=1) * math.pi / 2) ** 2


def map_tiles(f: Callable[[Tensor], Tensor], x: Tensor, tile: int, down: int = 1, up: int = 1) -> Tensor:
    """Apply `f` to overlapping squares of x and blend.  x [B C h*down w*down] -> [B C' h*up w*up].

    f shrinks a picture `down` times or enlarges it `up` times; `tile`, at least MIN_TILE, counts in units of h and w.
    Approximate wherever f looks further than the overlap: a GroupNorm or an attention sees one tile only.  Sums in,
    and returns, float32 or better.
    """
    height, width = (side // down for side in x.shape[2:])
    overlap = (tile - tile * 3 // 4) * up
    total = torch.zeros(height * up, width * up, device=x.device)
    out = None
    for top, bottom in spans(height, tile):
        for left, right in spans(width, tile):
            y = f(x[:, :, top * down : bottom * down, left * down : right * down])
            weight = ramp(y.shape[2], overlap, x.device)[:, None] * ramp(y.shape[3], overlap, x.device)
            y = y * weight
            if out is None:
                out = y.new_zeros(*y.shape[:2], *total.shape)
            out[:, :, top * up : bottom * up, left * up : right * up] += y
            total[top * up : bottom * up, left * up : right * up] += weight
    assert out is not None      # there is always a tile
    return out / total
