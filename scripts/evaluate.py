"""Score pictures: against real ones (FID, KID, precision and recall), against their prompts (CLIP score).

    python scripts/evaluate.py made/ --real real/ --features inception.pt2 --size 299
    python scripts/evaluate.py made/ --clip ViT-B-32 --clip-file ViT-B-32.safetensors

The network and CLIP are local files; docs/evaluation.md says how to make one.  A prompt comes from the .txt beside a
picture, else from its metadata.  Prints a table, and writes it as JSON with the flags.
"""

import argparse
import json
import tempfile
import warnings
from pathlib import Path
from typing import Any, get_args

import cli
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ldm.files import write_atomically
from ldm.images import on_white, read_metadata
from ldm.loading import resolve_device
from ldm.metrics import (
    ClipScorer,
    Network,
    Resize,
    collect,
    features_of,
    frechet_distance,
    kernel_distance,
    load_network,
    moments,
    pictures_in,
    precision_recall,
)

NEIGHBOURS = 3                                          # of precision and recall
SUBSETS, SUBSET = 100, 1000                             # of KID: how many, and of how many pictures


def arguments() -> argparse.Namespace:
    p = cli.Parser(__doc__)
    p.add_argument("made", type=Path, help="folder of pictures to score")
    p.add_argument("--real", type=Path, help="folder of real pictures to compare them with")
    p.add_argument("--features", type=Path, metavar="FILE",
                   help="network that sees them, [B 3 H W] in [0, 1] to [B D]: .pt2 of torch.export, else TorchScript")
    p.add_argument("--size", type=int, help="side in pixels to scale pictures to for it (default: as they are)")
    p.add_argument("--resize", choices=get_args(Resize), default="bicubic",
                   help="how, always antialiased (default %(default)s)")
    p.add_argument("--clip", metavar="MODEL", help="name of a CLIP model of open_clip, such as ViT-B-32")
    p.add_argument("--clip-file", type=Path, help="its weights")
    p.add_argument("--clip-prefix", default="", help='words before each prompt; "A photo depicts " in the paper')
    p.add_argument("--batch", type=cli.positive, default=32, help="pictures at a time (default %(default)s)")
    cli.add_device(p)
    p.add_argument("--out", type=Path, help="file to write (default: scores.json in the folder scored)")
    args = p.parse_args()
    for one, other in (("real", "features"), ("clip", "clip_file")):
        if bool(getattr(args, one)) != bool(getattr(args, other)):
            raise ValueError(f"--{one} and --{other} go together; give both".replace("_", "-"))
    if not args.features and not args.clip:
        raise ValueError("there is nothing to score with; give --real and --features, or --clip and --clip-file")
    if args.size is not None and args.size < 1:
        raise ValueError(f"size {args.size} is not 1 or more; try 299")
    return args


def seen(network: Network, files: list[Path], store: Path, device: str, args: argparse.Namespace) -> Tensor:
    """Features of pictures [N D], in the file `store`."""
    batches = features_of(network, files, args.size, args.resize, args.batch, device)
    total = -(-len(files) // args.batch)
    return collect(tqdm(batches, store.name, total, unit="batch"), len(files), store)


def against_real(made: Tensor, real: Tensor) -> dict[str, Any]:
    """FID, KID, precision and recall.  Features [M D], [N D]."""
    few, width = min(len(made), len(real)), made.shape[1]
    if few <= width:
        warnings.warn(f"FID of {few} pictures and {width} features depends on how many pictures there are: compare it "
                      "among equals only, or take KID", stacklevel=2)
    kid, deviation = kernel_distance(made, real, SUBSETS, min(SUBSET, few))
    precision, recall = precision_recall(made, real, NEIGHBOURS)
    return {"real": len(real), "width": width, "fid": frechet_distance(moments(made), moments(real)), "kid": kid,
            "kid_deviation": deviation, "kid_subsets": SUBSETS, "kid_subset": min(SUBSET, few), "precision": precision,
            "recall": recall, "neighbours": NEIGHBOURS}


def prompt_of(path: Path) -> str:
    """What a picture was to show.  Raises ValueError where neither a .txt beside it nor its metadata says so."""
    beside = path.with_suffix(".txt")
    if beside.exists():
        return beside.read_text(encoding="utf-8").strip()
    try:
        return read_metadata(path)["prompt"]
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path} tells no prompt; write it into {beside}") from error


def against_prompts(score: ClipScorer, files: list[Path], prompts: list[str], batch: int) -> dict[str, Any]:
    """Mean and standard deviation of the CLIP score."""
    scores = []
    for start in tqdm(range(0, len(files), batch), "prompts", unit="batch"):
        part = slice(start, start + batch)
        scores.append(score([read_picture(path) for path in files[part]], prompts[part]))
    whole = torch.cat(scores)
    return {"clip_score": whole.mean().item(), "clip_score_deviation": whole.std(correction=0).item()}


def read_picture(path: Path) -> Image.Image:
    with Image.open(path) as file:
        return on_white(file)


def main() -> None:
    args = arguments()
    out, device = args.out or args.made / "scores.json", resolve_device(args.device)
    made, real = (pictures_in(folder) if folder else [] for folder in (args.made, args.real))
    prompts = [prompt_of(path) for path in made] if args.clip else []           # what lacks is said before the work
    network = load_network(args.features, device) if args.features else None
    scorer = ClipScorer(args.clip, args.clip_file, device, args.clip_prefix) if args.clip else None
    if network and min(len(made), len(real)) <= NEIGHBOURS:
        raise ValueError(f"{len(made)} made and {len(real)} real pictures are too few; take more than {NEIGHBOURS} of "
                         "each")
    scores: dict[str, Any] = {"made": len(made)}
    if network:
        with tempfile.TemporaryDirectory() as folder:
            stores = {"real": real, "made": made}
            features = {name: seen(network, files, Path(folder, name), device, args) for name, files in stores.items()}
            scores |= against_real(**features)
    if scorer:
        scores |= against_prompts(scorer, made, prompts, args.batch)
    for name, score in scores.items():
        print(f"{name:22}{score:.6g}" if isinstance(score, float) else f"{name:22}{score}")
    told = {"flags": {name: str(flag) for name, flag in vars(args).items() if flag is not None}, **scores}
    write_atomically(out, lambda path: path.write_text(json.dumps(told, indent=2), encoding="utf-8"))


if __name__ == "__main__":
    cli.run(main)
