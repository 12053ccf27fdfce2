"""Whole trajectories against diffusers' schedulers, with a small nonlinear network of x and t in the UNet's place.

Every step is compared, relative to the largest absolute value.  Measured: 5e-6, and 2.5e-5 over 999 DDPM steps.
"""

import math

import pytest
import torch
from diffusers.schedulers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
)

from ldm.samplers import SAMPLERS, Denoiser, Schedule

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")    # diffusers' own

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
COMPVIS = {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
NAMES = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}
TOLERANCE = 1e-4
KERNEL = torch.randn(4, 4, 3, 3, generator=torch.Generator().manual_seed(1)) / 6


def network(x, t, context=None):
    h = torch.nn.functional.conv2d(x, KERNEL, padding=1)
    return 0.7 * x + 0.5 * torch.tanh(h + torch.cos(t / 150)[:, None, None, None])


def whole_timesteps(x, t, context=None):
    """diffusers rounds the timesteps of DPM-Solver's Karras sigmas; elsewhere they are fractional, as ours."""
    return network(x, t.round())


def unit_noise():
    return torch.randn(2, 4, 6, 5, generator=torch.Generator().manual_seed(2))


def reference(scheduler, x, net=network, **kwargs):
    """Every x of diffusers' own loop, in the scheduler's own coordinates."""
    xs = []
    for calls_left, t in zip(reversed(range(len(scheduler.timesteps))), scheduler.timesteps, strict=True):
        out = net(scheduler.scale_model_input(x, t), t.float().expand(len(x)))
        x = scheduler.step(out, t, x, **kwargs).prev_sample
        if getattr(scheduler, "state_in_first_order", True) or not calls_left:     # the first of Heun's two is no step
            xs.append(x)
    return xs


def ours(name, sigmas, prediction="eps", net=network, schedule=None, noise=None, **kwargs):
    denoise = Denoiser(net, schedule or Schedule(), prediction)
    x = math.hypot(1, sigmas[0]) * unit_noise()
    return list(SAMPLERS[name](denoise, x, sigmas, noise, **kwargs))


def same_draws():
    """A generator for diffusers and a noise function for us that draw the same numbers."""
    generator, twin = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    return generator, lambda x: torch.randn(x.shape, generator=twin)


def assert_same_trajectory(got, expected):
    errors = [((a - b).abs().max() / b.abs().max()).item() for a, b in zip(got, expected, strict=True)]
    assert len(errors) > 1
    assert max(errors) <= TOLERANCE, f"{max(errors):.1e} at step {errors.index(max(errors))}"


def start(scheduler):
    """Unit noise at sigma_max, in the coordinates x0 + sigma * noise that diffusers' Euler family uses too."""
    return math.hypot(1, scheduler.sigmas[0]) * unit_noise()


@pytest.mark.parametrize("n", [3, 30, 110])
@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
@pytest.mark.filterwarnings("ignore:3 steps of:UserWarning")
def test_ddim_matches_diffusers(prediction, n):
    ref = DDIMScheduler(**SD, **COMPVIS, prediction_type=NAMES[prediction])
    ref.set_timesteps(n)
    steps = ours("ddim", Schedule().sigmas(n, "leading"), prediction)
    # diffusers steps by 1000 // n from every timestep, so its last one reaches timestep 0 or below: alpha_bar[0]
    assert_same_trajectory([step.z for step in steps], reference(ref, unit_noise()))


@pytest.mark.parametrize("eta", [0.4, 1.0])
def test_ddim_with_eta_matches_diffusers(eta):
    ref = DDIMScheduler(**SD, **COMPVIS)
    ref.set_timesteps(50)
    generator, noise = same_draws()
    steps = ours("ddim", Schedule().sigmas(50, "leading"), noise=noise, eta=eta)
    assert_same_trajectory([step.z for step in steps], reference(ref, unit_noise(), eta=eta, generator=generator))


