"""Emoji as sprites: npm packages, names in English and Chinese, pictures in three styles, other colours for them."""

import io
import json
import subprocess
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image

EMOJIBASE, FLUENT_3D = "emojibase-data@17.0.0", "@lobehub/fluent-emoji-3d@1.1.0"
ICONS = {"flat": "@iconify-json/fluent-emoji-flat@1.2.6", "cartoon": "@iconify-json/noto@1.2.9"}
STYLES = ("3d", *ICONS)
GROUPS = (0, 3, 4, 5, 6, 7)             # of emojibase: smileys, nature, food, travel, activities, objects
PEOPLE = (16, 17, 18, 19, 20, 22, 23)   # its subgroups: hands, body parts, persons
SIDE_PX = 256                           # of every sprite
UNSAID = {"ass", "gay", "genderqueer", "glbt", "glbtq", "jew", "jewish", "lesbian", "lgbt", "lgbtq", "lgbtqia", "queer",
          "trans", "transgender", "turd"}               # tags that name people, or are rude: no names of things

HUES = {"red": 0, "orange": 28, "yellow": 50, "green": 122, "teal": 178, "blue": 215, "purple": 270, "pink": 325}
COLOUR_WORDS = {*HUES, "white", "black", "grey", "brown"}
VIVID = 80                              # least difference of a pixel's largest and smallest channel to have a hue
NEAR = 21                               # hues (of 256) that count as one: 30 degrees
RECOLOURABLE = 0.45                     # share of a sprite's pixels that must have one hue

TONES = ("light", "medium-light", "medium", "medium-dark", "dark")      # Unicode's, 1f3fb to 1f3ff
EXCHANGED = {"1f3fc": "1f3fd", "1f3fd": "1f3fc"}                        # of each other's name in the 3D package: the
                                                                        # brightness of all 54 people says so


@dataclass(frozen=True)
class Emoji:
    """One emoji: names, the keys of its pictures, and in which colours it may be drawn."""

    label: str
    chinese: str
    key: str                            # code points, as `code_points` writes them
    synonyms: tuple[str, ...] = ()      # tags that no other object has
    kind: str = ""                      # emojibase's subgroup: "mammals"
    tones: tuple[str, ...] = ()         # keys of five skin tones, light to dark
    colours: tuple[str, ...] = ()       # other colours than its own; none where its colour is what it is


def unpacked(source: Path, package: str) -> Path:
    """Where a package lies below `source`."""
    return source / package.strip("@").replace("/", "-").replace("@", "-")


def download(source: Path) -> None:
    """Fetch and unpack the npm packages below `source`, one folder each; those already there are kept."""
    source.mkdir(parents=True, exist_ok=True)
    for package in (EMOJIBASE, FLUENT_3D, *ICONS.values()):
        target = unpacked(source, package)
        if target.exists():
            continue
        packed = subprocess.run(["npm", "pack", "--silent", package], cwd=source, check=True, text=True,
                                stdout=subprocess.PIPE).stdout.split()[-1]
        partial = target.with_suffix(".partial")
        with tarfile.open(source / packed) as archive:
            archive.extractall(partial, filter="data")
        partial.rename(target)
        (source / packed).unlink()


def code_points(hexcode: str) -> str:
    """Lower-case code points joined by '-', without the variation selector: the key that all packages share."""
    return "-".join(p for p in hexcode.lower().split("-") if p != "fe0f")


def mended(key: str) -> str:
    """The key under which a picture of the 3D package belongs."""
    return "-".join(EXCHANGED.get(part, part) for part in key.split("-"))


class Icons:
    """An Iconify set: key -> SVG."""

    def __init__(self, package: Path):
        self.set = json.loads((package / "icons.json").read_text())
        names = json.loads((package / "chars.json").read_text())
        self.names = {code_points(key): name for key, name in names.items() if name in self.set["icons"]}

    def svg(self, key: str) -> str:
        icon = self.set["icons"][self.names[key]]
        width, height = (icon.get(side, self.set[side]) for side in ("width", "height"))
        return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">{icon["body"]}</svg>'


