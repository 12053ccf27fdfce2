"""Enlarge a picture: paint what lies beyond its sides; the picture itself stays bit for bit.

    python scripts/outpaint.py photo.png "3d render of a tiger" --left 64 --right 64 --out out
"""

from pathlib import Path
from typing import get_args

import cli
from PIL import Image

from ldm.images import on_white
from ldm.masks import Fill, check_extension
from ldm.settings import Settings, from_arguments
from ldm.tasks import Outpainter


def main() -> None:
    p = cli.parser(__doc__, without=("width", "height", *cli.OF_MASKS))
    p.add_argument("image", type=Path, help="picture to enlarge, of any size")
    p.add_argument("prompt", help="what the picture shall show")
    for side in ("left", "top", "right", "bottom"):
        p.add_argument(f"--{side}", type=int, default=0, metavar="PIXELS", help="to add on this side (default 0)")
    p.add_argument("--fill", choices=get_args(Fill), default="edge", help="what to start from where strength is below "
                   "1: the outermost pixels repeated, or the picture mirrored (default %(default)s)")
    args = p.parse_args()
    added = args.left, args.top, args.right, args.bottom, args.fill
    Settings(**from_arguments(args))                    # what is wrong is said before the model is loaded
    check_extension(*added)
    image = on_white(Image.open(args.image))
    pipe = Outpainter(cli.load(args), *added)
    cli.draw(pipe, pipe.plan(args.prompt, image, **from_arguments(args)), args)


if __name__ == "__main__":
    cli.run(main)
