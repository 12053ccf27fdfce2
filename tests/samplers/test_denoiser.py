import math
import warnings

import pytest
import torch
from relative_error import relative_error
from torch.testing import assert_close

from ldm.samplers import CFG, Denoiser, Schedule

SCHEDULE = Schedule()
B, L, W = 2, 5, 4


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


class Network:
    """A nonlinear network(x [B], t, context [nB]) -> [nB] that records what it was given."""

    def __init__(self):
        self.calls = []

    def __call__(self, x, t, context):
        self.calls.append((x, t, context))
        n = len(context) // len(x)
        x, t = torch.cat([x] * n), torch.cat([t] * n)
        return torch.tanh(x + context.mean(1)[:, :, None, None]) + torch.cos(t / 100)[:, None, None, None].to(x)


@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
@pytest.mark.parametrize("t", [0, 300, 999])
def test_denoiser_recovers_x0_from_the_training_target(prediction, t):
    x0, noise = randn(B, 4, 6, 5), randn(B, 4, 6, 5, seed=1)
    target = SCHEDULE.target(x0, noise, torch.full((B,), t), prediction)
    sigma = SCHEDULE.sigma(t)
    denoise = Denoiser(lambda x, t, context: target, SCHEDULE, prediction)
    assert_close(denoise(x0 + sigma * noise, sigma), x0, rtol=0, atol=1e-10)


def test_denoiser_gives_the_network_what_it_was_trained_on():
    x0, noise, network = randn(B, 4, 6, 5), randn(B, 4, 6, 5, seed=1), Network()
    context = randn(B, L, W)
    Denoiser(network, SCHEDULE)(x0 + SCHEDULE.sigma(981) * noise, SCHEDULE.sigma(981), context)
    (x, t, seen), = network.calls
    assert_close(x, SCHEDULE.add_noise(x0, noise, torch.tensor([981, 981])), rtol=0, atol=1e-12)
    assert_close(t, torch.tensor([981.0, 981.0]), rtol=0, atol=0)
    assert seen is context


def test_denoiser_keeps_t_in_float32_and_fractional():
    network = Network()
    Denoiser(network, SCHEDULE)(randn(B, 4, 6, 5).bfloat16(), SCHEDULE.sigma(981.25), randn(B, L, W).bfloat16())
    x, t, _ = network.calls[0]
    assert x.dtype == torch.bfloat16
    assert_close(t, torch.tensor([981.25, 981.25]), rtol=0, atol=1e-4)


@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
def test_denoiser_batch_rule_equals_the_plain_doubled_batch(prediction):
    x, context = randn(B, 4, 6, 5), randn(3 * B, L, W)
    denoise = Denoiser(Network(), SCHEDULE, prediction)
    got = denoise(x, 2.5, context)
    assert_close(got, denoise(x.repeat(3, 1, 1, 1), 2.5, context), rtol=0, atol=0)
    assert_close(got[B:2 * B], denoise(x, 2.5, context[B:2 * B]), rtol=0, atol=1e-12)


def test_denoiser_refuses_an_unknown_prediction():
    with pytest.raises(ValueError, match="prediction 'epsilon' is not known; try one of eps, v, x0"):
        Denoiser(Network(), SCHEDULE, "epsilon")


def test_cfg_extrapolates_from_unconditional_to_conditional_in_one_call():
    network, x, cond, uncond = Network(), randn(B, 4, 6, 5), randn(B, L, W), randn(B, L, W, seed=1)
    denoiser = Denoiser(network, SCHEDULE)
    got = CFG(denoiser, cond, uncond, 7.5)(x, 2.5)
    assert len(network.calls) == 1
    assert len(network.calls[0][0]) == B and len(network.calls[0][2]) == 2 * B
    x0_cond, x0_uncond = denoiser(x, 2.5, cond), denoiser(x, 2.5, uncond)
    assert (x0_cond - x0_uncond).abs().max() > 0.1
    assert_close(got, x0_uncond + 7.5 * (x0_cond - x0_uncond), rtol=0, atol=1e-12)


def test_cfg_on_x0_equals_cfg_on_eps():
    x, cond, uncond, sigma = randn(B, 4, 6, 5), randn(B, L, W), randn(B, L, W, seed=1), 2.5
    network, c_in, t = Network(), 1 / math.hypot(1, sigma), torch.full((B,), SCHEDULE.timestep(sigma))
    eps_cond, eps_uncond = network(c_in * x, t, cond), network(c_in * x, t, uncond)
    eps = eps_uncond + 7.5 * (eps_cond - eps_uncond)
    assert_close(CFG(Denoiser(network, SCHEDULE), cond, uncond, 7.5)(x, sigma), x - sigma * eps, rtol=0, atol=1e-12)


