"""Every name of the full-size official files, on the meta device: against diffusers' and open_clip's own knowledge."""

import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ldm.text import CLIPText, CLIPTextConfig
from ldm.text.names import config_from as text_config_from
from ldm.text.names import rows as text_rows
from ldm.unet import UNet, UNetConfig
from ldm.unet.names import config_from as unet_config_from
from ldm.unet.names import rows as unet_rows
from ldm.vae import VAE, VAEConfig
from ldm.vae.names import rows as vae_rows
from ldm.weights import openclip
from ldm.weights.entries import Entry, contiguous_stride
from ldm.weights.families import identify
from ldm.weights.saving import official_part

with warnings.catch_warnings():
    warnings.simplefilter("ignore")                     # of third-party modules at import
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from diffusers.loaders.single_file_utils import (
        convert_ldm_unet_checkpoint,
        convert_ldm_vae_checkpoint,
        convert_open_clip_checkpoint,
    )
    from transformers import CLIPTextConfig as TransformersConfig
    from transformers import CLIPTextModel

Shapes = dict[str, tuple[int, ...]]
SD2 = dict(context_width=1024, linear_proj=True, head_channels=64)
UPSCALER = dict(in_channels=7, channels=256, multipliers=(1, 2, 2, 4), attn_levels=(False, True, True, True),
                cross_only=(False, True, True, False), context_width=1024, linear_proj=True, classes=1000)
# What each folder's unet/config.json says beside the defaults of diffusers
TWO = dict(attention_head_dim=(5, 10, 20, 20), cross_attention_dim=1024, use_linear_projection=True)
FOUR = dict(in_channels=7, block_out_channels=(256, 512, 512, 1024), attention_head_dim=8, cross_attention_dim=1024,
            down_block_types=("DownBlock2D", *["CrossAttnDownBlock2D"] * 3), num_class_embeds=1000,
            up_block_types=(*["CrossAttnUpBlock2D"] * 3, "UpBlock2D"), use_linear_projection=True,
            only_cross_attention=(True, True, True, False))
UNETS = {
    "sd1_inpaint": (UNetConfig(in_channels=9), dict(in_channels=9, cross_attention_dim=768)),
    "sd2": (UNetConfig(**SD2), TWO),
    "sd2_inpaint": (UNetConfig(**SD2, in_channels=9), TWO | {"in_channels": 9}),
    "x4": (UNetConfig(**UPSCALER), FOUR),
}
VIT_H = CLIPTextConfig(width=1024, layers=23, open_clip=True)


def shapes_of(tensors: dict[str, torch.Tensor]) -> Shapes:
    return {name.removeprefix("text_model."): tuple(tensor.squeeze().shape) for name, tensor in tensors.items()}


@pytest.mark.parametrize("family", UNETS)
def test_official_unet_is_the_one_that_diffusers_converts(family):
    cfg, published = UNETS[family]
    with torch.device("meta"):
        model, theirs = UNet(cfg), UNet2DConditionModel(**published)
    official = official_part("unet", model.state_dict(), unet_rows(cfg))
    assert shapes_of(convert_ldm_unet_checkpoint(official, theirs.config)) == shapes_of(theirs.state_dict())
    assert cfg.family == family
    prefix = "model.diffusion_model."
    assert unet_config_from({name.removeprefix(prefix): tuple(w.shape) for name, w in official.items()}) == cfg


def test_official_vae_of_the_upscaler_is_the_one_that_diffusers_converts():
    cfg = VAEConfig(multipliers=(1, 2, 4))
    with torch.device("meta"):
        model = VAE(cfg)
        theirs = AutoencoderKL(latent_channels=4, layers_per_block=2, block_out_channels=(128, 256, 512),
                               down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3)
    official = official_part("vae", model.state_dict(), vae_rows(cfg))
    assert shapes_of(convert_ldm_vae_checkpoint(official, theirs.config)) == shapes_of(theirs.state_dict())


def vit_h() -> Shapes:
    """What Stability AI's files hold of OpenCLIP, from open_clip's own model."""
    import open_clip
    from open_clip.transformer import TextTransformer

    config = open_clip.get_model_config("ViT-H-14")
    with torch.device("meta"):
        state = TextTransformer(**config["text_cfg"], output_dim=config["embed_dim"]).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items()} | {"logit_scale": ()}


def test_official_text_encoder_is_open_clips_without_its_last_layer():
    whole = vit_h()
    assert len(whole) == 24 * 12 + 6
    with torch.device("meta"):
        model = CLIPText(VIT_H)
    official = official_part("text", model.state_dict(), text_rows(VIT_H))
    ours = {name.removeprefix(openclip.PREFIX): tuple(tensor.shape) for name, tensor in official.items()}
    unused = openclip.unused(whole)
    assert ours == {name: shape for name, shape in whole.items() if name not in {*unused, "logit_scale"}}
    assert len(unused) == 12 + 1 and "transformer.resblocks.23.ln_1.weight" in unused


def test_official_text_encoder_is_the_one_that_diffusers_converts():
    with torch.device("meta"):
        model = CLIPText(VIT_H)
        theirs = CLIPTextModel(TransformersConfig(hidden_size=1024, intermediate_size=4096, num_hidden_layers=23,
                                                  num_attention_heads=16, hidden_act="gelu"))
    official = official_part("text", model.state_dict(), text_rows(VIT_H))
    width = SimpleNamespace(config=SimpleNamespace(hidden_size=1024))
    expected = {name: shape for name, shape in shapes_of(theirs.state_dict()).items() if "position_ids" not in name}
    assert shapes_of(convert_open_clip_checkpoint(width, official)) == expected


def test_whole_official_file_is_told_and_taken_apart():
    with torch.device("meta"):
        unet, vae = UNet(UNetConfig(**SD2)), VAE()
    tensors = official_part("unet", unet.state_dict(), unet_rows(unet.cfg))
    tensors |= official_part("vae", vae.state_dict(), vae_rows(vae.cfg))
    text = {name: shape for name, shape in vit_h().items() if name != "logit_scale"}
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    assert (len(shapes), len(text)) == (686 + 248, 293)
    assert identify(shapes | {f"{openclip.PREFIX}{name}": shape for name, shape in text.items()}).family == "sd2"
    unused = openclip.unused(text)
    entries = openclip.separate({name: Entry(Path("m"), 0, torch.float16, shape, contiguous_stride(shape))
                                 for name, shape in text.items() if name not in unused})
    assert text_config_from({name: entry.shape for name, entry in entries.items()}) == VIT_H
    value = entries["transformer.resblocks.22.attn.v_proj.weight"]
    assert (value.shape, value.offset) == ((1024, 1024), 2 * 2 * 1024**2)       # after q and k, two bytes a number
