"""DPM-Solver++: exponential integrators in lambda = -log sigma on the estimate of x0."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ldm.samplers.noise import Noise
from ldm.samplers.step import Denoise, Step


@torch.no_grad()
def dpmpp_2m(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise) -> Iterator[Step]:
    """DDIM steps towards an x0 extrapolated in lambda; `noise` is not used.  x [B C h w] at sigmas[0].

    One evaluation a step, second order.  The first step, and a last one to sigma 0, are plain DDIM.
    Lu et al. 2022 (DPM-Solver++), algorithm 2.
    """
    previous = None                                                 # (h, x0) of the step before
    for i, (s, s_next) in enumerate(pairwise(sigmas)):
        x0 = denoise(x, s)
        d = x0                                                      # the paper's D_i
        h = math.log(s / s_next) if s_next > 0 else math.inf
        if previous and s_next > 0:
            h_last, x0_last = previous
            d = x0 + h / (2 * h_last) * (x0 - x0_last)
        x = d.lerp(x, s_next / s)
        previous = h, x0
        yield Step(i, s_next, x, x0)
