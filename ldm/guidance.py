"""Guidance by the prompts of a plan, which may change from step to step."""

from collections.abc import Callable, Sequence
from functools import cache

from torch import Tensor

from ldm.approximate import GuidanceInterval
from ldm.plan import Plan
from ldm.samplers import CFG, Denoiser
from ldm.samplers.phases import Phases
from ldm.text import at_steps, same_length


def guide(plan: Plan, denoiser: Denoiser, encode: Callable[[Sequence[str]], Tensor]) -> Phases:
    """The denoiser under the planned prompts, `count` rows for each.  `encode`: prompts -> context [B S W].

    Each text is encoded once, however many steps it guides.  Raises ValueError as `same_length`.
    """
    s = plan.settings
    scale = s.guidance
    assert scale is not None                            # the plan resolved it

    @cache
    def guided(prompts: tuple[str, ...], negative: str) -> GuidanceInterval:
        cond, uncond = same_length(encode(prompts), encode([negative]))
        cfg = CFG(denoiser, cond.repeat_interleave(s.count, dim=0), uncond, scale, s.guidance_rescale)
        return GuidanceInterval(cfg, s.guidance_min_sigma, s.guidance_max_sigma)

    prompts = zip(*(at_steps(prompt, s.steps, s.prompt_syntax) for prompt in plan.prompts), strict=True)
    negatives = at_steps(s.negative_prompt, s.steps, s.prompt_syntax)
    return Phases(plan.sigmas, [guided(*texts) for texts in zip(prompts, negatives, strict=True)])
