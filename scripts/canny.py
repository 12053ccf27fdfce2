"""Write the edges of a picture, as a ControlNet looks at them.

    python scripts/canny.py photo.png --low 100 --high 200 --out edges.png
"""

from pathlib import Path

import cli
from PIL import Image

from ldm.images import check_target, on_white, save_image
from ldm.plugins import canny


def main() -> None:
    p = cli.Parser(__doc__)
    p.add_argument("image", type=Path, help="picture of any size")
    p.add_argument("--low", type=int, default=100, help="steepness of the faintest edges, 0 to 2040 (default 100)")
    p.add_argument("--high", type=int, default=200, help="steepness that an edge reaches somewhere (default 200)")
    p.add_argument("--out", type=Path, default=Path("out"), help="folder, .png, .jpg or .webp to write (default out)")
    args = p.parse_args()
    check_target(args.out)
    print(save_image(canny(on_white(Image.open(args.image)), args.low, args.high), args.out))


if __name__ == "__main__":
    cli.run(main)
