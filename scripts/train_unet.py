"""Train a UNet and its text encoder on a folder of captioned pictures, in the latents of a VAE.

    python scripts/train_unet.py --data DIR --vae vae.safetensors --out DIR [--steps 5000]

Rombach et al. 2022, eq. 3, with v-prediction by default (Salimans & Ho 2022) and captions dropped for guidance.
Writes to --out: model.safetensors (EMA weights and the VAE, official layout), state.pt (resumes), losses.csv and .png,
samples.png (held-out captions drawn by the EMA weights), latents.safetensors (cache).
"""

import argparse
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from tqdm import tqdm

from ldm.files import write_atomically
from ldm.images import to_images
from ldm.samplers import CFG, SAMPLERS, Denoiser, Schedule, seeded_noise
from ldm.text import CLIPText, CLIPTextConfig, Tokenizer
from ldm.text.names import rows as text_rows
from ldm.training.data import Captions, ImageFolder, batch_indices, generator, split
from ldm.training.ema import EMA
from ldm.training.latents import cached_latents
from ldm.training.progress import Losses, cosine, grid, load_state, save_state
from ldm.unet import UNet, UNetConfig
from ldm.unet.names import rows as unet_rows
from ldm.vae import VAE
from ldm.vae.names import config_from
from ldm.vae.names import rows as vae_rows
from ldm.weights import fill, open_checkpoint, save_checkpoint


def parse() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", type=Path, required=True, help="folder of pictures with captions")
    p.add_argument("--vae", type=Path, required=True, help="file of the VAE")
    p.add_argument("--out", type=Path, required=True, help="folder to write; an interrupted run there is resumed")
    p.add_argument("--size", type=int, default=128, help="side in pixels, a multiple of 8 (default 128)")
    p.add_argument("--channels", type=int, default=96, help="width of the first level (default 96)")
    p.add_argument("--multipliers", type=int, nargs="+", default=[1, 2, 2], help="width per level (default 1 2 2)")
    p.add_argument("--attn", type=int, nargs="+", default=[0, 1, 1], help="transformers per level (default 0 1 1)")
    p.add_argument("--res-blocks", type=int, default=1, help="ResBlocks per level (default 1)")
    p.add_argument("--heads", type=int, default=4, help="attention heads of the UNet (default 4)")
    p.add_argument("--groups", type=int, default=16, help="groups of the UNet's GroupNorms (default 16)")
    p.add_argument("--text-width", type=int, default=256, help="text encoder, a multiple of 64 (default 256)")
    p.add_argument("--text-layers", type=int, default=2, help="layers of the text encoder (default 2)")
    p.add_argument("--prediction", choices=["eps", "v", "x0"], default="v", help="what the UNet learns (default v)")
    p.add_argument("--guidance", type=float, default=4.0, help="guidance of samples, stored as the default (default 4)")
    p.add_argument("--drop", type=float, default=0.1, help="share of captions dropped for guidance (default 0.1)")
    p.add_argument("--steps", type=int, default=5000, help="training steps (default 5000)")
    p.add_argument("--batch", type=int, default=32, help="latents per step (default 32)")
    p.add_argument("--lr", type=float, default=1e-3, help="peak learning rate of AdamW (default 0.001)")
    p.add_argument("--warmup", type=int, default=200, help="steps of learning-rate warm-up (default 200)")
    p.add_argument("--ema", type=float, default=0.999, help="decay of the averaged weights (default 0.999)")
    p.add_argument("--held-out", type=int, default=128, help="pictures kept for evaluation (default 128)")
    p.add_argument("--every", type=int, default=250, help="steps between checkpoints and evaluations (default 250)")
    p.add_argument("--seed", type=int, default=0, help="seed of weights, order and noise (default 0)")
    p.add_argument("--bf16", action="store_true", help="bfloat16 autocast")
    p.add_argument("--compile", action="store_true", help="torch.compile the networks (needs a C++ compiler)")
    return p.parse_args()


def load_vae(path: Path) -> tuple[VAE, dict]:
    """The VAE of a VAE file or full model, in float32, and the file's metadata."""
    source = open_checkpoint(path, expect="vae")
    with torch.device("meta"):
        vae = VAE(config_from(source.parts["vae"].shapes, groups=source.metadata.get("vae_groups", 32)))
    fill(vae, vae_rows(vae.cfg), source.parts["vae"], torch.float32)
    return vae.eval().requires_grad_(False), source.metadata


class TextToNoise(nn.Module):
    """The two networks that are trained together.  x [B 4 h w], t [B], ids [B 77] -> prediction [B 4 h w]."""

    def __init__(self, unet: UNetConfig, text: CLIPTextConfig):
        super().__init__()
        self.text, self.unet = CLIPText(text), UNet(unet)
        for embedding in (self.text.token_embedding, self.text.position_embedding):
            nn.init.normal_(embedding.weight, std=0.02)     # as CLIP; PyTorch's default of 1 takes long to move
        nn.init.zeros_(self.unet.conv_out.weight)

    def forward(self, x: Tensor, t: Tensor, ids: Tensor) -> Tensor:
        return self.unet(x, t, self.text(ids))