class Sprites:
    """The pictures and names below a folder of npm packages.

    objects: what exists in all styles; no flags, symbols, people or clocks.  people: hands and persons in five skin
    tones.  Both in emojibase's order.
    """

    def __init__(self, source: Path):
        assets = unpacked(source, FLUENT_3D) / "package" / "assets"
        self.rendered = {mended(code_points(path.stem)): path for path in assets.glob("*.webp")}
        self.icons = {style: Icons(unpacked(source, package) / "package") for style, package in ICONS.items()}
        self.read = lru_cache(maxsize=1024)(self._read)
        names = unpacked(source, EMOJIBASE) / "package"
        entries = read(names / "en" / "data.json")
        self.chinese = {e["hexcode"]: e["label"] for e in read(names / "zh" / "data.json")}
        self.kinds = {g["order"]: g["message"] for g in read(names / "en" / "messages.json")["subgroups"]}
        self.objects = list(self.find_objects(entries))
        self.people = list(self.find_people(entries))

    def exists(self, hexcode: str) -> bool:
        key = code_points(hexcode)
        return key in self.rendered and all(key in icons.names for icons in self.icons.values())

    def find_objects(self, entries: list[dict]) -> Iterator[Emoji]:
        found = [e for e in entries if e.get("group") in GROUPS and self.exists(e["hexcode"])
                 and "clock" not in e["label"] and "-thirty" not in e["label"]]
        shared = Counter(word for e in found for word in {*e.get("tags", []), *e["label"].lower().split()})
        for e in found:
            label, key = e["label"].lower(), code_points(e["hexcode"])
            own = tuple(tag for tag in e.get("tags", [])
                        if shared[tag] == 1 and tag.isalpha() and len(tag) > 2 and tag not in UNSAID)
            colours = () if e["group"] == 0 or COLOUR_WORDS & {*label.split()} else self.colours(key)
            yield Emoji(label, self.chinese[e["hexcode"]], key, own, self.kinds[e["subgroup"]], colours=colours)

    def find_people(self, entries: list[dict]) -> Iterator[Emoji]:
        for e in entries:
            tones = [skin["hexcode"] for skin in e.get("skins", []) if isinstance(skin["tone"], int)]
            if (e.get("subgroup") in PEOPLE and len(tones) == len(TONES) and ":" not in e["label"]
                    and all(map(self.exists, [e["hexcode"], *tones]))):
                yield Emoji(e["label"].lower(), self.chinese[e["hexcode"]], code_points(e["hexcode"]),
                            kind=self.kinds[e["subgroup"]], tones=tuple(map(code_points, tones)))

    def colours(self, key: str) -> tuple[str, ...]:
        """The colours that a sprite may be given: none, unless in every style most of it has one hue."""
        own = set()
        for style in STYLES:
            hue, share = dominant_hue(self.read(key, style))
            if share < RECOLOURABLE:
                return ()
            own.add(nearest_hue(hue))
        return tuple(colour for colour in HUES if colour not in own)

    def _read(self, key: str, style: str) -> Image.Image:
        """A sprite as it is, RGBA, 256x256."""
        if style == "3d":
            return Image.open(self.rendered[key]).convert("RGBA")
        png = resvg_py.svg_to_bytes(svg_string=self.icons[style].svg(key), width=SIDE_PX, height=SIDE_PX)
        return Image.open(io.BytesIO(png)).convert("RGBA")


def read(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def dominant_hue(image: Image.Image) -> tuple[float, float]:
    """The hue in degrees that most pixels have, and the share of the visible pixels that have about that hue."""
    rgba = np.asarray(image.convert("RGBA")).astype(int)
    hue = np.asarray(image.convert("RGB").convert("HSV"))[..., 0]
    visible, colours = rgba[..., 3] > 127, rgba[..., :3]
    counts = np.bincount(hue[visible & (np.ptp(colours, axis=2) >= VIVID)], minlength=256)
    peak = int(np.argmax(within(counts, 4)))            # narrow, lest it lie between two hues
    return peak * 360 / 256, within(counts, NEAR)[peak] / max(visible.sum(), 1)


def within(counts: np.ndarray, reach: int) -> np.ndarray:
    """Sums over each place of a circle and its neighbours.  [N] -> [N]."""
    return np.sum([np.roll(counts, shift) for shift in range(-reach, reach + 1)], axis=0)


def nearest_hue(degrees: float) -> str:
    """The name of the nearest of HUES."""
    return min(HUES, key=lambda name: abs((degrees - HUES[name] + 180) % 360 - 180))


def recolour(sprite: Image.Image, colour: str) -> Image.Image:
    """Turn all hues of an RGBA sprite by one angle, so that its dominant hue becomes that of `colour`."""
    hsv = np.asarray(sprite.convert("RGB").convert("HSV")).copy()
    turn = round((HUES[colour] - dominant_hue(sprite)[0]) * 256 / 360)
    hsv[..., 0] = (hsv[..., 0].astype(int) + turn) % 256
    turned = Image.fromarray(hsv, "HSV").convert("RGB")
    turned.putalpha(sprite.getchannel("A"))
    return turned
