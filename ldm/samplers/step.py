"""What goes into a sampler, a denoiser, and what comes out, its steps."""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

from torch import Tensor

Denoise = Callable[[Tensor, float], Tensor]         # D(x [B C h w], sigma) -> estimate of x0 [B C h w]


class Step(NamedTuple):
    """Where a sampler stands after step `i`, counted from 0.  x = x0 + sigma * noise."""

    i: int
    sigma: float                                    # noise level after the step
    x: Tensor                                       # [B C h w] at that level
    x0: Tensor                                      # [B C h w], the estimate the step was made with: the preview

    @property
    def z(self) -> Tensor:
        """x in the network's own, variance-preserving coordinates [B C h w]: what a latent decoder takes."""
        return self.x / math.hypot(1, self.sigma)


Sampler = Callable[..., Iterator[Step]]             # (denoise, x, sigmas, noise) -> one Step per step
