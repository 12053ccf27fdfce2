"""Enlarge a picture and let the model add details: one of yours, or one that is drawn first.

    python scripts/upscale.py "3d render of a fox" --scale 2 --out out
    python scripts/upscale.py "3d render of a fox" --image photo.png --scale 4 --tile 128 --out out

With --tile the UNet, too, sees no more than squares of that size at once: for pictures larger than memory.  The
bundled model, which knows whole things only, bears little --strength; official ones 0.3 to 0.5.  A model that is the
x4 upscaler needs --image.
"""

import argparse
import json
from pathlib import Path

import cli
from PIL import Image

from ldm import Pipeline, Settings
from ldm.images import KEY, on_white
from ldm.settings import from_arguments, within
from ldm.tasks import Enlarger, Task, X4Upscaler, check_noise_level, is_x4, tiled


def check(args: argparse.Namespace) -> None:
    """Raises ValueError for what is wrong, before the model is loaded."""
    Settings(**from_arguments(args))
    within("scale", 1 if args.scale is None else args.scale, 1, 16)
    check_noise_level(args.noise_level or 0)
    if args.image and (args.width or args.height):
        raise ValueError("width and height are for a picture that is drawn first; with --image give --scale")
    if args.tile and args.cache > 1:
        raise ValueError(f"cache {args.cache} does not go with tiles; leave out --cache or --tile")


def draw_x4(pipe: Pipeline, image: Image.Image | None, args: argparse.Namespace) -> None:
    """Draw with the x4 upscaler."""
    if image is None:
        raise ValueError("this model is the x4 upscaler, which draws nothing without a picture; give --image")
    if args.scale not in (None, 4):
        raise ValueError(f"scale {args.scale} is not 4, which this model is for; leave out --scale")
    pipe = X4Upscaler(pipe, image, 20 if args.noise_level is None else args.noise_level)
    cli.draw(pipe, pipe.plan(args.prompt, **from_arguments(args)), args)


def draw_first(pipe: Pipeline, args: argparse.Namespace) -> list[Image.Image]:
    """Pictures of the model's own size; with --plan a blank one."""
    plan = pipe.plan(args.prompt, **from_arguments(args))
    if args.plan:
        print(plan.describe())
        return [Image.new("RGB", (plan.width, plan.height))]
    return pipe.draw(plan, cli.bar(plan))


def main() -> None:
    p = cli.parser(__doc__, without=cli.OF_MASKS)
    p.set_defaults(strength=0.2, sampler="dpmpp_2m")    # whose noise levels are finest near the end
    p.add_argument("prompt", help="what the picture shows")
    p.add_argument("--image", type=Path, help="picture to enlarge (default: one is drawn, of --width and --height)")
    p.add_argument("--scale", type=float, help="times as wide and high, 1 to 16 (default 2; the x4 upscaler: always 4)")
    p.add_argument("--noise-level", type=int, help="of the x4 upscaler: how much it may invent, 0 to 350 (default 20)")
    args = p.parse_args()
    check(args)
    image = on_white(Image.open(args.image)) if args.image else None
    pipe = cli.load(args)
    if args.tile:
        pipe = tiled(pipe, args.tile)
    if is_x4(pipe):
        draw_x4(pipe, image, args)
        return
    if args.noise_level is not None:
        raise ValueError(f"noise_level {args.noise_level} is for the x4 upscaler, not for this model; leave it out")
    settings = {**from_arguments(args), "width": None, "height": None}
    if image is None:
        settings["count"] = 1
    for i, small in enumerate([image] if image else draw_first(pipe, args)):
        drawn = {"first": json.loads(small.info[KEY])} if args.image is None and KEY in small.info else {}
        enlarger = Enlarger(Task(pipe, **drawn), args.scale or 2)
        cli.draw(enlarger, enlarger.plan(args.prompt, small, **{**settings, "seed": args.seed + i}), args)


if __name__ == "__main__":
    cli.run(main)
