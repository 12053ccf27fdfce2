"""Previews: the linear map is the VAE's own, as far as the VAE is linear."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from randomise import randomise
from torch import Tensor, nn

from ldm import Pipeline
from ldm.images import psnr, to_images
from ldm.preview import LinearPreview, make_preview
from ldm.vae import VAE, Posterior, TinyVAE, TinyVAEConfig, VAEConfig


class LinearVAE(VAE):
    """Decodes each latent to a square of one color, by a linear map.  It encodes the mean color and a fourth value."""

    def __init__(self, cfg: VAEConfig):
        nn.Module.__init__(self)
        g, self.cfg = torch.Generator().manual_seed(0), cfg
        self.weight = nn.Parameter(0.3 * torch.randn(3, 4, generator=g), requires_grad=False)
        self.bias = 0.2 * torch.randn(3, generator=g)

    def encode(self, image: Tensor, tile: int | None = None) -> Posterior:
        color = F.avg_pool2d(image, self.cfg.factor)
        z = torch.cat([color, color.prod(dim=1, keepdim=True)], dim=1)
        return Posterior(z, torch.zeros_like(z))

    def decode(self, z: Tensor, tile: int | None = None) -> Tensor:
        rgb = F.conv2d(z, self.weight[:, :, None, None], self.bias)
        return F.interpolate(rgb, scale_factor=self.cfg.factor)


@pytest.mark.parametrize("levels", [3, 4], ids=["f4", "f8"])
@pytest.mark.parametrize("scale", [1.0, 0.18215])
def test_preview_of_a_linear_vae_is_its_map(levels, scale):
    vae = LinearVAE(VAEConfig(multipliers=(1,) * levels, scale_factor=scale))
    preview = LinearPreview(vae)
    torch.testing.assert_close(preview.weight, vae.weight / scale, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(preview.bias, vae.bias, rtol=1e-5, atol=1e-6)
    z = torch.randn(2, 4, 5, 7, generator=torch.Generator().manual_seed(1))
    for small, large in zip(preview(z * scale), to_images(vae.decode(z)), strict=True):
        assert small.size == (7, 5)
        enlarged = small.resize(large.size, Image.Resampling.NEAREST)
        assert np.abs(np.asarray(enlarged, int) - np.asarray(large, int)).max() <= 1       # of rounding to 8 bits


def test_preview_by_the_tiny_autoencoder_decodes():
    vae = randomise(TinyVAE(TinyVAEConfig(channels=8, encodes=False)))
    z = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(0))
    pictures = make_preview(vae)(z)
    assert [picture.size for picture in pictures] == [(40, 24)] * 2
    assert [picture.tobytes() for picture in pictures] == [picture.tobytes() for picture in to_images(vae.decode(z))]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_preview_works_at_every_step_and_is_the_same_again(tiny_model, dtype):
    pipe = Pipeline.load(tiny_model, "cpu", dtype)
    preview, again = make_preview(pipe.vae), make_preview(pipe.vae)
    for step in pipe.steps("a fox", steps=5, width=72, count=2):
        pictures = preview(step.x0)
        assert [picture.size for picture in pictures] == [(9, 8)] * 2
        assert [picture.tobytes() for picture in pictures] == [picture.tobytes() for picture in again(step.x0)]
    assert isinstance(preview, LinearPreview) and preview.weight.isfinite().all() and preview.bias.isfinite().all()


PROMPTS = [f"3d render of a {what}" for what in ("fox", "rocket on a blue background", "frog on a pink background")]


def test_previews_of_the_bundled_model_resemble_its_pictures():
    """Against the decoded picture, averaged over the pixels of each latent.

    Measured: 20.2, 21.7 and 19.1 dB; each picture's mean color alone 11.8, 13.8 and 13.6.
    """
    pipe = Pipeline.load(dtype="float32")
    *_, last = pipe.steps(PROMPTS, steps=8)
    pooled = to_images(F.avg_pool2d(pipe.decode_latents(last.z), pipe.vae.cfg.factor))
    for preview, true in zip(make_preview(pipe.vae)(last.z), pooled, strict=True):
        flat = true.resize((1, 1), Image.Resampling.BOX).resize(true.size)
        assert psnr(preview, true) > max(18, psnr(flat, true) + 4)
