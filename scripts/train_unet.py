"""Train a UNet and its text encoder on a folder of captioned pictures, in the latents of a VAE.

    python scripts/train_unet.py --data DIR --vae vae.safetensors --out DIR [--steps 5000]

Rombach et al. 2022, eq. 3, with v-prediction by default (Salimans & Ho 2022) and captions dropped for guidance.
Writes to --out: model.safetensors (EMA weights and the VAE, official layout), state.pt (resumes), losses.csv and .png,
samples.png (held-out captions drawn by the EMA weights), latents.safetensors (cache).
"""

import argparse
import math
from dataclasses import replace
from pathlib import Path

import cli
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from tqdm import tqdm

from ldm import Pipeline
from ldm.files import write_atomically
from ldm.images import to_images
from ldm.loading import load_vae
from ldm.samplers import CFG, SAMPLERS, Denoiser, Prediction, Schedule, seeded_noise
from ldm.text import CLIPText, CLIPTextConfig, Tokenizer
from ldm.text import names as text_names
from ldm.training.data import Captions, ImageFolder, batch_indices, generator, split
from ldm.training.ema import EMA
from ldm.training.latents import cached_latents
from ldm.training.progress import Losses, cosine, grid, load_state, save_state
from ldm.unet import UNet, UNetConfig
from ldm.unet import names as unet_names
from ldm.unet.blocks import TransformerBlock
from ldm.vae import VAE
from ldm.vae import names as vae_names
from ldm.weights import save_checkpoint


def parse() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", type=Path, required=True, help="folder of pictures with captions")
    p.add_argument("--vae", type=Path, required=True, help="file of the VAE")
    p.add_argument("--out", type=Path, required=True, help="folder to write; an interrupted run there is resumed")
    p.add_argument("--init", type=Path, help="model file to start from, of the same widths (default: random weights)")
    p.add_argument("--size", type=cli.positive, default=128, help="side in pixels, a multiple of 8 (default 128)")
    p.add_argument("--channels", type=cli.positive, default=96, help="width of the first level (default 96)")
    p.add_argument("--multipliers", type=cli.positive, nargs="+", default=[1, 2, 2],
                   help="width per level over the first (default 1 2 2)")
    p.add_argument("--attn", type=int, nargs="+", default=[0, 1, 1], help="transformers per level (default 0 1 1)")
    p.add_argument("--res-blocks", type=cli.positive, default=1, help="ResBlocks per level (default 1)")
    p.add_argument("--heads", type=cli.positive, default=4, help="attention heads of the UNet (default 4)")
    p.add_argument("--groups", type=cli.positive, default=16, help="groups of the UNet's GroupNorms (default 16)")
    p.add_argument("--text-width", type=cli.positive, default=256, help="text encoder, a multiple of 64 (default 256)")
    p.add_argument("--text-layers", type=cli.positive, default=2, help="layers of the text encoder (default 2)")
    p.add_argument("--prediction", choices=["eps", "v", "x0"], default="v", help="what the UNet learns (default v)")
    p.add_argument("--guidance", type=float, default=4.0, help="guidance of samples, stored as the default (default 4)")
    p.add_argument("--drop", type=float, default=0.1, help="share of captions dropped for guidance (default 0.1)")
    p.add_argument("--steps", type=cli.positive, default=5000, help="training steps (default 5000)")
    p.add_argument("--batch", type=cli.positive, default=32, help="latents per step (default 32)")
    p.add_argument("--lr", type=float, default=1e-3, help="peak learning rate of AdamW (default 0.001)")
    p.add_argument("--warmup", type=int, default=200, help="steps of learning-rate warm-up (default 200)")
    p.add_argument("--ema", type=float, default=0.999, help="decay of the averaged weights (default 0.999)")
    p.add_argument("--held-out", type=cli.positive, default=128, help="pictures kept for evaluation (default 128)")
    p.add_argument("--every", type=cli.positive, default=250,
                   help="steps between checkpoints and evaluations (default 250)")
    p.add_argument("--seed", type=int, default=0, help="seed of weights, order and noise (default 0)")
    p.add_argument("--bf16", action="store_true", help="bfloat16 autocast")
    p.add_argument("--compile", action="store_true", help="torch.compile the networks (needs a C++ compiler)")
    return p.parse_args()


