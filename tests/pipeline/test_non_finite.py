"""Numbers that overflow are an error that says where from, never a black picture."""

import pytest
import torch
from torch import nn

from ldm import NonFiniteError, Pipeline


def poison(layer: nn.Module, value: float) -> None:
    """Give a layer a weight of its own whose first row is `value`."""
    weight = layer.get_parameter("weight").detach().clone()
    weight[0] = value
    layer.register_parameter("weight", nn.Parameter(weight))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_unet_weights_are_named(pipe, value):
    poison(pipe.unet.conv_in, value)
    with pytest.raises(NonFiniteError, match=r"not finite after step 1; the UNet's weights themselves hold such "
                                             r"numbers \(conv_in.weight\); take another file"):
        pipe("a cat", steps=4)


def test_non_finite_text_weights_are_named(pipe):
    poison(pipe.text.final_norm, float("nan"))
    with pytest.raises(NonFiniteError, match="after step 1; the text encoder's weights themselves hold such numbers"):
        pipe("a cat", steps=4)


def test_overflow_with_finite_weights_says_so(pipe):
    poison(pipe.unet.conv_in, 3e38)
    with pytest.raises(NonFiniteError, match="after step 1; all weights are finite, so the computation overflowed"):
        pipe("a cat", steps=4)


def test_non_finite_vae_weights_are_named(pipe):
    poison(pipe.vae.decoder.conv_out, float("nan"))
    with pytest.raises(NonFiniteError, match=r"not finite; the VAE's weights .*\(decoder.conv_out"):
        pipe("a cat", steps=4)


def test_vae_overflow_in_float32_is_an_error(pipe):
    poison(pipe.vae.decoder.conv_in, 3e38)
    with pytest.raises(NonFiniteError, match="what the VAE made is not finite; all weights are finite"):
        pipe.decode_latents(torch.ones(1, 4, 2, 2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_vae_overflow_in_16_bits_is_run_once_more_in_float32(tiny_model, monkeypatch, dtype):
    pipe, z = Pipeline.load(tiny_model, "cpu", dtype), torch.randn(2, 4, 4, 4)
    pipe.vae.float()
    expected = pipe.decode_latents(z)
    pipe.vae.to(dtype)
    decode, dtypes = pipe.vae.decode, []

    def overflow_in_16_bits(z, tile=None):
        dtypes.append(pipe.vae.decoder.conv_in.weight.dtype)
        return decode(z) if dtypes[-1] == torch.float32 else torch.full_like(decode(z), torch.inf)

    monkeypatch.setattr(pipe.vae, "decode", overflow_in_16_bits)
    with pytest.warns(UserWarning, match=f"the VAE overflowed in {dtype}; running it once more in float32"):
        images = pipe.decode_latents(z)
    assert dtypes == [dtype] * 2 + [torch.float32] * 2
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-6)
    assert {p.dtype for p in pipe.vae.parameters()} == {dtype}


def test_float16_overflow_really_happens_and_is_cured(tiny_model):
    pipe = Pipeline.load(tiny_model, "cpu", "float16")
    poison(pipe.vae.decoder.conv_in, 60000.0)
    with pytest.warns(UserWarning, match="overflowed in torch.float16"):
        images = pipe.decode_latents(torch.full((1, 4, 4, 4), 2.0))
    assert images.isfinite().all()
