"""Variations of a picture by its noise, and paths from prompt to prompt."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ldm.pipeline import Pipeline
from ldm.plan import Plan
from ldm.samplers import Noise
from ldm.settings import within
from ldm.tasks.task import Task
from ldm.text import Syntax, at_steps, same_length

Blend = Callable[[Tensor, Tensor, float], Tensor]       # (a, b, fraction) -> a at 0, b at 1; torch.lerp is one
BETWEEN = "(a place between prompts)"                   # the prompt of a picture on a path


def slerp(a: Tensor, b: Tensor, fraction: float) -> Tensor:
    """Go from the vectors a (fraction 0) to b (1) on an arc.  a, b [... N] -> [... N], exact at both ends.

    Unit noise stays unit noise, where a straight line would shrink it, by up to a factor of 0.71.  Where a and b are
    parallel the arc is that line.
    Raises ValueError where they are opposite, for then the way is not determined.  Shoemake 1985, sec. 3.3.
    """
    u, v = (x.to("cpu", torch.float64) for x in (a, b))     # Apple's GPUs have no float64
    cos = torch.cosine_similarity(u, v, dim=-1)[..., None]
    if (cos < -1 + 1e-9).any():
        raise ValueError("slerp goes between vectors that point in opposite directions; give others")
    turns = torch.acos(cos.clamp(max=1)) / torch.pi     # the angle between a and b, in half turns

    def weight(f: float) -> Tensor:
        """sin(f angle) / sin(angle), written so that it is f where the angle is 0."""
        return f * torch.sinc(f * turns) / torch.sinc(turns)

    return (weight(1 - fraction) * u + weight(fraction) * v).to(a)


def check_variation(seed: int, strength: float) -> None:
    """Raises ValueError for a variation seed or strength out of range."""
    within("variation_seed", seed, 0, 2**62)
    within("variation_strength", strength, 0, 1)


@dataclass(frozen=True)
class VariedPlan(Plan):
    """A plan whose pictures start from noise between that of their seeds and that of other seeds."""

    variation_seed: int                                 # of the first picture; picture i has variation_seed + i
    variation_strength: float

    def noise(self) -> Noise:
        """The noise of the seeds; but its first draw, which sampling starts from, is turned towards the others'."""
        noise, first = super().noise(), True
        others = Plan.noise(replace(self, settings=replace(self.settings, seed=self.variation_seed)))

        def draw(x: Tensor) -> Tensor:
            nonlocal first
            unit, turn, first = noise(x), first, False
            if not turn:
                return unit
            return slerp(unit.flatten(1), others(x).flatten(1), self.variation_strength).view_as(unit)

        return draw

    def metadata(self, i: int) -> dict[str, Any]:
        return {**super().metadata(i), "variation_seed": self.variation_seed + i,
                "variation_strength": self.variation_strength}


class Varied(Task):
    """Draws from noise that is turned towards that of another seed: strength 0 is not at all, 1 is all the way.

    Called as the pipeline.  Picture i has the seeds seed + i and variation_seed + i.  What noise a sampler adds on the
    way is that of its seed.  Raises ValueError for a seed or strength out of range.
    As AUTOMATIC1111's variation seed, but the angle is that of whole pictures, not of their columns, and a turn between
    noises that are nearly parallel goes the right way.
    """

    def __init__(self, pipe: Pipeline, variation_seed: int, variation_strength: float):
        check_variation(variation_seed, variation_strength)
        super().__init__(pipe, task="variation")
        self.seed, self.strength = variation_seed, variation_strength

    def plan(self, prompt: str | Sequence[str], image: Image.Image | None = None, mask: Image.Image | None = None,
             **settings) -> Plan:
        plan = super().plan(prompt, image, mask, **settings)
        decided = {f.name: getattr(plan, f.name) for f in fields(plan)}
        return VariedPlan(**decided, variation_seed=self.seed, variation_strength=self.strength)


def check_path(prompts: Sequence[str], frames: int) -> None:
    """Raises ValueError for fewer than 2 prompts, or fewer frames than prompts."""
    if len(prompts) < 2:
        raise ValueError(f"a path has 2 prompts or more, not {len(prompts)}; add where it shall lead")
    within("frames", frames, len(prompts), 10_000)


def draw_path(pipe: Pipeline, prompts: Sequence[str], frames: int, blend: Blend = slerp,
              **settings) -> Iterator[Image.Image]:
    """Draw pictures on the way from the first prompt over the others to the last, all from the noise of one seed.

    Of `frames` pictures the first and the last are those of the prompts alone.  Between them are the contexts that
    `blend`, `slerp` or `torch.lerp`, makes of each token's vectors.
    Raises ValueError as `check_path`, for a count, a prompt that changes on the way, and as `Pipeline.plan`; all of it
    before any work.
    """
    check_path(prompts, frames)
    plan = pipe.plan(prompts[0], **settings)
    s = plan.settings
    if s.count > 1:
        raise ValueError(f"count {s.count} is not 1; a path has one picture to a frame")
    changing = [p for p in prompts if len(set(at_steps(p, s.steps, s.prompt_syntax))) > 1]
    if changing:
        raise ValueError(f"prompt {changing[0]!r} changes on the way, which cannot be blended; write [ as \\[, or set "
                         "prompt_syntax to plain")
    replace(plan, prompts=list(prompts)).check_lengths()
    contexts = same_length(*(pipe.encode_prompt([p], s.clip_skip, s.prompt_syntax) for p in prompts))
    positions = (i * (len(prompts) - 1) / (frames - 1) for i in range(frames))
    between = (Between(pipe, on_path(contexts, position, blend)) for position in positions)
    return (one(BETWEEN, **settings)[0] for one in between)


def on_path(contexts: Sequence[Tensor], position: float, blend: Blend) -> Tensor:
    """The context at a position: 0 is the first, 1 the second, 0.5 half the way between them."""
    i = min(int(position), len(contexts) - 2)
    return blend(contexts[i], contexts[i + 1], position - i)


class Between(Task):
    """Draws the prompt `BETWEEN` under a context [1 S W] that was never text."""

    def __init__(self, pipe: Pipeline, context: Tensor):
        super().__init__(pipe)
        self.context = context

    def encode_prompt(self, prompts: Sequence[str], clip_skip: int = 1, syntax: Syntax = "a1111") -> Tensor:
        if list(prompts) == [BETWEEN]:
            return self.context
        return super().encode_prompt(prompts, clip_skip, syntax)