class TextToNoise(nn.Module):
    """The two networks that are trained together.  x [B 4 h w], t [B], ids [B 77] -> prediction [B 4 h w]."""

    def __init__(self, unet: UNetConfig, text: CLIPTextConfig):
        super().__init__()
        self.text, self.unet = CLIPText(text), UNet(unet)
        nn.init.normal_(self.text.token_embedding.weight)  # as large as what attention mixes in, or words drown in it
        nn.init.normal_(self.text.position_embedding.weight, std=0.3)
        for block in (m for m in self.unet.modules() if isinstance(m, TransformerBlock)):
            for layer in (block.cross_attn.q, block.cross_attn.k, block.cross_attn.v, block.cross_attn.out):
                layer.weight.data *= 2              # or it nearly averages 77 tokens, and the words are lost
        nn.init.zeros_(self.unet.conv_out.weight)

    def forward(self, x: Tensor, t: Tensor, ids: Tensor) -> Tensor:
        return self.unet(x, t, self.text(ids))


def spread_timesteps(batch: int, timesteps: int, g: torch.Generator) -> Tensor:
    """One timestep from each of `batch` equal parts of 0..timesteps - 1: uniform, but with less variance in the loss.

    Kingma et al. 2021 (Variational Diffusion Models), appendix I.1.
    """
    return ((torch.arange(batch) + torch.rand(batch, generator=g)) * timesteps / batch).long().clamp(max=timesteps - 1)


@torch.no_grad()
def held_out_loss(model: TextToNoise, latents: Tensor, ids: Tensor, schedule: Schedule,
                  prediction: Prediction) -> float:
    """Loss on held-out latents, with the same timesteps and noise at every call."""
    t = torch.arange(len(latents)) * schedule.timesteps // len(latents)
    noise = torch.randn(latents.shape, generator=generator(0, 0))
    x, target = schedule.add_noise(latents, noise, t), schedule.target(latents, noise, t, prediction)
    parts = zip(x.split(64), t.split(64), ids.split(64), target.split(64), strict=True)
    return sum(F.mse_loss(model(a, b, c), d).item() * len(a) for a, b, c, d in parts) / len(x)


@torch.no_grad()
def draw(model: TextToNoise, vae: VAE, ids: Tensor, empty: Tensor, schedule: Schedule,
         args: argparse.Namespace) -> Tensor:
    """One picture per row of token ids, DDIM, 20 steps -> [B 3 H W]."""
    denoise = CFG(Denoiser(model.unet, schedule, args.prediction), model.text(ids), model.text(empty), args.guidance)
    side = args.size // vae.cfg.factor
    noise, sigmas = seeded_noise(range(len(ids))), schedule.sigmas(20, "leading")
    x = math.hypot(1, sigmas[0]) * noise(torch.zeros(len(ids), 4, side, side))
    *_, last = SAMPLERS["ddim"](denoise, x, sigmas, noise)
    return torch.cat([vae.decode(z / vae.cfg.scale_factor) for z in last.z.split(4)])


def build(args: argparse.Namespace, words: int) -> TextToNoise:
    """The networks that the flags describe, with a vocabulary of so many words, at their start."""
    unet = UNetConfig(channels=args.channels, multipliers=tuple(args.multipliers), res_blocks=args.res_blocks,
                      attn_levels=tuple(map(bool, args.attn)), cross_only=(False,) * len(args.attn),
                      context_width=args.text_width, heads=args.heads, groups=args.groups)
    torch.manual_seed(args.seed)
    model = TextToNoise(unet, CLIPTextConfig(vocab=words, width=args.text_width, layers=args.text_layers))
    return model.to(memory_format=torch.channels_last)


