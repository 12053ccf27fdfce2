"""Denoising diffusion implicit models."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ldm.samplers.noise import Noise, ancestral
from ldm.samplers.step import Denoise, Step


@torch.no_grad()
def ddim(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise, eta: float = 0.0) -> Iterator[Step]:
    """Keep the estimated x0 and shrink the estimated noise.  x [B C h w] at sigmas[0]; one evaluation a step.

    eta 0 is deterministic, 1 is DDPM.  Raises ValueError unless 0 <= eta <= 1.  Song et al. 2021, eq. 12 and 16.
    """
    for i, (s, s_next) in enumerate(pairwise(sigmas)):
        x0 = denoise(x, s)
        down, up = ancestral(s, s_next, eta)
        x = x0.lerp(x, down / s)                                    # x0 + down * (x - x0) / s
        if up > 0:
            x = x + up * noise(x)
        yield Step(i, s_next, x, x0)
