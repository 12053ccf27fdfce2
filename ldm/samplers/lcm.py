"""Multistep sampling of latent consistency models."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ldm.samplers.noise import Noise
from ldm.samplers.step import Denoise, Step


@torch.no_grad()
def lcm(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise) -> Iterator[Step]:
    """Jump to x0, then back up to the next sigma with all noise fresh.  x [B C h w] at sigmas[0].

    One evaluation a step.  For models, or with LoRAs, distilled to say in one step where the ODE ends; 2 to 8 steps.
    Their c_skip x + c_out x0 is x0 up to 1e-5 x from timestep 19 on, where they start to be trained.
    Luo et al. 2023 (LCM), algorithm 2; Song et al. 2023, algorithm 1.
    """
    for i, (s, s_next) in enumerate(pairwise(sigmas)):
        x0 = denoise(x, s)
        x = x0 + s_next * noise(x) if s_next > 0 else x0
        yield Step(i, s_next, x, x0)
