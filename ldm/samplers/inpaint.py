"""Repainting a part of the latents: with any model, and with one that was trained for it."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm.samplers.step import Denoise, Step


@dataclass(frozen=True)
class Inpaint:
    """A denoiser that sees known latents where the mask is 0, and keeps them.  Works with every sampler.

    The known region enters at the noise level of each evaluation, with the same noise every time.  (CompVis ddim.py
    draws it anew; the noise that a deterministic sampler starts from makes one path of all steps.)
    Lugmayr et al. 2022 (RePaint), eq. 8, without resampling.
    """

    denoise: Denoise
    known: Tensor                                       # [B or 1, C h w], latents of the picture
    mask: Tensor                                        # [B or 1, 1 h w], 1 where to repaint, 0 where to keep
    noise: Tensor                                       # [B C h w], of unit variance

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """Estimate x0, which is `known` where the mask is 0.  x [B C h w] = x0 + sigma * noise -> [B C h w]."""
        x0 = self.denoise(self.keep(x, self.noised(sigma)), sigma)
        return self.keep(x0, self.known)

    def noised(self, sigma: float) -> Tensor:
        """The known latents at a noise level.  [B C h w]."""
        return self.known + sigma * self.noise

    def keep(self, x: Tensor, known: Tensor) -> Tensor:
        """x where the mask is 1, `known` where it is 0.  [B C h w]."""
        return torch.lerp(known, x, self.mask)

    def settle(self, step: Step, last: bool) -> Step:
        """A sampler's step with its known region as the next evaluation sees it; the last one's is clean.

        Clean means `step.z`, for some spacings end above sigma 0.
        """
        known = math.hypot(1, step.sigma) * self.known if last else self.noised(step.sigma)
        return step._replace(x=self.keep(step.x, known))


@dataclass(frozen=True)
class Concat:
    """A network that is given further channels beside the latents, the same at each noise level.

    `network` as in `Denoiser`, but of C + C' channels.  An inpainting UNet takes mask and masked picture so.
    Rombach et al. 2022, section 3.3; CompVis ddpm.py, DiffusionWrapper, "hybrid".
    """

    network: Callable[..., Tensor]
    channels: Tensor                                    # [B or 1, C' h w]

    def __call__(self, x: Tensor, t: Tensor, context: Tensor | None) -> Tensor:
        """x [B C h w], t [B], context [nB L W] -> [nB C h w]."""
        channels = self.channels.expand(len(x), -1, -1, -1)
        return self.network(torch.cat([x, channels], dim=1), t, context)
