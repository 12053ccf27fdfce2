"""Tiny UNets with random weights, and diffusers' UNet with the same."""

from collections.abc import Callable

import pytest
import torch
from randomise import randomise
from torch import Tensor, nn

from ldm.unet import UNet, UNetConfig
from ldm.unet.names import rows

SIZES = dict(channels=32, multipliers=(1, 2, 2), context_width=24, groups=8)
LEVELS = dict(attn_levels=(True, True, False), cross_only=(False, False, False))
UPSCALER = dict(attn_levels=(False, True, True), cross_only=(True, True, False), in_channels=7, classes=10)
TINY = {
    "sd1": UNetConfig(**SIZES, **LEVELS),
    "inpainting": UNetConfig(**SIZES, **LEVELS, in_channels=9),
    "sd2": UNetConfig(**SIZES, **LEVELS, linear_proj=True, head_channels=16, depth=2),
    "upscaler": UNetConfig(**SIZES, **UPSCALER, linear_proj=True),
    "one level": UNetConfig(channels=32, multipliers=(1,), attn_levels=(True,), cross_only=(False,), res_blocks=3,
                            context_width=24, groups=8),
}


def inputs(cfg: UNetConfig, height: int, width: int, contexts: int = 1) -> tuple[Tensor, ...]:
    """x [2 C h w], t [2], context [2*contexts 7 W], and labels [2] where the model takes them."""
    g = torch.Generator().manual_seed(1)
    x = torch.randn(2, cfg.in_channels, height, width, generator=g)
    context = torch.randn(2 * contexts, 7, cfg.context_width, generator=g)
    labels = (torch.tensor([1, cfg.classes - 1]),) if cfg.classes else ()
    return x, torch.tensor([1, 981]), context, *labels


def reference(model: UNet) -> nn.Module:
    """diffusers' UNet, with our weights (the same memory) by the names of our rows."""
    from diffusers import UNet2DConditionModel

    cfg = model.cfg
    down = ["CrossAttnDownBlock2D" if attn else "DownBlock2D" for attn in cfg.attn_levels]
    with torch.device("meta"):
        theirs = UNet2DConditionModel(
            in_channels=cfg.in_channels, out_channels=cfg.out_channels, block_out_channels=tuple(cfg.widths),
            down_block_types=down, up_block_types=[name.replace("Down", "Up") for name in reversed(down)],
            layers_per_block=cfg.res_blocks, transformer_layers_per_block=cfg.depth,
            cross_attention_dim=cfg.context_width, norm_num_groups=cfg.groups, use_linear_projection=cfg.linear_proj,
            attention_head_dim=tuple(map(cfg.heads_of, cfg.widths)),        # the number of heads, in spite of its name
            only_cross_attention=cfg.cross_only, num_class_embeds=cfg.classes)
    names = {ours: diffusers for ours, _, diffusers in rows(cfg)}
    renamed = {}
    for name, tensor in model.state_dict().items():
        module, _, parameter = name.rpartition(".")
        renamed[f"{names[module]}.{parameter}"] = tensor
    theirs.load_state_dict(renamed, assign=True)
    return theirs.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def tiny() -> Callable[[str], UNet]:
    return lambda name: randomise(UNet(TINY[name]))


@pytest.fixture(scope="session")
def make_inputs() -> Callable[..., tuple[Tensor, ...]]:
    return inputs


@pytest.fixture(scope="session")
def randomised() -> Callable[[nn.Module], nn.Module]:
    return randomise


@pytest.fixture(scope="session")
def diffusers_unet() -> Callable[[UNet], nn.Module]:
    return reference