@torch.no_grad()
def held_out_loss(model: nn.Module, latents: Tensor, ids: Tensor, schedule: Schedule, prediction) -> float:
    """Loss on held-out latents, with the same timesteps and noise at every call."""
    g = generator(0, 0)
    t = torch.arange(len(latents)) * 1000 // len(latents)
    noise = torch.randn(latents.shape, generator=g)
    x, target = schedule.add_noise(latents, noise, t), schedule.target(latents, noise, t, prediction)
    parts = zip(x.split(64), t.split(64), ids.split(64), target.split(64), strict=True)
    return sum(F.mse_loss(model(a, b, c), d).item() * len(a) for a, b, c, d in parts) / len(x)


@torch.no_grad()
def draw(model: TextToNoise, vae: VAE, ids: Tensor, empty: Tensor, schedule: Schedule, args) -> Tensor:
    """One picture per row of token ids, DDIM, 20 steps -> [B 3 H W]."""
    denoise = CFG(Denoiser(model.unet, schedule, args.prediction), model.text(ids), model.text(empty), args.guidance)
    side = args.size // vae.cfg.factor
    noise, sigmas = seeded_noise(range(len(ids))), schedule.sigmas(20, "leading")
    x = math.hypot(1, sigmas[0]) * noise(torch.zeros(len(ids), 4, side, side))
    *_, last = SAMPLERS["ddim"](denoise, x, sigmas, noise)
    return torch.cat([vae.decode(z / vae.cfg.scale_factor) for z in last.z.split(4)])


def main() -> None:
    args = parse()
    args.out.mkdir(parents=True, exist_ok=True)
    vae, vae_metadata = load_vae(args.vae)
    data, schedule = ImageFolder(args.data, args.size), Schedule()
    with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
        latents = cached_latents(args.out / "latents.safetensors", vae, data)
    captions = Captions(data.texts, Tokenizer())
    train, held = split(len(data), min(args.held_out, len(data) // 2))
    held_latents, held_ids = latents[held].float(), captions.first(held)

    torch.manual_seed(args.seed)
    unet_cfg = UNetConfig(channels=args.channels, multipliers=tuple(args.multipliers), res_blocks=args.res_blocks,
                          attn_levels=tuple(map(bool, args.attn)), cross_only=(False,) * len(args.attn),
                          context_width=args.text_width, heads=args.heads, groups=args.groups)
    text_cfg = CLIPTextConfig(vocab=len(captions.vocabulary), width=args.text_width, layers=args.text_layers)
    model = TextToNoise(unet_cfg, text_cfg).to(memory_format=torch.channels_last)
    opt = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    ema = EMA(model, args.ema)
    losses = Losses(args.out / "losses.csv", ["train", "held out"])
    start, state = 0, args.out / "state.pt"
    parts = {"model": model, "opt": opt, "ema": ema}
    if state.exists():
        start = load_state(state, **parts)["step"]
    network = torch.compile(model) if args.compile else model

    def save() -> None:
        text = captions.dense({k.removeprefix("text."): v for k, v in ema.weights.items() if k.startswith("text.")})
        unet = {k.removeprefix("unet."): v for k, v in ema.weights.items() if k.startswith("unet.")}
        states = {"unet": (unet, unet_rows(unet_cfg)), "text": (text, text_rows(text_cfg)),
                  "vae": (vae.state_dict(), vae_rows(vae.cfg))}
        metadata = {**vae_metadata, "heads": args.heads, "groups": args.groups, "prediction": args.prediction,
                    "guidance": args.guidance, "size": args.size, "scale_factor": vae.cfg.scale_factor}
        save_checkpoint(args.out / "model.safetensors", states, metadata, captions.vocabulary)

    def evaluate() -> float:
        with ema.applied(model):
            shown = draw(model, vae, held_ids[::max(len(held) // 24, 1)][:24], captions.empty, schedule, args)
            write_atomically(args.out / "samples.png", grid(to_images(shown), 8).save)
            return held_out_loss(model, held_latents, held_ids, schedule, args.prediction)

    if start == 0:
        first = evaluate()
        losses.add(0, first, first)
    mean = torch.zeros(())
    for step in tqdm(range(start, args.steps), initial=start, total=args.steps, unit="step", mininterval=2):
        opt.param_groups[0]["lr"] = args.lr * cosine(step, args.steps, args.warmup)
        g = generator(args.seed + 1, step)
        picked = [train[i] for i in batch_indices(len(train), args.batch, args.seed, step)]
        x0, ids = latents[picked].float(), captions.draw(picked, args.drop, g)
        t, noise = torch.randint(schedule.timesteps, (len(x0),), generator=g), torch.randn(x0.shape, generator=g)
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            predicted = network(schedule.add_noise(x0, noise, t), t, ids)
        loss = F.mse_loss(predicted.float(), schedule.target(x0, noise, t, args.prediction))
        opt.zero_grad()
        loss.backward()
        clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        ema.update(model)
        mean = mean + loss.detach()
        if (step + 1) % args.every == 0 or step + 1 == args.steps:
            losses.add(step + 1, mean.item() / (step % args.every + 1), evaluate())
            losses.draw()
            save()
            save_state(state, step=step + 1, **parts)
            mean = torch.zeros(())


if __name__ == "__main__":
    main()
