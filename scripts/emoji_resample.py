"""Choose what the bundled model goes on with: of all pictures a third, and more of what a model draws worst.

    python scripts/emoji_resample.py --ckpt DIR/model.safetensors --data DIR/pictures --out DIR2 [--source DIR/npm]

How well an object is known in a style is told by the v loss with its caption over that with the caption of another.
Writes DIR2/metadata.jsonl alone, which names the pictures where they are, some several times, and the same of those
that training on DIR/pictures holds out to DIR2/held-out.
"""

import argparse
import json
import os
import random
from pathlib import Path
from typing import NamedTuple

import cli
import torch
from emoji_scenes import Scene, training_scenes
from emoji_sprites import Sprites, download
from torch import Tensor
from tqdm import tqdm

from ldm import Pipeline
from ldm.files import write_atomically
from ldm.training.data import ImageFolder, split
from ldm.training.draws import generator

LEVELS = (500, 650, 800, 950)           # timesteps at which it is decided what is drawn
SHARE, PLACED, PEOPLE = 1 / 3, 1 / 6, 1 / 9             # of all pictures; of those small or in corners; of people
CARTOON = 2                             # the style that is learned last comes so many times as often
BEST, WORST = 0.6, 2.5                  # how often what is known best and worst comes, over the share
COLOURED = 0.8                          # on a coloured background, over that
FIRST, SECOND = 3, 2                    # how often the first caption is told, and the second, over each other


class Known(NamedTuple):
    """An object in a style."""

    label: str
    style: str


def alone(scene: Scene) -> bool:
    """Whether it is one object as it is, large."""
    thing = scene.things[0]
    return scene.layout == "alone" and not (thing.colour or thing.emoji.tones or scene.degraded)


def subject(scene: Scene) -> Known:
    return Known(scene.things[0].emoji.label, scene.style)


def exemplars(scenes: list[Scene]) -> dict[Known, int]:
    """The number of one picture, on white, of each object in each style."""
    return {subject(scene): i for i, scene in enumerate(scenes) if alone(scene) and scene.background == "white"}


@torch.no_grad()
def losses(pipe: Pipeline, z: Tensor, contexts: list[Tensor]) -> Tensor:
    """Loss of latents [N 4 h w] with each of several contexts, mean of LEVELS [contexts N]; in one, the same noise."""
    told = torch.zeros(len(contexts), len(z))
    for level in LEVELS:
        t = torch.full((len(z),), level)
        noise = torch.randn(z.shape, generator=generator(level))
        noisy, target = pipe.schedule.add_noise(z, noise, t), pipe.schedule.target(z, noise, t, pipe.prediction)
        for row, context in zip(told, contexts, strict=True):
            predicted = pipe.unet(noisy.to(pipe.dtype), t, context).float()
            row += (predicted - target).square().mean((1, 2, 3)) / len(LEVELS)
    return told


def knowledge(pipe: Pipeline, data: ImageFolder, shown: dict[Known, int], batch: int = 64) -> dict[Known, float]:
    """Loss with the right caption over that with another: near 0 is known well, 1 not at all."""
    found, order = {}, random.Random(0).sample(list(shown), len(shown))
    for i in tqdm(range(0, len(order), batch), unit="batch", mininterval=2):
        some = order[i : i + batch]
        pictures = [shown[known] for known in some]
        z, context = pipe.encode_image(data.batch(pictures)), pipe.encode_prompt([data.texts[n][0] for n in pictures])
        right, wrong = losses(pipe, z.float(), [context, context.roll(1, 0)])
        found |= dict(zip(some, (right / wrong).tolist(), strict=True))
    return found


def copies(scene: Scene, place: float) -> float:
    """How often a picture comes, of an object whose place in the order of what is known is 0 (best) to 1 (worst)."""
    if scene.things[0].emoji.tones:
        return PEOPLE
    if not alone(scene):
        return SHARE if scene.layout in ("alone", "left of", "above") else PLACED
    wanted = SHARE * (BEST + (WORST - BEST) * place**2)
    return wanted * (CARTOON if scene.style == "cartoon" else 1) * (COLOURED if scene.background != "white" else 1)


def write(folder: Path, data: ImageFolder, numbers: list[int]) -> None:
    """A folder's metadata.jsonl of pictures that lie elsewhere, by number."""
    lines = []
    for number in numbers:
        first, second, *others = data.texts[number]
        entry = {"file_name": os.path.relpath(data.files[number], folder),
                 "text": [first] * FIRST + [second] * SECOND + others}
        lines.append(json.dumps(entry, ensure_ascii=False) + "\n")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "metadata.jsonl", lambda path: path.write_text("".join(lines), encoding="utf-8"))


def parse() -> argparse.Namespace:
    p = cli.Parser(__doc__)
    p.add_argument("--ckpt", type=Path, required=True, help="model file that is to go on")
    p.add_argument("--data", type=Path, required=True, help="folder that emoji.py wrote")
    p.add_argument("--out", type=Path, required=True, help="folder to write")
    p.add_argument("--source", type=Path, default=Path("data/npm"), help="folder of npm packages (default data/npm)")
    p.add_argument("--held-out", type=cli.positive, default=128, help="pictures to evaluate on (default 128)")
    return p.parse_args()


def main() -> None:
    args = parse()
    pipe = Pipeline.load(args.ckpt, "cpu")
    data = ImageFolder(args.data, pipe.size)
    download(args.source)
    seed = json.loads((args.data / "settings.json").read_text())["seed"]
    scenes = list(training_scenes(Sprites(args.source), seed))
    if len(scenes) != len(data):
        raise ValueError(f"{args.data} has {len(data)} pictures, not all {len(scenes)}; make them without --few")
    known = knowledge(pipe, data, exemplars(scenes))
    places = {one: i / len(known) for i, one in enumerate(sorted(known, key=known.__getitem__))}
    train, held_out = split(len(data), args.held_out)
    draw = random.Random(seed)
    wanted = {n: copies(scenes[n], places.get(subject(scenes[n]), 0)) for n in train}
    chosen = [n for n in train for _ in range(int(wanted[n] + draw.random()))]
    write(args.out / "held-out", data, held_out)
    write(args.out, data, chosen)                           # last, so that its presence says: complete


if __name__ == "__main__":
    cli.run(main)
