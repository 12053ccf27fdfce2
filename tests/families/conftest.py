"""A tiny model of each family, and files of it in the official layout."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from randomise import randomise
from torch import Tensor, nn

from ldm.text import CLIPText, CLIPTextConfig
from ldm.text.names import rows as text_rows
from ldm.unet import UNet, UNetConfig
from ldm.unet.names import rows as unet_rows
from ldm.vae import VAE, VAEConfig
from ldm.vae.names import rows as vae_rows
from ldm.weights.saving import official_part, save_safetensors

SD1 = UNetConfig(channels=32, multipliers=(1, 2), attn_levels=(True, False), cross_only=(False, False), res_blocks=1,
                 context_width=64)
SD2 = replace(SD1, channels=64, linear_proj=True, head_channels=64)
X4 = UNetConfig(in_channels=7, channels=32, multipliers=(1, 2, 4), attn_levels=(False, True, True),
                cross_only=(False, True, False), res_blocks=1, context_width=128, linear_proj=True, classes=1000)
VAE8, VAE4 = (VAEConfig(channels=32, multipliers=m, res_blocks=1) for m in ((1, 1, 2, 2), (1, 2, 2)))
CLIP = CLIPTextConfig(vocab=96, width=64, layers=2)
OPEN_CLIP = replace(CLIP, open_clip=True)
CONFIGS: dict[str, dict[str, Any]] = {
    "sd1": {"unet": SD1, "vae": VAE8, "text": CLIP},
    "sd1_inpaint": {"unet": replace(SD1, in_channels=9), "vae": VAE8, "text": CLIP},
    "sd2": {"unet": SD2, "vae": VAE8, "text": OPEN_CLIP},
    "sd2_inpaint": {"unet": replace(SD2, in_channels=9), "vae": VAE8, "text": OPEN_CLIP},
    "x4": {"unet": X4, "vae": replace(VAE4, scale_factor=0.08333), "text": replace(OPEN_CLIP, width=128)},
}
CLASSES = {"unet": UNet, "vae": VAE, "text": CLIPText}
ROWS = {"unet": unet_rows, "vae": vae_rows, "text": text_rows}


@pytest.fixture(scope="session", params=CONFIGS)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def configs() -> dict[str, dict[str, Any]]:
    return CONFIGS


@pytest.fixture(scope="session")
def make() -> Callable[[str], dict[str, nn.Module]]:
    """make("sd2"): its three components with random weights."""
    return lambda family: {part: randomise(CLASSES[part](cfg)).eval() for part, cfg in CONFIGS[family].items()}


@pytest.fixture(scope="session")
def official(make) -> Callable[[str], dict[str, Tensor]]:
    """official("sd2"): the tensors of a file, by name; of OpenCLIP also what is not used."""
    def official(family: str) -> dict[str, Tensor]:
        tensors = {}
        for part, model in make(family).items():
            tensors |= official_part(part, model.state_dict(), ROWS[part](model.cfg))
        text = CONFIGS[family]["text"]
        if text.open_clip:
            block = "cond_stage_model.model.transformer.resblocks."
            last = {name.replace(f"{block}1.", f"{block}2."): tensor + 1 for name, tensor in tensors.items()
                    if name.startswith(f"{block}1.")}
            tensors |= last | {"cond_stage_model.model.text_projection": torch.zeros(text.width, text.width),
                               "cond_stage_model.model.logit_scale": torch.tensor(4.6)}
        return tensors
    return official


@pytest.fixture
def file_of(official, tmp_path) -> Callable[..., Path]:
    """file_of("sd2", prediction="v"): an official file that says so in its metadata."""
    def file_of(family: str, **metadata: Any) -> Path:
        save_safetensors(tmp_path / f"{family}.safetensors", official(family), metadata)
        return tmp_path / f"{family}.safetensors"
    return file_of
