"""A tiny random model of the official family, and pictures to train on."""

from pathlib import Path

import pytest
import torch
from randomise import randomise
from safetensors.torch import save_file
from shapes import write_shapes

from ldm import Pipeline
from ldm.loading import save_parts
from ldm.text import CLIPText, CLIPTextConfig
from ldm.unet import UNet, UNetConfig
from ldm.vae import VAE, VAEConfig
from ldm.vae.names import rows
from ldm.weights.saving import to_official

pytest_plugins = ["parity", "pytester"]         # the fixture `parity`, and --parity, which writes docs/parity.md


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A .safetensors file: UNet of two levels, VAE f8, text of one layer; native size 64, guidance 3."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.safetensors"
    torch.manual_seed(0)
    unet = UNet(UNetConfig(channels=32, multipliers=(1, 2), attn_levels=(True, False), cross_only=(False, False),
                           res_blocks=1, context_width=64))
    vae = VAE(VAEConfig(channels=32, multipliers=(1, 1, 2, 2), res_blocks=1, groups=8))
    text = CLIPText(CLIPTextConfig(width=64, layers=1))
    save_parts(path, vae, unet, text, {"prediction": "eps", "size": 64, "guidance": 3.0})
    return path


@pytest.fixture(scope="session")
def other_vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A .safetensors file: another VAE that fits the tiny model, with strong contrasts."""
    vae = randomise(VAE(VAEConfig(channels=32, multipliers=(1, 1, 2, 2), res_blocks=1)))
    path = tmp_path_factory.mktemp("vae") / "sharp.safetensors"
    save_file(to_official(vae.state_dict(), rows(vae.cfg)), path)
    return path


@pytest.fixture
def pipe(tiny_model: Path) -> Pipeline:
    """The tiny model in float32, fresh for each test."""
    return Pipeline.load(tiny_model, "cpu", "float32")


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 24 small captioned pictures."""
    return write_shapes(tmp_path_factory.mktemp("data") / "shapes")