@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
@pytest.mark.parametrize("n", [3, 30, 999])
def test_ddpm_matches_diffusers(prediction, n):
    ref = DDPMScheduler(**SD, prediction_type=NAMES[prediction], clip_sample=False, timestep_spacing="trailing")
    ref.set_timesteps(n)
    generator, noise = same_draws()
    steps = ours("ddpm", Schedule().sigmas(n, "trailing"), prediction, noise=noise)
    assert_same_trajectory([step.z for step in steps], reference(ref, unit_noise(), generator=generator))


@pytest.mark.parametrize("prediction", ["eps", "v"])
@pytest.mark.parametrize("config, spacing", [({"timestep_spacing": "trailing"}, "trailing"),
                                             ({"use_karras_sigmas": True}, "karras"),
                                             ({"use_exponential_sigmas": True}, "exponential")])
def test_euler_matches_diffusers(config, spacing, prediction):
    ref = EulerDiscreteScheduler(**SD, prediction_type=NAMES[prediction], **config)
    ref.set_timesteps(30)
    steps = ours("euler", Schedule().sigmas(30, spacing), prediction)
    assert_same_trajectory([step.x for step in steps], reference(ref, start(ref)))


def test_euler_on_linspace_is_near_diffusers_that_interpolates_sigma_itself():
    ref = EulerDiscreteScheduler(**SD, timestep_spacing="linspace")
    ref.set_timesteps(30)
    steps = ours("euler", Schedule().sigmas(30, "linspace"))
    assert_same_trajectory([step.x for step in steps], reference(ref, start(ref)))


def test_euler_with_zero_terminal_snr_matches_diffusers():
    config = {"prediction_type": "v_prediction", "timestep_spacing": "trailing", "rescale_betas_zero_snr": True}
    ref = EulerDiscreteScheduler(**SD, **config)
    ref.set_timesteps(30)
    schedule = Schedule(zero_terminal_snr=True)
    steps = ours("euler", schedule.sigmas(30, "trailing"), "v", schedule=schedule)
    assert_same_trajectory([step.x for step in steps], reference(ref, start(ref)))


@pytest.mark.parametrize("prediction", ["eps", "v"])
@pytest.mark.parametrize("n", [3, 30])
def test_euler_a_matches_diffusers(prediction, n):
    ref = EulerAncestralDiscreteScheduler(**SD, prediction_type=NAMES[prediction], timestep_spacing="trailing")
    ref.set_timesteps(n)
    generator, noise = same_draws()
    steps = ours("euler_a", Schedule().sigmas(n, "trailing"), prediction, noise=noise)
    assert_same_trajectory([step.x for step in steps], reference(ref, start(ref), generator=generator))


@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
@pytest.mark.parametrize("config, spacing", [({"timestep_spacing": "trailing"}, "trailing"),
                                             ({"use_karras_sigmas": True}, "karras")])
def test_heun_matches_diffusers(config, spacing, prediction):
    ref = HeunDiscreteScheduler(**SD, prediction_type=NAMES[prediction], **config)
    ref.set_timesteps(30)
    steps = ours("heun", Schedule().sigmas(30, spacing), prediction)
    assert_same_trajectory([step.x for step in steps], reference(ref, start(ref)))


@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
@pytest.mark.parametrize("n", [3, 30])
@pytest.mark.parametrize("config, spacing", [({"timestep_spacing": "trailing"}, "trailing"),
                                             ({"use_karras_sigmas": True}, "karras")])
def test_dpmpp_2m_matches_diffusers(config, spacing, n, prediction):
    ref = DPMSolverMultistepScheduler(**SD, prediction_type=NAMES[prediction], **config)
    ref.set_timesteps(n)
    steps = ours("dpmpp_2m", Schedule().sigmas(n, spacing), prediction, net=whole_timesteps)
    assert_same_trajectory([step.z for step in steps], reference(ref, unit_noise(), net=whole_timesteps))
