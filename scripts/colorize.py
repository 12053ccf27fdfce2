"""Color a grey picture under a prompt; how bright each pixel is stays as it was.

    python scripts/colorize.py photo.png "3d render of a fox" --out out
"""

from pathlib import Path

import cli
from PIL import Image

from ldm.settings import Settings, from_arguments
from ldm.tasks import Colorizer, luma


def main() -> None:
    p = cli.parser(__doc__, without=("width", "height", *cli.OF_MASKS))
    p.add_argument("image", type=Path, help="picture to color, of any size; of one in color the brightness counts")
    p.add_argument("prompt", help="what the picture shows, and in which colors")
    args = p.parse_args()
    Settings(**from_arguments(args))                    # what is wrong is said before the model is loaded
    grey = luma(Image.open(args.image))
    pipe = Colorizer(cli.load(args))
    cli.draw(pipe, pipe.plan(args.prompt, grey, **from_arguments(args)), args)


if __name__ == "__main__":
    cli.run(main)
