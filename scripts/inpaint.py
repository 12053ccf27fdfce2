"""Repaint a part of a picture under a prompt: what is white in the mask; the rest stays bit for bit.

    python scripts/inpaint.py photo.png mask.png "3d render of a tiger" --mask-blur 4 --out out
"""

from pathlib import Path

import cli
from PIL import Image

from ldm.images import on_white
from ldm.masks import read_mask
from ldm.settings import Settings, from_arguments


def main() -> None:
    p = cli.parser(__doc__)
    p.add_argument("image", type=Path, help="picture to repaint a part of, of any size")
    p.add_argument("mask", type=Path, help="picture of the same size: white where to repaint, black where to keep")
    p.add_argument("prompt", help="what the picture shall show")
    args = p.parse_args()
    Settings(**from_arguments(args))                    # what is wrong is said before the model is loaded
    image = on_white(Image.open(args.image))
    mask = read_mask(Image.open(args.mask), image.size)
    pipe = cli.load(args)
    cli.draw(pipe, pipe.plan(args.prompt, image, mask, **from_arguments(args)), args)


if __name__ == "__main__":
    cli.run(main)
