"""Teach a model one character from a few pictures of it: a LoRA, with DreamBooth's class pictures if wanted.

    python scripts/train_lora.py --data zorbl --prompt "3d render of a zorbl" --out loras/zorbl
    python scripts/txt2img.py "3d render of a zorbl on a green background <lora:zorbl>"

Hu et al. 2022 (LoRA); Ruiz et al. 2023, eq. 2 (DreamBooth): what the model draws for --class-prompt is learned along,
so that it is not forgotten.
Writes to --out: <its name>.safetensors (kohya's layout), state.pt (resumes), losses.csv and .png, samples.png.
"""

import argparse
import itertools
import json
from collections import Counter
from pathlib import Path

import cli
import finetuning
import torch
from torch import Tensor
from tqdm import tqdm

from ldm import Pipeline
from ldm.files import listed, write_atomically
from ldm.plugins import find
from ldm.training.data import SUFFIXES, ImageFolder
from ldm.training.finetune import Examples, batch_loss
from ldm.training.lora import ENDINGS, adapt, save_lora


def parse() -> argparse.Namespace:
    p = finetuning.parser(__doc__, lr=1e-3)
    p.add_argument("--rank", type=cli.positive, default=8, help="width of the adapters (default 8)")
    p.add_argument("--alpha", type=float, help="strength of the adapters, times their rank (default: the rank)")
    p.add_argument("--layers", choices=ENDINGS, default="attention",
                   help="attention; transformer: feed-forward layers too; all: convolutions too (default attention)")
    p.add_argument("--text", action="store_true", help="adapt the text encoder too")
    p.add_argument("--embedding", action="append", default=[], metavar="NAME",
                   help="a textual inversion whose word is in the prompts: a file, or its name in embeddings/")
    p.add_argument("--class-prompt", nargs="+", help='what must not be forgotten, as "3d render of an owl"; of several '
                                                     "each in turn")
    p.add_argument("--class-data", type=Path, help="folder of pictures of it (default: class in --out)")
    p.add_argument("--class-count", type=cli.positive, default=100,
                   help="pictures wanted there; those that lack are drawn by the model (default 100)")
    p.add_argument("--prior-weight", type=float, default=1.0, help="weight of their loss (default 1)")
    args = p.parse_args()
    args.alpha = args.rank if args.alpha is None else args.alpha
    args.class_data = args.class_data or args.out / "class"
    return args


def draw_class(pipe: Pipeline, args: argparse.Namespace) -> None:
    """Draw class pictures until there are enough: picture i has seed i, and its prompt in a .txt beside it."""
    folder: Path = args.class_data
    folder.mkdir(parents=True, exist_ok=True)
    present = len(listed(folder, SUFFIXES))
    free = (i for i in itertools.count() if not (folder / f"drawn-{i:04d}.png").exists())
    for i in tqdm([*itertools.islice(free, max(args.class_count - present, 0))], unit="picture", mininterval=2):
        prompt, path = args.class_prompt[i % len(args.class_prompt)], folder / f"drawn-{i:04d}.png"
        [picture] = pipe(prompt, seed=i, width=args.size, height=args.size)
        path.with_suffix(".txt").write_text(prompt, encoding="utf-8")
        write_atomically(path, picture.save)


def metadata(pipe: Pipeline, own: Examples, name: str, args: argparse.Namespace) -> dict[str, str]:
    """What other programs show of a LoRA, by the names of kohya-ss/sd-scripts train_network.py."""
    is_sd2 = pipe.unet.cfg.family == "sd2"
    captions = Counter(prompt for several in own.prompts for prompt in several)
    told = {"network_module": "networks.lora", "network_dim": args.rank, "network_alpha": float(args.alpha),
            "base_model_version": f"sd_v{2 if is_sd2 else 1}{'_v' if pipe.prediction == 'v' else ''}", "v2": is_sd2,
            "sd_model_name": pipe.origin.model, "output_name": name, "resolution": (args.size, args.size),
            "num_train_images": len(own.prompts), "learning_rate": args.lr, "seed": args.seed,
            "min_snr_gamma": args.min_snr, "prior_loss_weight": args.prior_weight,
            "tag_frequency": json.dumps({args.data.name: captions})}
    if args.layers == "all":
        told["network_args"] = json.dumps({"conv_dim": args.rank, "conv_alpha": args.alpha})
    return {f"ss_{key}": str(value) for key, value in told.items()}


def main() -> None:
    args = parse()
    pipe = finetuning.open_model(args)
    for name in args.embedding:
        pipe.load_embedding(find("embeddings", name, args.models_dir))
    data, kind = ImageFolder(args.data, args.size), None
    own = Examples.of(pipe, data, args.prompt)
    run = finetuning.run_of(args, pipe, data, captions=own.prompts, embedding=args.embedding,
                            class_prompt=args.class_prompt)
    torch.manual_seed(args.seed)
    adapters = adapt(pipe.unet, pipe.text if args.text else None, args.rank, args.alpha, args.layers).to(pipe.device)
    if args.class_prompt:
        draw_class(pipe, args)                          # the adapters add nothing as yet
        kind = Examples.of(pipe, ImageFolder(args.class_data, args.size), args.class_prompt)
    name = args.out.resolve().name
    told = metadata(pipe, own, name, args)

    def loss(step: int) -> Tensor:
        value = batch_loss(pipe, own, args.batch, args.seed, step, args.min_snr)
        if kind:
            value = value + args.prior_weight * batch_loss(pipe, kind, args.batch, args.seed + 1, step, args.min_snr)
        return value

    def save(steps: int) -> None:
        save_lora(args.out / f"{name}.safetensors", adapters, told | {"ss_steps": str(steps)})

    finetuning.learn(args, pipe, run, adapters, loss, save)


if __name__ == "__main__":
    cli.run(main)
