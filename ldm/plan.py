"""Plan: what a batch of pictures takes, told before anything is drawn."""

from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ldm.masks import Canvas
from ldm.samplers import SAMPLERS, Course, Noise, Schedule, seeded_noise
from ldm.settings import Settings
from ldm.text import Tokenizer, at_steps, chunk, common_length, told_of_cuts


@dataclass(frozen=True)
class Plan:
    """A batch of pictures, decided in every respect but not yet drawn."""

    prompts: list[str]
    settings: Settings                                  # guidance, spacing and noise resolved
    width: int                                          # at which to paint, in pixels
    height: int
    course: Course                                      # noise levels to visit, and how to begin
    latents: tuple[int, int, int, int]                  # shape [B C h w]
    schedule: Schedule
    tokenizer: Tokenizer
    canvas: Canvas | None                               # the input picture, if there is one

    @property
    def seeds(self) -> range:
        """One seed per picture: the `count` of the first prompt, then those of the next."""
        return range(self.settings.seed, self.settings.seed + len(self.prompts) * self.settings.count)

    @property
    def sigmas(self) -> list[float]:
        """Noise levels to visit, the first to start from."""
        return self.course.sigmas

    def noise(self) -> Noise:
        """A new source of the pictures' noise, each with its own seed."""
        assert self.settings.noise                      # `Pipeline.plan` resolved it
        return seeded_noise(self.seeds, self.settings.noise)

    @cached_property
    def timesteps(self) -> list[float]:
        """The timestep of each call of the network, found by running the sampler on a single number."""
        called: list[float] = []

        def denoise(x: Tensor, sigma: float) -> Tensor:
            called.append(self.schedule.timestep(sigma))
            return x

        deque(SAMPLERS[self.settings.sampler](denoise, torch.zeros(1), self.sigmas, torch.zeros_like), maxlen=0)
        return called

    @property
    def calls(self) -> int:
        """How often the network is called, each time for all pictures, with the prompts and without at once."""
        return len(self.timesteps)

    def texts(self, *prompts: str) -> list[str]:
        """Each text that some prompts are on the way, as [from:to:when] and [a|b] decide it."""
        s = self.settings
        return [*dict.fromkeys(text for prompt in prompts for text in at_steps(prompt, s.steps, s.prompt_syntax))]

    @cached_property
    def chunks(self) -> dict[str, list[list[int]]]:
        """Token ids, in chunks of up to 75, of each text that the prompts and the negative prompt are on the way."""
        syntax, texts = self.settings.prompt_syntax, self.texts(*self.prompts, self.settings.negative_prompt)
        return {text: chunk(self.tokenizer, text, syntax).tokens for text in texts}

    def check_lengths(self) -> None:
        """Raises ValueError where the texts of a step make more chunks together than `same_length` takes."""
        s, texts = self.settings, [*self.prompts, self.settings.negative_prompt]
        steps = zip(*(at_steps(text, s.steps, s.prompt_syntax) for text in texts), strict=True)
        for together in set(steps):
            common_length([len(self.chunks[text]) for text in together])

    @property
    def cuts(self) -> dict[str, list[str]]:
        """By text, in words: what the ends of chunks cut, and what programs without chunks would."""
        return {text: list(told_of_cuts(self.tokenizer, chunks)) for text, chunks in self.chunks.items()}

    def metadata(self, i: int) -> dict[str, Any]:
        """What remakes picture i of the batch with the same model: its prompt and settings, and the size or inputs."""
        settings = asdict(replace(self.settings, seed=self.seeds[i], count=1))
        inputs = self.canvas.sources if self.canvas else {"width": self.width, "height": self.height}
        return {"prompt": self.prompts[i // self.settings.count], **settings, **inputs}

    def describe(self) -> str:
        """The plan in lines of words."""
        return "\n".join(self.lines())

    def lines(self) -> Iterator[str]:
        s, seeds = self.settings, self.seeds
        yield (f"pictures: {len(seeds)}, painted at {self.width}x{self.height} pixels, latents {list(self.latents)}, "
               f"seeds {seeds[0]} to {seeds[-1]}")
        if self.canvas:
            yield f"from {self.canvas.describe()}, strength {s.strength:g}"
        yield f"sampler: {s.sampler}, spacing {s.spacing or f'of {s.preset}'}, guidance {s.guidance:g}"
        yield f"noise levels: {' '.join(f'{sigma:.4g}' for sigma in self.sigmas)}"
        yield f"network calls: {self.calls}, at timesteps {' '.join(f'{round(t, 2):g}' for t in self.timesteps)}"
        for text, cuts in self.cuts.items():
            yield f"text {text!r}: {' + '.join(str(len(tokens)) for tokens in self.chunks[text])} of 75 tokens"
            yield from (f"  {line}" for line in cuts)
