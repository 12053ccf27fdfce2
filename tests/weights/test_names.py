"""Names of the full-size Stable Diffusion 1.5, on the meta device."""

import pytest
import torch

from ldm.text import CLIPText, CLIPTextConfig
from ldm.text.names import config_from as text_config_from
from ldm.text.names import rows as text_rows
from ldm.unet import UNet, UNetConfig
from ldm.unet.names import config_from as unet_config_from
from ldm.unet.names import rows as unet_rows
from ldm.vae import VAE, VAEConfig
from ldm.vae.names import config_from as vae_config_from
from ldm.vae.names import rows as vae_rows
from ldm.weights.saving import to_official


def diffusers_unet() -> torch.nn.Module:
    from diffusers import UNet2DConditionModel
    return UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)


def diffusers_vae() -> torch.nn.Module:
    from diffusers import AutoencoderKL
    return AutoencoderKL(latent_channels=4, layers_per_block=2, block_out_channels=(128, 256, 512, 512),
                         down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4)


def transformers_text() -> torch.nn.Module:
    from transformers import CLIPTextConfig as Config
    from transformers import CLIPTextModel
    return CLIPTextModel(Config(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12))


PARTS = {
    "unet": (lambda: UNet(UNetConfig()), unet_rows, unet_config_from, diffusers_unet, 686),
    "vae": (lambda: VAE(VAEConfig()), vae_rows, vae_config_from, diffusers_vae, 248),
    "text": (lambda: CLIPText(CLIPTextConfig()), text_rows, text_config_from, transformers_text, 196),
}


@pytest.mark.parametrize("part", PARTS)
def test_official_names_count_as_the_published_files_do(part):
    """Counted in the published checkpoints: 686, 248 (106 encoder, 138 decoder, 4 quant convolutions) and 196."""
    make, rows, config_from, _, count = PARTS[part]
    with torch.device("meta"):
        model = make()
    official = to_official(model.state_dict(), rows(model.cfg))
    assert len(official) == len(model.state_dict()) == count
    assert config_from({name: tuple(tensor.shape) for name, tensor in official.items()}) == model.cfg
    if part == "vae":
        assert [sum(name.startswith(p) for name in official) for p in ("encoder.", "decoder.")] == [106, 138]


@pytest.mark.parametrize("part", PARTS)
def test_diffusers_names_are_those_of_diffusers_models(part, in_diffusers_names):
    make, _, config_from, reference, _ = PARTS[part]
    with torch.device("meta"):
        model, theirs = make(), reference().state_dict()
    ours = in_diffusers_names(part, model)
    theirs = {name.removeprefix("text_model."): tensor for name, tensor in theirs.items()}
    assert ours.keys() == theirs.keys()
    assert all(ours[name].squeeze().shape == theirs[name].squeeze().shape for name in ours)
    assert config_from({name: tuple(tensor.shape) for name, tensor in theirs.items()}) == model.cfg
