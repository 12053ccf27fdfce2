"""Latents of a whole data set: their statistics, and a cache of them."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from ldm.files import write_atomically
from ldm.training.data import ImageFolder
from ldm.training.distributed import World, is_main
from ldm.vae import VAE
from ldm.weights.fingerprint import digest_of_weights


@torch.no_grad()
def encode(vae: VAE, images: Tensor) -> Tensor:
    """Posterior means x scale_factor of pictures [B 3 H W] -> [B 4 h w], in float32 on the VAE's device."""
    device = vae.encoder.conv_in.weight.device
    means = [vae.encode(part.to(device)).mean.float() for part in images.split(16)]
    return torch.cat(means) * vae.cfg.scale_factor


def latents_of(vae: VAE, x: Tensor) -> Tensor:
    """What shards or a cache hold, as latents [B 4 h w] in float32 on the VAE's device: pictures are encoded."""
    return encode(vae, x) if x.shape[1] == vae.cfg.image_channels else x.float().to(vae.encoder.conv_in.weight.device)


def batches(data: ImageFolder, indices: list[int], batch: int = 16) -> Iterator[Tensor]:
    """The pictures named, some at a time [B 3 size size], with a progress bar."""
    for i in tqdm(range(0, len(indices), batch), desc="latents", unit="batch", mininterval=2, disable=not is_main()):
        yield data.batch(indices[i : i + batch])


def cached_latents(path: Path, vae: VAE, data: ImageFolder, here: World) -> Tensor:
    """Latents of all pictures [N 4 h w] float16; from `path` where it was made by this VAE from these files.

    Every rank encodes its share, and the main one writes.  They are on the CPU.
    """
    stats = [(str(file), file.stat()) for file in data.files]
    files = hashlib.sha256(repr([(name, s.st_size, s.st_mtime_ns) for name, s in stats]).encode()).hexdigest()
    made_from = {"vae": digest_of_weights(vae), "files": files, "size": str(data.size)}
    if path.exists():
        with safe_open(path, "pt") as file:
            if file.metadata() == made_from:
                return file.get_tensor("latents")
    own = list(range(here.rank, len(data), here.size))
    encoded = torch.cat([encode(vae, part).cpu() for part in batches(data, own)])
    latents = here.interleave(encoded.half().contiguous(), len(data))
    if here.main:
        write_atomically(path, lambda p: save_file({"latents": latents}, p, metadata=made_from))
    return latents


@torch.no_grad()
def normalize_latents(vae: VAE, pictures: Iterable[Tensor]) -> None:
    """Shift and scale every latent channel to mean 0 and deviation 1 after scale_factor, without changing any picture.

    The statistics are those of some pictures, given in batches [B 3 H W].
    The official layout has no place for a shift, so it is folded into the 1x1 convolutions around the latents: exact.
    """
    z = torch.cat([vae.encode(images).mean for images in pictures])
    mean = z.mean(dim=(0, 2, 3))
    gain = 1 / (z.std(dim=(0, 2, 3)).clamp(min=1e-6) * vae.cfg.scale_factor)    # a channel may not be used at all
    quant, post_quant = vae.encoder.quant, vae.decoder.post_quant
    c = vae.cfg.latent_channels
    assert quant.bias is not None and post_quant.bias is not None
    quant.weight[:c] *= gain[:, None, None, None]
    quant.bias[:c] = (quant.bias[:c] - mean) * gain
    quant.bias[c:] += 2 * gain.log()
    post_quant.bias += (post_quant.weight[:, :, 0, 0] * mean).sum(1)
    post_quant.weight /= gain[None, :, None, None]
