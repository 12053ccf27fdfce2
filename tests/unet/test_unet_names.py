"""Names of the UNet's weights, and its configuration from shapes."""

import pytest
import torch

from ldm.unet import UNet, UNetConfig
from ldm.unet.names import config_from, rows

OURS, COMPVIS, DIFFUSERS = range(3)
SMALL = dict(channels=64, multipliers=(1, 3), attn_levels=(False, True), cross_only=(False, False))
CONFIGS = {
    "sd1": UNetConfig(),
    "inpainting": UNetConfig(in_channels=9),
    "sd2": UNetConfig(context_width=1024, linear_proj=True, head_channels=64),
    "upscaler": UNetConfig(in_channels=7, channels=256, multipliers=(1, 2, 2, 4), attn_levels=(False, True, True, True),
                           cross_only=(False, True, True, False), context_width=1024, linear_proj=True, classes=1000),
    "small": UNetConfig(**SMALL, res_blocks=1, depth=3, context_width=40, out_channels=8),
    "one level": UNetConfig(channels=32, multipliers=(2,), attn_levels=(True,), cross_only=(False,), res_blocks=4),
}


def shapes(cfg: UNetConfig, column: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the model's weights by the names of one column."""
    with torch.device("meta"):
        state = UNet(cfg).state_dict()
    names = {row[OURS]: row[column] for row in rows(cfg)}
    named = ((*name.rpartition("."), tensor) for name, tensor in state.items())
    return {f"{names[module]}.{parameter}": tuple(tensor.shape) for module, _, parameter, tensor in named}


@pytest.mark.parametrize("cfg", CONFIGS.values(), ids=CONFIGS)
def test_every_parameter_has_exactly_one_row(cfg):
    with torch.device("meta"):
        model = UNet(cfg)
    modules = {name.rpartition(".")[0] for name in model.state_dict()}
    for column in zip(*rows(cfg), strict=True):
        assert len(set(column)) == len(column)
    assert modules <= {ours for ours, _, _ in rows(cfg)}
    assert len(shapes(cfg, COMPVIS)) == len(shapes(cfg, DIFFUSERS)) == len(model.state_dict())


def test_official_file_has_686_tensors():
    """Counted in the published SD 1.x checkpoints, with a name from each part of them."""
    official = shapes(UNetConfig(), COMPVIS)
    assert len(official) == 686
    assert official["input_blocks.3.0.op.weight"] == (320, 320, 3, 3)
    assert official["input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"] == (640, 768)
    assert official["output_blocks.2.1.conv.weight"] == (1280, 1280, 3, 3)
    assert official["output_blocks.5.2.conv.bias"] == (1280,)
    assert official["output_blocks.11.0.skip_connection.weight"] == (320, 640, 1, 1)


@pytest.mark.parametrize("column", [COMPVIS, DIFFUSERS], ids=["compvis", "diffusers"])
@pytest.mark.parametrize("cfg", CONFIGS.values(), ids=CONFIGS)
def test_config_from_reads_the_shapes_that_rows_name(cfg, column):
    assert config_from(shapes(cfg, column)) == cfg


def test_config_from_takes_what_shapes_cannot_tell():
    cfg = UNetConfig(**SMALL, heads=4, groups=16)
    assert config_from(shapes(cfg, COMPVIS), heads=4, groups=16) == cfg


def test_config_from_takes_the_heads_it_is_told_where_projections_are_linear():
    cfg = UNetConfig(**SMALL, linear_proj=True, heads=4)
    assert config_from(shapes(cfg, COMPVIS), heads=4) == cfg
    assert config_from(shapes(cfg, COMPVIS)).head_channels == 64


@pytest.mark.parametrize(("column", "missing"), [(COMPVIS, "input_blocks.0.0.bias"), (COMPVIS, "out.2.weight"),
                                                 (DIFFUSERS, "conv_in.weight"),
                                                 (DIFFUSERS, "down_blocks.1.resnets.0.conv2.weight")])
def test_config_from_misses_a_tensor_by_the_name_in_the_file(column, missing):
    official = shapes(CONFIGS["small"], column)
    del official[missing]
    if missing.endswith("bias"):
        assert config_from(official) == CONFIGS["small"]        # biases tell nothing
    else:
        with pytest.raises(KeyError, match=missing):
            config_from(official)
