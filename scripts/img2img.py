"""Redraw a picture under a prompt.

    python scripts/img2img.py photo.png "3d render of a tiger" --strength 0.6 --out out
"""

from pathlib import Path

import cli
from PIL import Image

from ldm.images import on_white
from ldm.settings import Settings, from_arguments


def main() -> None:
    p = cli.parser(__doc__, without=cli.OF_MASKS)
    p.add_argument("image", type=Path, help="picture to start from, of any size")
    p.add_argument("prompt", help="what the picture shall show")
    args = p.parse_args()
    Settings(**from_arguments(args))                    # a wrong value is said before the model is loaded
    image = on_white(Image.open(args.image))
    pipe = cli.load(args)
    cli.draw(pipe, pipe.plan(args.prompt, image, **from_arguments(args)), args)


if __name__ == "__main__":
    cli.run(main)
