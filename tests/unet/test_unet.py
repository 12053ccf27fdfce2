"""The UNet's promises: the batch rule, timesteps, dtypes, gradients, memory layout, errors."""

import pytest
import torch
from torch.testing import assert_close

from ldm.unet import UNet, UNetConfig
from ldm.unet.blocks import repeat_to


def test_sd15_has_the_published_number_of_parameters():
    with torch.device("meta"):
        assert sum(p.numel() for p in UNet().parameters()) == 859_520_964


@pytest.mark.parametrize("t", [[500], [1, 981]], ids=["t [1]", "t [B]"])
@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("name", ["sd1", "sd2", "upscaler"])
def test_contexts_of_n_times_the_batch_equal_the_plain_repeated_batch(name, n, t, tiny, make_inputs):
    """Exact but for the order of sums: 1e-12 in float64, at odd sizes."""
    model = tiny(name).double()
    x, _, context, *labels = make_inputs(model.cfg, 17, 25, contexts=n)
    x, t, context = x.double(), torch.tensor(t), context.double()
    plain = model(torch.cat([x] * n), repeat_to(t, 2 * n), context, *(torch.cat([label] * n) for label in labels))
    assert_close(model(x, t, context, *labels), plain, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(plain[:2], plain[-2:], atol=0.1) or n == 1        # the contexts do matter


def test_first_levels_compute_the_shared_batch_once(tiny, make_inputs):
    model, batches = tiny("sd1"), []
    model.down[0].res[0].register_forward_hook(lambda module, args, out: batches.append(len(out)))
    model.down[0].res[1].register_forward_hook(lambda module, args, out: batches.append(len(out)))
    model(*make_inputs(model.cfg, 8, 8, contexts=2))
    assert batches == [2, 4]                # before and after the first cross-attention


def test_encode_mid_and_decode_compose_to_forward(tiny, make_inputs):
    model = tiny("sd1")
    x, t, context = make_inputs(model.cfg, 9, 12, contexts=2)
    emb = model.embed(t)
    h, skips = model.encode(x, emb, context)
    assert {len(skip) for skip in skips} == {4}
    assert len(skips) == 1 + 3 * model.cfg.res_blocks + 2           # conv_in, the ResBlocks, two downsamples
    for _ in range(2):                                              # the caller's list is left alone
        out = model.decode(model.mid(h, emb, context), skips, emb, context)
        assert torch.equal(out, model(x, t, context))


def test_integer_and_float_timesteps_agree(tiny, make_inputs):
    model = tiny("sd1")
    x, t, context = make_inputs(model.cfg, 8, 8)
    assert torch.equal(model(x, t, context), model(x, t.double(), context))
    assert_close(model(x, t[:1], context), model(x, t[[0, 0]], context), rtol=1e-5, atol=1e-5)


def test_fractional_timesteps_are_continuous(tiny, make_inputs):
    model = tiny("sd1").double()
    x, _, context = (v.double() for v in make_inputs(model.cfg, 8, 8))
    at = {t: model(x, torch.tensor([t], dtype=torch.float64), context) for t in (500.0, 500.01, 500.5, 501.0)}
    whole = (at[501.0] - at[500.0]).norm()
    assert (at[500.01] - at[500.0]).norm() < 0.02 * whole           # a hundredth of the way, a hundredth of the change
    for end in (500.0, 501.0):
        assert 0.3 * whole < (at[500.5] - at[end]).norm() < 0.7 * whole


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_unet_returns_the_dtype_of_its_input(dtype, tiny, make_inputs):
    """Weights and sums in 16 bits: a few per cent of the output's spread."""
    model = tiny("upscaler")
    args = make_inputs(model.cfg, 8, 8)
    expected = model(*args)
    out = model.to(dtype)(*args)
    assert out.dtype == torch.float32
    assert (out - expected).std() < 0.05 * expected.std()
    x, *rest = args
    assert model(x.to(dtype), *rest).dtype == dtype


def test_timesteps_are_not_rounded_to_16_bits(tiny):
    """981 in bfloat16 is 980."""
    model = tiny("sd1")
    expected = model.embed(torch.tensor([981]))
    model = model.bfloat16()
    emb, neighbour = model.embed(torch.tensor([981])).float(), model.embed(torch.tensor([980])).float()
    assert (emb - expected).norm() < 0.1 * (neighbour - expected).norm()


@pytest.mark.parametrize("name", ["sd1", "upscaler"])
def test_gradients_reach_every_parameter(name, tiny, make_inputs):
    model = tiny(name).requires_grad_(True)
    x, t, context, *labels = make_inputs(model.cfg, 8, 12, contexts=2)
    x.requires_grad_(), context.requires_grad_()
    model(x, t, context, *labels).square().mean().backward()
    for name, tensor in [*model.named_parameters(), ("x", x), ("context", context)]:
        assert tensor.grad is not None and tensor.grad.isfinite().all() and tensor.grad.abs().max() > 1e-6, name


@pytest.mark.parametrize("name", ["sd1", "sd2"])
def test_channels_last_stays_channels_last(name, tiny, make_inputs):
    model = tiny(name).to(memory_format=torch.channels_last)
    x, t, context = make_inputs(model.cfg, 17, 25, contexts=2)
    maps = []
    for module in model.modules():
        module.register_forward_hook(lambda module, args, out: maps.append((type(module).__name__, out)))
    model(x.contiguous(memory_format=torch.channels_last), t, context)
    maps = [(name, out) for name, out in maps if isinstance(out, torch.Tensor) and out.ndim == 4]
    assert {"ResBlock", "SpatialTransformer", "Downsample", "Upsample", "Conv2d", "GroupNorm"} <= {n for n, _ in maps}
    assert not {n for n, out in maps if not out.is_contiguous(memory_format=torch.channels_last)} - {"Linear"}


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 9), (12, 10)])
def test_unet_keeps_any_size(size, tiny, make_inputs):
    model = tiny("sd1")
    assert model(*make_inputs(model.cfg, *size)).shape == (2, 4, *size)


