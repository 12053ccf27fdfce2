"""Encode the pictures of tar shards once: shards of latents, which train_unet.py reads in their place.

    python scripts/encode_shards.py --data 'shards/{000..099}.tar' --vae vae.safetensors --size 256 --out latents
    torchrun --nproc-per-node 8 scripts/encode_shards.py ...

Each rank takes its share of the shards.  Those that are there already are not made again; of another VAE, size or
source they are refused.
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import cli
import torch
from torch import Tensor
from tqdm import tqdm

from ldm.loading import load_vae, resolve_device
from ldm.training.distributed import world
from ldm.training.latents import encode
from ldm.training.shards import Shards, is_written, open_data, write_latents
from ldm.vae import VAE
from ldm.weights.fingerprint import digest_of_weights


def encoded(data: Shards, url: str, vae: VAE, batch: int) -> Iterator[tuple[str, Tensor, list[str]]]:
    """Key, latents [4 h w] and captions of each sample of a shard."""
    samples = ((raw["__key__"], sample) for raw in data.samples(url) if (sample := data.decode(raw)))
    for part in iter(lambda: list(islice(samples, batch)), []):
        latents = encode(vae, torch.stack([image for _, (image, _) in part]))
        yield from ((key, z, texts) for (key, (_, texts)), z in zip(part, latents, strict=True))


def main() -> None:
    p = cli.Parser(__doc__)
    p.add_argument("--data", required=True, help="tar shards: a folder of them, or a pattern")
    p.add_argument("--vae", type=Path, required=True, help="file of the VAE")
    p.add_argument("--size", type=cli.positive, default=128, help="side in pixels, a multiple of 8 (default 128)")
    p.add_argument("--batch", type=cli.positive, default=16, help="pictures at a time (default 16)")
    p.add_argument("--out", type=Path, required=True, help="folder to write")
    cli.add_device(p)
    args = p.parse_args()
    data = open_data(args.data, args.size)
    if not isinstance(data, Shards):
        raise ValueError(f"{args.data} is a folder of pictures, whose latents train_unet.py keeps itself; give shards")
    with world(resolve_device(args.device)) as here:
        vae = load_vae(args.vae).to(here.device)
        digest = digest_of_weights(vae)
        args.out.mkdir(parents=True, exist_ok=True)
        mine = list(enumerate(data.urls))[here.rank :: here.size]
        for number, url in tqdm(mine, unit="shard", disable=not here.main):
            path, made = args.out / f"{number:06d}.tar", {"vae": digest, "size": args.size, "shard": Path(url).name}
            if not is_written(path, made):
                write_latents(path, encoded(data, url, vae, args.batch), made)


if __name__ == "__main__":
    cli.run(main)
