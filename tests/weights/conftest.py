"""A tiny model of the official family, and files made of it."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import ldm.text.names
import ldm.unet.names
import ldm.vae.names
from ldm.naming import Row
from ldm.text import CLIPText, CLIPTextConfig
from ldm.unet import UNet, UNetConfig
from ldm.vae import VAE, VAEConfig
from ldm.weights import Checkpoint, fill, match
from ldm.weights.saving import PREFIXES, to_official

NAMES = {"unet": ldm.unet.names, "vae": ldm.vae.names, "text": ldm.text.names}


@pytest.fixture(scope="session")
def models() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    unet = UNetConfig(channels=32, multipliers=(1, 2), attn_levels=(True, False), cross_only=(False, False),
                      res_blocks=1, context_width=64)
    return {"unet": UNet(unet), "vae": VAE(VAEConfig(channels=32, multipliers=(1, 2), res_blocks=1)),
            "text": CLIPText(CLIPTextConfig(vocab=96, width=64, layers=2))}


@pytest.fixture
def states(models) -> dict[str, tuple[dict[str, Tensor], list[Row]]]:
    """What save_checkpoint takes."""
    return {part: (model.state_dict(), list(NAMES[part].rows(model.cfg))) for part, model in models.items()}


@pytest.fixture
def official(states) -> dict[str, Tensor]:
    """Every tensor of the tiny model by its official name."""
    return {name: tensor for part, (state, rows) in states.items()
            for name, tensor in to_official(state, rows, PREFIXES[part]).items()}


@pytest.fixture
def load() -> Callable[..., dict[str, nn.Module]]:
    """Models from an opened file, built on the meta device from its shapes, all matched before any is filled."""
    def load(source: Checkpoint, dtype: torch.dtype = torch.float32) -> dict[str, nn.Module]:
        classes = {"unet": UNet, "vae": VAE, "text": CLIPText}
        with torch.device("meta"):
            models = {name: classes[name](NAMES[name].config_from(part.shapes)) for name, part in source.parts.items()}
        for check in (True, False):
            for part, model in models.items():
                rows, tensors = NAMES[part].rows(model.cfg), source.parts[part]
                match(model, rows, tensors) if check else fill(model, rows, tensors, dtype)
        return models
    return load


@pytest.fixture
def assert_same() -> Callable[[nn.Module, nn.Module], None]:
    """Bit for bit the same weights, in the dtype of the first."""
    def assert_same(loaded: nn.Module, model: nn.Module) -> None:
        ours, expected = loaded.state_dict(), model.state_dict()
        assert ours.keys() == expected.keys()
        for name, tensor in ours.items():
            assert torch.equal(tensor, expected[name].to(tensor.dtype)), name
    return assert_same


@pytest.fixture(scope="session")
def in_diffusers_names() -> Callable[[str, nn.Module], dict[str, Tensor]]:
    """A model's weights by the names of the diffusers or transformers model."""
    def in_diffusers_names(part: str, model: nn.Module) -> dict[str, Tensor]:
        theirs = {ours: diffusers.removeprefix("text_model.") for ours, _, diffusers in NAMES[part].rows(model.cfg)}
        renamed = {}
        for name, tensor in model.state_dict().items():
            module, _, parameter = name.rpartition(".")
            renamed[f"{theirs[module]}.{parameter}"] = tensor
        return renamed
    return in_diffusers_names