def test_upsample_repeats_pixels_up_to_the_size_of_the_skip(tiny):
    """17 halves to 9; nine pixels enlarged to 17 lose half of the last one only."""
    upsample = tiny("sd1").up[0].upsample
    torch.nn.init.dirac_(upsample.conv.weight)
    torch.nn.init.zeros_(upsample.conv.bias)
    x = torch.randn(1, 64, 9, 4)
    out = upsample(x, (17, 8))
    assert torch.equal(out, x.repeat_interleave(2, 2).repeat_interleave(2, 3)[:, :, :17])


X, T, CONTEXT = torch.zeros(2, 4, 8, 8), torch.tensor([5]), torch.zeros(2, 7, 24)
FAULTS = {
    "channels": ((X[:, :3], T, CONTEXT), r"x has shape \(2, 3, 8, 8\); this UNet takes \[B 4 h w\]"),
    "no batch": ((X[0], T, CONTEXT), r"x has shape \(4, 8, 8\)"),
    "context width": ((X, T, CONTEXT[..., :20]), r"context has shape \(2, 7, 20\); this UNet takes \[n\*2 S 24\]"),
    "context batch": ((X, T, CONTEXT[[0, 0, 1]]), r"context has shape \(3, 7, 24\)"),
    "one context for two": ((X, T, CONTEXT[:1]), r"context has shape \(1, 7, 24\)"),
    "t per context": ((X, T.expand(4), CONTEXT[[0, 0, 1, 1]]), r"t has shape \(4,\); give \[1\], or \[2\]"),
    "t without batch": ((X, T[0], CONTEXT), r"t has shape \(\)"),
    "labels": ((X, T, CONTEXT, torch.tensor([1, 2])), r"no classes"),
}


@pytest.mark.parametrize(("args", "message"), FAULTS.values(), ids=FAULTS)
def test_unet_refuses_inputs_that_do_not_fit(args, message, tiny):
    with pytest.raises(ValueError, match=message):
        tiny("sd1")(*args)


def test_unet_with_classes_needs_labels(tiny, make_inputs):
    model = tiny("upscaler")
    x, t, context, labels = make_inputs(model.cfg, 8, 8)
    with pytest.raises(ValueError, match="labels are None but the model has 10 classes"):
        model(x, t, context)
    with pytest.raises(ValueError, match=r"labels has shape \(3,\)"):
        model(x, t, context, labels[[0, 0, 1]])
    assert not torch.allclose(model(x, t, context, labels), model(x, t, context, labels.flip(0)), atol=1e-3)


def test_config_needs_one_entry_per_level():
    with pytest.raises(ValueError, match=r"multipliers \(1, 2\).* differ in length; give one entry per level"):
        UNetConfig(multipliers=(1, 2))


def test_a_step_of_training_is_one_graph(tiny, make_inputs):
    """What `torch.compile` cannot trace it leaves to Python, in pieces: slower, and compiled piece by piece."""
    model = tiny("one level").requires_grad_()
    inputs = make_inputs(model.cfg, 8, 8)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(compiled(*inputs), model(*inputs), rtol=0, atol=1e-5)
