"""The VAE's promises: padding, norms, the posterior, dtypes, gradients, memory layout, errors."""

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence
from torch.testing import assert_close

from ldm.vae import VAE, Posterior, VAEConfig
from ldm.vae.blocks import Downsample, Upsample


def test_downsample_pads_right_and_bottom_only():
    """Each output pixel starts at twice its place; symmetric padding would start one to the left and above."""
    down = Downsample(1)
    nn.init.zeros_(down.conv.weight)
    nn.init.zeros_(down.conv.bias)
    x = torch.arange(48.0).view(1, 1, 6, 8)
    down.conv.weight.data[0, 0, 0, 0] = 1                       # picks the top left of each window
    assert torch.equal(down(x), x[:, :, ::2, ::2])
    down.conv.weight.data = down.conv.weight.data.flip(2, 3)    # picks the bottom right
    assert torch.equal(down(x)[:, :, :-1, :-1], x[:, :, 2::2, 2::2])
    assert not down(x)[:, :, -1].any() and not down(x)[:, :, :, -1].any()       # there it sees the padding


def test_upsample_repeats_each_pixel():
    up = Upsample(3)
    nn.init.dirac_(up.conv.weight)
    nn.init.zeros_(up.conv.bias)
    x = torch.randn(1, 3, 3, 5)
    assert torch.equal(up(x), x.repeat_interleave(2, 2).repeat_interleave(2, 3))


def test_every_norm_has_the_official_epsilon(tiny):
    norms = [module for module in tiny.modules() if isinstance(module, nn.GroupNorm)]
    assert norms and {norm.eps for norm in norms} == {1e-6}


def test_sizes_and_scale_are_those_of_stable_diffusion():
    with torch.device("meta"):
        vae = VAE()
        posterior = vae.encode(torch.zeros(1, 3, 512, 512))
        image = vae.decode(posterior.mode())
    assert posterior.mean.shape == posterior.logvar.shape == (1, 4, 64, 64)
    assert image.shape == (1, 3, 512, 512)
    assert (vae.cfg.factor, vae.cfg.scale_factor) == (8, 0.18215)


def test_posterior_is_a_diagonal_gaussian():
    g = torch.Generator().manual_seed(0)
    mean, logvar, noise = torch.randn(3, 2, 4, 5, 7, generator=g, dtype=torch.float64)
    posterior, normal = Posterior(mean, logvar), Normal(mean, (logvar / 2).exp())
    assert torch.equal(posterior.mode(), mean)
    assert_close(posterior.std, normal.stddev)
    assert_close(normal.log_prob(posterior.sample(noise)) - normal.log_prob(mean), -noise**2 / 2)
    assert_close(posterior.sample(noise) > mean, noise > 0)
    expected = kl_divergence(normal, Normal(torch.zeros_like(mean), torch.ones_like(mean))).sum(dim=(1, 2, 3))
    assert_close(posterior.kl(), expected)


def test_posterior_keeps_its_variance_finite(tiny):
    nn.init.constant_(tiny.encoder.quant.bias, 1000.0)
    assert tiny.encode(torch.zeros(1, 3, 16, 16)).logvar.unique().tolist() == [20]


def test_forward_reconstructs_from_the_mean(tiny):
    image = torch.rand(1, 3, 16, 24) * 2 - 1
    assert torch.equal(tiny(image), tiny.decode(tiny.encode(image).mean))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_vae_returns_the_dtype_of_its_input(dtype, tiny):
    """Weights and sums in 16 bits: a few per cent of the output's spread."""
    image, z = torch.rand(1, 3, 32, 48) * 2 - 1, torch.randn(1, 4, 8, 12)
    mean, decoded = tiny.encode(image).mean, tiny.decode(z)
    tiny.to(dtype)
    for ours, expected in ((tiny.encode(image).mean, mean), (tiny.decode(z), decoded)):
        assert ours.dtype == torch.float32
        assert (ours - expected).std() < 0.05 * expected.std()
    assert tiny.encode(image.to(dtype)).logvar.dtype == tiny.decode(z.to(dtype), tile=16).dtype == dtype


def test_gradients_reach_every_parameter(tiny):
    tiny.requires_grad_(True)
    posterior = tiny.encode(torch.rand(2, 3, 16, 24))
    (tiny.decode(posterior.sample(torch.randn(2, 4, 4, 6))).square().mean() + posterior.kl().mean()).backward()
    for name, parameter in tiny.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        if not name.endswith("attn.k.bias"):        # adds the same to every score of a pixel, which softmax cannot see
            assert parameter.grad.abs().max() > 1e-7, name


def test_channels_last_stays_channels_last(tiny):
    tiny.to(memory_format=torch.channels_last)
    maps = []
    for module in tiny.modules():
        module.register_forward_hook(lambda module, args, out: maps.append((type(module).__name__, out)))
    tiny((torch.rand(2, 3, 32, 40) * 2 - 1).contiguous(memory_format=torch.channels_last))
    maps = [(name, out) for name, out in maps if isinstance(out, torch.Tensor)]
    assert {"ResBlock", "Attention", "Mid", "DownStage", "UpStage", "Decoder"} <= {name for name, _ in maps}
    assert not {name for name, out in maps if not out.is_contiguous(memory_format=torch.channels_last)}


def test_vae_refuses_inputs_that_do_not_fit(tiny):
    with pytest.raises(ValueError, match=r"image has shape \(1, 4, 8, 8\); the VAE encodes \[B 3 H W\]"):
        tiny.encode(torch.zeros(1, 4, 8, 8))
    with pytest.raises(ValueError, match="image side 30 is not a multiple of 4; pad it to 32"):
        tiny.encode(torch.zeros(1, 3, 32, 30))
    with pytest.raises(ValueError, match=r"latents have shape \(4, 8, 8\); the VAE decodes \[B 4 h w\]"):
        tiny.decode(torch.zeros(4, 8, 8))


@pytest.mark.parametrize("tile", [0, 8, 30, -16])
def test_vae_refuses_tiles_that_do_not_fit(tile, tiny):
    message = f"tile {tile} is not a multiple of 4, 16 or more; try 256"
    with pytest.raises(ValueError, match=message):
        tiny.encode(torch.zeros(1, 3, 64, 64), tile)
    with pytest.raises(ValueError, match=message):
        tiny.decode(torch.zeros(1, 4, 16, 16), tile)


def test_config_tells_the_width_of_each_level():
    assert VAEConfig().widths == [128, 256, 512, 512]
