"""Denoising diffusion probabilistic models: the ancestral sampler that diffusion models began with."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ldm.samplers.noise import Noise
from ldm.samplers.step import Denoise, Step


@torch.no_grad()
def ddpm(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise) -> Iterator[Step]:
    """Draw from q(x_next | x, x0) at every step.  x [B C h w] at sigmas[0]; one evaluation a step.

    Ho et al. 2020, eq. 6-7 and algorithm 2 with the posterior ("fixed small") variance.
    """
    for i, (s, s_next) in enumerate(pairwise(sigmas)):
        x0 = denoise(x, s)
        r = (s_next / s) ** 2
        x = x0.lerp(x, r)                                           # posterior mean
        if s_next > 0:
            x = x + s_next * math.sqrt(1 - r) * noise(x)            # posterior variance
        yield Step(i, s_next, x, x0)
