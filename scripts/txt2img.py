"""Draw pictures from a prompt.

    python scripts/txt2img.py "3d render of a fox" --count 4 --out out
"""

import cli

from ldm.settings import Settings, from_arguments


def main() -> None:
    p = cli.parser(__doc__, without=("strength", *cli.OF_MASKS))
    p.add_argument("prompt", help="what the picture shall show")
    args = p.parse_args()
    Settings(**from_arguments(args))                    # a wrong value is said before the model is loaded
    pipe = cli.load(args)
    cli.draw(pipe, pipe.plan(args.prompt, **from_arguments(args)), args)


if __name__ == "__main__":
    cli.run(main)
