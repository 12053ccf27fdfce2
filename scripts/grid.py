"""Set two settings against each other: one picture of all, labelled.

    python scripts/grid.py "3d render of a fox" --x sampler=ddim,euler,heun --y steps=5,10,20 --out out/grid.png

Every picture is kept in --cells, and found there again by all that makes it: an interrupted grid goes on where it was,
a larger one draws only what is new.
"""

from pathlib import Path

import cli
from PIL import Image
from tqdm import tqdm

from ldm.images import check_target, on_white, save_image, with_metadata
from ldm.plugins import extract_loras
from ldm.settings import from_arguments
from ldm.tasks import Axis, axis, cells, draw_cells, sheet


def texts(*axes: Axis | None) -> list[str]:
    """The prompts and negative prompts on the axes.  Raises ValueError for <lora:...>, which cannot change by cell."""
    found = [text for a in axes if a and a.name in ("prompt", "negative_prompt") for text in a.values]
    for text in found:
        if extract_loras(text)[1]:
            raise ValueError(f"{text!r} on an axis has a LoRA, but LoRAs are put on once, for all cells; give it with "
                             "--lora, or in the prompt that is no axis")
    return found


def main() -> None:
    p = cli.parser(__doc__, without=("count", *cli.OF_MASKS))
    p.add_argument("prompt", help="what the pictures shall show")
    p.add_argument("--x", required=True, metavar="NAME=A,B,...", help="a setting, or prompt, and its value per column; "
                                                                      "one that holds a comma in double quotes")
    p.add_argument("--y", metavar="NAME=A,B,...", help="the same for the rows")
    p.add_argument("--image", type=Path, help="picture to redraw in each cell")
    p.add_argument("--cells", type=Path, default=Path("out/cells"), help="folder of the pictures (default %(default)s)")
    args = p.parse_args()
    settings, x, y = from_arguments(args), axis(args.x), axis(args.y) if args.y else None
    args.prompts = [args.prompt, *texts(x, y)]          # where `load` looks for names of embeddings
    grid = cells(args.prompt, settings, x, y)           # what is wrong is said before the model is loaded
    image = on_white(Image.open(args.image)) if args.image else None
    if image is None and "strength" in (x.name, y and y.name):
        raise ValueError("strength is for redrawing a picture, and there is none; give --image")
    check_target(args.cells)
    pipe, flat = cli.load(args), [cell for row in grid for cell in row]
    if args.plan:
        for cell in flat:
            print(pipe.plan(cell.prompt, image, **cell.settings).describe())
        return
    drawn = list(tqdm(draw_cells(pipe, flat, args.cells, image), total=len(flat), unit="picture"))
    pictures = [str(found) if isinstance(found, Exception) else Image.open(found).convert("RGB") for found in drawn]
    rows = [pictures[i : i + len(x.values)] for i in range(0, len(pictures), len(x.values))]
    told = {"task": "grid", "prompt": args.prompt, **settings, "x": x, "y": y}
    print(save_image(with_metadata(sheet(rows, x.labels, y.labels if y else [""]), told), args.out))
    failed = [found for found in drawn if isinstance(found, Exception)]
    if failed:
        raise ValueError(f"{len(failed)} of {len(flat)} pictures could not be drawn, the first because {failed[0]}; "
                         "run it again to try these alone")


if __name__ == "__main__":
    cli.run(main)
