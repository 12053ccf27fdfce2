"""What the papers promise of one another, in float64."""

import math

import pytest
import torch
from torch.testing import assert_close

from ldm.samplers import DEFAULT_SPACING, SAMPLERS, Schedule, Step

SIGMAS = Schedule().sigmas(20, "karras")
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def curved(x, sigma):
    """A nonlinear stand-in for a denoiser."""
    return torch.tanh(x / math.hypot(1, sigma) + 0.3 * math.log(sigma))


def start(sigmas=SIGMAS):
    return sigmas[0] * torch.randn(2, 4, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def draws():
    generator = torch.Generator().manual_seed(1)
    return lambda x: torch.randn(x.shape, generator=generator, dtype=x.dtype)


def trajectory(name, denoise=curved, sigmas=SIGMAS, **kwargs):
    return torch.stack([step.x for step in SAMPLERS[name](denoise, start(sigmas), sigmas, draws(), **kwargs)])


def test_ddim_equals_euler():
    assert_close(trajectory("ddim"), trajectory("euler"), **EXACT)


def test_ddpm_equals_euler_ancestral():
    assert_close(trajectory("ddpm"), trajectory("euler_a", eta=1.0), **EXACT)


def test_euler_ancestral_has_eta_1_by_default():
    assert_close(trajectory("euler_a"), trajectory("euler_a", eta=1.0), rtol=0, atol=0)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ddim_with_eta_equals_euler_ancestral(eta):
    assert_close(trajectory("ddim", eta=eta), trajectory("euler_a", eta=eta), **EXACT)


def test_ddim_with_eta_0_draws_no_noise():
    def refuse(x):
        raise AssertionError("noise was drawn")

    assert len(list(SAMPLERS["ddim"](curved, start(), SIGMAS, refuse))) == 20


def test_dpmpp_2m_first_and_last_steps_are_ddim():
    steps = list(SAMPLERS["dpmpp_2m"](curved, start(), SIGMAS, None))
    first, = SAMPLERS["ddim"](curved, start(), SIGMAS[:2], None)
    second, = SAMPLERS["ddim"](curved, steps[0].x, SIGMAS[1:3], None)
    last, = SAMPLERS["ddim"](curved, steps[-2].x, SIGMAS[-2:], None)
    assert_close(steps[0].x, first.x, **EXACT)
    assert_close(steps[-1].x, last.x, **EXACT)
    assert (steps[1].x - second.x).abs().max() > 1e-3


@pytest.mark.parametrize("stochastic, plain", [("dpm2_a", "dpm2"), ("dpmpp_2m_sde", "dpmpp_2m")])
def test_stochastic_sampler_with_eta_0_is_its_deterministic_twin(stochastic, plain):
    assert_close(trajectory(stochastic, eta=0.0), trajectory(plain), **EXACT)


def test_dpmpp_sde_with_eta_0_equals_dpmpp_2s():
    assert_close(trajectory("dpmpp_sde", eta=0.0), trajectory("dpmpp_2s_a", eta=0.0), **EXACT)


def test_plms_first_step_is_heun():
    first, = SAMPLERS["plms"](curved, start(), SIGMAS[:2], None)
    heun, = SAMPLERS["heun"](curved, start(), SIGMAS[:2], None)
    assert_close(first.x, heun.x, **EXACT)


def test_plms_in_one_step_to_sigma_0_is_ddim_and_calls_once():
    calls = []
    step, = SAMPLERS["plms"](lambda x, s: calls.append(s) or curved(x, s), start(), [SIGMAS[0], 0.0], None)
    assert_close(step.x, curved(start(), SIGMAS[0]), **EXACT)
    assert len(calls) == 1


def test_unipc_predicts_as_dpmpp_2m_and_corrects_with_the_estimate_found_there():
    s0, s1, s2 = SIGMAS[:3]
    one, two = SAMPLERS["unipc"](curved, start(), SIGMAS[:3], None)
    first, _ = SAMPLERS["dpmpp_2m"](curved, start(), SIGMAS[:3], None)
    assert_close(one.x, first.x, **EXACT)
    corrected = ((one.x0 + two.x0) / 2).lerp(start(), s1 / s0)          # UniC-1: the mean of both ends
    slope = (two.x0 - one.x0) / math.log(s0 / s1)
    assert_close(two.x, (two.x0 + math.log(s1 / s2) / 2 * slope).lerp(corrected, s2 / s1), **EXACT)


def test_lcm_keeps_nothing_of_the_noise_before():
    sigmas, noise = SIGMAS[:2], draws()
    step, = SAMPLERS["lcm"](curved, start(), sigmas, noise)
    assert_close(step.x - step.x0, sigmas[1] * draws()(start()), **EXACT)


@pytest.mark.parametrize("spacing", ["trailing", "leading"])
@pytest.mark.parametrize("name", ["ddim", "euler", "heun", "dpmpp_2m", "plms", "lms", "dpm2", "unipc"])
def test_ode_sampler_lands_on_a_constant_denoiser(name, spacing):
    sigmas = Schedule().sigmas(7, spacing)
    target = torch.full_like(start(), 0.7)
    expected = target + sigmas[-1] / sigmas[0] * (start(sigmas) - target)       # sigmas[-1] is 0 but for "leading"
    assert_close(trajectory(name, lambda x, sigma: target, sigmas)[-1], expected, **EXACT)


@pytest.mark.parametrize("name", ["ddpm", "euler_a", "dpm2_a", "dpmpp_2s_a", "dpmpp_sde", "dpmpp_2m_sde", "lcm"])
def test_stochastic_sampler_lands_on_a_constant_denoiser_without_noise_at_sigma_0(name):
    target = torch.full_like(start(), 0.7)
    assert_close(trajectory(name, lambda x, sigma: target)[-1], target, **EXACT)


@pytest.mark.parametrize("eta", [-0.1, 1.5])
@pytest.mark.parametrize("name", ["ddim", "euler_a", "dpm2_a", "dpmpp_2s_a", "dpmpp_sde", "dpmpp_2m_sde"])
def test_sampler_refuses_eta_outside_0_to_1(name, eta):
    with pytest.raises(ValueError, match=rf"eta {eta} is outside 0\.\.1; try 0"):
        trajectory(name, eta=eta)


@pytest.mark.filterwarnings("ignore:[13] steps of:UserWarning")
@pytest.mark.parametrize("n", [1, 3, 30, 110, 999])
@pytest.mark.parametrize("name", SAMPLERS)
def test_sampler_calls_the_denoiser_as_often_as_promised(name, n):
    calls = []
    sigmas = Schedule().sigmas(n, DEFAULT_SPACING[name])
    steps = trajectory(name, lambda x, sigma: calls.append(sigma) or curved(x, sigma), sigmas)
    assert len(steps) == n
    twice = name in ("heun", "dpm2", "dpm2_a", "dpmpp_2s_a", "dpmpp_sde")
    assert len(calls) == (2 * n - 1 if twice else n + 1 if name == "plms" else n)
    assert steps.isfinite().all()


@pytest.mark.parametrize("name", ["heun", "dpm2", "dpm2_a", "dpmpp_2s_a", "dpmpp_sde"])
def test_two_evaluation_sampler_calls_twice_a_step_where_it_ends_above_0(name):
    calls = []
    trajectory(name, lambda x, sigma: calls.append(sigma) or curved(x, sigma), SIGMAS[:-1])
    assert len(calls) == 2 * 19


@pytest.mark.parametrize("name", SAMPLERS)
def test_steps_carry_index_sigma_estimate_and_leave_the_start_alone(name):
    x = start()
    steps = list(SAMPLERS[name](curved, x, SIGMAS, draws()))
    assert [step.i for step in steps] == list(range(20))
    assert [step.sigma for step in steps] == SIGMAS[1:]
    assert_close(steps[0].x0, curved(x, SIGMAS[0]), rtol=0, atol=0)
    assert_close(x, start(), rtol=0, atol=0)


def test_step_z_has_unit_variance_coordinates():
    step = Step(0, 3.0, torch.full((1, 1, 1, 1), 20.0), torch.zeros(1, 1, 1, 1))
    assert_close(step.z, torch.full((1, 1, 1, 1), 20 / math.sqrt(10)))


@pytest.mark.parametrize("name", SAMPLERS)
def test_sampler_builds_no_graph_and_leaves_gradients_on_for_the_caller(name):
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    for step in SAMPLERS[name](lambda x, sigma: weight * curved(x, sigma), start(), SIGMAS, draws()):
        assert torch.is_grad_enabled() and not step.x.requires_grad
        (weight * step.x).sum().backward()                          # what is yielded can be used in a graph
