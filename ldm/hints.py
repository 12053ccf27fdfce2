"""A sign that a network taken to predict noise predicts v, or the other way round, which spoils every picture."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

FULL = 10.0                                             # noise level from which on z below is noise but for 1 %


@dataclass
class PredictionHint:
    """A denoiser as it was, which warns at its first call where the network does not seem to predict as told.

    At full noise the network sees z = alpha x0 + s noise with s near 1.  So one that predicts the noise repeats z: the
    share <out, z> / <z, z> is near 1.  One that predicts v = alpha noise - s x0 repeats none of it: the share is near
    alpha, which is 0.07.  Calls that start below full noise, as with an input picture, tell nothing.
    Salimans & Ho 2022, appendix D.
    """

    denoise: Callable[[Tensor, float], Tensor]
    prediction: str                                     # what the denoiser takes the network's answer for
    asked: bool = field(default=False, init=False)

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """Estimate x0.  x [B C h w] = x0 + sigma * noise -> [B C h w]."""
        x0 = self.denoise(x, sigma)
        if not self.asked and sigma >= FULL and self.prediction in ("eps", "v"):
            share = repeated(x, x0, sigma, self.prediction)
            other = "v" if self.prediction == "eps" else "eps"
            if (share > 0.5) != (self.prediction == "eps"):
                warnings.warn(f"the network does not seem to predict {self.prediction}: {share:.2f} of its answer to "
                              f"noise is that noise; try prediction {other!r}", stacklevel=2)
        self.asked = True
        return x0


def repeated(x: Tensor, x0: Tensor, sigma: float, prediction: str) -> float:
    """Share of a network's input that is in its answer, found from x [B C h w] and the x0 made of that answer."""
    scale = math.hypot(1, sigma)
    z = x / scale
    out = (x - x0) / sigma if prediction == "eps" else (z / scale - x0) * scale / sigma
    return ((out * z).sum() / (z * z).sum()).item()
