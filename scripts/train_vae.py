"""Train a VAE on pictures.

    python scripts/train_vae.py --data DIR --out DIR [--steps 5000]
    torchrun --nproc-per-node 8 scripts/train_vae.py --data 'shards/{000..098}.tar' --held-out-data shards/099.tar ...

Loss: L1 of pictures and gradients + KL, and from --gan-start on a PatchGAN (Rombach et al. 2022, sec. 3.1, app. G).
Writes to --out: vae.safetensors (EMA weights, official layout, latents scaled to unit variance), state-*.pt (resume),
losses.csv and .png, samples.png (held-out pictures above their reconstructions).
"""

import argparse
from copy import deepcopy
from pathlib import Path

import cli
import pretraining
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from ldm.images import to_images
from ldm.loading import load_vae
from ldm.training.data import ImageFolder, random_crop
from ldm.training.discriminator import PatchGAN
from ldm.training.distributed import World, accumulating, bare, gather, replicate
from ldm.training.draws import draws
from ldm.training.ema import EMA
from ldm.training.latents import normalize_latents
from ldm.training.losses import adversarial_weight, hinge_discriminator_loss, kl_loss, reconstruction_loss
from ldm.training.progress import Losses, grid
from ldm.training.shards import Shards
from ldm.training.streams import Reader
from ldm.vae import VAE, Posterior, TinyVAE, VAEConfig
from ldm.vae.blocks import ResBlock
from ldm.vae.names import rows
from ldm.weights.saving import save_safetensors, to_official


def parse() -> argparse.Namespace:
    p = pretraining.parser(__doc__, batch=16, lr=2e-3, warmup=100, held_out=64)
    p.add_argument("--init", type=Path, help="VAE, or model file, to start from, which says all widths "
                                             "(default: random weights)")
    p.add_argument("--channels", type=cli.positive, default=32, help="width at full resolution (default 32)")
    p.add_argument("--multipliers", type=cli.positive, nargs="+", default=[1, 1, 2, 4],
                   help="width per level over the first (default 1 1 2 4)")
    p.add_argument("--crop", type=cli.positive, default=64,
                   help="side in pixels of the squares to train on; the last tenth of the steps sees whole pictures, "
                        "as many as have as many pixels (default 64)")
    p.add_argument("--groups", type=cli.positive, default=4, help="groups of each GroupNorm (default 4; official: 32)")
    p.add_argument("--res-blocks", type=cli.positive, default=1, help="ResBlocks per level (default 1)")
    p.add_argument("--kl", type=float, default=1e-4, help="weight of the KL loss (default 0.0001)")
    p.add_argument("--gan", type=float, default=0.0, help="weight of the adversarial loss (default 0: none)")
    p.add_argument("--gan-start", type=int, default=0, help="step at which the adversarial loss sets in (default 0)")
    return p.parse_args()


class Autoencoder(nn.Module):
    """A VAE as it is trained.  images [B 3 H W], noise [B 4 h w] -> the posterior, a sample of it decoded [B 3 H W].

    `features` is what the decoder's last layer was given.
    """

    features: Tensor

    def __init__(self, vae: VAE):
        super().__init__()
        self.vae = vae
        vae.decoder.conv_out.register_forward_pre_hook(self.remember)

    def remember(self, layer: nn.Module, inputs: tuple[Tensor]) -> None:
        self.features = inputs[0].detach()

    def forward(self, images: Tensor, noise: Tensor) -> tuple[Posterior, Tensor]:
        posterior = self.vae.encode(images)
        decoded = self.vae.decode(posterior.sample(noise))
        return posterior, decoded.clone()               # gradients at the copy alone do not set FSDP going


def load_whole_vae(path: Path) -> VAE:
    """The VAE of a file.  Raises ValueError for a tiny autoencoder."""
    vae = load_vae(path)
    if isinstance(vae, TinyVAE):
        raise ValueError(f"{path} holds a tiny autoencoder, which has no posterior to train; give a file with a VAE")
    return deepcopy(vae)                                # its weights may lie in the file itself


def build(args: argparse.Namespace) -> VAE:
    """The VAE to start from.

    A random one gets a posterior with a deviation of 0.05: at 1 the noise drowns what the untrained mean says.
    """
    torch.manual_seed(args.seed)
    if args.init:
        return load_whole_vae(args.init)
    vae = VAE(VAEConfig(channels=args.channels, multipliers=tuple(args.multipliers), res_blocks=args.res_blocks,
                        groups=args.groups))
    quant, c = vae.encoder.quant, vae.cfg.latent_channels
    assert quant.bias is not None
    with torch.no_grad():
        quant.weight[c:].zero_()
        quant.bias[c:] = -6.0
    return vae


@torch.no_grad()
def evaluate(vae: VAE, ema: EMA, images: Tensor, losses: Losses, step: int, here: World) -> float:
    """Show held-out pictures above their EMA reconstructions; returns the reconstruction loss."""
    with ema.applied(vae):
        decoded = torch.cat([vae(part.to(here.device)).cpu() for part in images.split(8)])
    columns = min(8, len(images))
    shown = min(24, len(images)) // columns * columns
    pairs = zip(images[:shown].split(columns), decoded[:shown].split(columns), strict=True)
    losses.show(step, grid(to_images(torch.cat([row for pair in pairs for row in pair])), columns))
    return reconstruction_loss(decoded, images).item()


