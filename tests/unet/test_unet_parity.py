"""The UNet against diffusers' UNet2DConditionModel with the same random weights, renamed by our rows."""

import pytest
import torch
from relative_error import relative_error

from ldm.unet import UNet, UNetConfig


def compare(model: UNet, theirs: torch.nn.Module, x, t, context, labels=None) -> float:
    return relative_error(model(x, t, context, labels), theirs(x, t, context, class_labels=labels).sample)


@pytest.mark.parametrize("size", [(16, 24), (17, 25), (5, 2)])
@pytest.mark.parametrize("name", ["sd1", "inpainting", "sd2", "upscaler", "one level"])
def test_unet_equals_diffusers(name, size, tiny, make_inputs, diffusers_unet, parity):
    """Batch 2, two timesteps, any size."""
    model = tiny(name)
    error = compare(model, diffusers_unet(model), *make_inputs(model.cfg, *size))
    parity(f"UNet, tiny, {name}", "diffusers", error, 1e-5)


@pytest.mark.slow
def test_full_size_unet_equals_diffusers(randomised, make_inputs, diffusers_unet, parity):
    """SD 1.5 itself; both models share one set of weights in memory."""
    with torch.device("meta"):
        model = UNet(UNetConfig())
    model = randomised(model.to_empty(device="cpu"))
    error = compare(model, diffusers_unet(model), *make_inputs(model.cfg, 24, 33))
    parity("UNet, full size, SD 1.5", "diffusers", error, 1e-4)
