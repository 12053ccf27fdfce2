"""Opt-in savings that change the picture a little, composed around the UNet and the guidance.  See docs/speed.md."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ldm.samplers import CFG
from ldm.unet import UNet


class StepCache:
    """A UNet that evaluates its deep part every n-th time only: DeepCache.  Called as the UNet; one for each run.

    Between those times only the first convolution and the last block see the new x and t: what enters the last block
    from below is kept.  `every` 1 equals the UNet bit for bit.  The deep part is evaluated out of turn where the batch
    changes, as at the ends of a `GuidanceInterval`.
    Raises ValueError where `every` is below 1, and as the UNet.
    Ma et al. 2023, fig. 3, at uniform intervals and with the outermost skip.
    """

    def __init__(self, unet: UNet, every: int):
        if every < 1:
            raise ValueError(f"every {every} is below 1; 1 is exact, 2 or 3 saves most of the time")
        self.unet, self.every = unet, every
        self.deep = torch.empty(0)                      # what enters the last block [nB C h w]
        self.left = 0                                   # evaluations that may still use it

    def __call__(self, x: Tensor, t: Tensor, context: Tensor, labels: Tensor | None = None) -> Tensor:
        """x [B C h w], t [B] or [1], context [nB S W] -> [nB C h w]."""
        unet = self.unet
        unet.check(x, t, context, labels)
        dtype = unet.conv_in.weight.dtype
        emb, context = unet.embed(t, labels), context.to(dtype)
        renew = not self.left or len(self.deep) != len(context)
        h, skips = unet.encode(x.to(dtype), emb, context, levels=None if renew else 0)
        if renew:
            self.deep = unet.ascend(unet.mid(h, emb, context), skips, emb, context)
            self.left = self.every
        self.left -= 1
        return unet.finish(self.deep, skips, emb, context).to(x.dtype)


@dataclass(frozen=True)
class GuidanceInterval:
    """Guidance for low < sigma <= high; elsewhere the conditional estimate alone, which costs half.

    `high` None is no limit.  Works with every sampler, as CFG does.  Kynkäänniemi et al. 2024.
    """

    cfg: CFG
    low: float = 0.0
    high: float | None = None

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """Estimate x0.  x [B C h w] = x0 + sigma * noise -> [B C h w]."""
        inside = self.low < sigma and (self.high is None or sigma <= self.high)
        denoise = self.cfg if inside else replace(self.cfg, scale=1.0)
        return denoise(x, sigma)