def start_from(model: TextToNoise, path: Path, captions: Captions) -> None:
    """Copy the weights of a model file; words that it never saw keep their random rows.

    Raises ValueError where the networks differ in shape.
    """
    pipe = Pipeline.load(path, device="cpu", dtype="float32", kernels="plain")
    text = replace(pipe.text.cfg, vocab=model.text.cfg.vocab)
    if (pipe.unet.cfg, text) != (model.unet.cfg, model.text.cfg):
        raise ValueError(f"{path} has {pipe.unet.cfg} and {text}, the flags say {model.unet.cfg} and {model.text.cfg}; "
                         "give the flags of that model")
    weights = pipe.text.state_dict()
    rows = weights["token_embedding.weight"][captions.vocabulary]
    weights["token_embedding.weight"] = torch.where(rows.any(1, keepdim=True), rows, model.text.token_embedding.weight)
    model.text.load_state_dict(weights)
    model.unet.load_state_dict(pipe.unet.state_dict())


def save(model: TextToNoise, ema: EMA, captions: Captions, vae: VAE, args: argparse.Namespace) -> None:
    """Write the averaged weights and the VAE as one model."""
    unet, text = ({name.removeprefix(part): weight for name, weight in ema.weights.items() if name.startswith(part)}
                  for part in ("unet.", "text."))
    states = {"unet": (unet, unet_names.rows(model.unet.cfg)), "vae": (vae.state_dict(), vae_names.rows(vae.cfg)),
              "text": (captions.dense(text), text_names.rows(model.text.cfg))}
    metadata = {"heads": args.heads, "groups": args.groups, "vae_groups": vae.cfg.groups, "size": args.size,
                "scale_factor": vae.cfg.scale_factor, "prediction": args.prediction, "guidance": args.guidance}
    save_checkpoint(args.out / "model.safetensors", states, metadata, captions.vocabulary)


def main() -> None:
    args = parse()
    vae, schedule, data = load_vae(args.vae).requires_grad_(False), Schedule(), ImageFolder(args.data, args.size)
    train, held = split(len(data), min(args.held_out, len(data) // 2))
    captions = Captions(data.texts, Tokenizer())
    model = build(args, len(captions.vocabulary))               # before the long work, so that wrong flags show at once
    if args.init:
        start_from(model, args.init, captions)
    args.out.mkdir(parents=True, exist_ok=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
        latents = cached_latents(args.out / "latents.safetensors", vae, data)
    held_latents, held_ids = latents[held].float(), captions.first(held)

    opt = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    ema = EMA(model, args.ema)
    losses = Losses(args.out / "losses.csv", ["train", "held out"])
    start, state = 0, args.out / "state.pt"
    parts = {"model": model, "opt": opt, "ema": ema}
    if state.exists():
        start = load_state(state, **parts)["step"]
    network = torch.compile(model) if args.compile else model

    def evaluate() -> float:
        with ema.applied(model):
            shown = draw(model, vae, held_ids[::max(len(held) // 24, 1)][:24], captions.empty, schedule, args)
            write_atomically(args.out / "samples.png", grid(to_images(shown), min(8, len(shown))).save)
            return held_out_loss(model, held_latents, held_ids, schedule, args.prediction)

    if start == 0:
        first = evaluate()
        losses.add(0, first, first)
    recent = []
    for step in tqdm(range(start, args.steps), initial=start, total=args.steps, unit="step", mininterval=2):
        opt.param_groups[0]["lr"] = args.lr * cosine(step, args.steps, args.warmup)
        g = generator(args.seed + 1, step)
        picked = [train[i] for i in batch_indices(len(train), args.batch, args.seed, step)]
        x0, ids = latents[picked].float(), captions.draw(picked, args.drop, g)
        t, noise = spread_timesteps(len(x0), schedule.timesteps, g), torch.randn(x0.shape, generator=g)
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            predicted = network(schedule.add_noise(x0, noise, t), t, ids)
        loss = F.mse_loss(predicted.float(), schedule.target(x0, noise, t, args.prediction))
        opt.zero_grad()
        loss.backward()
        clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        ema.update(model)
        recent.append(loss.item())
        if (step + 1) % args.every == 0 or step + 1 == args.steps:
            losses.add(step + 1, sum(recent) / len(recent), evaluate())
            save(model, ema, captions, vae, args)
            save_state(state, step=step + 1, **parts)
            losses.draw()
            recent = []


if __name__ == "__main__":
    cli.run(main)
