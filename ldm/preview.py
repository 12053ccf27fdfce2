"""Previews: what latents will look like, without the price of decoding them."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ldm.images import to_images
from ldm.latents import to_latents, to_pixels
from ldm.vae import VAE, TinyVAE

SIDE = 128                                              # of the pictures that a map is fitted to, in pixels
PATCHES = (4, 8)                                        # patches along their sides


def make_preview(vae: VAE) -> Callable[[Tensor], list[Image.Image]]:
    """The quick way from latents (`step.x0`) to pictures: TAESD decodes; for another VAE, a `LinearPreview` of it."""
    if isinstance(vae, TinyVAE):
        return lambda z: to_images(to_pixels(vae, z))
    return LinearPreview(vae)


class LinearPreview:
    """Latents to small pictures by a linear map from their channels to red, green and blue: one pixel for each latent.

    The map is fitted, by least squares, to what the VAE itself makes of a patchwork of pure colors, averaged over the
    pixels of each latent.  weight [3 C] and bias [3] are for latents as the UNet sees them.
    """

    def __init__(self, vae: VAE):
        z = to_latents(vae, patchwork())
        rgb = F.avg_pool2d(to_pixels(vae, z), vae.cfg.factor)
        z, rgb = (x.movedim(1, -1).flatten(0, 2).cpu().double() for x in (z, rgb))
        solution = torch.linalg.lstsq(F.pad(z, (0, 1), value=1.0), rgb).solution
        self.weight, self.bias = solution[:-1].T.float(), solution[-1].float()

    def __call__(self, z: Tensor) -> list[Image.Image]:
        """Latents [B 4 h w] (`step.x0`, `step.z`) -> pictures of w x h pixels, to be enlarged by who shows them."""
        return to_images(torch.einsum("rc, bchw -> brhw", self.weight, z.float().cpu()) + self.bias[:, None, None])


def patchwork() -> Tensor:
    """Pictures of square patches, each in one of the eight pure colors, black and white among them.  [B 3 H W]."""
    generator = torch.Generator().manual_seed(0)
    colors = [2.0 * torch.randint(2, (1, 3, n, n), generator=generator) - 1 for n in PATCHES]
    return torch.cat([F.interpolate(c, (SIDE, SIDE), mode="nearest") for c in colors])
