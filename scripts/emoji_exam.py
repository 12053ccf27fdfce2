"""Questions to the bundled model, and who judges the answers: what to ask for, and whether a drawing shows it.

Latents are [N 4 h w], pictures [N 3 H W] in [-1, 1].
"""

import random
from argparse import Namespace
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from emoji_captions import chinese, english
from emoji_scenes import BACKGROUNDS, Scene, Thing, compose, held_out_colour, held_out_pair, held_out_style, lot
from emoji_scores import background_of, colour_of, in_order, ranks
from emoji_sprites import HUES, STYLES, Emoji, Sprites
from torch import Tensor
from tqdm import tqdm

from ldm import Pipeline
from ldm.images import to_images, to_tensor


class Examiner:
    """A model and the real sprites."""

    def __init__(self, pipe: Pipeline, sprites: Sprites, args: Namespace):
        self.pipe, self.sprites, self.args = pipe, sprites, args
        self.objects, self.asked = sprites.objects, sprites.objects[:: args.every]
        self.guidance = pipe.guidance if args.guidance is None else args.guidance
        self.references = lru_cache(maxsize=16)(self._references)

    def pictures(self, scenes: list[Scene], only: int | None = None, moved: bool = False) -> Tensor:
        """Real sprites, moved and scaled as in training or at rest."""
        return torch.cat([to_tensor(compose(self.sprites, scene, self.pipe.size,
                                            random.Random(f"{self.args.seed} {i}") if moved else None, only))
                          for i, scene in enumerate(scenes)])

    def encode(self, pictures: Tensor) -> Tensor:
        return torch.cat([self.pipe.encode_image(part) for part in pictures.split(32)]).float().cpu()

    def decode(self, z: Tensor) -> Tensor:
        return self.pipe.decode_latents(z).float().cpu()

    def draw(self, prompts: list[str], steps: int | None = None, sampler: str | None = None,
             negative: str = "") -> Tensor:
        """Latents of one drawing per prompt."""
        made, args, b = [], self.args, self.args.batch
        for i in tqdm(range(0, len(prompts), b), unit="batch", leave=False):
            *_, last = self.pipe.steps(prompts[i : i + b], steps=steps or args.steps, sampler=sampler or args.sampler,
                                       guidance=self.guidance, seed=args.seed + i, negative_prompt=negative)
            made.append(last.z.float().cpu())
        return torch.cat(made)

    def _references(self, style: str, colour: str = "", layout: str = "alone", place: int = 0) -> Tensor:
        """Latents of every object at one place of a layout; of those alone, in a colour where they may have it."""
        if not colour:
            return self.encode(self.pictures([Scene((Thing(e),), style, layout) for e in self.objects], only=place))
        references = self.references(style).clone()
        turned = [i for i, e in enumerate(self.objects) if colour in e.colours]
        scenes = [Scene((Thing(self.objects[i], colour),), style) for i in turned]
        references[turned] = self.encode(self.pictures(scenes))
        return references

    def places(self, scenes: list[Scene], z: Tensor) -> Tensor:
        """Where in the ranking of all objects the right one stands, for things alone [N]."""
        return torch.cat([ranks(z[i : i + 1], self.references(s.style, s.things[0].colour),
                                [self.objects.index(s.things[0].emoji)]) for i, s in enumerate(scenes)])


Found = dict[str, Tensor | list[bool]]          # by measure, whether each drawing is right


def recognised(examiner: Examiner, scenes: list[Scene], z: Tensor) -> Found:
    found = examiner.places(scenes, z)
    return {"top-1": found < 1, "top-5": found < 5}


def coloured(examiner: Examiner, scenes: list[Scene], z: Tensor) -> Found:
    pictures = to_images(examiner.decode(z))
    right = [colour_of(picture) == s.things[0].colour for picture, s in zip(pictures, scenes, strict=True)]
    return {**recognised(examiner, scenes, z), "colour": right}


def on_background(examiner: Examiner, scenes: list[Scene], z: Tensor) -> Found:
    pictures = to_images(examiner.decode(z))
    return {"background": [background_of(p) == s.background for p, s in zip(pictures, scenes, strict=True)]}


def side_by_side(examiner: Examiner, scenes: list[Scene], z: Tensor) -> Found:
    """Two things, each looked for in its half of the latents."""
    half = z.shape[-1] // 2
    halves = z[..., :half], z[..., half:]
    left, right = (examiner.references("3d", "", "left of", place) for place in (0, 1))
    references = left[..., :half], right[..., half:]
    first, second = ([examiner.objects.index(s.things[n].emoji) for s in scenes] for n in (0, 1))
    both = (ranks(halves[0], references[0], first) < 5) & (ranks(halves[1], references[1], second) < 5)
    return {"left/right": in_order(*halves, references, first, second), "both top-5": both}


class Task(NamedTuple):
    """Scenes to ask for, and how to judge what is drawn."""

    scenes: Callable[[list[Emoji]], list[Scene]]
    judge: Callable[[Examiner, list[Scene], Tensor], Found]
    say: Callable[[Scene], str] = english


def in_style(style: str) -> Callable[[list[Emoji]], list[Scene]]:
    return lambda objects: [Scene((Thing(e),), style) for e in objects]


def held_out_styles(objects: list[Emoji]) -> list[Scene]:
    return [Scene((Thing(e),), held_out_style(e)) for e in objects if held_out_style(e)]


def held_out_colours(objects: list[Emoji]) -> list[Scene]:
    """Of objects that were seen in 3D."""
    return [Scene((Thing(e, colour),)) for e in objects if held_out_style(e) != "3d"
            for colour in e.colours if held_out_colour(e, colour)]


def on_backgrounds(objects: list[Emoji]) -> list[Scene]:
    names = list(BACKGROUNDS)
    return [Scene((Thing(e),), background=names[i % len(names)]) for i, e in enumerate(objects[::4])]


def pairs(objects: list[Emoji]) -> list[Scene]:
    """Pairs that were never seen together, of objects that were seen in 3D."""
    seen = [e for e in objects if held_out_style(e) != "3d"]
    others = {e: [other for other in seen if other != e and held_out_pair(e, other)] for e in seen}
    return [Scene((Thing(e), Thing(found[lot(e.label) % len(found)])), layout="left of")
            for e, found in others.items() if found][::4]


TASKS = {
    **{style: Task(in_style(style), recognised) for style in STYLES},
    "held-out styles": Task(held_out_styles, recognised),
    "held-out colours": Task(held_out_colours, coloured),
    "backgrounds": Task(on_backgrounds, on_background),
    "pairs": Task(pairs, side_by_side),
    "Chinese": Task(lambda objects: in_style("3d")(objects[::4]), recognised, chinese),
}
CHANCE = {"colour": 1 / len(HUES), "background": 1 / len(BACKGROUNDS), "left/right": 1 / 2}
