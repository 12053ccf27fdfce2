"""Presets: the noise levels, the start and the noise of other programs, to make their pictures again.

    course = find_course(schedule, "ddim", 30, preset="compvis")
    unit = seeded_noise([seed], PRESETS["compvis"].noise)(torch.zeros(1, 4, 64, 64))
    for step in SAMPLERS["ddim"](denoise, course.begin(unit), course.sigmas, noise): ...
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import Tensor

from ldm.samplers.noise import Source
from ldm.samplers.schedule import Schedule, Spacing

Levels = Callable[[Schedule, int], list[float]]         # (schedule, steps) -> noise levels, as `Schedule.sigmas`

DEFAULT_SPACING: dict[str, Spacing] = {
    "ddpm": "leading",
    "ddim": "leading",
    "euler": "linspace",
    "euler_a": "linspace",
    "heun": "linspace",
    "dpmpp_2m": "karras",
    "plms": "leading",
    "lms": "linspace",
    "dpm2": "linspace",
    "dpm2_a": "linspace",
    "dpmpp_2s_a": "karras",
    "dpmpp_sde": "karras",
    "dpmpp_2m_sde": "karras",
    "unipc": "trailing",
    "lcm": "trailing",
}


class Course(NamedTuple):
    """The noise levels of a sampler, and how it begins."""

    sigmas: list[float]                                 # falling; the sampler starts at the first
    noised: float                                       # noise level of an input picture; without one, std of the noise

    def begin(self, unit: Tensor, known: Tensor | None = None) -> Tensor:
        """What the sampler starts from: noise alone, or an input picture's latents `known` under noise.

        unit [B C h w] normal, known alike or [1 C h w] -> x [B C h w] = x0 + sigmas[0] * noise.
        """
        if known is None:
            return self.noised * unit
        # to the network's coordinates at the level it was noised to, and back from them at the one it is taken for
        return (known + self.noised * unit) * (math.hypot(1, self.sigmas[0]) / math.hypot(1, self.noised))


@dataclass(frozen=True)
class Manner:
    """How a program begins with a sampler."""

    redo: Callable[[int, float], int]                   # (steps, strength) -> steps to make on an input picture
    above: bool = False                                 # which is noised to one level above the first of these
    unit: bool = True                                   # noise alone has std hypot(1, sigma), as in training; or sigma
    spare: bool = False                                 # one step more is spaced, and the last level but one left out


@dataclass(frozen=True)
class Preset:
    """The samplers that a program has, by our names, and where it takes its noise from."""

    samplers: dict[str, tuple[Levels, Manner]]
    noise: Source


def find_course(schedule: Schedule, sampler: str, steps: int, spacing: Spacing | None = None,
                strength: float | None = None, preset: str = "ldm") -> Course:
    """The noise levels that a program's sampler visits.

    spacing None: the program's own for this sampler.  strength: the share of the steps to make on an input picture,
    at least one of them; None: there is none, all are made on noise.
    Raises ValueError for a preset that is unknown or lacks the sampler, and for steps that are too many or come to
    none.
    """
    check_preset(preset, sampler)
    own, manner = PRESETS[preset].samplers[sampler]
    if manner.spare and steps == schedule.timesteps - 1:            # refused below it would be told as one more
        raise ValueError(f"steps {steps} is too many for sampler {sampler!r} of preset {preset!r}; try {steps - 1}")
    sigmas = (spaced(spacing) if spacing else own)(schedule, steps + manner.spare)
    if manner.spare:
        del sigmas[-2]
    if len(sigmas) < 2:
        raise ValueError(f"steps {steps} makes no step at all with sampler {sampler!r} of preset {preset!r}; try 2")
    if strength is None:
        return Course(sigmas, math.hypot(1, sigmas[0]) if manner.unit else sigmas[0])
    first = max(len(sigmas) - 1 - max(manner.redo(steps, strength), 1), 0)
    return Course(sigmas[first:], sigmas[max(first - manner.above, 0)])


def check_preset(preset: str, sampler: str) -> None:
    """Raises ValueError for an unknown preset, or one that lacks this sampler."""
    if preset not in PRESETS:
        raise ValueError(f"preset {preset!r} is unknown; try one of {', '.join(PRESETS)}")
    if sampler not in PRESETS[preset].samplers:
        raise ValueError(f"preset {preset!r} has no sampler {sampler!r}; "
                         f"try one of {', '.join(PRESETS[preset].samplers)}")


def spaced(spacing: Spacing) -> Levels:
    """`Schedule.sigmas` with this spacing."""
    return lambda schedule, n: schedule.sigmas(n, spacing)


def short(schedule: Schedule, n: int) -> list[float]:
    """CompVis's timesteps, of which the last, 1, is where it ends, and not evaluated: n - 1 steps where n divides 1000.

    A1111 modules/sd_samplers_timesteps_impl.py, ddim and plms.
    """
    return schedule.sigmas(n, "compvis")[:-1]


def leading_to_0(schedule: Schedule, n: int) -> list[float]:
    """"leading", but its last step goes all the way.  diffusers' DDPMScheduler."""
    return [*schedule.sigmas(n, "leading")[:-1], 0.0]


