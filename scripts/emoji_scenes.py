"""Scenes of emoji: what stands where, in which style and colour, on which background; their pixels."""

import hashlib
import io
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from typing import NamedTuple

from emoji_sprites import STYLES, TONES, Emoji, Sprites, recolour
from english import plural
from PIL import Image

BACKGROUNDS = {"white": "#ffffff", "black": "#101010", "gray": "#9a9a9a", "red": "#d8392f", "orange": "#f08a24",
               "yellow": "#f7d64a", "green": "#4caf50", "teal": "#1f9e9e", "blue": "#2f6fd8", "purple": "#7e4bc4",
               "pink": "#f49ac1", "brown": "#7a5236"}
COLOURED = [name for name in BACKGROUNDS if name != "white"]
SHIFT = 1 / 64                          # how far a sprite may lie from its place, over the picture's side
BLUR, JPEG = (2.5, 5), (5, 25)          # of degraded pictures: how many times smaller once, and the quality once saved
HELD_OUT = 10                           # one in so many pairs is never trained on


class Layout(NamedTuple):
    """Where things stand: centres, from the left and the top, and a sprite's side, both over the picture's side."""

    places: tuple[tuple[float, float], ...]
    scale: tuple[float, float]                          # from, to


LARGE, SMALL, HALF = (0.82, 0.92), (0.38, 0.46), (0.42, 0.47)
LOW, MIDDLE, HIGH = 0.26, 0.5, 0.74
LAYOUTS = {
    "alone": Layout(((MIDDLE, MIDDLE),), LARGE),
    "small": Layout(((MIDDLE, MIDDLE),), SMALL),
    "top left": Layout(((LOW, LOW),), SMALL),
    "top right": Layout(((HIGH, LOW),), SMALL),
    "bottom left": Layout(((LOW, HIGH),), SMALL),
    "bottom right": Layout(((HIGH, HIGH),), SMALL),
    "left of": Layout(((LOW, MIDDLE), (HIGH, MIDDLE)), HALF),
    "above": Layout(((MIDDLE, LOW), (MIDDLE, HIGH)), HALF),
    "two": Layout(((LOW, MIDDLE), (HIGH, MIDDLE)), HALF),
    "three": Layout(((MIDDLE, LOW), (LOW, HIGH), (HIGH, HIGH)), HALF),
}
CORNERS = ("top left", "top right", "bottom left", "bottom right")


@dataclass(frozen=True)
class Thing:
    """An emoji as it is, in another colour, or with a skin tone (1 light to 5 dark; 0 yellow)."""

    emoji: Emoji
    colour: str = ""
    tone: int = 0


@dataclass(frozen=True)
class Scene:
    """Things in a layout, in turn: the first stands left of the second; one alone stands at all places."""

    things: tuple[Thing, ...]
    style: str = "3d"
    layout: str = "alone"
    background: str = "white"
    degraded: bool = False


def look(sprites: Sprites, thing: Thing, style: str) -> Image.Image:
    """The sprite of a thing, RGBA."""
    key = thing.emoji.tones[thing.tone - 1] if thing.tone else thing.emoji.key
    sprite = sprites.read(key, style)
    return recolour(sprite, thing.colour) if thing.colour else sprite


def compose(sprites: Sprites, scene: Scene, size: int, draw: random.Random | None = None,
            only: int | None = None) -> Image.Image:
    """The picture of a scene, RGB, or of what is at one of its places `only`.

    `draw` moves and scales the sprites a little; without it they are in their places, of mean size.
    """
    places, scale = LAYOUTS[scene.layout]
    picture = Image.new("RGB", (size, size), BACKGROUNDS[scene.background])
    for place, ((x, y), thing) in enumerate(zip(places, cycle(scene.things), strict=False)):
        if only not in (None, place):
            continue
        side = round(size * (draw.uniform(*scale) if draw else sum(scale) / 2))
        dx, dy = (draw.uniform(-SHIFT, SHIFT) if draw else 0.0 for _ in "xy")
        sprite = look(sprites, thing, scene.style).resize((side, side), Image.Resampling.LANCZOS)
        picture.paste(sprite, (round((x + dx) * size - side / 2), round((y + dy) * size - side / 2)), sprite)
    return degrade(picture, draw or random.Random(0)) if scene.degraded else picture


