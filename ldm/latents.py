"""Pictures to latents and back through a VAE, which in 16 bits may overflow."""

import warnings
from collections.abc import Callable

import torch
from PIL import Image
from torch import Tensor

from ldm.finite import NonFiniteError, bad_weights, blame
from ldm.images import pad_to_multiple, to_tensor
from ldm.prepare import release_memory
from ldm.vae import VAE


@torch.no_grad()
def to_latents(vae: VAE, image: Image.Image | Tensor, tile: int | None = None) -> Tensor:
    """Picture, PIL or [B 3 H W] in [-1, 1] -> latents [B 4 h w], scaled for the UNet.  Edges are padded as needed."""
    x = to_tensor(image) if isinstance(image, Image.Image) else image
    x = pad_to_multiple(x, vae.cfg.factor).to(next(vae.parameters()).device)
    return run(vae, lambda: vae.encode(x, tile).mean, x) * vae.cfg.scale_factor


@torch.no_grad()
def to_pixels(vae: VAE, z: Tensor, tile: int | None = None) -> Tensor:
    """Latents [B 4 h w] -> pictures [B 3 8h 8w], about [-1, 1], one at a time to save memory."""
    raw = z / vae.cfg.scale_factor
    return run(vae, lambda: torch.cat([vae.decode(one, tile) for one in raw.split(1)]), z)


def run(vae: VAE, way: Callable[[], Tensor], given: Tensor) -> Tensor:
    """The result of a way through the VAE.  One that overflows in 16 bits is taken again in float32, with a warning.

    Raises NonFiniteError where that does not help.
    """
    release_memory()                                    # the VAE needs the most at once
    networks = {"VAE": vae}
    result, dtype = way(), next(vae.parameters()).dtype
    if not result.isfinite().all() and given.isfinite().all() and dtype.itemsize == 2 and not bad_weights(networks):
        warnings.warn(f"the VAE overflowed in {dtype}; running it once more in float32", stacklevel=5)
        vae.float()
        result = way()
        vae.to(dtype)
    if not result.isfinite().all():
        raise NonFiniteError(f"what the VAE made is not finite; {blame(networks)}")
    return result
