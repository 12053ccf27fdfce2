"""Linear multistep methods: the step is made with tangents of earlier steps, at no further evaluation."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ldm.samplers.noise import Noise
from ldm.samplers.step import Denoise, Step


@torch.no_grad()
def plms(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise) -> Iterator[Step]:
    """DDIM steps along Adams-Bashforth's mean of up to four noises; `noise` is not used.  x [B C h w] at sigmas[0].

    Pseudo linear multistep: the weights are those of equal steps, whatever the sigmas; second order.  The first step
    is Heun's and evaluates twice (once if it ends at sigma 0), so n + 1 evaluations in all.  CompVis's own sampler.
    Liu et al. 2022 (PNDM), section 3.3, e' = (55 e_t - 59 e_t-1 + 37 e_t-2 - 9 e_t-3) / 24; CompVis plms.py.
    """
    e = []                                                          # the noises, (x - x0) / sigma; latest last
    for i, (s, s_next) in enumerate(pairwise(sigmas)):
        x0 = denoise(x, s)
        e = [*e[-3:], (x - x0) / s]
        if i == 0 and s_next > 0:
            x_next = x + (s_next - s) * e[0]
            mean = (e[0] + (x_next - denoise(x_next, s_next)) / s_next) / 2
        else:
            mean = weighted(e, adams_bashforth(range(len(e)), len(e)))
        x = x + (s_next - s) * mean
        yield Step(i, s_next, x, x0)


@torch.no_grad()
def lms(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise) -> Iterator[Step]:
    """Adams-Bashforth's method on sigmas as they are spaced; `noise` is not used.  x [B C h w] at sigmas[0].

    One evaluation a step; fourth order, but for the first three steps, which have less to look back on.
    Hairer, Norsett & Wanner 1993, section III.5; k-diffusion sampling.py, sample_lms.
    """
    d = []                                                          # the tangents, (x - x0) / sigma; latest last
    for i, (s, s_next) in enumerate(pairwise(sigmas)):
        x0 = denoise(x, s)
        d = [*d[-3:], (x - x0) / s]
        x = x + weighted(d, adams_bashforth(sigmas[i + 1 - len(d) : i + 1], s_next))
        yield Step(i, s_next, x, x0)


def adams_bashforth(nodes: Sequence[float], end: float) -> list[float]:
    """Weights of f(nodes) that integrate, from nodes[-1] to `end`, the polynomial through up to four of them.

    Simpson's rule does it without error, for the polynomial is at most a cubic.
    """
    def basis(j: int, t: float) -> float:                           # Lagrange's: 1 at node j, 0 at the others
        p = 1.0
        for k, node in enumerate(nodes):
            if k != j:
                p *= (t - node) / (nodes[j] - node)
        return p

    start = nodes[-1]
    middle = (start + end) / 2
    return [(end - start) * (basis(j, start) + 4 * basis(j, middle) + basis(j, end)) / 6 for j in range(len(nodes))]


def weighted(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The sum of weight * tensor."""
    return torch.stack([w * t for w, t in zip(weights, tensors, strict=True)]).sum(dim=0)
