"""Train a VAE on a folder of pictures.

    python scripts/train_vae.py --data DIR --out DIR [--steps 5000]

Loss: L1 of pictures and gradients + KL, and from --gan-start on a PatchGAN (Rombach et al. 2022, sec. 3.1, app. G).
Writes to --out: vae.safetensors (EMA weights, official layout, latents scaled to unit variance), state.pt (resumes),
losses.csv and .png, samples.png (held-out pictures above their reconstructions).
"""

import argparse
from pathlib import Path

import cli
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from tqdm import tqdm

from ldm.files import write_atomically
from ldm.images import to_images
from ldm.training.data import ImageFolder, batch_indices, generator, random_crop, split
from ldm.training.discriminator import PatchGAN
from ldm.training.ema import EMA
from ldm.training.latents import normalize_latents
from ldm.training.losses import adversarial_weight, hinge_discriminator_loss, kl_loss, reconstruction_loss
from ldm.training.progress import Losses, cosine, grid, load_state, save_state
from ldm.vae import VAE, VAEConfig
from ldm.vae.names import rows
from ldm.weights.saving import save_safetensors, to_official


def parse() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", type=Path, required=True, help="folder of pictures")
    p.add_argument("--out", type=Path, required=True, help="folder to write; an interrupted run there is resumed")
    p.add_argument("--size", type=cli.positive, default=128, help="side in pixels, a multiple of 8 (default 128)")
    p.add_argument("--channels", type=cli.positive, default=32, help="width at full resolution (default 32)")
    p.add_argument("--multipliers", type=cli.positive, nargs="+", default=[1, 1, 2, 4],
                   help="width per level over the first (default 1 1 2 4)")
    p.add_argument("--crop", type=cli.positive, default=64,
                   help="side in pixels of the squares to train on; the last tenth of the steps sees whole pictures "
                        "(default 64)")
    p.add_argument("--groups", type=cli.positive, default=4, help="groups of each GroupNorm (default 4; official: 32)")
    p.add_argument("--res-blocks", type=cli.positive, default=1, help="ResBlocks per level (default 1)")
    p.add_argument("--steps", type=cli.positive, default=5000, help="training steps (default 5000)")
    p.add_argument("--batch", type=cli.positive, default=16,
                   help="squares per step; of whole pictures, as many as have as many pixels (default 16)")
    p.add_argument("--lr", type=float, default=2e-3, help="peak learning rate of AdamW (default 0.002)")
    p.add_argument("--warmup", type=int, default=100, help="steps of learning-rate warm-up (default 100)")
    p.add_argument("--kl", type=float, default=1e-4, help="weight of the KL loss (default 0.0001)")
    p.add_argument("--gan", type=float, default=0.0, help="weight of the adversarial loss (default 0: none)")
    p.add_argument("--gan-start", type=int, default=0, help="step at which the adversarial loss sets in (default 0)")
    p.add_argument("--ema", type=float, default=0.999, help="decay of the averaged weights (default 0.999)")
    p.add_argument("--held-out", type=cli.positive, default=64, help="pictures kept for evaluation (default 64)")
    p.add_argument("--every", type=cli.positive, default=250,
                   help="steps between checkpoints and evaluations (default 250)")
    p.add_argument("--seed", type=int, default=0, help="seed of weights, order and noise (default 0)")
    p.add_argument("--bf16", action="store_true", help="bfloat16 autocast")
    return p.parse_args()


@torch.no_grad()
def start_precise(vae: VAE) -> None:
    """Let the posterior start with a deviation of 0.05: at 1 the noise drowns what the untrained mean says."""
    quant, c = vae.encoder.quant, vae.cfg.latent_channels
    assert quant.bias is not None
    quant.weight[c:].zero_()
    quant.bias[c:] = -6.0


@torch.no_grad()
def evaluate(vae: VAE, ema: EMA, images: Tensor, out: Path) -> float:
    """Write held-out pictures above their EMA reconstructions; returns the reconstruction loss."""
    with ema.applied(vae):
        decoded = torch.cat([vae(part) for part in images.split(8)])
    columns = min(8, len(images))
    shown = min(24, len(images)) // columns * columns
    pairs = zip(images[:shown].split(columns), decoded[:shown].split(columns), strict=True)
    sheet = grid(to_images(torch.cat([row for pair in pairs for row in pair])), columns)
    write_atomically(out / "samples.png", sheet.save)
    return reconstruction_loss(decoded, images).item()


