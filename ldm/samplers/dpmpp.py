"""DPM-Solver++: exponential integrators in lambda = -log sigma on the estimate of x0."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ldm.samplers.noise import Noise, ancestral
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


@torch.no_grad()
def dpmpp_2m_sde(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise, eta: float = 1.0
                 ) -> Iterator[Step]:
    """`dpmpp_2m` to below the next sigma, then return to it with fresh noise.  x [B C h w] at sigmas[0].

    One evaluation a step.  Each step's noise is its own, an increment of the SDE's path.  eta 0 is `dpmpp_2m`, 1 the
    paper's; raises ValueError unless 0 <= eta <= 1.
    Lu et al. 2022 (DPM-Solver++), SDE-DPM-Solver++(2M): e^-h sigma_next / sigma = down / sigma at eta 1.
    """
    previous = None                                                 # (h, x0) of the step before
    for i, (s, s_next) in enumerate(pairwise(sigmas)):
        x0 = denoise(x, s)
        d = x0
        h = math.log(s / s_next) if s_next > 0 else math.inf
        if previous and s_next > 0:
            h_last, x0_last = previous
            d = x0 + h / (2 * h_last) * (x0 - x0_last)
        down, up = ancestral(s, s_next, eta)
        x = d.lerp(x, down / s)
        if up > 0:
            x = x + up * noise(x)
        previous = h, x0
        yield Step(i, s_next, x, x0)


@torch.no_grad()
def dpmpp_2s_a(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise, eta: float = 1.0
               ) -> Iterator[Step]:
    """DDIM towards the x0 found half-way, to below the next sigma; then return to it with fresh noise.

    x [B C h w] at sigmas[0].  Two evaluations a step, but one for a step to sigma 0: 2n - 1 in all.  eta 0 is plain,
    deterministic DPM++ 2S, of second order.  Raises ValueError unless 0 <= eta <= 1.
    Lu et al. 2022 (DPM-Solver++), algorithm 1 with r = 1/2; k-diffusion sampling.py, sample_dpmpp_2s_ancestral.
    """
    for i, (s, s_next) in enumerate(pairwise(sigmas)):
        x0 = d = denoise(x, s)
        down, up = ancestral(s, s_next, eta)
        if down > 0:
            middle = math.sqrt(s * down)
            d = denoise(x0.lerp(x, middle / s), middle)
        x = d.lerp(x, down / s)
        if up > 0:
            x = x + up * noise(x)
        yield Step(i, s_next, x, x0)


@torch.no_grad()
def dpmpp_sde(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise, eta: float = 1.0
              ) -> Iterator[Step]:
    """A stochastic step half-way to find x0 there, then the whole step towards that x0.  x [B C h w] at sigmas[0].

    Two evaluations a step, but one for a step to sigma 0: 2n - 1 in all.  eta 0 is `dpmpp_2s_a` at eta 0.  Raises
    ValueError unless 0 <= eta <= 1.  The noise of the whole step holds that of its first half, as increments of one
    Brownian path in sigma do: drawn afresh, the order falls from 2 to 1.  A Brownian tree gives the same law, and
    remembers a path for other step sequences; here the steps are known and the increments disjoint.
    Lu et al. 2022 (DPM-Solver++), SDE-DPM-Solver++1; k-diffusion sampling.py, sample_dpmpp_sde with r = 1/2.
    """
    for i, (s, s_next) in enumerate(pairwise(sigmas)):
        x0 = denoise(x, s)
        down, up = ancestral(s, s_next, eta)
        if s_next > 0:
            middle = math.sqrt(s * s_next)
            share = (s - middle) / (s - s_next)                     # of the first half in the path
            first, second = noise(x), noise(x)
            down_half, up_half = ancestral(s, middle, eta)
            d = denoise(x0.lerp(x, down_half / s) + up_half * first, middle)
            x = d.lerp(x, down / s) + up * (math.sqrt(share) * first + math.sqrt(1 - share) * second)
        else:
            x = x0
        yield Step(i, s_next, x, x0)
