"""Settings: the one list of what a picture needs."""

import argparse
from dataclasses import dataclass, field, fields
from typing import Any, get_args

from ldm.samplers import DEFAULT_SPACING, PRESETS, SAMPLERS, Source, Spacing, check_preset
from ldm.text.grammar import Syntax

KINDS = {int: "a whole number; give an int", float: "a number; give one", str: "a text; give one"}
LARGEST = 100_000                                       # pixels of a side


def setting(default: Any, type: type, help: str, choices: tuple[str, ...] | None = None) -> Any:
    """A field with what a command line needs to know about it."""
    return field(default=default, metadata={"type": type, "help": help, "choices": choices})


@dataclass(frozen=True)
class Settings:
    """What a picture needs besides its prompt and input pictures.  Raises ValueError for a value out of range."""

    negative_prompt: str = setting("", str, "what the picture shall not show")
    steps: int = setting(30, int, "sampling steps, 1 to 999")
    guidance: float | None = setting(None, float, "strength of the prompt; 1 is none (default: the model's, else 7.5)")
    guidance_rescale: float = setting(0.0, float, "take back the contrast that guidance adds, 0 (none) to 1 (all)")
    sampler: str = setting("ddim", str, "sampling method", tuple(SAMPLERS))
    spacing: str | None = setting(None, str, "spacing of noise levels (default: the sampler's)", get_args(Spacing))
    preset: str = setting("ldm", str, "sample as another program does: noise levels, start, noise", tuple(PRESETS))
    noise: Source | None = setting(None, str, "where noise comes from: cpu, or nv, as a GPU of NVIDIA draws it "
                                   "(default: the preset's)", get_args(Source))
    eta: float = setting(0.0, float, "fresh noise of ddim, 0 (none) to 1 (as ddpm)")
    seed: int = setting(0, int, "seed of the first picture's noise; picture i has seed + i")
    width: int | None = setting(None, int, "width in pixels, a multiple of 8 (default: the model's, or the input's)")
    height: int | None = setting(None, int, "height in pixels, a multiple of 8 (default: the model's, or the input's)")
    count: int = setting(1, int, "pictures per prompt")
    strength: float = setting(0.75, float, "with an input picture: share of its steps to redo, above 0, up to 1")
    mask_blur: float = setting(0.0, float, "with a mask: soften its edge, standard deviation in pixels")
    only_masked: int | None = setting(None, int, "with a mask: paint no more than its surroundings, so many pixels "
                                                 "around it, at full size, and put them back (default: the whole)")
    prompt_syntax: Syntax = setting("a1111", str, "how prompts are read: with weights (word:1.3), changes on the way "
                                    "[from:to:0.5] and BREAK, or plain, every sign as itself", get_args(Syntax))
    clip_skip: int = setting(1, int, "leave out the last n - 1 layers of the text encoder; 1 leaves out none")
    cache: int = setting(1, int, "approximate: evaluate the deep part of the UNet every n-th time only; 1 is exact")
    guidance_min_sigma: float = setting(0.0, float, "approximate: no guidance where the noise level is this or less")
    guidance_max_sigma: float | None = setting(
        None, float, "approximate: no guidance where the noise level, which falls from about 14.6, is above this")
    tile: int | None = setting(None, int, "approximate: pictures to and from latents in squares of this many pixels, a "
                                          "multiple of 8 from 32 on, which takes less memory (default: whole)")

    def __post_init__(self) -> None:
        self.check_types()
        within("steps", self.steps, 1, 999)
        within("count", self.count, 1, 10**6)
        within("eta", self.eta, 0, 1)
        within("cache", self.cache, 1, 999)
        within("clip_skip", self.clip_skip, 1, 999)
        within("seed", self.seed, 0, 2**63 - 1 - self.count)
        for name, known in (("sampler", SAMPLERS), ("spacing", (None, *get_args(Spacing))),
                            ("noise", (None, *get_args(Source))), ("prompt_syntax", get_args(Syntax))):
            value = getattr(self, name)
            if value not in known:
                raise ValueError(f"{name} {value!r} is unknown; try one of {', '.join(filter(None, known))}")
        check_preset(self.preset, self.sampler)
        if self.eta and self.sampler != "ddim":
            raise ValueError(f"eta {self.eta} is for sampler ddim alone, not {self.sampler!r}; leave it at 0")
        if not 0 < self.strength <= 1:
            raise ValueError(f"strength {self.strength} is not above 0 and up to 1; try 0.75")
        if self.guidance is not None:
            within("guidance", self.guidance, 0, 1000)
        within("guidance_rescale", self.guidance_rescale, 0, 1)
        within("mask_blur", self.mask_blur, 0, 1000)
        within("only_masked", self.only_masked or 0, 0, 100_000)
        within("guidance_min_sigma", self.guidance_min_sigma, 0, 10_000)
        if self.guidance_max_sigma is not None:
            within("guidance_max_sigma", self.guidance_max_sigma, 0, 10_000)
            if self.guidance_max_sigma <= self.guidance_min_sigma:
                raise ValueError(f"guidance_max_sigma {self.guidance_max_sigma} is not above guidance_min_sigma "
                                 f"{self.guidance_min_sigma}; for no guidance at all, set guidance to 1")
        if self.tile is not None and (self.tile < 32 or self.tile % 8):
            raise ValueError(f"tile {self.tile} is not a multiple of 8, 32 or more; try 512")
        for name, value in (("width", self.width), ("height", self.height)):
            if value is not None and (value < 8 or value % 8):
                raise ValueError(f"{name} {value} is not a multiple of 8; try {max(8, (value + 4) // 8 * 8)}")
            within(name, value or 8, 8, LARGEST)

    def check_types(self) -> None:
        """Raises ValueError for a value of another type: settings may come from a picture that somebody sent."""
        for f in fields(self):
            value, kind = getattr(self, f.name), f.metadata["type"]
            fits = isinstance(value, (int, float) if kind is float else kind) and not isinstance(value, bool)
            if not fits and (value is not None or f.default is not None):
                raise ValueError(f"{f.name} {value!r} is not {KINDS[kind]}")

    @property
    def sigma_spacing(self) -> Spacing | None:
        """The spacing asked for, or the sampler's default; None where the preset has noise levels of its own."""
        spacing: Any = self.spacing
        return spacing or (DEFAULT_SPACING[self.sampler] if self.preset == "ldm" else None)


def within(name: str, value: float, low: float, high: float) -> None:
    """Raises ValueError unless low <= value <= high."""
    if not low <= value <= high:
        raise ValueError(f"{name} {value} is outside {low}..{high}; try {min(max(low, value), high)}")


def add_arguments(parser: argparse.ArgumentParser, without: tuple[str, ...] = ()) -> None:
    """Give a command line one flag per setting: --negative-prompt, --steps, ..."""
    for f in fields(Settings):
        if f.name not in without:
            told = "" if f.default in (None, "") else " (default %(default)s)"
            parser.add_argument(f"--{f.name.replace('_', '-')}", type=f.metadata["type"], default=f.default,
                                choices=f.metadata["choices"], help=f.metadata["help"] + told)


def from_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """The settings among parsed arguments, as keywords for the pipeline."""
    return {f.name: getattr(args, f.name) for f in fields(Settings) if hasattr(args, f.name)}
