"""Each family against diffusers and transformers on the same random weights, through their folders and our files."""

import json
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from randomise import randomise
from relative_error import relative_error
from safetensors.torch import load_file, save_file
from torch import nn

from ldm.attention import attention
from ldm.loading import load_parts, save_parts
from ldm.text import CLIPTextConfig
from ldm.unet import UNetConfig
from ldm.vae import VAEConfig

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

TOLERANCE = 2e-5


def their_unet(cfg: UNetConfig) -> nn.Module:
    down = ["CrossAttnDownBlock2D" if attn else "DownBlock2D" for attn in cfg.attn_levels]
    heads = [cfg.heads_of(width) for width in cfg.widths] if cfg.head_channels else cfg.heads
    return UNet2DConditionModel(
        in_channels=cfg.in_channels, out_channels=cfg.out_channels, block_out_channels=tuple(cfg.widths),
        down_block_types=down, up_block_types=[name.replace("Down", "Up") for name in reversed(down)],
        layers_per_block=cfg.res_blocks, cross_attention_dim=cfg.context_width, attention_head_dim=heads,
        use_linear_projection=cfg.linear_proj, only_cross_attention=cfg.cross_only, num_class_embeds=cfg.classes)


def their_vae(cfg: VAEConfig) -> nn.Module:
    levels = len(cfg.multipliers)
    return AutoencoderKL(
        latent_channels=cfg.latent_channels, block_out_channels=tuple(cfg.widths), layers_per_block=cfg.res_blocks,
        down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels,
        scaling_factor=cfg.scale_factor)


def their_text(cfg: CLIPTextConfig) -> nn.Module:
    return CLIPTextModel(TransformersConfig(
        vocab_size=cfg.vocab, hidden_size=cfg.width, intermediate_size=4 * cfg.width, num_hidden_layers=cfg.layers,
        num_attention_heads=cfg.heads, hidden_act="gelu" if cfg.open_clip else "quick_gelu", bos_token_id=0,
        eos_token_id=1))


@pytest.fixture(scope="module")
def theirs(family, configs) -> dict[str, Any]:
    """Their components, by the names of ours."""
    cfg = configs[family]
    made = {"unet": their_unet(cfg["unet"]), "vae": their_vae(cfg["vae"]), "text": their_text(cfg["text"])}
    return {name: randomise(model).eval() for name, model in made.items()}


@pytest.fixture(scope="module")
def folder(theirs, family, tmp_path_factory) -> Path:
    """A diffusers folder, without a tokenizer; the scheduler of SD 2 says v."""
    folder = tmp_path_factory.mktemp(family)
    for part, name in {"unet": "unet", "vae": "vae", "text": "text_encoder"}.items():
        theirs[part].save_pretrained(folder / name)
    (folder / "scheduler").mkdir()
    told = {"prediction_type": "v_prediction" if family in ("sd2", "x4") else "epsilon",
            "beta_schedule": "scaled_linear"}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(told))
    return folder


def load(path: Path) -> dict[str, Any]:
    return load_parts(path, "cpu", torch.float32, ema=True, kernels="plain")


def test_folder_of_diffusers_gives_the_same_numbers(family, folder, theirs, configs, parity):
    parts, cfg, g = load(folder), configs[family]["unet"], torch.Generator().manual_seed(1)
    assert {name: parts[name].cfg for name in theirs} == configs[family]
    assert parts["prediction"] == ("v" if family in ("sd2", "x4") else "eps")
    ids = torch.randint(96, (2, 77), generator=g)
    context = theirs["text"](ids).last_hidden_state.detach()
    x, t = torch.randn(2, cfg.in_channels, 9, 14, generator=g), torch.tensor([1, 981])
    labels = torch.tensor([0, 350]) if cfg.classes else None
    z = torch.randn(2, 4, 5, 3, generator=g)
    noise = theirs["unet"](x, t, context, class_labels=labels).sample
    for part, ours, expected in (("text", parts["text"](ids), context),
                                 ("unet", parts["unet"](x, t, context, labels), noise),
                                 ("vae", parts["vae"].decode(z), theirs["vae"].decode(z).sample)):
        parity(f"{family}, diffusers folder, {part}", "diffusers", relative_error(ours.detach(), expected), TOLERANCE)


def test_files_saved_here_are_read_by_diffusers_own_conversion(family, folder, theirs, configs, tmp_path, parity):
    """Its single-file loader knows official names independently of us, and takes OpenCLIP's fused weights apart."""
    parts = load(folder)
    save_parts(tmp_path / "m.safetensors", parts["vae"], parts["unet"], parts["text"], {"prediction": "v"})
    official = load_file(tmp_path / "m.safetensors")
    converted = {"unet": convert_ldm_unet_checkpoint(dict(official), theirs["unet"].config),
                 "vae": convert_ldm_vae_checkpoint(dict(official), theirs["vae"].config)}
    if configs[family]["text"].open_clip:
        width = SimpleNamespace(config=SimpleNamespace(hidden_size=configs[family]["text"].width))
        text = convert_open_clip_checkpoint(width, dict(official))
        converted["text"] = {name.removeprefix("text_model."): w for name, w in text.items()}
    for part, tensors in converted.items():
        expected = {name.removeprefix("text_model."): w for name, w in theirs[part].state_dict().items()}
        assert tensors.keys() == expected.keys()
        wrong = sum(not torch.equal(tensors[name].squeeze(), expected[name].squeeze()) for name in expected)
        parity(f"{family}, official file as diffusers reads it, {part}", "diffusers", wrong, 0)


@torch.no_grad()
def test_official_file_of_sd2_gives_the_context_of_open_clip(official, tmp_path, parity):
    """Stability AI's file holds open_clip's text encoder by its own names, one layer more than is used."""
    from open_clip.transformer import TextTransformer

    reference = randomise(TextTransformer(vocab_size=96, width=64, heads=1, layers=3, output_dim=64)).eval()
    tensors = {name: w for name, w in official("sd2").items() if not name.startswith("cond_stage_model.")}
    tensors |= {f"cond_stage_model.model.{name}": w for name, w in reference.state_dict().items()}
    save_file(tensors, tmp_path / "m.safetensors", metadata={"ldm": '{"prediction": "v"}'})
    ids = torch.randint(96, (2, 77), generator=torch.Generator().manual_seed(1))
    expected = reference.forward_intermediates(ids, indices=[1], normalize_intermediates=True,
                                               intermediates_only=True, output_fmt="NLC")["text_intermediates"][0]
    ours = load(tmp_path / "m.safetensors")["text"](ids)
    parity("sd2, official file, text", "open_clip_torch", relative_error(ours, expected), TOLERANCE)


@pytest.mark.parametrize("kernels", ["auto", "portable", "plain"])
def test_large_scores_do_not_overflow_in_float16(kernels):
    """SD 2.1's are above 65504, the largest float16, before they are scaled: black pictures elsewhere."""
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 50, 64, generator=g, dtype=torch.float64) for _ in range(3))
    q, k = 60 * q.sign(), 60 * k.sign()
    k[:, 7] = q[:, 3]
    assert (q @ k.mT).abs().max() > 2 * 65504
    expected = attention(q, k, v, heads=1, kernels="plain")
    out = attention(q.half(), k.half(), v.half(), heads=1, kernels=kernels)
    assert relative_error(out.double(), expected) < 2e-3
