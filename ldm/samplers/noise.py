"""Fresh noise: where it comes from, and how much of it a stochastic step takes."""

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from typing import Literal, get_args

import torch
from torch import Tensor

Noise = Callable[[Tensor], Tensor]                  # like torch.randn_like
Source = Literal["cpu", "nv"]                       # of random numbers; the words of A1111's setting RNG

WORD = 2**32 - 1                                    # the bits of a word


def seeded_noise(seeds: Iterable[int], source: Source = "cpu") -> Noise:
    """A `randn_like` in which every picture of a batch has its own seed.

    noise(x [B C h w]) -> unit normal [B C h w] on x's device and in its dtype, anew at each call.  Numbers are drawn
    in float32 on the CPU, one generator per picture, so that a picture's noise depends on its own seed alone.
    source "cpu": PyTorch's own generator, as in A1111 with RNG "CPU" and in diffusers with a list of CPU generators;
    "nv": as PyTorch draws on an NVIDIA GPU, and A1111 with RNG "GPU" or "NV".
    Raises ValueError for an unknown source; noise(x) does if x holds more or fewer pictures than there are seeds.
    """
    if source not in get_args(Source):
        raise ValueError(f"source {source!r} is unknown; try one of {', '.join(get_args(Source))}")
    draws = [cuda_randn(seed) if source == "nv" else cpu_randn(seed) for seed in seeds]

    def noise(x: Tensor) -> Tensor:
        if len(x) != len(draws):
            raise ValueError(f"a batch of {len(x)} needs as many seeds, not {len(draws)}; give one per picture")
        return torch.stack([draw(x.shape[1:]) for draw in draws]).to(x)

    return noise


def cpu_randn(seed: int) -> Callable[[Sequence[int]], Tensor]:
    """draw(shape) -> unit normal, float32, as torch.randn on the CPU, call after call."""
    generator = torch.Generator().manual_seed(seed)
    return lambda shape: torch.randn(shape, generator=generator, dtype=torch.float32)


def cuda_randn(seed: int) -> Callable[[Sequence[int]], Tensor]:
    """draw(shape) -> unit normal, float32, as torch.randn on a CUDA device, call after call, to its last bits.

    Thread i of call k takes its number from the random words of counter (k, 0, i, 0) under the seed, by Box and
    Muller's transform.  True of tensors with no more numbers than the GPU has threads: of 512 x 512 pixels, 16,384
    numbers, on nearly all.  PyTorch's DistributionTemplates.h, NVIDIA's curand_normal.h.
    """
    calls = count()

    def draw(shape: Sequence[int]) -> Tensor:
        threads = torch.arange(math.prod(shape))
        zero = torch.zeros_like(threads)
        x, y, _, _ = philox((zero + next(calls), zero, threads, zero), (seed & WORD, seed >> 32 & WORD))
        u, v = ((word.double() + 0.5) / 2**32 for word in (x, y))
        return ((-2 * u.log()).sqrt() * (2 * math.pi * v).sin()).float().view(*shape)

    return draw


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]
           ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-10: four random words for each counter of four words, all int64 [n] below 2^32.

    Salmon et al. 2011, section 3.3.  Products of two words fill 64 bits; that they wrap to negative does not matter.
    """
    a, b, c, d = counter
    k, m = key
    for _ in range(10):
        p, q = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (q >> 32 & WORD) ^ b ^ k, q & WORD, (p >> 32 & WORD) ^ d ^ m, p & WORD
        k, m = (k + 0x9E3779B9) & WORD, (m + 0xBB67AE85) & WORD
    return a, b, c, d


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
