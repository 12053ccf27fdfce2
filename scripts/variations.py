"""Draw variations of the picture that a prompt and a seed make.

    python scripts/variations.py "3d render of a fox" --seed 7 --variation-strength 0.3 --count 4 --out out

The noise of --seed is turned towards that of --variation-seed, the next time of the seed after it, and so on.  For
variations of a picture of yours, img2img.py takes --count, too.
"""

import cli

from ldm.settings import Settings, from_arguments
from ldm.tasks import Varied, check_variation


def main() -> None:
    p = cli.parser(__doc__, without=("strength", *cli.OF_MASKS))
    p.set_defaults(count=4)
    p.add_argument("prompt", help="what the picture shall show")
    p.add_argument("--variation-seed", type=int, default=1, help="seed to turn towards (default %(default)s)")
    p.add_argument("--variation-strength", type=float, default=0.3, help="how far: 0 is the picture itself, 1 another "
                                                                         "one (default %(default)s)")
    args = p.parse_args()
    settings = from_arguments(args)
    Settings(**settings)                                # what is wrong is said before the model is loaded
    check_variation(args.variation_seed, args.variation_strength)
    pipe = cli.load(args)
    for i in range(args.count):
        varied = Varied(pipe, args.variation_seed + i, args.variation_strength)
        cli.draw(varied, varied.plan(args.prompt, **{**settings, "count": 1}), args)


if __name__ == "__main__":
    cli.run(main)
