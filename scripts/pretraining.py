"""What train_vae.py and train_unet.py share: flags, pictures, where a run stands, the ranks that it runs on."""

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cli
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ldm.loading import resolve_device
from ldm.training.activations import recompute
from ldm.training.checkpoint import check_run, load_state, newest, prune, save_state, state_path
from ldm.training.data import ImageFolder, check_outside, split
from ldm.training.distributed import World, is_main, replicate, shard, world
from ldm.training.progress import SCHEDULES, Losses
from ldm.training.shards import Shards, open_data
from ldm.training.streams import Reader


def parser(doc: str | None, batch: int, lr: float, warmup: int, held_out: int) -> argparse.ArgumentParser:
    """A parser with the flags of data, optimization, record and machines."""
    p = cli.Parser(doc)
    p.add_argument("--data", required=True, help="folder of pictures, or tar shards: a folder of them, or a pattern "
                                                 "such as 'shards/{000..099}.tar'")
    p.add_argument("--held-out-data", help="pictures to evaluate on, likewise (default: some of the folder --data)")
    p.add_argument("--held-out", type=cli.positive, default=held_out,
                   help=f"pictures to evaluate on (default {held_out})")
    p.add_argument("--out", type=Path, required=True, help="folder to write; an interrupted run there is resumed")
    p.add_argument("--size", type=cli.positive, default=128, help="side in pixels, a multiple of 8 (default 128)")
    p.add_argument("--steps", type=cli.positive, default=5000, help="training steps (default 5000)")
    p.add_argument("--batch", type=cli.positive, default=batch,
                   help=f"samples of one rank at a time (default {batch})")
    p.add_argument("--accumulate", type=cli.positive, default=1, metavar="N",
                   help="batches whose gradients are added up for one step (default 1)")
    p.add_argument("--lr", type=float, default=lr, help=f"peak learning rate of AdamW (default {lr})")
    p.add_argument("--schedule", choices=SCHEDULES, default="cosine", help="learning rate after warm-up: falling along "
                                                                           "a cosine, or constant (default cosine)")
    p.add_argument("--warmup", type=int, default=warmup, help=f"steps of learning-rate warm-up (default {warmup})")
    p.add_argument("--ema", type=float, default=0.999, help="decay of the averaged weights (default 0.999)")
    p.add_argument("--every", type=cli.positive, default=250,
                   help="steps between checkpoints and evaluations (default 250)")
    p.add_argument("--keep", type=cli.positive, default=2, help="checkpoints kept to resume from (default 2)")
    p.add_argument("--seed", type=int, default=0, help="seed of weights, order and noise (default 0)")
    p.add_argument("--workers", type=int, default=0, help="processes of each rank that read pictures (default 0: "
                                                          "they are read in between)")
    cli.add_device(p)
    p.add_argument("--fsdp", action="store_true", help="cut weights, gradients and moments over the ranks (FSDP2); "
                                                       "default: each has them whole (DDP)")
    p.add_argument("--bf16", action="store_true", help="bfloat16 autocast; ranks send gradients in bfloat16 too")
    p.add_argument("--checkpointing", action="store_true", help="keep fewer activations and compute them again")
    p.add_argument("--compile", action="store_true", help="torch.compile the networks (needs a C++ compiler)")
    p.add_argument("--tensorboard", action="store_true", help="losses and samples for TensorBoard too")
    return p


def launch(train: Callable[[argparse.Namespace, World], None], args: argparse.Namespace) -> None:
    """Train on the ranks that torchrun started, or in this process alone."""
    with world(resolve_device(args.device)) as here:
        if args.fsdp and not here.launched:
            raise ValueError("--fsdp cuts weights over the ranks of torchrun; start this script with torchrun")
        train(args, here)


def open_pictures(args: argparse.Namespace, vae: str = "") -> tuple[ImageFolder | Shards, Tensor, list[list[str]]]:
    """What to train on, and held-out pictures [N 3 H W], or latents of the VAE with this digest, with their captions.

    Raises ValueError where shards come without pictures to hold out, or --out lies in a folder of pictures.
    """
    data = open_data(args.data, args.size, vae)
    if isinstance(data, ImageFolder):
        check_outside(args.out, data.folder)
    if args.held_out_data:
        return data, *open_data(args.held_out_data, args.size, vae).first(args.held_out)
    if isinstance(data, Shards):
        raise ValueError(f"of shards none is held out by itself; give --held-out-data, such as {data.urls[-1]}, and "
                         "leave that out of --data")
    train, held = split(len(data), min(args.held_out, len(data) // 2))
    return data.only(train), *data.only(held).first(args.held_out)


def distribute(network: nn.Module, parts: Iterable[nn.Module], blocks: tuple[type[nn.Module], ...],
               args: argparse.Namespace, here: World) -> nn.Module:
    """The network as it is to be called, on its device: recomputing `blocks`, its `parts` sharded, or replicated."""
    if args.checkpointing:
        recompute(network, blocks)
    if args.compile:
        network.compile()
    if args.fsdp:
        shard(parts, blocks, here)
        return network
    return replicate(network.to(here.device), here, args.bf16)


def resume(args: argparse.Namespace, run: dict[str, Any], **parts: Any) -> tuple[int, dict[str, Any] | None]:
    """Load the last checkpoint of --out into the parts: how many steps are done, and the position in the data.

    `run`: what else has to be as it was.  Raises ValueError where it is not.
    """
    args.out.mkdir(parents=True, exist_ok=True)
    if is_main():
        prune(args.out, args.keep)
    path = newest(args.out)
    if path is None:
        return 0, None
    saved = load_state(path, **parts)
    check_run(path, saved, run)
    return saved["step"], saved["position"]


def save(args: argparse.Namespace, run: dict[str, Any], step: int, reader: Reader, **parts: Any) -> None:
    """Write what `resume` reads after so many steps, and drop older checkpoints."""
    save_state(state_path(args.out, step), run=run, step=step, position=reader.position(), **parts)
    if is_main():
        prune(args.out, args.keep)


def record(args: argparse.Namespace, start: int) -> Losses:
    """The table of losses of a run that goes on from step `start`."""
    board = args.out / "tensorboard" if args.tensorboard else None
    return Losses(args.out / "losses.csv", ["train", "held out"], board, start)


def autocast(args: argparse.Namespace, here: World) -> torch.autocast:
    """bfloat16 inside, where the flags ask for it."""
    return torch.autocast(here.device.type, torch.bfloat16, enabled=args.bf16)


def set_rate(opt: torch.optim.Optimizer, peak: float, step: int, args: argparse.Namespace) -> None:
    """Give the optimizer the learning rate of a step."""
    for group in opt.param_groups:
        group["lr"] = peak * SCHEDULES[args.schedule](step, args.steps, args.warmup)


def steps(args: argparse.Namespace, start: int) -> Iterable[int]:
    """The steps that are left, with a progress bar on the main rank."""
    return tqdm(range(start, args.steps), initial=start, total=args.steps, unit="step", mininterval=2,
                disable=not is_main())


def due(args: argparse.Namespace, step: int) -> bool:
    """Whether a checkpoint follows this step."""
    return (step + 1) % args.every == 0 or step + 1 == args.steps
