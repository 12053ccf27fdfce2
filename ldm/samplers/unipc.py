"""UniPC: a predictor and a corrector in lambda = -log sigma that share one evaluation a step."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ldm.samplers.noise import Noise
from ldm.samplers.step import Denoise, Step


@torch.no_grad()
def unipc(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise) -> Iterator[Step]:
    """Predict x at the next sigma; once x0 is known there, correct x, and go on; `noise` is not used.

    UniPC-2 with B2(h) = e^h - 1, on the estimate of x0.  x [B C h w] at sigmas[0].  One evaluation a step, of the
    predicted x; third order.  `step.x` is as predicted.  Zhao et al. 2023, algorithms 1 and 2.
    """
    x0s = []                                                        # at the last three sigmas; latest last
    start = x                                                       # what the step before set out from
    for i, (s, s_next) in enumerate(pairwise(sigmas)):
        x0s = [*x0s[-2:], denoise(x, s)]
        if i > 0:
            x = correct(start, x0s, sigmas[max(i - 2, 0) : i + 1])
        start = x
        x = predict(start, x0s, sigmas[max(i - 1, 0) : i + 2])
        yield Step(i, s_next, x, x0s[-1])


def predict(x: Tensor, x0s: Sequence[Tensor], sigmas: Sequence[float]) -> Tensor:
    """UniP-2, the same as `dpmpp_2m`: x0 extrapolated.  x at sigmas[-2], x0s up to there -> x at sigmas[-1].

    The first step, and a last one to sigma 0, are plain DDIM.
    """
    *before, s, s_next = sigmas
    d = x0s[-1]
    if before and s_next > 0:
        r = math.log(s / before[0]) / math.log(s / s_next)          # the paper's r_1, negative
        d = d + (x0s[-2] - d) / (2 * r)
    return d.lerp(x, s_next / s)


def correct(x: Tensor, x0s: Sequence[Tensor], sigmas: Sequence[float]) -> Tensor:
    """UniC-2: x0 interpolated.  x at sigmas[-2], x0s at all two or three sigmas -> x at sigmas[-1].

    Integrates the parabola through the three x0s without error: rho solves the paper's R rho = b (eq. 5), where b_k
    is the mean of (lambda / h)^k over the step, weighted by e^lambda.  The first step has two, and takes their mean.
    """
    *before, s, s_next = sigmas
    *x0_before, x0, x0_next = x0s
    d = (x0 + x0_next) / 2
    if before:
        h = math.log(s / s_next)
        r = math.log(s / before[0]) / h
        b1 = -1 / math.expm1(-h) - 1 / h
        b2 = -1 / math.expm1(-h) - 2 * b1 / h
        rho = (b1 - b2) / (1 - r)
        d = x0 + rho / r * (x0_before[0] - x0) + (b1 - rho) * (x0_next - x0)
    return d.lerp(x, s_next / s)