def linear(schedule: Schedule, n: int) -> list[float]:
    """"linspace", but sigma itself is interpolated, not its logarithm.  diffusers' Euler, Heun, LMS and KDPM2."""
    last, grid = schedule.timesteps - 1, schedule.grid
    timesteps = [last - i * last / max(n - 1, 1) for i in range(n)]
    return [*(grid[int(t)] + (t - int(t)) * (grid[min(int(t) + 1, last)] - grid[int(t)]) for t in timesteps), 0.0]


def whole(schedule: Schedule, n: int) -> list[float]:
    """The n larger of n + 1 even timesteps down to 0, rounded, then sigma 0.  diffusers' DPM-Solver++ and UniPC."""
    last = schedule.timesteps - 1
    return [*(schedule.grid[round(i * (last / n))] for i in range(n, 0, -1)), 0.0]


def distilled(schedule: Schedule, n: int) -> list[float]:
    """n of the 50 timesteps that LCMs learn, 19, 39, ..., 999, then sigma 0.  diffusers' LCMScheduler.

    Raises ValueError for more than 50.
    """
    if n > 50:
        raise ValueError(f"steps {n} is more than the 50 of diffusers' lcm; try 50")
    k = schedule.timesteps // 50
    return [*(schedule.grid[k * (50 - int(i * (50 / n))) - 1] for i in range(n)), 0.0]


def truncated(n: int, strength: float) -> int:
    """The steps that CompVis and diffusers make on an input picture."""
    return int(n * strength)


OURS = Manner(lambda n, strength: math.floor(n * strength + 0.5))
K_DIFFUSION = replace(OURS, unit=False)                 # itself it knows no input pictures
COMPVIS = Manner(truncated, above=True)
A1111 = Manner(lambda n, strength: int(n * min(strength, 0.999)) + 1, unit=False)
A1111_TIMESTEPS = Manner(lambda n, strength: int(n * min(strength, 0.999)) - 1, above=True)
DIFFUSERS = Manner(truncated)
DIFFUSERS_SIGMAS = Manner(truncated, unit=False)

PRESETS = {
    "ldm": Preset({name: (spaced(spacing), OURS) for name, spacing in DEFAULT_SPACING.items()}, "cpu"),
    "compvis": Preset(dict.fromkeys(("ddim", "plms"), (spaced("compvis"), COMPVIS)), "nv"),
    "k-diffusion": Preset(
        dict.fromkeys(("euler", "euler_a", "heun", "lms", "dpm2", "dpm2_a", "dpmpp_2m", "dpmpp_2s_a", "dpmpp_sde",
                       "dpmpp_2m_sde"), (spaced("linspace"), K_DIFFUSION)), "nv"),
    "a1111": Preset(
        {**dict.fromkeys(("ddim", "plms"), (short, A1111_TIMESTEPS)),
         **dict.fromkeys(("euler", "euler_a", "heun", "lms"), (spaced("linspace"), A1111)),
         **dict.fromkeys(("dpm2", "dpm2_a"), (spaced("karras"), replace(A1111, spare=True))),
         **dict.fromkeys(("dpmpp_2m", "dpmpp_2s_a", "dpmpp_sde"), (spaced("karras"), A1111)),
         "dpmpp_2m_sde": (spaced("exponential"), A1111)}, "nv"),
    "diffusers": Preset(
        {**dict.fromkeys(("ddim", "plms"), (spaced("leading"), DIFFUSERS)),
         "ddpm": (leading_to_0, DIFFUSERS),
         **dict.fromkeys(("euler", "euler_a", "heun", "lms", "dpm2", "dpm2_a"), (linear, DIFFUSERS_SIGMAS)),
         **dict.fromkeys(("dpmpp_2m", "dpmpp_2m_sde", "unipc"), (whole, DIFFUSERS)),
         "lcm": (distilled, DIFFUSERS)}, "cpu"),
}
