"""Pictures for the bundled model: Fluent Emoji sprites on plain backgrounds, with captions.

    python scripts/emoji.py --out DIR [--objects FILE|all]

Downloads the npm packages (needs `npm`), composes the pictures and writes a folder that the training scripts read:
PNG files and `metadata.jsonl` with {"file_name", "text": [caption, ...]}.
"""

import argparse
import json
import random
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cli
from PIL import Image
from tqdm import tqdm

PACKAGES = ["@lobehub/fluent-emoji-3d@1.1.0", "@iconify-json/fluent-emoji-flat@1.2.6", "@iconify-json/noto@1.2.9",
            "@iconify-json/twemoji@1.2.5", "@iconify-json/fluent-emoji-high-contrast@1.2.6", "emojibase-data@17.0.0"]
GROUPS = {0: "smiley", 3: "animal or plant", 4: "food", 5: "place or vehicle", 6: "activity", 7: "thing"}
BACKGROUNDS = {"white": "#ffffff", "black": "#101010", "gray": "#9a9a9a", "red": "#d8392f", "orange": "#f08a24",
               "yellow": "#f7d64a", "green": "#4caf50", "teal": "#1f9e9e", "blue": "#2f6fd8", "purple": "#7e4bc4",
               "pink": "#f49ac1", "brown": "#7a5236"}
SCALE, SHIFT_PX = (0.82, 0.92), 2       # size of the sprite over the picture's side; shift of its centre, at 128 px
OBJECTS_300 = Path(__file__).parent / "objects_300.txt"


class Sprite(NamedTuple):
    """One emoji: its name, related words, and its 256x256 RGBA picture's file."""

    label: str
    tags: list[str]
    path: Path


def download(source: Path) -> None:
    """Fetch and unpack the npm packages below `source`, one folder each; those already there are kept."""
    source.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        target = source / package.strip("@").replace("/", "-").replace("@", "-")
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


def sprites(source: Path) -> list[Sprite]:
    """The 988 objects that exist in all five emoji sets, in emojibase's order; no flags, symbols, people or clocks."""
    folder = {p.name.rsplit("-", 1)[0]: p / "package" for p in source.iterdir() if p.is_dir()}
    files = {code_points(p.stem): p for p in (folder["lobehub-fluent-emoji-3d"] / "assets").glob("*.webp")}
    icons = [folder[f"iconify-json-{name}"] / "chars.json"
             for name in ("fluent-emoji-flat", "noto", "twemoji", "fluent-emoji-high-contrast")]
    common = set(files).intersection(*({code_points(key) for key in json.loads(p.read_text())} for p in icons))
    entries = json.loads((folder["emojibase-data"] / "en" / "data.json").read_text())
    return [Sprite(e["label"].lower(), e.get("tags", []), files[code_points(e["hexcode"])])
            for e in entries
            if e.get("group") in GROUPS and code_points(e["hexcode"]) in common
            and "clock" not in e["label"] and "-thirty" not in e["label"]]


def chosen(source: Path, objects: str | Path) -> list[Sprite]:
    """The sprites named in a file, one label a line, or all 988 for "all".  Raises ValueError for an unknown label."""
    every = sprites(source)
    if objects == "all":
        return every
    labels = Path(objects).read_text().split("\n")[:-1]
    by_label = {s.label: s for s in every}
    if unknown := [label for label in labels if label not in by_label]:
        raise ValueError(f"{objects} names {unknown[:5]}, which are no labels of the 988 objects")
    return [by_label[label] for label in labels]


def compose(sprite: Image.Image, background: str, size: int, scale: float = 0.87, dx: float = 0, dy: float = 0):
    """Paste an RGBA sprite, `scale` of the side and shifted by (dx, dy) pixels, on a named background -> RGB."""
    side = round(size * scale)
    small = sprite.resize((side, side), Image.Resampling.LANCZOS)
    picture = Image.new("RGB", (size, size), BACKGROUNDS[background])
    picture.paste(small, (round((size - side) / 2 + dx), round((size - side) / 2 + dy)), small)
    return picture


def with_article(noun: str) -> str:
    """'fox' -> 'a fox', 'apple' -> 'an apple'."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def captions(sprite: Sprite, background: str) -> list[str]:
    """Ways to say what the picture shows, the plainest one repeated; a white background is named half of the time."""
    thing = with_article(sprite.label)
    said = [f"3d render of {thing}"] * 3 + [thing, f"{sprite.label}, 3d render", f"a 3d {sprite.label}"]
    said += [f"3d render of {thing}, {tag}" for tag in sprite.tags[:2]]
    named = [f"{s} on {with_article(background)} background" for s in said]
    return said + named if background == "white" else named


def pictures(source: Path, objects: str | Path, size: int, white: int, coloured: int, seed: int) -> Iterator:
    """Yield (picture, captions): per object `white` pictures on white and `coloured` on each other background."""
    draw = random.Random(seed)
    shift = SHIFT_PX * size / 128
    for sprite in chosen(source, objects):
        image = Image.open(sprite.path).convert("RGBA")
        for background in BACKGROUNDS:
            for _ in range(white if background == "white" else coloured):
                frame = draw.uniform(*SCALE), draw.uniform(-shift, shift), draw.uniform(-shift, shift)
                yield compose(image, background, size, *frame), captions(sprite, background)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=Path, required=True, help="folder to write")
    p.add_argument("--source", type=Path, default=Path("data/npm"), help="folder of npm packages (default data/npm)")
    p.add_argument("--objects", default=OBJECTS_300, help="file with a label a line, or 'all' (default: the 300)")
    p.add_argument("--size", type=int, default=128, help="side in pixels (default 128)")
    p.add_argument("--white", type=int, default=16, help="pictures of each object on white (default 16)")
    p.add_argument("--coloured", type=int, default=2, help="pictures of each on each other colour (default 2)")
    p.add_argument("--seed", type=int, default=0, help="seed of the framing (default 0)")
    args = p.parse_args()
    download(args.source)
    args.out.mkdir(parents=True, exist_ok=True)
    lines = []
    made = pictures(args.source, args.objects, args.size, args.white, args.coloured, args.seed)
    for i, (picture, texts) in enumerate(tqdm(made, unit="picture")):
        picture.save(args.out / f"{i:06d}.png", compress_level=1)
        lines.append(json.dumps({"file_name": f"{i:06d}.png", "text": texts}))
    (args.out / "metadata.jsonl").write_text("\n".join(lines) + "\n")   # last, so that its presence says: complete


if __name__ == "__main__":
    cli.run(main)
