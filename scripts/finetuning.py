"""What the two programs that fine-tune on a few pictures share: flags, the model, the loop."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cli
import pretraining
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from ldm import Pipeline
from ldm.files import remove_partials
from ldm.loading import PREDICTIONS
from ldm.plugins import find
from ldm.prepare import use_kernels
from ldm.training.checkpoint import check_run, load_state, save_state
from ldm.training.data import ImageFolder, check_outside
from ldm.training.progress import SCHEDULES, Losses, grid


def parser(doc: str | None, lr: float) -> argparse.ArgumentParser:
    """A parser with the flags of pictures, model, training and output."""
    p = cli.Parser(doc)
    p.add_argument("--data", type=Path, required=True, help="folder of pictures, 3 to 10 are enough; captions from "
                                                            "metadata.jsonl or a .txt beside each win over --prompt")
    p.add_argument("--prompt", nargs="+", required=True, help='what the pictures show, as "3d render of a zorbl"; of '
                                                              "several one is drawn each time")
    p.add_argument("--out", type=Path, required=True, help="folder to write; an interrupted run there is resumed")
    p.add_argument("--ckpt", help="model file or its name in models/ (default: bundled model)")
    p.add_argument("--prediction", choices=PREDICTIONS, help="what the network predicts (default: as the file says)")
    cli.add_models_dir(p, "models and embeddings")
    p.add_argument("--size", type=cli.positive, help="side in pixels, a multiple of 8 (default: the model's)")
    p.add_argument("--steps", type=cli.positive, default=500, help="training steps (default 500)")
    p.add_argument("--batch", type=cli.positive, default=4, help="pictures per step (default 4)")
    p.add_argument("--lr", type=float, default=lr,
                   help=f"peak learning rate of AdamW (default {lr}; large models want a tenth)")
    p.add_argument("--schedule", choices=SCHEDULES, default="constant",
                   help="learning rate after warm-up: falling along a cosine, or constant (default constant)")
    p.add_argument("--warmup", type=cli.positive, default=20, help="steps of learning-rate warm-up (default 20)")
    p.add_argument("--min-snr", type=float, help="weigh noise levels by min-SNR with this gamma, as 5 (default: alike)")
    p.add_argument("--every", type=cli.positive, default=100, help="steps between checkpoints (default 100)")
    p.add_argument("--samples", type=int, default=4, help="pictures of --prompt drawn at each (default 4; 0: none)")
    p.add_argument("--seed", type=int, default=0, help="seed of first weights, order and noise (default 0)")
    cli.add_device(p)
    p.add_argument("--bf16", action="store_true", help="bfloat16 autocast")
    return p


def open_model(args: argparse.Namespace) -> Pipeline:
    """The model that is learned on, frozen, in float32; --size becomes its own where it was not said.

    Raises ValueError for a size that is no multiple of 8, a model that takes more than latents, and --out in --data.
    """
    check_outside(args.out, args.data)
    path = find("models", args.ckpt, args.models_dir) if args.ckpt is not None else None
    pipe = Pipeline.load(path, args.device, "float32", kernels="plain", prediction=args.prediction)
    taken, latents = pipe.unet.cfg.in_channels, pipe.vae.cfg.latent_channels
    if taken != latents:
        raise ValueError(f"{pipe.origin.model} takes {taken} channels, more than the {latents} of latents; train on a "
                         "model that neither inpaints nor enlarges")
    args.size = args.size or pipe.size
    if args.size % pipe.vae.cfg.factor:
        raise ValueError(f"--size {args.size} is not a multiple of {pipe.vae.cfg.factor}; try {pipe.size}")
    for network in pipe.networks.values():
        network.requires_grad_(False)
    return pipe


def run_of(args: argparse.Namespace, pipe: Pipeline, data: ImageFolder, **told: Any) -> dict[str, Any]:
    """What a run learns, and from which model.  Raises ValueError where the one in --out learned something else."""
    run = {"model": pipe.origin.model_hash, "prediction": pipe.prediction, **told,
           "pictures": [file.name for file in data.files]}
    state = args.out / "state.pt"
    if state.exists():
        check_run(state, load_state(state), run)
    return run


def learn(args: argparse.Namespace, pipe: Pipeline, run: dict[str, Any], learned: nn.Module,
          loss: Callable[[int], Tensor], save: Callable[[int], None]) -> None:
    """Train `learned` by the loss of each step up to --steps, from where --out stands.

    At every checkpoint `save(steps done)` writes what is learned, and then state.pt holds what resumes.
    `run`: of `run_of`.
    """
    use_kernels(pipe.unet, "auto")
    args.out.mkdir(parents=True, exist_ok=True)
    remove_partials(args.out)
    opt = torch.optim.AdamW(learned.parameters(), lr=args.lr, weight_decay=0)
    losses, state, done, recent = Losses(args.out / "losses.csv", ["loss"]), args.out / "state.pt", 0, []
    if state.exists():
        done = load_state(state, weights=learned, opt=opt)["step"]
    for step in pretraining.steps(args, done):
        pretraining.set_rate(opt, args.lr, step, args)
        opt.zero_grad()
        with torch.autocast(pipe.device.type, torch.bfloat16, enabled=args.bf16):
            value = loss(step)
        value.backward()
        clip_grad_norm_(learned.parameters(), 1.0)
        opt.step()
        recent.append(value.item())
        if pretraining.due(args, step):
            losses.add(step + 1, sum(recent) / len(recent))
            losses.draw()
            if args.samples:
                shown = pipe(args.prompt[0], count=args.samples, seed=args.seed)
                losses.show(step + 1, grid(shown, min(8, len(shown))))
            save(step + 1)
            save_state(state, run=run, step=step + 1, weights=learned, opt=opt)
            recent = []
