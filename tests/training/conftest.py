"""Captioned pictures and a tiny VAE to train with."""

from pathlib import Path

import pytest
import torch
from shapes import write_shapes

from ldm.vae import VAE, VAEConfig


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("data") / "shapes")


@pytest.fixture
def vae() -> VAE:
    torch.manual_seed(0)
    return VAE(VAEConfig(channels=8, multipliers=(1, 1, 2, 2), res_blocks=1, groups=4))
