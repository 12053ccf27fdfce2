"""A tiny VAE to train with."""

import pytest
import torch

from ldm.vae import VAE, VAEConfig


@pytest.fixture
def vae() -> VAE:
    torch.manual_seed(0)
    return VAE(VAEConfig(channels=8, multipliers=(1, 1, 2, 2), res_blocks=1, groups=4))
