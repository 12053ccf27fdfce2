"""The VAE against diffusers' AutoencoderKL with the same random weights, renamed by our rows."""

import pytest
import torch
from relative_error import relative_error

from ldm.vae import VAE, VAEConfig

CONFIGS = {
    "three levels": VAEConfig(channels=32, multipliers=(1, 2, 2), groups=8),
    "gray, deep": VAEConfig(image_channels=1, latent_channels=6, channels=16, multipliers=(1, 3, 2, 2), res_blocks=3,
                            groups=4),
    "one level": VAEConfig(channels=32, multipliers=(1,), res_blocks=1, groups=8),
}


def errors(model: VAE, theirs: torch.nn.Module, height: int, width: int) -> list[float]:
    """Of the posterior's mean and logvar and of the decoded picture, batch 2."""
    g = torch.Generator().manual_seed(1)
    f, cfg = model.cfg.factor, model.cfg
    image = torch.rand(2, cfg.image_channels, height, width, generator=g) * 2 - 1
    z = torch.randn(2, cfg.latent_channels, height // f, width // f, generator=g)
    ours, posterior = model.encode(image), theirs.encode(image).latent_dist
    return [relative_error(ours.mean, posterior.mean), relative_error(ours.logvar, posterior.logvar),
            relative_error(model.decode(z), theirs.decode(z).sample)]


@pytest.mark.parametrize("size", [(64, 96), (56, 40)])
@pytest.mark.parametrize("name", CONFIGS)
def test_vae_equals_diffusers(name, size, randomised, diffusers_vae, parity):
    """Non-square, with odd sizes on the way."""
    model = randomised(VAE(CONFIGS[name]))
    for error in errors(model, diffusers_vae(model), *size):
        parity(f"VAE, tiny, {name}", "diffusers", error, 1e-5)


@pytest.mark.slow
def test_full_size_vae_equals_diffusers(randomised, diffusers_vae, parity):
    """Stable Diffusion's own; latents of 16x24 and, odd, 9x5."""
    model = randomised(VAE())
    theirs = diffusers_vae(model)
    for error in errors(model, theirs, 128, 192) + errors(model, theirs, 72, 40):
        parity("VAE, full size, SD 1.5", "diffusers", error, 1e-4)
