"""Score the bundled model: does "3d render of a X" draw X?

    python scripts/evaluate_bundled.py [--ckpt FILE] [--sheet docs/bundled.webp]

Draws each object once and ranks all 988 real sprites by their distance to the drawing, in VAE latents: the score is
how often the true sprite comes first (top-1), or among the first five (top-5).  Real sprites, moved and scaled as in
training, are scored beside it: the best a model could do.
"""

import argparse
import random
from pathlib import Path

import cli
import torch
from emoji import OBJECTS_300, SCALE, SHIFT_PX, chosen, compose, download, sprites, with_article
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ldm import Pipeline
from ldm.files import write_atomically
from ldm.images import to_images, to_tensor
from ldm.training.progress import grid


def ranks(drawn: Tensor, sprites: Tensor, true: list[int]) -> Tensor:
    """Place of the true sprite among all, by distance.  drawn [N 4 h w], sprites [M 4 h w] -> [N], 0 is the first."""
    distance = torch.cdist(drawn.flatten(1), sprites.flatten(1))
    own = distance.gather(1, torch.tensor(true)[:, None])
    return (distance < own).sum(1)


def report(name: str, found: Tensor, total: int) -> None:
    """One line: top-1 and top-5 of one kind of picture."""
    top1, top5 = ((found < k).float().mean().item() for k in (1, 5))
    chance = f"chance {1 / total:.1%} and {5 / total:.1%}"
    print(f"{name:12}  top-1 {top1:6.1%}  top-5 {top5:6.1%}  of {len(found)}  ({chance})")


def encode(pipe: Pipeline, pictures: list[Image.Image]) -> Tensor:
    return torch.cat([pipe.encode_image(torch.cat([to_tensor(p) for p in pictures[i : i + 32]]))
                      for i in range(0, len(pictures), 32)]).float().cpu()


def draw(pipe: Pipeline, prompts: list[str], args: argparse.Namespace) -> Tensor:
    """Latents of one picture per prompt [N 4 h w]."""
    made = []
    for i in tqdm(range(0, len(prompts), args.batch), unit="batch"):
        part = prompts[i : i + args.batch]
        *_, last = pipe.steps(part, steps=args.steps, sampler=args.sampler, guidance=args.guidance, seed=args.seed + i)
        made.append(last.z.float().cpu())
    return torch.cat(made)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--ckpt", type=Path, help="model file (default: the bundled model)")
    p.add_argument("--source", type=Path, default=Path("data/npm"), help="folder of npm packages (default data/npm)")
    p.add_argument("--objects", default=OBJECTS_300, help="file with a label a line, or 'all' (default: the 300)")
    p.add_argument("--steps", type=int, default=30, help="sampling steps (default 30)")
    p.add_argument("--sampler", default="ddim", help="sampling method (default ddim)")
    p.add_argument("--guidance", type=float, help="strength of the prompt (default: the model's)")
    p.add_argument("--seed", type=int, default=0, help="seed of the first picture (default 0)")
    p.add_argument("--batch", type=int, default=30, help="pictures drawn at a time (default 30)")
    p.add_argument("--every", type=int, default=1, help="score every n-th object only (default 1)")
    p.add_argument("--sheet", type=Path, help="write a contact sheet of all drawings")
    args = p.parse_args()
    download(args.source)
    every, objects = sprites(args.source), chosen(args.source, args.objects)[:: args.every]
    pipe = Pipeline.load(args.ckpt, dtype="float32")
    true = [every.index(s) for s in objects]
    rgba = [Image.open(s.path).convert("RGBA") for s in every]
    references = encode(pipe, [compose(image, "white", pipe.size) for image in rgba])

    shake, shift = random.Random(args.seed), SHIFT_PX * pipe.size / 128
    moved = [compose(rgba[i], "white", pipe.size, shake.uniform(*SCALE), shake.uniform(-shift, shift),
                     shake.uniform(-shift, shift)) for i in true]
    drawn = draw(pipe, [f"3d render of {with_article(s.label)}" for s in objects], args)
    report("drawn", ranks(drawn, references, true), len(every))
    report("real sprites", ranks(encode(pipe, moved), references, true), len(every))
    if args.sheet:
        sheet = grid(to_images(pipe.decode_latents(drawn)), 20)
        write_atomically(args.sheet, sheet.save)


if __name__ == "__main__":
    cli.run(main)
