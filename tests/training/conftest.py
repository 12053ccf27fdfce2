"""A tiny VAE to train with, and what fine-tuning needs."""

import pytest
import torch
from character import character, interrupt, plain
from scripts.conftest import run_script

from ldm.vae import VAE, VAEConfig

__all__ = ["character", "interrupt", "plain", "run_script"]


@pytest.fixture
def vae() -> VAE:
    torch.manual_seed(0)
    return VAE(VAEConfig(channels=8, multipliers=(1, 1, 2, 2), res_blocks=1, groups=4))
