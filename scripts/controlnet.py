"""Draw under a prompt and a picture that a ControlNet looks at: edges, depth, a pose.

    python scripts/controlnet.py control_v11p_sd15_canny.pth photo.png "3d render of a tiger" --canny 100 200

Unless told, the result is as wide or high as the model's native size, whichever is less, and keeps the picture's shape.
"""

from pathlib import Path

import cli
from PIL import Image

from ldm.images import on_white
from ldm.plugins import canny, check_control, check_thresholds, find
from ldm.settings import Settings, from_arguments


def main() -> None:
    p = cli.parser(__doc__, without=("strength", *cli.OF_MASKS))
    p.add_argument("controlnet", help="a ControlNet's file or folder, or its name in controlnets/")
    p.add_argument("image", type=Path, help="picture that it looks at, of any size")
    p.add_argument("prompt", help="what the picture shall show")
    p.add_argument("--canny", type=int, nargs=2, metavar=("LOW", "HIGH"),
                   help="let it look at the picture's edges; the official ControlNet knows those of 100 200")
    p.add_argument("--control-strength", type=float, default=1.0, help="how strongly it acts (default %(default)s)")
    p.add_argument("--control-start", type=float, default=0.0,
                   help="share of the steps before it acts (default %(default)s)")
    p.add_argument("--control-end", type=float, default=1.0, help="share until which it acts (default %(default)s)")
    args = p.parse_args()
    Settings(**from_arguments(args))                    # a wrong value is said before the model is loaded
    check_control(args.control_strength, args.control_start, args.control_end)
    if args.canny:
        check_thresholds(*args.canny)
    path = find("controlnets", args.controlnet, args.models_dir)
    image = on_white(Image.open(args.image))
    pipe = cli.load(args)
    settings = from_arguments(args)
    scale = pipe.size / min(image.size)
    width, height = (max(8, round(side * scale / 8) * 8) for side in image.size)
    settings |= {"width": settings["width"] or width, "height": settings["height"] or height}
    image = image.resize((settings["width"], settings["height"]), Image.Resampling.LANCZOS)
    hint = canny(image, *args.canny) if args.canny else image
    pipe.add_controlnet(path, hint, args.control_strength, args.control_start, args.control_end)
    cli.draw(pipe, pipe.plan(args.prompt, **settings), args)


if __name__ == "__main__":
    cli.run(main)
