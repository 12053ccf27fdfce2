"""Latents of a whole data set: their statistics, and a cache of them."""

import hashlib
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from ldm.files import write_atomically
from ldm.training.data import ImageFolder
from ldm.vae import VAE


@torch.no_grad()
def encode(vae: VAE, data: ImageFolder, indices: list[int], batch: int = 16) -> Tensor:
    """Posterior means x scale_factor of the pictures named -> [N 4 h w] float32."""
    parts = [indices[i : i + batch] for i in range(0, len(indices), batch)]
    means = [vae.encode(data.batch(part)).mean for part in tqdm(parts, desc="latents", unit="batch", mininterval=2)]
    return torch.cat(means) * vae.cfg.scale_factor


def cached_latents(path: Path, vae: VAE, data: ImageFolder) -> Tensor:
    """Latents of all pictures [N 4 h w] float16; from `path` where it was made by this VAE from these files."""
    weights = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in vae.parameters())).hexdigest()
    stats = [(str(file), file.stat()) for file in data.files]
    files = hashlib.sha256(repr([(name, s.st_size, s.st_mtime_ns) for name, s in stats]).encode()).hexdigest()
    made_from = {"vae": weights, "files": files, "size": str(data.size)}
    if path.exists():
        with safe_open(path, "pt") as file:
            if file.metadata() == made_from:
                return file.get_tensor("latents")
    latents = encode(vae, data, list(range(len(data)))).half()
    write_atomically(path, lambda p: save_file({"latents": latents}, p, metadata=made_from))
    return latents


@torch.no_grad()
def normalize_latents(vae: VAE, data: ImageFolder, indices: list[int]) -> None:
    """Shift and scale every latent channel to mean 0 and deviation 1 after scale_factor, without changing any picture.

    The official layout has no place for a shift, so it is folded into the 1x1 convolutions around the latents: exact.
    """
    z = encode(vae, data, indices) / vae.cfg.scale_factor
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
