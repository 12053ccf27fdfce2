"""Euler's method on the probability flow ODE, dx / dsigma = (x - D(x, sigma)) / sigma."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ldm.samplers.noise import Noise, ancestral
from ldm.samplers.step import Denoise, Step


@torch.no_grad()
def euler(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise) -> Iterator[Step]:
    """Follow the tangent to the next sigma; `noise` is not used.  x [B C h w] at sigmas[0]; one evaluation a step.

    Karras et al. 2022, algorithm 1 without its correction.  The same map as `ddim` at eta 0.
    """
    for i, (s, s_next) in enumerate(pairwise(sigmas)):
        x0 = denoise(x, s)
        d = (x - x0) / s
        x = x + (s_next - s) * d
        yield Step(i, s_next, x, x0)


@torch.no_grad()
def euler_a(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise, eta: float = 1.0) -> Iterator[Step]:
    """Follow the tangent to below the next sigma, then return to it with fresh noise: Euler ancestral.

    x [B C h w] at sigmas[0]; one evaluation a step.  eta 0 is `euler`, 1 is `ddpm`.  Raises ValueError unless
    0 <= eta <= 1.  k-diffusion sampling.py, sample_euler_ancestral.
    """
    for i, (s, s_next) in enumerate(pairwise(sigmas)):
        x0 = denoise(x, s)
        d = (x - x0) / s
        down, up = ancestral(s, s_next, eta)
        x = x + (down - s) * d
        if up > 0:
            x = x + up * noise(x)
        yield Step(i, s_next, x, x0)
