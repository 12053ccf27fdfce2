"""Layers with packed weights against the layers they stand in for."""

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from ldm.packed import (
    DoublingConv2d,
    PackedConv2d,
    PackedGate,
    PackedGEGLU,
    PackedLinear,
    PackedUpsample,
    doubling_weight,
)
from ldm.prepare import packed_form
from ldm.unet.blocks import GEGLU

LAYERS = {
    "linear": (lambda: nn.Linear(24, 40), PackedLinear, (2, 5, 24)),
    "linear without bias": (lambda: nn.Linear(24, 40, bias=False), PackedLinear, (3, 24)),
    "gate": (lambda: nn.Linear(24, 48), PackedGate, (2, 5, 24)),
    "3x3": (lambda: nn.Conv2d(16, 32, 3, padding=1), PackedConv2d, (2, 16, 17, 25)),
    "1x1": (lambda: nn.Conv2d(16, 32, 1), PackedConv2d, (1, 16, 5, 7)),
    "strided": (lambda: nn.Conv2d(16, 16, 3, stride=2, padding=1), PackedConv2d, (2, 16, 9, 12)),
    "doubling": (lambda: nn.Conv2d(16, 24, 3, padding=1), DoublingConv2d, (2, 16, 9, 12)),
}


def layer_and_packed(kind: str):
    torch.manual_seed(0)
    make, form, shape = LAYERS[kind]
    layer = make().to(memory_format=torch.channels_last)
    return layer, form(layer), torch.randn(shape)


@pytest.mark.parametrize("kind", LAYERS)
@torch.no_grad()
def test_packed_layer_computes_the_same(kind):
    layer, packed, x = layer_and_packed(kind)
    assert_close(packed(x), layer(x), rtol=1e-5, atol=1e-6)
    bf16 = copy.deepcopy(layer).bfloat16()
    assert_close(packed.to(torch.bfloat16)(x.bfloat16()), bf16(x.bfloat16()), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("kind", LAYERS)
def test_packed_weight_gives_every_bit_back(kind):
    layer, packed, _ = layer_and_packed(kind)
    assert torch.equal(packed.weight, layer.weight)
    state = packed.state_dict()
    assert set(state) == set(layer.state_dict())
    assert all(torch.equal(state[name], weight) for name, weight in layer.state_dict().items())


@pytest.mark.parametrize("kind", LAYERS)
@torch.no_grad()
def test_packed_layer_copies_pickles_and_loads(kind):
    layer, packed, x = layer_and_packed(kind)
    expected = packed(x)
    torch.save(packed, file := io.BytesIO())
    file.seek(0)
    other = copy.deepcopy(packed)
    other.weight = torch.zeros_like(layer.weight)
    assert torch.equal(torch.load(file, weights_only=False)(x), expected)
    assert not torch.allclose(other(x), expected)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), expected)
    assert torch.equal(packed(x), expected)


def test_packed_layer_says_what_does_not_fit():
    _, packed, _ = layer_and_packed("linear")
    with pytest.raises(RuntimeError, match="weight"):
        packed.load_state_dict({"bias": torch.zeros(40)})
    with pytest.raises(RuntimeError, match=r"\[24, 40\], not \[40, 24\]"):
        packed.load_state_dict({"weight": torch.zeros(24, 40), "bias": torch.zeros(40)})


@pytest.mark.parametrize("kind", LAYERS)
def test_gradients_reach_the_input(kind):
    layer, packed, x = layer_and_packed(kind)
    gradients = []
    for module in (layer, packed):
        leaf = x.clone().requires_grad_()
        module(leaf).square().sum().backward()
        gradients.append(leaf.grad)
    assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-5)
    assert not any(p.requires_grad for p in packed.parameters())
    with pytest.raises(ValueError, match="to train, load the model with kernels='plain'"):
        packed.train()


@pytest.mark.parametrize("kind", LAYERS)
def test_packed_layer_goes_through_dtypes_that_are_not_packed(kind):
    layer, packed, x = layer_and_packed(kind)
    with torch.no_grad():
        assert_close(packed.double()(x.double()), copy.deepcopy(layer).double()(x.double()), rtol=1e-12, atol=1e-12)
        assert_close(packed.float()(x), layer(x), rtol=1e-5, atol=1e-6)
    assert {tensor.dtype for tensor in packed.half().state_dict().values()} == {torch.float16}


