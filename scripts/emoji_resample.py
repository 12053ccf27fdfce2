"""Choose the pictures that the bundled model goes on with: more of what a model knows worst.

    python scripts/emoji_resample.py --ckpt DIR/model.safetensors --data DIR/pictures --out DIR2 [--source DIR/npm]

How well an object is known in a style is told by the v loss with its caption over that with the caption of another.
Writes DIR2/metadata.jsonl alone, which names the pictures where they are, some several times, others not; and in
DIR2/held-out those that training on DIR/pictures holds out, which are not chosen.
"""

import os
import random
from pathlib import Path
from typing import NamedTuple

import cli
import torch
from emoji import pictures_and_scenes, write_captions
from emoji_scenes import Scene, is_plain
from torch import Tensor
from tqdm import tqdm

from ldm import Pipeline
from ldm.training.data import ImageFolder, split
from ldm.training.draws import generator

LEVELS = (500, 650, 800, 950)           # timesteps at which it is decided what is drawn
BATCH = 64                              # pictures scored at a time
HELD_OUT = 128                          # pictures to evaluate on, as many as train_unet.py holds out by itself
SHARE, PLACED, PEOPLE = 0.3, 0.15, 0.1  # of all pictures; of those small, in corners, two or three; of people
CARTOON = 2                             # the style that is learned last comes so many times as often
BEST, WORST = 0.6, 2.5                  # how often what is known best and worst comes, over the share
COLOURED = 0.8                          # on a coloured background, over that
FIRST, SECOND = 3, 2                    # how often the first caption is told, and the second, over each of the others


class Known(NamedTuple):
    """An object in a style."""

    label: str
    style: str


def subject(scene: Scene) -> Known:
    return Known(scene.things[0].emoji.label, scene.style)


def exemplars(scenes: list[Scene]) -> dict[Known, int]:
    """The number of one picture, on white, of each object in each style."""
    return {subject(scene): i for i, scene in enumerate(scenes) if is_plain(scene) and scene.background == "white"}


@torch.no_grad()
def losses(pipe: Pipeline, z: Tensor, contexts: list[Tensor]) -> Tensor:
    """Loss of latents [N 4 h w] with each of several contexts, mean of LEVELS [contexts N]; the noise is the same."""
    told = torch.zeros(len(contexts), len(z))
    for level in LEVELS:
        t = torch.full((len(z),), level)
        noise = torch.randn(z.shape, generator=generator(level))
        noisy, target = pipe.schedule.add_noise(z, noise, t), pipe.schedule.target(z, noise, t, pipe.prediction)
        for row, context in zip(told, contexts, strict=True):
            predicted = pipe.unet(noisy.to(pipe.dtype), t, context).float()
            row += (predicted - target).square().mean((1, 2, 3)) / len(LEVELS)
    return told


def knowledge(pipe: Pipeline, data: ImageFolder, shown: dict[Known, int]) -> dict[Known, float]:
    """Loss with the right caption over that with another's: near 0 is known well, 1 not at all."""
    order = random.Random(0).sample(sorted(shown), len(shown))
    others = order[1:] + order[:1]
    ratios = []
    for i in tqdm(range(0, len(order), BATCH), unit="batch", mininterval=2):
        own, wrong = ([shown[known] for known in some[i : i + BATCH]] for some in (order, others))
        contexts = [pipe.encode_prompt([data.texts[n][0] for n in numbers]) for numbers in (own, wrong)]
        right, other = losses(pipe, pipe.encode_image(data.batch(own)).float(), contexts)
        ratios += (right / other).tolist()
    return dict(zip(order, ratios, strict=True))


def copies(scene: Scene, places: dict[Known, float]) -> float:
    """How often a picture comes; `places` of what is known: from 0, best, to 1, worst."""
    if scene.things[0].emoji.tones:
        return PEOPLE
    if not is_plain(scene):
        return SHARE if scene.layout in ("alone", "left of", "above") else PLACED
    wanted = SHARE * (BEST + (WORST - BEST) * places[subject(scene)] ** 2)
    return wanted * (CARTOON if scene.style == "cartoon" else 1) * (COLOURED if scene.background != "white" else 1)


def choose(scenes: list[Scene], numbers: list[int], known: dict[Known, float], draw: random.Random) -> list[int]:
    """Some of the numbers of pictures, each as often as `copies` says on average."""
    places = {one: i / (len(known) - 1) for i, one in enumerate(sorted(known, key=known.__getitem__))}
    return [n for n in numbers for _ in range(int(copies(scenes[n], places) + draw.random()))]


def write(folder: Path, data: ImageFolder, numbers: list[int]) -> None:
    """A folder's metadata.jsonl of pictures that lie elsewhere, by number."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for number in numbers:
        first, second, *others = data.texts[number]
        entries.append((os.path.relpath(data.files[number].resolve(), folder.resolve()),
                        [first] * FIRST + [second] * SECOND + others))
    write_captions(folder, entries)


def main() -> None:
    p = cli.Parser(__doc__)
    p.add_argument("--ckpt", type=Path, required=True, help="model file that is to go on")
    p.add_argument("--data", type=Path, required=True, help="folder that emoji.py wrote")
    p.add_argument("--out", type=Path, required=True, help="folder to write")
    p.add_argument("--source", type=Path, default=Path("data/npm"), help="folder of npm packages (default data/npm)")
    p.add_argument("--seed", type=int, default=0, help="seed of the choice (default 0)")
    args = p.parse_args()
    if args.out.resolve() == args.data.resolve():
        raise ValueError(f"--out {args.out} is --data, whose list would be lost; give another folder")
    pipe = Pipeline.load(args.ckpt, "cpu")
    data, scenes = pictures_and_scenes(args.data, args.source, pipe.size)
    train, held_out = split(len(data), HELD_OUT)
    known = knowledge(pipe, data, exemplars(scenes))
    write(args.out / "held-out", data, held_out)
    write(args.out, data, choose(scenes, train, known, random.Random(args.seed)))   # last: its presence says, complete


if __name__ == "__main__":
    cli.run(main)
