"""Pictures for the bundled model: emoji in three styles, alone and composed, with captions.

    python scripts/emoji.py --out DIR [--few]

Fetches the npm packages (needs `npm`) and writes a folder that the training scripts read: PNG files, and
`metadata.jsonl` with {"file_name", "text": [caption, ...]}.  Interrupted, it goes on where it was.
"""

import json
import random
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import cli
from emoji_captions import captions, english
from emoji_scenes import Scene, compose, is_plain, training_scenes
from emoji_sprites import Sprites, download
from tqdm import tqdm

from ldm.files import write_atomically
from ldm.training.data import ImageFolder

FEW = 3                                 # one object in so many, for a model that starts from nothing


def begin(folder: Path, settings: dict) -> None:
    """Make the folder, or see that it was begun with the same settings; else a ValueError."""
    folder.mkdir(parents=True, exist_ok=True)
    note = folder / "settings.json"
    if note.exists() and (found := json.loads(note.read_text())) != settings:
        raise ValueError(f"{folder} was begun with {found}, not {settings}; give those, or another --out")
    write_atomically(note, lambda path: path.write_text(json.dumps(settings)))


def few(scenes: list[Scene], sprites: Sprites) -> list[Scene]:
    """Of these scenes, one 3D object in so many as it is: what a model learns first."""
    objects = {*sprites.objects[::FEW]}
    return [scene for scene in scenes if is_plain(scene) and scene.style == "3d" and scene.things[0].emoji in objects]


def write_captions(folder: Path, entries: Iterable[tuple[str, list[str]]]) -> None:
    """Write a folder's metadata.jsonl: names of pictures, and their captions."""
    lines = [json.dumps({"file_name": name, "text": text}, ensure_ascii=False) + "\n" for name, text in entries]
    write_atomically(folder / "metadata.jsonl", lambda path: path.write_text("".join(lines), encoding="utf-8"))


def pictures_and_scenes(folder: Path, source: Path, size: int) -> tuple[ImageFolder, list[Scene]]:
    """What this script has written to a folder, and the scene of each picture.

    Raises ValueError where they do not go together.
    """
    data = ImageFolder(folder, size)
    download(source)
    scenes = list(training_scenes(Sprites(source), json.loads((folder / "settings.json").read_text())["seed"]))
    if [english(scene) for scene in scenes] != [texts[0] for texts in data.texts]:
        raise ValueError(f"the {len(data)} pictures of {folder} are not those of the {len(scenes)} scenes of {source}; "
                         "make them anew by emoji.py, without --few")
    return data, scenes


def main() -> None:
    p = cli.Parser(__doc__)
    p.add_argument("--out", type=Path, required=True, help="folder to write")
    p.add_argument("--source", type=Path, default=Path("data/npm"), help="folder of npm packages (default data/npm)")
    p.add_argument("--few", action="store_true", help=f"only every {FEW}rd object, alone and in 3D")
    p.add_argument("--size", type=cli.positive, default=128, help="side in pixels (default 128)")
    p.add_argument("--seed", type=int, default=0, help="seed of scenes, framing and words (default 0)")
    args = p.parse_args()
    download(args.source)
    begin(args.out, {"few": args.few, "size": args.size, "seed": args.seed})
    sprites, entries = Sprites(args.source), []
    scenes = list(training_scenes(sprites, args.seed))
    for i, scene in enumerate(tqdm(few(scenes, sprites) if args.few else scenes, unit="picture", mininterval=2)):
        draw, file = random.Random(f"{args.seed} {i}"), args.out / f"{i:06d}.png"
        entries.append((file.name, captions(scene, draw)))
        if not file.exists():
            picture = compose(sprites, scene, args.size, draw)
            write_atomically(file, partial(picture.save, compress_level=1))
    write_captions(args.out, entries)                   # last, so that its presence says: complete


if __name__ == "__main__":
    cli.run(main)
