"""Heun's second-order method on the probability flow ODE."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ldm.samplers.noise import Noise
from ldm.samplers.step import Denoise, Step


@torch.no_grad()
def heun(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise) -> Iterator[Step]:
    """Average the tangents at both ends of the step; `noise` is not used.  x [B C h w] at sigmas[0].

    Two evaluations a step, but one for a step to sigma 0, where the second tangent does not exist: 2n - 1 in all.
    Karras et al. 2022, algorithm 1.
    """
    for i, (s, s_next) in enumerate(pairwise(sigmas)):
        x0 = denoise(x, s)
        d = (x - x0) / s
        x_euler = x + (s_next - s) * d
        if s_next > 0:
            d_next = (x_euler - denoise(x_euler, s_next)) / s_next
            x = x + (s_next - s) * (d + d_next) / 2
        else:
            x = x_euler
        yield Step(i, s_next, x, x0)
