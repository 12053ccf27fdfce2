"""From a network's prediction to an estimate of x0, and classifier-free guidance on such estimates."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm.samplers.schedule import Prediction, Schedule, check_prediction


@dataclass(frozen=True)
class Denoiser:
    """A network as D(x, sigma) -> x0: the only place that knows timesteps and what the network predicts.

    `network(x [B C h w], t [B] float32, context [nB L W] or None) -> [nB C h w]` works in variance-preserving
    coordinates and returns one row per row of context, those of the first condition first.
    Raises ValueError for a prediction that is not "eps", "v" or "x0".
    Ho et al. 2020, eq. 15 (eps); Salimans & Ho 2022, appendix D (v).
    """

    network: Callable[..., Tensor]
    schedule: Schedule
    prediction: Prediction = "eps"

    def __post_init__(self) -> None:
        check_prediction(self.prediction)

    def __call__(self, x: Tensor, sigma: float, context: Tensor | None = None) -> Tensor:
        """Estimate x0.  x [B C h w] = x0 + sigma * noise, context [nB L W] -> [nB C h w]."""
        c_in = 1 / math.hypot(1, sigma)
        t = torch.full((len(x),), self.schedule.timestep(sigma), dtype=torch.float32, device=x.device)
        out = self.network(c_in * x, t, context)
        x = torch.cat([x] * (len(out) // len(x)))                   # n conditions share each x
        c_skip, c_out = self.coefficients(sigma)
        return c_skip * x + c_out * out

    def coefficients(self, sigma: float) -> tuple[float, float]:
        """c_skip and c_out of x0 = c_skip * x + c_out * out.  Karras et al. 2022, eq. 7."""
        c_in = 1 / math.hypot(1, sigma)
        return {"eps": (1.0, -sigma), "v": (c_in**2, -sigma * c_in), "x0": (0.0, 1.0)}[self.prediction]


@dataclass(frozen=True)
class CFG:
    """Classifier-free guidance: away from the unconditional x0, towards and past the conditional one.

    cond, uncond [1 L W] (for the whole batch) or [B L W].  Scale 1 is the conditional estimate alone, and costs half.
    `rescale`, 0 to 1: how far to bring what the network predicts, once guided, back to the standard deviation that it
    has unguided.  Calling it raises ValueError if cond or uncond has another number of rows.
    Ho & Salimans 2022, eq. 6, with their 1 + w = scale; on x0 it is the same as on eps, for the weights sum to 1.
    Lin et al. 2024, section 3.4, with their phi = rescale.
    """

    denoiser: Denoiser
    cond: Tensor
    uncond: Tensor
    scale: float
    rescale: float = 0.0

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """Estimate x0.  x [B C h w] = x0 + sigma * noise -> [B C h w]."""
        cond = rows(self.cond, len(x))
        if self.scale == 1:
            return self.denoiser(x, sigma, cond)
        both = self.denoiser(x, sigma, torch.cat([rows(self.uncond, len(x)), cond]))
        x0_uncond, x0_cond = both.chunk(2)
        x0 = x0_uncond.lerp(x0_cond, self.scale)
        if self.rescale == 0:
            return x0
        skipped = self.denoiser.coefficients(sigma)[0] * x          # the rest of an x0 is c_out times the prediction
        ratio = (x0_cond - skipped).std((1, 2, 3), keepdim=True) / (x0 - skipped).std((1, 2, 3), keepdim=True)
        return skipped + (1 + self.rescale * (ratio - 1)) * (x0 - skipped)


def rows(context: Tensor, batch: int) -> Tensor:
    """One row of context for each picture.  [1 L W] or [B L W] -> [B L W]."""
    if len(context) not in (1, batch):
        raise ValueError(f"{len(context)} rows of context do not fit a batch of {batch}; give 1 or {batch}")
    return context.expand(batch, *context.shape[1:])
