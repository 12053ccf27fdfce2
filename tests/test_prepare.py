"""A prepared model against the same model as PyTorch runs it."""

import copy

import pytest
import torch
from randomise import randomise
from torch import nn
from torch.testing import assert_close

from ldm import Pipeline
from ldm.packed import Packed, PackedUpsample
from ldm.prepare import describe, prepare
from ldm.text import CLIPText, CLIPTextConfig
from ldm.unet import UNet, UNetConfig
from ldm.vae import VAE, VAEConfig

UNET = UNetConfig(channels=32, multipliers=(1, 2), attn_levels=(True, True), cross_only=(False, False), res_blocks=1,
                  context_width=64, heads=4, groups=16)
VAE_ = VAEConfig(channels=32, multipliers=(1, 2), res_blocks=1, groups=8)
TEXT = CLIPTextConfig(vocab=100, width=64, layers=2)


def plain_and_prepared(module: nn.Module, kernels):
    torch.manual_seed(0)
    randomise(module)
    prepared = copy.deepcopy(module)
    prepare(prepared, kernels)
    return module.eval(), prepared


@pytest.mark.parametrize("kernels", ["auto", "portable", "plain"])
@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 25)])
@torch.no_grad()
def test_prepared_unet_computes_the_same(kernels, height, width):
    plain, prepared = plain_and_prepared(UNet(UNET), kernels)
    x, t, context = torch.randn(1, 4, height, width), torch.tensor([500.0]), torch.randn(2, 77, 64)
    expected = plain(x, t, context)
    assert_close(prepared(x, t, context), expected, rtol=0, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("kernels", ["auto", "portable", "plain"])
@torch.no_grad()
def test_prepared_vae_computes_the_same(kernels):
    plain, prepared = plain_and_prepared(VAE(VAE_), kernels)
    z, image = torch.randn(1, 4, 17, 25), torch.randn(1, 3, 34, 50)
    for expected, found in ((plain.decode(z), prepared.decode(z)),
                            (plain.encode(image).mean, prepared.encode(image).mean)):
        assert_close(found, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


@torch.no_grad()
def test_prepared_text_computes_the_same():
    plain, prepared = plain_and_prepared(CLIPText(TEXT), "auto")
    ids = torch.randint(100, (2, 77))
    assert_close(prepared(ids), plain(ids), rtol=1e-5, atol=1e-5)


def test_prepared_model_keeps_its_state_and_its_names():
    plain, prepared = plain_and_prepared(UNet(UNET), "auto")
    state = prepared.state_dict()
    assert list(state) == list(plain.state_dict())
    assert all(torch.equal(state[name], weight) for name, weight in plain.state_dict().items())


def test_plain_packs_nothing_and_describe_says_what_was_chosen():
    plain, prepared = plain_and_prepared(UNet(UNET), "auto")
    prepare(plain, "plain")
    assert not any(isinstance(m, Packed | PackedUpsample) for m in plain.modules())
    assert describe(plain) == "cpu, float32, 0 packed layers, attention sdpa"
    packed = sum(isinstance(m, Packed) for m in prepared.modules())
    assert packed > 20 and f"cpu, float32, {packed} packed layers, attention" in describe(prepared)


def test_unknown_kernels_are_refused_before_anything_is_read():
    with pytest.raises(ValueError, match="kernels 'fast' is unknown; try one of auto, portable, plain"):
        Pipeline.load("nowhere.safetensors", kernels="fast")  # pyright: ignore[reportArgumentType]