def squares(reader: Reader, factor: int, step: int, micro: int, args: argparse.Namespace,
            here: World) -> tuple[Tensor, Tensor]:
    """Pictures of one batch, and noise for their latents: crops at first, whole in the last tenth of the training."""
    crop = min(args.crop, args.size)
    side = crop if step < 0.9 * args.steps else args.size
    batch = max(args.batch * crop**2 // side**2, 1)
    images, _ = reader.take(batch)
    drawn = draws(args.seed, step, here.places(batch, micro), batch * here.size * args.accumulate,
                  (4, side // factor, side // factor), timesteps=1)
    return random_crop(images, side, drawn.chance).to(here.device), drawn.noise.to(here.device)


def vae_loss(network: nn.Module, critic: nn.Module | None, images: Tensor, noise: Tensor, args: argparse.Namespace,
             here: World) -> tuple[Tensor, Tensor]:
    """Loss of the VAE, adversarial where there is a critic, and the decoded pictures [B 3 H W]."""
    posterior, decoded = network(images, noise)
    reconstruction = reconstruction_loss(decoded, images)
    loss = reconstruction + args.kl * kl_loss(posterior)
    if critic:
        fooled = -critic(decoded).mean()
        wanted, given = (torch.autograd.grad(term, decoded, retain_graph=True)[0] for term in (reconstruction, fooled))
        weight = adversarial_weight(wanted, given, bare(network).features, here.mean)
        loss = loss + args.gan * weight * fooled
    return loss, decoded.detach()


def learn(network: nn.Module, critic: nn.Module | None, images: Tensor, noise: Tensor, last: bool,
          args: argparse.Namespace, here: World) -> Tensor:
    """Add up the gradients of one batch, of the VAE and of its critic where there is one; returns the VAE's loss."""
    own = bare(critic).requires_grad_(False) if critic else None            # judges, but does not learn from that
    with accumulating(network, last):
        with pretraining.autocast(args, here):
            loss, decoded = vae_loss(network, own, images, noise, args, here)
        (loss / args.accumulate).backward()
    if critic and own:
        own.requires_grad_(True)
        with accumulating(critic, last):
            with pretraining.autocast(args, here):
                critic_loss = hinge_discriminator_loss(*critic(torch.cat([images, decoded])).chunk(2))
            (critic_loss / args.accumulate).backward()
    return loss.detach()


def save(cfg: VAEConfig, weights: dict[str, Tensor], data: ImageFolder | Shards, path: Path) -> None:
    """Write the averaged weights, with latents scaled to unit variance over some pictures."""
    vae = VAE(cfg)
    vae.load_state_dict(weights)
    some = data if isinstance(data, Shards) else data.only(range(0, len(data), max(len(data) // 512, 1)))
    images, _ = some.first(512)
    normalize_latents(vae, images.split(16))
    save_safetensors(path, to_official(vae.state_dict(), rows(cfg)), {"vae_groups": cfg.groups,
                                                                         "scale_factor": cfg.scale_factor})


def train(args: argparse.Namespace, here: World) -> None:
    data, held_images, _ = pretraining.open_pictures(args)
    vae = build(args)
    network = pretraining.distribute(Autoencoder(vae), [vae.encoder, vae.decoder], (ResBlock,), args, here)
    critic = replicate(PatchGAN().to(here.device), here)
    opt = torch.optim.AdamW(vae.parameters(), lr=args.lr, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    critic_opt = torch.optim.AdamW(critic.parameters(), lr=args.lr / 4, betas=(0.5, 0.9), fused=True)
    ema = EMA(vae, args.ema)
    parts = {"vae": vae, "critic": bare(critic), "opt": opt, "critic_opt": critic_opt, "ema": ema}
    start, position = pretraining.resume(args, {}, **parts)
    reader = Reader(data, args.seed, here, args.workers, position)
    losses, recent = pretraining.record(args, start), []
    if start == 0:
        first = evaluate(vae, ema, held_images, losses, 0, here)
        losses.add(0, first, first)

    for step in pretraining.steps(args, start):
        pretraining.set_rate(opt, args.lr, step, args)
        pretraining.set_rate(critic_opt, args.lr / 4, step, args)
        opt.zero_grad()
        critic_opt.zero_grad()
        for micro in range(args.accumulate):
            images, noise = squares(reader, vae.cfg.factor, step, micro, args, here)
            judge = critic if args.gan > 0 and step >= args.gan_start else None
            recent.append(learn(network, judge, images, noise, micro + 1 == args.accumulate, args, here))
        clip_grad_norm_(vae.parameters(), 1.0)
        opt.step()
        critic_opt.step()                               # without gradients, nothing
        ema.update(vae)
        if pretraining.due(args, step):
            mean = here.mean(torch.stack(recent).mean()).item()
            losses.add(step + 1, mean, evaluate(vae, ema, held_images, losses, step + 1, here))
            pretraining.save(args, {}, step + 1, reader, **parts)
            losses.draw()
            recent = []
    weights = gather(ema.weights)
    if here.main:
        save(vae.cfg, weights, data, args.out / "vae.safetensors")


def main() -> None:
    pretraining.launch(train, parse())


if __name__ == "__main__":
    cli.run(main)
