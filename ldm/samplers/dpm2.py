"""DPM-Solver-2: the midpoint method in log sigma on the estimate of the noise."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ldm.samplers.noise import Noise, ancestral
from ldm.samplers.step import Denoise, Step


def dpm2(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise) -> Iterator[Step]:
    """Make the whole step with the tangent at its middle; `noise` is not used.  x [B C h w] at sigmas[0].

    Second order.  Two evaluations a step, but one for a step to sigma 0, which has no middle: 2n - 1 in all.
    Lu et al. 2022 (DPM-Solver), algorithm 1; k-diffusion sampling.py, sample_dpm_2.
    """
    return dpm2_a(denoise, x, sigmas, noise, eta=0.0)


@torch.no_grad()
def dpm2_a(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise, eta: float = 1.0) -> Iterator[Step]:
    """Step by `dpm2` to below the next sigma, then return to it with fresh noise: DPM2 ancestral.

    x [B C h w] at sigmas[0]; evaluations as for `dpm2`, which eta 0 is.  Raises ValueError unless 0 <= eta <= 1.
    k-diffusion sampling.py, sample_dpm_2_ancestral.
    """
    for i, (s, s_next) in enumerate(pairwise(sigmas)):
        x0 = denoise(x, s)
        d = (x - x0) / s
        down, up = ancestral(s, s_next, eta)
        if down > 0:
            middle = math.sqrt(s * down)
            x_middle = x + (middle - s) * d
            d = (x_middle - denoise(x_middle, middle)) / middle
        x = x + (down - s) * d
        if up > 0:
            x = x + up * noise(x)
        yield Step(i, s_next, x, x0)