@pytest.mark.parametrize("kind", LAYERS)
@torch.no_grad()
def test_assigned_weight_is_packed(kind):
    layer, packed, x = layer_and_packed(kind)
    packed.weight = nn.Parameter(2 * layer.weight)
    assert torch.equal(packed.weight, 2 * layer.weight) and "weight" not in dict(packed.named_parameters())
    layer.weight *= 2
    assert_close(packed(x), layer(x), rtol=1e-5, atol=1e-6)


def test_unusual_convolutions_stay_as_they_are():
    for unusual in ({"groups": 16}, {"dilation": 2}, {"padding_mode": "reflect"}, {"padding": "same"}):
        assert packed_form(nn.Conv2d(16, 16, 3, **{"padding": 1, **unusual})) is None
    assert isinstance(packed_form(nn.Conv2d(16, 16, 3, padding=1)), PackedConv2d)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (17, 25)])
def test_doubling_weight_equals_nearest_and_convolution(height, width):
    torch.manual_seed(0)
    x, weight = torch.randn(2, 3, height, width, dtype=torch.float64), torch.randn(5, 3, 3, 3)
    expected = F.conv2d(F.interpolate(x, scale_factor=2.0, mode="nearest"), weight.double(), padding=1)
    doubled = F.conv_transpose2d(x, doubling_weight(weight).double(), stride=2, padding=1)
    assert_close(doubled, expected, rtol=0, atol=2e-6)          # the sums of the taps are float32


@pytest.mark.parametrize("size", [None, (34, 50), (33, 50), (33, 49)])
@torch.no_grad()
def test_packed_upsample_reaches_any_size_of_skip(size):
    torch.manual_seed(0)
    conv, x = nn.Conv2d(16, 24, 3, padding=1), torch.randn(2, 16, 17, 25)
    expected = conv(F.interpolate(x, size=size or (34, 50), mode="nearest"))
    assert_close(PackedUpsample(conv)(x, size), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
@torch.no_grad()
def test_packed_geglu_equals_the_plain_one_in_float64(dtype, tolerance):
    torch.manual_seed(0)
    plain, x = GEGLU(24).to(dtype), torch.randn(2, 7, 24).to(dtype)
    expected = copy.deepcopy(plain).double()(x.double())
    packed, largest = PackedGEGLU(plain.proj, plain.out), expected.abs().max().item()
    assert_close(packed(x).double(), expected, rtol=0, atol=tolerance * largest)


@torch.no_grad()
def test_packed_geglu_heeds_what_is_added_beside_its_layer():
    torch.manual_seed(0)
    plain, x, more = GEGLU(24), torch.randn(2, 7, 24), torch.randn(2, 7, 192)
    packed = PackedGEGLU(plain.proj, plain.out)
    before = packed(x)
    for layer in (plain, packed):
        layer.proj.register_forward_hook(lambda layer, inputs, output: torch.add(output, more))
    assert_close(packed(x), plain(x), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(packed(x), before)


@pytest.mark.parametrize("stand_in", ["geglu", "upsample"])
@torch.no_grad()
def test_packed_pairs_heed_what_changes_the_input_of_their_layer(stand_in):
    torch.manual_seed(0)
    if stand_in == "geglu":
        pair, x = PackedGEGLU(nn.Linear(24, 96), nn.Linear(48, 24)), torch.randn(2, 7, 24)
        layer = pair.proj
    else:
        pair, x = PackedUpsample(nn.Conv2d(16, 24, 3, padding=1)), torch.randn(2, 16, 9, 12)
        layer = pair.conv
    expected = pair(torch.zeros_like(x))
    layer.register_forward_pre_hook(lambda layer, inputs: (torch.zeros_like(inputs[0]),))
    assert_close(pair(x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["gate", "doubling"])
def test_packed_layer_keeps_nothing_packed_where_its_dtype_is_not(kind):
    _, packed, _ = layer_and_packed(kind)
    assert all(hasattr(packed, name) for name in packed.others)
    packed.double()
    assert not any(hasattr(packed, name) for name in packed.others)


def test_packed_geglu_keeps_its_names():
    plain = GEGLU(24)
    packed = packed_form(plain)
    assert isinstance(packed, PackedGEGLU)
    assert {name: tensor.shape for name, tensor in packed.state_dict().items()} == {
        name: tensor.shape for name, tensor in plain.state_dict().items()}
