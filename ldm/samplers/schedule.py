"""The noise schedule: training timesteps, their noise levels, and the levels a sampler visits."""

import warnings
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from math import log
from typing import Literal, get_args

import torch
from torch import Tensor

Prediction = Literal["eps", "v", "x0"]
Spacing = Literal["leading", "linspace", "trailing", "karras", "exponential", "compvis"]


@dataclass(frozen=True)
class Schedule:
    """How much noise each training timestep carries; the defaults are Stable Diffusion's.

    In variance-preserving coordinates x_t = sqrt(a) x0 + sqrt(1 - a) noise, where a = alphas_cumprod[t]; samplers
    divide by sqrt(a) and see x = x0 + sigma * noise, where sigma = sqrt((1 - a) / a).  All tables are float64.
    Ho et al. 2020, eq. 4; betas as in CompVis ldm/modules/diffusionmodules/util.py, make_beta_schedule("linear").
    """

    beta_start: float = 0.00085
    beta_end: float = 0.012
    timesteps: int = 1000
    zero_terminal_snr: bool = False                 # nothing of the picture left at the last timestep

    @cached_property
    def alphas_cumprod(self) -> Tensor:
        """Share of the picture in the variance, [timesteps] float64, falling.

        With `zero_terminal_snr`, Lin et al. 2024, algorithm 1, but 2^-24 in place of the final 0, as in diffusers.
        """
        roots = torch.linspace(self.beta_start**0.5, self.beta_end**0.5, self.timesteps, dtype=torch.float64)
        alphas_cumprod = torch.cumprod(1 - roots**2, dim=0)
        if self.zero_terminal_snr:
            root = alphas_cumprod.sqrt()
            alphas_cumprod = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
            alphas_cumprod[-1] = 2**-24
        return alphas_cumprod

    @cached_property
    def grid(self) -> list[float]:
        """Sigma of every training timestep, rising: 0.029 to 14.6."""
        return ((1 - self.alphas_cumprod) / self.alphas_cumprod).sqrt().tolist()

    def sigma(self, t: float) -> float:
        """Noise level at timestep t, interpolated in log sigma.  Raises ValueError for t outside 0..timesteps - 1."""
        last = self.timesteps - 1
        if not 0 <= t <= last:
            raise ValueError(f"timestep {t} is outside 0..{last}; try {min(max(t, 0), last)}")
        i = int(t)
        low, high = self.grid[i], self.grid[min(i + 1, last)]
        return low * (high / low) ** (t - i)

    def timestep(self, sigma: float) -> float:
        """Timestep at a noise level, interpolated in log sigma; the inverse of `sigma`, exact on the grid.

        Levels beyond the grid get its first or last timestep, as in k-diffusion external.py, sigma_to_t.
        """
        sigma = min(max(sigma, self.grid[0]), self.grid[-1])
        i = min(bisect_right(self.grid, sigma), self.timesteps - 1) - 1
        low, high = self.grid[i], self.grid[i + 1]
        return i + log(sigma / low) / log(high / low)

    def sigmas(self, n: int, spacing: Spacing = "leading") -> list[float]:
        """Noise levels of an n-step sampler, falling: n + 1 floats.

        Uniform in t:   "leading" 1, 1 + k, 1 + 2k, ... with k = timesteps // n, as in diffusers with steps_offset 1;
                        "trailing" from the last timestep (Lin et al. 2024, table 2);
                        "linspace" from the last timestep to 0, fractional (k-diffusion external.py, get_sigmas);
                        "compvis" as "leading", but with CompVis's own step count, 31 for 30 (make_ddim_timesteps).
        From sigma_max to sigma_min:  "karras" uniform in sigma^(1/7) (Karras et al. 2022, eq. 5);
                        "exponential" uniform in log sigma.
        "leading" and "compvis" end at the sigma of timestep 0, the others go on to 0, and for n = 1 are
        [sigma_max, 0].  Warns where "leading" or "compvis" start far below full noise, as for n < 4 and 501.
        Raises ValueError for n outside 1..timesteps - 1 and for an unknown spacing.
        """
        last = self.timesteps - 1
        if not 1 <= n <= last:
            raise ValueError(f"{n} steps is outside 1..{last}; try {min(max(n, 1), last)}")
        sigma_min, sigma_max = self.grid[0], self.grid[-1]
        ramp = [i / max(n - 1, 1) for i in range(n)]
        match spacing:
            case "leading" | "compvis":
                return [*map(self.sigma, self.leading_timesteps(n, spacing)), sigma_min]
            case "trailing":
                k = self.timesteps - (self.timesteps - self.timesteps / n)      # rounded as diffusers' numpy.arange
                sigmas = [self.sigma(round(self.timesteps - i * k) - 1) for i in range(n)]
            case "linspace":
                sigmas = [self.sigma(last - i * last / max(n - 1, 1)) for i in range(n)]
            case "karras":
                sigmas = [sigma_max * (1 + r * ((sigma_min / sigma_max) ** (1 / 7) - 1)) ** 7 for r in ramp]
            case "exponential":
                sigmas = [sigma_max * (sigma_min / sigma_max) ** r for r in ramp]
            case _:
                raise ValueError(f"spacing {spacing!r} is not known; try one of {', '.join(get_args(Spacing))}")
        return [*sigmas, 0.0]

    def leading_timesteps(self, n: int, spacing: Spacing) -> list[int]:
        """Every (timesteps // n)-th timestep from 1 on, falling: n of them, or for "compvis" as many as there are."""
        k = self.timesteps // n
        stop = self.timesteps + 1 if spacing == "compvis" else 1 + n * k
        # CompVis runs into timestep 1000, which does not exist, where k divides 999: take 999 there
        timesteps = sorted({min(t, self.timesteps - 1) for t in range(1, stop, k)}, reverse=True)
        if timesteps[0] < 0.7 * self.timesteps:
            warnings.warn(f'{n} steps of "{spacing}" start at timestep {timesteps[0]}, far below full noise; '
                          'try spacing "trailing"', stacklevel=3)
        return timesteps

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The forward process.  x0, noise [B C h w], t [B] long -> x_t [B C h w].  Ho et al. 2020, eq. 4."""
        alpha, sigma = self.weights(t, x0)
        return alpha * x0 + sigma * noise

    def target(self, x0: Tensor, noise: Tensor, t: Tensor, prediction: Prediction) -> Tensor:
        """What a network with this prediction shall answer to add_noise(x0, noise, t).  [B C h w].

        v = alpha * noise - sigma * x0: Salimans & Ho 2022, appendix D.  Raises ValueError for an unknown prediction.
        """
        check_prediction(prediction)
        alpha, sigma = self.weights(t, x0)
        return {"eps": noise, "v": alpha * noise - sigma * x0, "x0": x0}[prediction]

    def weights(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(a), sqrt(1 - a) at timesteps t [B] long, shaped [B 1 1 1] for `like` and on its device."""
        a = self.alphas_cumprod[t.cpu()].view(-1, *[1] * (like.ndim - 1))
        alpha, sigma = a.sqrt().to(like.dtype), (1 - a).sqrt().to(like.dtype)      # Apple's GPUs have no float64
        return alpha.to(like.device), sigma.to(like.device)


def check_prediction(prediction: str) -> None:
    """Raises ValueError for anything but "eps", "v" and "x0"."""
    if prediction not in get_args(Prediction):
        raise ValueError(f"prediction {prediction!r} is not known; try one of {', '.join(get_args(Prediction))}")
