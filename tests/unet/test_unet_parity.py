"""The UNet against diffusers' UNet2DConditionModel with the same random weights, renamed by our rows."""

import pytest
import torch

from ldm.unet import UNet, UNetConfig


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Largest difference over the largest absolute value."""
    assert ours.shape == theirs.shape and theirs.std() > 0.1
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def compare(model: UNet, theirs: torch.nn.Module, x, t, context, labels=None) -> float:
    return relative_error(model(x, t, context, labels), theirs(x, t, context, class_labels=labels).sample)


@pytest.mark.parametrize("size", [(16, 24), (17, 25), (5, 2)])
@pytest.mark.parametrize("name", ["sd1", "inpainting", "sd2", "upscaler", "one level"])
def test_unet_equals_diffusers(name, size, tiny, make_inputs, diffusers_unet):
    """Batch 2, two timesteps, any size; measured 7e-7 at most."""
    model = tiny(name)
    assert compare(model, diffusers_unet(model), *make_inputs(model.cfg, *size)) < 1e-5


@pytest.mark.slow
def test_full_size_unet_equals_diffusers(randomised, make_inputs, diffusers_unet):
    """SD 1.5 itself; both models share one set of weights in memory."""
    with torch.device("meta"):
        model = UNet(UNetConfig())
    model = randomised(model.to_empty(device="cpu"))
    assert compare(model, diffusers_unet(model), *make_inputs(model.cfg, 24, 33)) < 1e-4
