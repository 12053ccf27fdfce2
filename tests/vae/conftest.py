"""Tiny VAEs with random weights, and diffusers' autoencoder with the same."""

from collections.abc import Callable

import pytest
import torch
from randomise import randomise
from torch import nn

from ldm.vae import VAE, VAEConfig
from ldm.vae.names import rows

TINY = VAEConfig(channels=32, multipliers=(1, 2, 2), groups=8)


def reference(model: VAE) -> nn.Module:
    """diffusers' autoencoder, with our weights by the names of our rows.

    Its attention has linear layers where the official files, and we, have 1x1 convolutions.
    """
    from diffusers import AutoencoderKL

    cfg = model.cfg
    levels = len(cfg.multipliers)
    with torch.device("meta"):
        theirs = AutoencoderKL(
            in_channels=cfg.image_channels, out_channels=cfg.image_channels, latent_channels=cfg.latent_channels,
            block_out_channels=tuple(cfg.widths), layers_per_block=cfg.res_blocks, norm_num_groups=cfg.groups,
            down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels)
    names = {ours: diffusers for ours, _, diffusers in rows(cfg)}
    renamed, expected = {}, theirs.state_dict()
    for name, tensor in model.state_dict().items():
        module, _, parameter = name.rpartition(".")
        new = f"{names[module]}.{parameter}"
        renamed[new] = tensor.reshape(expected[new].shape)
    theirs.load_state_dict(renamed, assign=True)
    return theirs.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def randomised() -> Callable[[nn.Module], nn.Module]:
    return randomise


@pytest.fixture(scope="session")
def diffusers_vae() -> Callable[[VAE], nn.Module]:
    return reference


@pytest.fixture
def tiny() -> VAE:
    """Three levels (factor 4)."""
    return randomise(VAE(TINY))
