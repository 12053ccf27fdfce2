"""Train a UNet, and its text encoder, on captioned pictures, in the latents of a VAE.

    python scripts/train_unet.py --data DIR --vae vae.safetensors --out DIR [--steps 5000]
    torchrun --nproc-per-node 8 scripts/train_unet.py --data 'shards/{000..098}.tar' --held-out-data shards/099.tar ...

Rombach et al. 2022, eq. 3, with v-prediction by default (Salimans & Ho 2022) and captions dropped for guidance.
Writes to --out: model.safetensors (EMA weights and the VAE, official layout), state-*.pt (resume), losses.csv and .png,
samples.png (held-out captions drawn by the EMA weights), latents.safetensors (cache, of a folder of pictures).
"""

import argparse
import math
from typing import NamedTuple

import cli
import pretraining
import starting
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from ldm import Pipeline
from ldm.images import to_images
from ldm.loading import save_parts
from ldm.samplers import CFG, SAMPLERS, Denoiser, seeded_noise
from ldm.text import CLIPText
from ldm.text.clip import Layer
from ldm.training.data import ImageFolder, Words
from ldm.training.distributed import World, accumulating, gather
from ldm.training.draws import choose, draws
from ldm.training.ema import EMA
from ldm.training.latents import cached_latents, latents_of
from ldm.training.losses import diffusion_loss, min_snr_weight
from ldm.training.progress import Losses, grid
from ldm.training.shards import Shards
from ldm.training.streams import Latents, Reader
from ldm.unet import UNet
from ldm.unet.blocks import ResBlock, TransformerBlock
from ldm.weights.fingerprint import digest_of_weights


def parse() -> argparse.Namespace:
    p = pretraining.parser(__doc__, batch=32, lr=1e-3, warmup=200, held_out=128)
    starting.add_flags(p)
    p.add_argument("--text", choices=["trained", "frozen"], default="trained",
                   help="train the text encoder too, or keep that of --init (default trained)")
    p.add_argument("--prediction", choices=["eps", "v", "x0"], help="what the UNet learns (default: as --init, else v)")
    p.add_argument("--min-snr", type=float, metavar="GAMMA",
                   help="weigh noise levels by min-SNR with this gamma, as 5 (default: alike)")
    p.add_argument("--guidance", type=float,
                   help="guidance of samples, stored as the default (default: as --init, else 4)")
    p.add_argument("--drop", type=float, default=0.1, help="share of captions dropped for guidance (default 0.1)")
    p.add_argument("--levels", type=cli.positive, default=1, metavar="N",
                   help="noise levels of each picture in a batch, whose caption is encoded once (default 1)")
    p.add_argument("--sample-steps", type=cli.positive, default=20, help="DDIM steps of the samples (default 20)")
    args = p.parse_args()
    if args.init is None and (args.vae is None or args.text == "frozen"):
        p.error("without --init, --vae has to be given and --text to be trained")
    if args.batch % args.levels:
        p.error(f"--levels {args.levels} does not divide --batch {args.batch}")
    return args


class TextToNoise(nn.Module):
    """The two networks that are trained together.  x [nB 4 h w], t [nB], ids [B 77] -> prediction [nB 4 h w].

    Rows i, B + i, 2B + i, ... have caption i.
    """

    def __init__(self, text: CLIPText, unet: UNet, frozen: bool):
        super().__init__()
        self.text, self.unet = text.requires_grad_(not frozen), unet
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor, t: Tensor, ids: Tensor) -> Tensor:
        return self.unet(x, t, self.text(ids).repeat(len(x) // len(ids), 1, 1))


@torch.no_grad()
def held_out_loss(pipe: Pipeline, latents: Tensor, ids: Tensor) -> float:
    """Loss on held-out latents [N 4 h w], with the same timesteps and noise at every call."""
    t = torch.arange(len(latents)) * pipe.schedule.timesteps // len(latents)
    noise, total = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0)).to(latents), 0.0
    for rows in torch.arange(len(latents)).split(64):
        part = latents[rows], noise[rows], t[rows]
        predicted = pipe.unet(pipe.schedule.add_noise(*part), t[rows].to(ids.device), pipe.text(ids[rows]))
        total += diffusion_loss(predicted, pipe.schedule.target(*part, pipe.prediction)).item() * len(rows)
    return total / len(latents)


@torch.no_grad()
def draw(pipe: Pipeline, ids: Tensor, empty: Tensor, side: int, steps: int) -> Tensor:
    """One picture per row of token ids, by DDIM -> [B 3 H W]."""
    network = Denoiser(pipe.unet, pipe.schedule, pipe.prediction)
    denoise = CFG(network, pipe.text(ids), pipe.text(empty), pipe.guidance)
    noise, sigmas = seeded_noise(range(len(ids))), pipe.schedule.sigmas(steps, "leading")
    x = math.hypot(1, sigmas[0]) * noise(torch.zeros(len(ids), 4, side, side, device=ids.device))
    *_, last = SAMPLERS["ddim"](denoise, x, sigmas, noise)
    return torch.cat([pipe.vae.decode(z / pipe.vae.cfg.scale_factor) for z in last.z.split(4)])


