"""Fresh noise: where it comes from, and how much of it a stochastic step takes."""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

Noise = Callable[[Tensor], Tensor]                  # like torch.randn_like


def seeded_noise(seeds: Iterable[int]) -> Noise:
    """A `randn_like` in which every picture of a batch has its own seed.

    noise(x [B C h w]) -> unit normal [B C h w] on x's device and in its dtype, anew at each call.  Numbers are drawn
    in float32 on the CPU, one generator per picture, so that a picture's noise depends on its own seed alone.
    noise(x) raises ValueError if x holds more or fewer pictures than there are seeds.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def noise(x: Tensor) -> Tensor:
        if len(x) != len(generators):
            raise ValueError(f"a batch of {len(x)} needs as many seeds, not {len(generators)}; give one per picture")
        return torch.stack([torch.randn(x.shape[1:], generator=g, dtype=torch.float32) for g in generators]).to(x)

    return noise


def ancestral(s: float, s_next: float, eta: float) -> tuple[float, float]:
    """Split the way from sigma `s` to `s_next` into a deterministic part and noise: (down, up).

    down^2 + up^2 = s_next^2: step down to sigma `down`, then add noise of std `up`.  eta 0 is all deterministic, 1
    is the posterior variance of the forward process.  Song et al. 2021, eq. 16, in x = x0 + sigma * noise.
    Raises ValueError unless 0 <= eta <= 1.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta {eta} is outside 0..1; try 0 (deterministic) or 1 (ancestral)")
    up = eta * s_next * math.sqrt(1 - (s_next / s) ** 2)
    return math.sqrt(s_next**2 - up**2), up