def squares(data: ImageFolder, train: list[int], step: int, args: argparse.Namespace) -> Tensor:
    """The pictures of one step: crops at first, whole in the last tenth of the training."""
    crop = min(args.crop, args.size)
    side = crop if step < 0.9 * args.steps else args.size
    batch = max(args.batch * crop**2 // side**2, 1)
    images = data.batch([train[i] for i in batch_indices(len(train), batch, args.seed, step)])
    return random_crop(images, side, generator(args.seed + 2, step))


def save(vae: VAE, ema: EMA, data: ImageFolder, indices: list[int], path: Path) -> None:
    """Write the averaged weights, with latents scaled to unit variance over some pictures."""
    vae.load_state_dict(ema.weights)
    normalize_latents(vae, data, indices)
    save_safetensors(path, to_official(vae.state_dict(), rows(vae.cfg)), {"vae_groups": vae.cfg.groups})


def main() -> None:
    args = parse()
    data = ImageFolder(args.data, args.size)
    train, held = split(len(data), min(args.held_out, len(data) // 2))
    held_images = data.batch(held)
    args.out.mkdir(parents=True, exist_ok=True)

    torch.manual_seed(args.seed)
    vae = VAE(VAEConfig(channels=args.channels, multipliers=tuple(args.multipliers), res_blocks=args.res_blocks,
                        groups=args.groups))
    start_precise(vae)
    critic = PatchGAN()
    opt = torch.optim.AdamW(vae.parameters(), lr=args.lr, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    critic_opt = torch.optim.AdamW(critic.parameters(), lr=args.lr / 4, betas=(0.5, 0.9), fused=True)
    ema = EMA(vae, args.ema)
    losses = Losses(args.out / "losses.csv", ["train", "held out"])
    start, state = 0, args.out / "state.pt"
    parts = {"vae": vae, "critic": critic, "opt": opt, "critic_opt": critic_opt, "ema": ema}
    if state.exists():
        start = load_state(state, **parts)["step"]

    if start == 0:
        first = evaluate(vae, ema, held_images, args.out)
        losses.add(0, first, first)
    recent = []
    for step in tqdm(range(start, args.steps), initial=start, total=args.steps, unit="step", mininterval=2):
        opt.param_groups[0]["lr"] = args.lr * cosine(step, args.steps, args.warmup)
        critic_opt.param_groups[0]["lr"] = opt.param_groups[0]["lr"] / 4
        adversarial = args.gan > 0 and step >= args.gan_start
        images = squares(data, train, step, args)
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            posterior = vae.encode(images)
            noise = torch.randn(posterior.mean.shape, generator=generator(args.seed + 1, step))
            decoded = vae.decode(posterior.sample(noise))
            loss = reconstruction_loss(decoded, images) + args.kl * kl_loss(posterior)
            if adversarial:
                fooled = -critic(decoded).mean()
                loss = loss + args.gan * adversarial_weight(loss, fooled, vae.decoder.conv_out.weight) * fooled
        opt.zero_grad()
        loss.backward()
        clip_grad_norm_(vae.parameters(), 1.0)
        opt.step()
        ema.update(vae)
        if adversarial:
            with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
                critic_loss = hinge_discriminator_loss(critic(images), critic(decoded.detach()))
            critic_opt.zero_grad()
            critic_loss.backward()
            critic_opt.step()
        recent.append(loss.item())
        if (step + 1) % args.every == 0 or step + 1 == args.steps:
            losses.add(step + 1, sum(recent) / len(recent), evaluate(vae, ema, held_images, args.out))
            save_state(state, step=step + 1, **parts)
            losses.draw()
            recent = []
    save(vae, ema, data, train[:: max(len(train) // 512, 1)], args.out / "vae.safetensors")


if __name__ == "__main__":
    cli.run(main)