def evaluate(pipe: Pipeline, latents: Tensor, ids: Tensor, empty: Tensor, losses: Losses, step: int,
             sample_steps: int) -> float:
    """Show held-out captions drawn; returns the held-out loss."""
    shown = to_images(draw(pipe, ids[:: max(len(ids) // 24, 1)][:24], empty, latents.shape[-1], sample_steps))
    losses.show(step, grid(shown, min(8, len(shown))))
    return held_out_loss(pipe, latents, ids)


def source(data: ImageFolder | Shards, pipe: Pipeline, args: argparse.Namespace, here: World) -> Latents | Shards:
    """What is read in training: a folder's latents are cached, those of shards made on the way, or there already."""
    if isinstance(data, Shards):
        data.first(1)                                   # refuses those of another VAE before any work
        return data
    return Latents(cached_latents(args.out / "latents.safetensors", pipe.vae, data, here), data.texts)


class Batch(NamedTuple):
    """Noisy latents, timesteps, token ids; what the network shall answer; weights of the samples."""

    x: Tensor                                               # [nB 4 h w], each picture at n levels
    t: Tensor                                               # [nB]
    ids: Tensor                                             # [B 77]
    target: Tensor                                          # [nB 4 h w]
    weight: Tensor | None                                   # [nB]


def noised(reader: Reader, pipe: Pipeline, words: Words, step: int, micro: int, args: argparse.Namespace,
           here: World) -> Batch:
    """The next batch of this rank."""
    read, texts = reader.take(args.batch // args.levels)
    with pretraining.autocast(args, here):
        x0 = latents_of(pipe.vae, read).repeat(args.levels, 1, 1, 1)
    t, noise, chance = draws(args.seed, step, here.places(args.batch, micro), args.batch * args.accumulate * here.size,
                             x0.shape[1:], pipe.schedule.timesteps)
    noise, ids = noise.to(here.device), words(choose(texts, chance[: len(texts)], args.drop)).to(here.device)
    target = pipe.schedule.target(x0, noise, t, pipe.prediction)
    weight = min_snr_weight(pipe.schedule.alphas_cumprod[t], pipe.prediction, args.min_snr)
    return Batch(pipe.schedule.add_noise(x0, noise, t), t.to(here.device), ids, target, weight)


def learn(network: nn.Module, batch: Batch, last: bool, args: argparse.Namespace, here: World) -> Tensor:
    """Add up the gradients of one batch; returns its loss."""
    with accumulating(network, last):
        with pretraining.autocast(args, here):
            predicted = network(batch.x, batch.t, batch.ids)
        loss = diffusion_loss(predicted, batch.target, batch.weight)
        (loss / args.accumulate).backward()
    return loss.detach()


def save(weights: dict[str, Tensor], pipe: Pipeline, words: Words, args: argparse.Namespace) -> None:
    """Write the averaged weights and the VAE as one model."""
    unet, text = ({name.removeprefix(part): weight for name, weight in weights.items() if name.startswith(part)}
                  for part in ("unet.", "text."))
    told = {**pipe.file_metadata, "size": args.size}
    save_parts(args.out / "model.safetensors", pipe.vae, pipe.unet, pipe.text, told,
               words.vocabulary if words.some else None, {"unet": unet, "text": words.dense(text)})


def train(args: argparse.Namespace, here: World) -> None:
    pipe = starting.open_model(args)
    vae = digest_of_weights(pipe.vae)
    data, pictures, texts = pretraining.open_pictures(args, vae)
    words = starting.learn_words(pipe, data, texts, args.text == "frozen")
    ids, empty = words([several[0] for several in texts]).to(here.device), words([""]).to(here.device)
    model = TextToNoise(pipe.text, pipe.unet, args.text == "frozen")
    network = pretraining.distribute(model, [pipe.text, pipe.unet], (ResBlock, TransformerBlock, Layer), args, here)
    learned = [weight for weight in model.parameters() if weight.requires_grad]
    opt = torch.optim.AdamW(learned, lr=args.lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    ema = EMA(model, args.ema)
    parts = {"model": model, "opt": opt, "ema": ema}
    run = {"prediction": pipe.prediction, "VAE": vae, "vocabulary": words.vocabulary.tolist()}
    done, position = pretraining.resume(args, run, **parts)
    pipe.vae.to(here.device)
    with pretraining.autocast(args, here):
        reader = Reader(source(data, pipe, args, here), args.seed, here, args.workers, position)
        latents = latents_of(pipe.vae, pictures)
    losses, recent = pretraining.record(args, done), []
    if done == 0:
        with ema.applied(model):
            first = evaluate(pipe, latents, ids, empty, losses, 0, args.sample_steps)
        losses.add(0, first, first)

    for step in pretraining.steps(args, done):
        pretraining.set_rate(opt, args.lr, step, args)
        opt.zero_grad()
        for micro in range(args.accumulate):
            batch = noised(reader, pipe, words, step, micro, args, here)
            recent.append(learn(network, batch, micro + 1 == args.accumulate, args, here))
        clip_grad_norm_(learned, 1.0)
        opt.step()
        ema.update(model)
        if pretraining.due(args, step):
            with ema.applied(model):
                held_out = evaluate(pipe, latents, ids, empty, losses, step + 1, args.sample_steps)
            losses.add(step + 1, here.mean(torch.stack(recent).mean()).item(), held_out)
            weights, recent = gather(ema.weights), []
            if here.main:
                save(weights, pipe, words, args)
            pretraining.save(args, run, step + 1, reader, **parts)
            losses.draw()


def main() -> None:
    pretraining.launch(train, parse())


if __name__ == "__main__":
    cli.run(main)
