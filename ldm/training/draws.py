"""Random numbers of training, drawn for each sample from (seed, step, its place in the global batch) alone.

No rank, batch or restart has a generator of its own: two ranks draw what one with twice the batch would, and a resumed
run what an unbroken one would.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


def generator(seed: int, *place: int) -> torch.Generator:
    """A random generator on the CPU that depends on the numbers alone."""
    state = np.random.SeedSequence(seed, spawn_key=place).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


class Draws(NamedTuple):
    """What chance decides about B samples."""

    t: Tensor                                           # [B] timesteps, long
    noise: Tensor                                       # [B *shape] float32
    chance: Tensor                                      # [B 2] in [0, 1): which caption, and whether it is dropped


def draws(seed: int, step: int, places: Iterable[int], batch: int, shape: Sequence[int], timesteps: int) -> Draws:
    """Timestep, noise and chance of the samples at these places of a global batch of `batch`.

    The timesteps are spread over the global batch, one from each of `batch` equal parts of 0..timesteps - 1: uniform
    still, with less variance in the loss.  Kingma et al. 2021 (Variational Diffusion Models), appendix I.1.
    """
    t, noise, chance = [], [], []
    for place in places:
        g = generator(seed, step, place)
        u = torch.rand(3, generator=g, dtype=torch.float64)
        t.append(min(int((place + float(u[0])) * timesteps / batch), timesteps - 1))
        chance.append(u[1:])
        noise.append(torch.randn(shape, generator=g))
    return Draws(torch.tensor(t), torch.stack(noise), torch.stack(chance))


def choose(texts: Sequence[Sequence[str]], chance: Tensor, drop: float = 0.0) -> list[str]:
    """One caption of each sample, by chance [B 2]; a share `drop` of them is empty."""
    return ["" if dropped < drop else several[int(which * len(several))]
            for several, (which, dropped) in zip(texts, chance.tolist(), strict=True)]
