"""Names of the VAE's weights, and its configuration from shapes."""

import pytest
import torch

from ldm.vae import VAE, VAEConfig
from ldm.vae.names import config_from, rows

OURS, COMPVIS, DIFFUSERS = range(3)
CONFIGS = {
    "sd": VAEConfig(),
    "upscaler": VAEConfig(multipliers=(1, 2, 4)),
    "small": VAEConfig(image_channels=1, latent_channels=6, channels=64, multipliers=(1, 3), res_blocks=1),
    "one level": VAEConfig(channels=32, multipliers=(2,), res_blocks=3),
}


def shapes(cfg: VAEConfig, column: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the model's weights by the names of one column."""
    with torch.device("meta"):
        state = VAE(cfg).state_dict()
    names = {row[OURS]: row[column] for row in rows(cfg)}
    named = ((*name.rpartition("."), tensor) for name, tensor in state.items())
    return {f"{names[module]}.{parameter}": tuple(tensor.shape) for module, _, parameter, tensor in named}


@pytest.mark.parametrize("cfg", CONFIGS.values(), ids=CONFIGS)
def test_every_parameter_has_exactly_one_row(cfg):
    with torch.device("meta"):
        model = VAE(cfg)
    modules = {name.rpartition(".")[0] for name in model.state_dict()}
    for column in zip(*rows(cfg), strict=True):
        assert len(set(column)) == len(column)
    assert modules <= {ours for ours, _, _ in rows(cfg)}
    assert len(shapes(cfg, COMPVIS)) == len(shapes(cfg, DIFFUSERS)) == len(model.state_dict())


def test_official_file_has_248_tensors():
    """Counted in the published SD 1.x checkpoints: 106 of the encoder, 138 of the decoder, 4 quant convolutions."""
    official = shapes(VAEConfig(), COMPVIS)
    assert len(official) == 248
    assert [sum(name.startswith(part) for name in official) for part in ("encoder.", "decoder.")] == [106, 138]
    assert official["encoder.down.1.block.0.nin_shortcut.weight"] == (256, 128, 1, 1)
    assert official["encoder.down.2.downsample.conv.weight"] == (512, 512, 3, 3)
    # the decoder's levels are numbered by resolution: 3 is the smallest, and comes first
    assert official["decoder.up.3.upsample.conv.weight"] == (512, 512, 3, 3)
    assert official["decoder.up.0.block.0.nin_shortcut.weight"] == (128, 256, 1, 1)
    assert official["quant_conv.weight"] == (8, 8, 1, 1)


@pytest.mark.parametrize("column", [COMPVIS, DIFFUSERS], ids=["compvis", "diffusers"])
@pytest.mark.parametrize("cfg", CONFIGS.values(), ids=CONFIGS)
def test_config_from_reads_the_shapes_that_rows_name(cfg, column):
    assert config_from(shapes(cfg, column)) == cfg


def test_config_from_takes_what_shapes_cannot_tell():
    cfg = VAEConfig(groups=8, scale_factor=0.08333)
    assert config_from(shapes(cfg, COMPVIS), scale_factor=0.08333, groups=8) == cfg


@pytest.mark.parametrize("missing", ["encoder.conv_in.weight", "encoder.down.1.block.0.conv2.weight"])
def test_config_from_misses_a_tensor_by_the_name_in_the_file(missing):
    official = shapes(VAEConfig(), COMPVIS)
    del official[missing]
    with pytest.raises(KeyError, match=missing):
        config_from(official)
