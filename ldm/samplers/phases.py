"""Another denoiser for each step: prompts that change on the way."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ldm.samplers.step import Denoise


@dataclass(frozen=True)
class Phases:
    """A denoiser per step, chosen by the noise level, so that it works with every sampler.

    Step i reaches from sigmas[i] down to above sigmas[i + 1]; steps beyond the last denoiser keep that.
    """

    sigmas: Sequence[float]                             # falling
    denoisers: Sequence[Denoise]

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """Estimate x0.  x [B C h w] = x0 + sigma * noise -> [B C h w]."""
        step = sum(s >= sigma for s in self.sigmas) - 1
        return self.denoisers[min(max(step, 0), len(self.denoisers) - 1)](x, sigma)