def degrade(picture: Image.Image, draw: random.Random) -> Image.Image:
    """A blurry picture of low quality: enlarged from a smaller one, then saved as a bad JPEG."""
    side, file = round(picture.width / draw.uniform(*BLUR)), io.BytesIO()
    small = picture.resize((side, side), Image.Resampling.BOX)
    small.resize(picture.size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=draw.randint(*JPEG))
    return Image.open(file).convert("RGB")


def is_plain(scene: Scene) -> bool:
    """Whether it is one object as it is, large; a person is none."""
    thing = scene.things[0]
    return scene.layout == "alone" and not (thing.colour or thing.emoji.tones or scene.degraded)


def lot(*words: str) -> int:
    """A number that depends on the words alone."""
    return int.from_bytes(hashlib.sha256("|".join(words).encode()).digest()[:8], "big")


def held_out_style(emoji: Emoji) -> str:
    """The style in which an object is never trained on, "" for most: a tenth of the pairs, no object twice."""
    n = lot("in the style", emoji.label) % HELD_OUT
    return STYLES[n] if n < len(STYLES) else ""


def held_out_colour(emoji: Emoji, colour: str) -> bool:
    """Whether an object is never trained on in this colour."""
    return lot("colour", emoji.label, colour) % HELD_OUT == 0


def held_out_pair(first: Emoji, second: Emoji) -> bool:
    """Whether two objects, in this order, never share a picture in training."""
    return lot("pair", first.label, second.label) % HELD_OUT == 0


def training_scenes(sprites: Sprites, seed: int = 0) -> Iterator[Scene]:
    """All that the model learns from: nothing that is held out."""
    draw = random.Random(seed)
    for style in STYLES:
        objects = [emoji for emoji in sprites.objects if held_out_style(emoji) != style]
        for emoji in objects:
            yield from alone(emoji, style, draw)
            yield from placed(emoji, style, draw)
            yield from paired(emoji, objects, style, draw)
        for person in sprites.people:
            for tone in range(len(TONES) + 1):
                thing = (Thing(person, tone=tone),)
                yield from [Scene(thing, style)] * 3
                yield from (Scene(thing, style, background=name) for name in draw.sample(COLOURED, 3))


def alone(emoji: Emoji, style: str, draw: random.Random) -> Iterator[Scene]:
    """One object that fills the picture: on all backgrounds, in other colours, and degraded."""
    plain = (Thing(emoji),)
    yield from [Scene(plain, style)] * 8
    yield from (Scene(plain, style, background=name) for name in COLOURED)
    yield from (Scene(plain, style, background=name, degraded=True) for name in ("white", draw.choice(COLOURED)))
    for colour in emoji.colours:
        if not held_out_colour(emoji, colour):
            thing = (Thing(emoji, colour),)
            yield Scene(thing, style)
            yield Scene(thing, style, background=draw.choice([name for name in COLOURED if name != colour]))


def placed(emoji: Emoji, style: str, draw: random.Random) -> Iterator[Scene]:
    """One object, small, in a corner, or more than once."""
    layouts = ["small", *draw.sample(CORNERS, 2), *(("two", "three") if plural(emoji.label) else ())]
    return (Scene((Thing(emoji),), style, layout, either(draw)) for layout in layouts)


def paired(emoji: Emoji, others: list[Emoji], style: str, draw: random.Random) -> Iterator[Scene]:
    """An object left of or above another."""
    allowed = [other for other in others if other != emoji and not held_out_pair(emoji, other)]
    layouts = ("left of",) * 4 + ("above",) * 3
    for layout, other in zip(layouts, draw.choices(allowed, k=len(layouts)), strict=True):
        yield Scene((Thing(emoji), Thing(other)), style, layout, either(draw))


def either(draw: random.Random) -> str:
    """White half of the time, else another background."""
    return draw.choice(COLOURED) if draw.random() < 0.5 else "white"

