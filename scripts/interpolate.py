"""Walk from prompt to prompt: an animation whose frames share one seed.

    python scripts/interpolate.py "3d render of a fox" "3d render of a tiger" --frames 24 --out out/path.webp
"""

from pathlib import Path

import cli
import torch
from tqdm import tqdm

from ldm.settings import Settings, from_arguments
from ldm.tasks import check_animation, check_path, draw_path, save_animation, slerp

BLENDS = {"slerp": slerp, "lerp": torch.lerp}


def main() -> None:
    p = cli.parser(__doc__, without=("strength", "count", *cli.OF_MASKS))
    p.set_defaults(out=Path("out/path.webp"))
    p.add_argument("prompts", nargs="+", metavar="prompt", help="where to begin, to pass, and to end: 2 or more")
    p.add_argument("--frames", type=int, default=24, help="pictures, both ends included (default %(default)s)")
    p.add_argument("--fps", type=float, default=8.0, help="pictures a second, 1 to 50 (default %(default)s)")
    p.add_argument("--blend", choices=BLENDS, default="slerp", help="on an arc or a line (default %(default)s)")
    args = p.parse_args()
    settings, out = from_arguments(args), args.out
    Settings(**settings)                                # what is wrong is said before the model is loaded
    check_path(args.prompts, args.frames)
    check_animation(out, args.fps)
    args.out = out.with_suffix(".webp")                 # which is what `load` can judge
    pipe = cli.load(args)
    frames = draw_path(pipe, args.prompts, args.frames, BLENDS[args.blend], **settings)
    plan = pipe.plan(args.prompts[0], **settings)
    if args.plan:
        print(f"frames: {args.frames}, {args.blend} over {len(args.prompts)} prompts\n{plan.describe()}")
        return
    told = {"task": "interpolate", "prompts": args.prompts, "frames": args.frames, "blend": args.blend}
    told = pipe.metadata(plan, 0) | pipe.plugin_metadata() | told       # the embeddings of all prompts
    save_animation(list(tqdm(frames, total=args.frames, unit="frame")), out, args.fps, told)
    print(out)


if __name__ == "__main__":
    cli.run(main)
