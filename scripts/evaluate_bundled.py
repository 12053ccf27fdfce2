"""Score the bundled model: does it draw what it is asked for?

    python scripts/evaluate_bundled.py [--ckpt FILE] [--tasks 3d flat ...] [--every 10] [--json FILE] [--sheet FILE]

Objects are recognised by their distance, in VAE latents, to the real sprites of all 988 objects: top-1 is how often
the right one comes first, top-5 how often among the first five.  Beside each score stand that of real sprites, moved
and scaled as in training (the best a model could do), and chance.  Prints a table in Markdown.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import cli
import torch
from emoji_captions import DEGRADED, chinese, english
from emoji_exam import CHANCE, TASKS, Examiner, in_style
from emoji_scenes import COLOURED, CORNERS, Scene, Thing, held_out_style
from emoji_scores import Score, psnr, sharpness, ssim
from emoji_sprites import STYLES, TONES, Sprites, download
from english import plural

from ldm import Pipeline
from ldm.files import write_atomically
from ldm.images import to_images
from ldm.samplers import SAMPLERS
from ldm.training.progress import grid

CURVES = ("ddim", "euler", "euler_a", "heun", "dpmpp_2m", "unipc")
CURVE_STEPS = (4, 6, 8, 12, 16, 24, 32)
COLUMNS = 16                            # of the contact sheet


def score(examiner: Examiner, name: str) -> Iterator[Score]:
    """The scores of one task."""
    task = TASKS[name]
    scenes = task.scenes(examiner.asked)
    if not scenes:
        return
    drawn = task.judge(examiner, scenes, examiner.draw([task.say(scene) for scene in scenes]))
    real = task.judge(examiner, scenes, examiner.encode(examiner.pictures(scenes, moved=True)))
    n = len(examiner.objects)
    chance = {"top-1": 1 / n, "top-5": 5 / n, "both top-5": (5 / n) ** 2, **CHANCE}
    for measure in drawn:
        found, best = (torch.as_tensor(right[measure]).float().mean().item() for right in (drawn, real))
        yield Score(name, measure, found, best, chance[measure], len(scenes))


def vae_scores(examiner: Examiner) -> Iterator[Score]:
    """How well the VAE gives back pictures: of each style sprites that were held out, on all backgrounds.

    Chance is a plain picture of their mean colour.
    """
    for style in STYLES:
        held_out = [e for e in examiner.asked if held_out_style(e) == style]
        scenes = [Scene((Thing(e),), style, background=["white", COLOURED[i % len(COLOURED)]][i % 2])
                  for i, e in enumerate(held_out)]
        if scenes:
            pictures = examiner.pictures(scenes, moved=True)
            decoded, plain = examiner.decode(examiner.encode(pictures)), pictures.mean((2, 3), keepdim=True)
            for name, measure in (("PSNR", psnr), ("SSIM", ssim)):
                yield Score(f"VAE, {style}", name, measure(decoded, pictures).mean().item(), None,
                            measure(plain.expand_as(pictures), pictures).mean().item(), len(scenes))


def negative_scores(examiner: Examiner) -> Iterator[Score]:
    """What the negative prompt does: sharpness of drawings over that of the real sprites, with and without it."""
    scenes = in_style("3d")(examiner.asked[::4])
    real = sharpness(examiner.pictures(scenes, moved=True))
    for name, negative in (("no negative prompt", ""), (f"negative prompt {DEGRADED!r}", DEGRADED)):
        z = examiner.draw([english(scene) for scene in scenes], negative=negative)
        found = sharpness(examiner.decode(z)) / real
        yield Score(name, "sharpness", found.mean().item(), 1.0, None, len(scenes))
        yield Score(name, "top-1", (examiner.places(scenes, z) < 1).float().mean().item(), None, None, len(scenes))


OTHERS = {"negative": negative_scores, "VAE": vae_scores}


def spread(things: list, row: int) -> list:
    """As many things as a row of the sheet has, from all over a list."""
    return [things[37 * (row * COLUMNS + i) % len(things)] for i in range(COLUMNS)]


def showcase(sprites: Sprites) -> list[str]:
    """Prompts for the contact sheet, one or two rows of each kind of picture."""
    objects, people = [(Thing(e),) for e in sprites.objects], sprites.people
    colourful = [(Thing(e, colour),) for e in sprites.objects for colour in e.colours]
    several = [(Thing(e),) for e in sprites.objects if plural(e.label)]
    rows = [[Scene(one, style) for one in spread(objects, row)] for row, style in enumerate(sorted([*STYLES] * 2))]
    rows += [[Scene(one) for one in spread(colourful, row)] for row in (0, 1)]
    rows += [[Scene(one, background=COLOURED[i % len(COLOURED)]) for i, one in enumerate(spread(objects, 6))]]
    rows += [[Scene(one, layout=[*CORNERS, "small"][i % 5]) for i, one in enumerate(spread(objects, 7))]]
    rows += [[Scene(one, layout=["two", "three"][i % 2]) for i, one in enumerate(spread(several, 8))]]
    rows += [[Scene(a + b, layout=layout) for a, b in zip(spread(objects, row), spread(objects, row + 1), strict=True)]
             for row, layout in ((9, "left of"), (11, "above"))]
    rows += [[Scene((Thing(e, tone=i % (len(TONES) + 1)),)) for i, e in enumerate(spread(people, 0))]]
    return [english(scene) for row in rows for scene in row] + [chinese(Scene(one)) for one in spread(objects, 13)]


def draw_curves(examiner: Examiner, path: Path) -> None:
    """Plot top-1 in 3D against the number of steps, a line per sampler."""
    from matplotlib.figure import Figure

    scenes = in_style("3d")(examiner.asked[::8])
    prompts = [english(scene) for scene in scenes]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="steps", ylabel="top-1 of 988", xscale="log", ylim=(0, 1))
    for sampler in CURVES:
        places = [examiner.places(scenes, examiner.draw(prompts, steps, sampler)) for steps in CURVE_STEPS]
        axes.plot(CURVE_STEPS, [(found < 1).float().mean() for found in places], marker="o", label=sampler)
    axes.set_xticks(CURVE_STEPS, list(map(str, CURVE_STEPS)))
    axes.minorticks_off()
    axes.legend()
    write_atomically(path, lambda partial: figure.savefig(partial, dpi=100))


def parse() -> argparse.Namespace:
    p = cli.Parser(__doc__)
    p.add_argument("--ckpt", type=Path, help="model file (default: the bundled model)")
    p.add_argument("--source", type=Path, default=Path("data/npm"), help="folder of npm packages (default data/npm)")
    p.add_argument("--tasks", nargs="*", choices=[*TASKS, *OTHERS], default=[*TASKS, *OTHERS],
                   help="what to score (default: all)")
    p.add_argument("--every", type=cli.positive, default=1, help="ask for every n-th object only (default 1)")
    p.add_argument("--steps", type=cli.positive, default=30, help="sampling steps (default 30)")
    p.add_argument("--sampler", default="ddim", choices=list(SAMPLERS), help="sampling method (default ddim)")
    p.add_argument("--guidance", type=float, help="strength of the prompt (default: the model's)")
    p.add_argument("--seed", type=int, default=0, help="seed of the first picture (default 0)")
    p.add_argument("--batch", type=cli.positive, default=32, help="pictures drawn at a time (default 32)")
    p.add_argument("--json", type=Path, help="write the scores and settings to a file")
    p.add_argument("--sheet", type=Path, help="write a contact sheet of all kinds of pictures")
    p.add_argument("--curves", type=Path, help="plot top-1 against steps, for several samplers")
    return p.parse_args()


def main() -> None:
    args = parse()
    pipe = Pipeline.load(args.ckpt)
    download(args.source)
    sprites = Sprites(args.source)
    examiner, scores = Examiner(pipe, sprites, args), []
    print("| | score | drawn | real sprites | chance | of |\n|---|---|---|---|---|---|")
    for task in args.tasks:
        for found in OTHERS[task](examiner) if task in OTHERS else score(examiner, task):
            scores.append(asdict(found))
            print(found.row(), flush=True)
    if args.json:
        told = {"model": args.ckpt.name if args.ckpt else "bundled", "guidance": examiner.guidance,
                **{name: vars(args)[name] for name in ("steps", "sampler", "seed", "every")}, "scores": scores}
        text = json.dumps(told, indent=1)
        write_atomically(args.json, lambda path: path.write_text(text + "\n"))
    if args.sheet:
        sheet = grid(to_images(examiner.decode(examiner.draw(showcase(sprites)))), COLUMNS)
        write_atomically(args.sheet, sheet.save)
    if args.curves:
        draw_curves(examiner, args.curves)


if __name__ == "__main__":
    cli.run(main)