def test_cfg_of_scale_1_is_the_conditional_estimate_and_calls_one_half():
    network, x, cond = Network(), randn(B, 4, 6, 5), randn(B, L, W)
    got = CFG(Denoiser(network, SCHEDULE), cond, randn(B, L, W, seed=1), 1.0)(x, 2.5)
    assert len(network.calls) == 1 and len(network.calls[0][2]) == B
    assert_close(got, Denoiser(network, SCHEDULE)(x, 2.5, cond), rtol=0, atol=0)


@pytest.mark.parametrize("scale", [1.0, 7.5])
@pytest.mark.parametrize("cond_rows, uncond_rows", [(1, 1), (B, 1), (1, B)])
def test_cfg_shares_a_single_row_among_the_batch(cond_rows, uncond_rows, scale):
    x, cond, uncond = randn(B, 4, 6, 5), randn(cond_rows, L, W), randn(uncond_rows, L, W, seed=1)
    denoiser = Denoiser(Network(), SCHEDULE)
    full = CFG(denoiser, cond.repeat(B // cond_rows, 1, 1), uncond.repeat(B // uncond_rows, 1, 1), scale)
    assert_close(CFG(denoiser, cond, uncond, scale)(x, 2.5), full(x, 2.5), rtol=0, atol=0)


def test_cfg_refuses_rows_that_fit_no_batch():
    guided = CFG(Denoiser(Network(), SCHEDULE), randn(1, L, W), randn(2, L, W), 7.5)
    with pytest.raises(ValueError, match="2 rows of context do not fit a batch of 3; give 1 or 3"):
        guided(randn(3, 4, 6, 5), 2.5)


@pytest.fixture(scope="module")
def rescale_noise_cfg():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                             # of third-party modules at import
        from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
    return rescale_noise_cfg


@pytest.mark.parametrize("rescale", [0.3, 0.7, 1.0])
@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
def test_cfg_rescale_equals_diffusers(prediction, rescale, rescale_noise_cfg, parity):
    """There it is done to what the network predicts, whatever that is."""
    x, cond, uncond = (randn(*shape, seed=i, dtype=torch.float32)
                       for i, shape in enumerate([(B, 4, 6, 5), (B, L, W), (B, L, W)]))
    network, sigma = Network(), 2.5
    c_in, t = 1 / math.hypot(1, sigma), torch.full((B,), SCHEDULE.timestep(sigma))
    out_cond, out_uncond = network(c_in * x, t, cond), network(c_in * x, t, uncond)
    guided = out_uncond + 7.5 * (out_cond - out_uncond)
    out = rescale_noise_cfg(guided, out_cond, rescale)
    assert relative_error(guided, out) > 0.05
    theirs = Denoiser(lambda x, t, context: out, SCHEDULE, prediction)(x, sigma)
    ours = CFG(Denoiser(network, SCHEDULE, prediction), cond, uncond, 7.5, rescale)(x, sigma)
    parity("guidance rescale", "diffusers", relative_error(ours, theirs), 1e-5)


def test_cfg_rescale_gives_each_picture_its_own_factor():
    x, cond, uncond, sigma = randn(B, 4, 6, 5), randn(B, L, W), randn(B, L, W, seed=1), 2.5
    denoiser = Denoiser(Network(), SCHEDULE)
    eps = (x - CFG(denoiser, cond, uncond, 7.5, 1.0)(x, sigma)) / sigma
    eps_cond = (x - denoiser(x, sigma, cond)) / sigma
    assert_close(eps.std((1, 2, 3)), eps_cond.std((1, 2, 3)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale, rescale", [(7.5, 0.0), (1.0, 0.7)])
def test_cfg_without_rescale_or_guidance_is_plain(scale, rescale):
    x, cond, uncond = randn(B, 4, 6, 5), randn(B, L, W), randn(B, L, W, seed=1)
    denoiser = Denoiser(Network(), SCHEDULE, "v")
    assert torch.equal(CFG(denoiser, cond, uncond, scale, rescale)(x, 2.5), CFG(denoiser, cond, uncond, scale)(x, 2.5))
