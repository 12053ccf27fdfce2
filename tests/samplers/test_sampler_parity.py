"""Whole trajectories against diffusers' schedulers, with a small nonlinear network of x and t in the UNet's place.

Every step is compared, relative to the largest absolute value.
"""

import math
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from diffusers.schedulers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2AncestralDiscreteScheduler,
    KDPM2DiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
    scheduling_lms_discrete,
)
from relative_error import relative_error

from ldm.samplers import SAMPLERS, Denoiser, Schedule

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")    # diffusers' own

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
COMPVIS = {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
NAMES = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}
TOLERANCE = 1e-4
KERNEL = torch.randn(4, 4, 3, 3, generator=torch.Generator().manual_seed(1)) / 6
TRAILING_AND_KARRAS = pytest.mark.parametrize(
    "config, spacing", [({"timestep_spacing": "trailing"}, "trailing"), ({"use_karras_sigmas": True}, "karras")])


def network(x, t, context=None):
    h = torch.nn.functional.conv2d(x, KERNEL, padding=1)
    return 0.7 * x + 0.5 * torch.tanh(h + torch.cos(t / 150)[:, None, None, None])


def whole_timesteps(x, t, context=None):
    """diffusers rounds the timesteps of DPM-Solver's Karras sigmas; elsewhere they are fractional, as ours."""
    return network(x, t.round())


def timeless(x, t, context=None):
    """For schedulers of diffusers that cut their timesteps down to whole ones."""
    return network(x, torch.full_like(t, 400))


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


@pytest.fixture
def same_trajectory(parity):
    """Compare every x of two trajectories."""
    def check(what, got, expected):
        assert len(got) > 1
        for x, theirs in zip(got, expected, strict=True):
            parity(f"sampler {what}", "diffusers", relative_error(x, theirs), TOLERANCE)
    return check


def start(scheduler):
    """Unit noise at sigma_max, in the coordinates x0 + sigma * noise that diffusers' Euler family uses too."""
    return math.hypot(1, scheduler.sigmas[0]) * unit_noise()


@pytest.mark.parametrize("n", [3, 30, 110])
@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
@pytest.mark.filterwarnings("ignore:3 steps of:UserWarning")
def test_ddim_matches_diffusers(prediction, n, same_trajectory):
    ref = DDIMScheduler(**SD, **COMPVIS, prediction_type=NAMES[prediction])
    ref.set_timesteps(n)
    steps = ours("ddim", Schedule().sigmas(n, "leading"), prediction)
    # diffusers steps by 1000 // n from every timestep, so its last one reaches timestep 0 or below: alpha_bar[0]
    same_trajectory("ddim", [step.z for step in steps], reference(ref, unit_noise()))


@pytest.mark.parametrize("eta", [0.4, 1.0])
def test_ddim_with_eta_matches_diffusers(eta, same_trajectory):
    ref = DDIMScheduler(**SD, **COMPVIS)
    ref.set_timesteps(50)
    generator, noise = same_draws()
    steps = ours("ddim", Schedule().sigmas(50, "leading"), noise=noise, eta=eta)
    same_trajectory("ddim, eta", [step.z for step in steps], reference(ref, unit_noise(), eta=eta, generator=generator))


@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
@pytest.mark.parametrize("n", [3, 30, 999])
def test_ddpm_matches_diffusers(prediction, n, same_trajectory):
    ref = DDPMScheduler(**SD, prediction_type=NAMES[prediction], clip_sample=False, timestep_spacing="trailing")
    ref.set_timesteps(n)
    generator, noise = same_draws()
    steps = ours("ddpm", Schedule().sigmas(n, "trailing"), prediction, noise=noise)
    same_trajectory("ddpm", [step.z for step in steps], reference(ref, unit_noise(), generator=generator))


@pytest.mark.parametrize("prediction", ["eps", "v"])
@pytest.mark.parametrize("config, spacing", [({"timestep_spacing": "trailing"}, "trailing"),
                                             ({"use_karras_sigmas": True}, "karras"),
                                             ({"use_exponential_sigmas": True}, "exponential")])
def test_euler_matches_diffusers(config, spacing, prediction, same_trajectory):
    ref = EulerDiscreteScheduler(**SD, prediction_type=NAMES[prediction], **config)
    ref.set_timesteps(30)
    steps = ours("euler", Schedule().sigmas(30, spacing), prediction)
    same_trajectory("euler", [step.x for step in steps], reference(ref, start(ref)))


def test_euler_on_linspace_is_near_diffusers_that_interpolates_sigma_itself(same_trajectory):
    ref = EulerDiscreteScheduler(**SD, timestep_spacing="linspace")
    ref.set_timesteps(30)
    steps = ours("euler", Schedule().sigmas(30, "linspace"))
    same_trajectory("euler, linspace", [step.x for step in steps], reference(ref, start(ref)))


def test_euler_with_zero_terminal_snr_matches_diffusers(same_trajectory):
    config = {"prediction_type": "v_prediction", "timestep_spacing": "trailing", "rescale_betas_zero_snr": True}
    ref = EulerDiscreteScheduler(**SD, **config)
    ref.set_timesteps(30)
    schedule = Schedule(zero_terminal_snr=True)
    steps = ours("euler", schedule.sigmas(30, "trailing"), "v", schedule=schedule)
    same_trajectory("euler, zero terminal SNR", [step.x for step in steps], reference(ref, start(ref)))


@pytest.mark.parametrize("prediction", ["eps", "v"])
@pytest.mark.parametrize("n", [3, 30])
def test_euler_a_matches_diffusers(prediction, n, same_trajectory):
    ref = EulerAncestralDiscreteScheduler(**SD, prediction_type=NAMES[prediction], timestep_spacing="trailing")
    ref.set_timesteps(n)
    generator, noise = same_draws()
    steps = ours("euler_a", Schedule().sigmas(n, "trailing"), prediction, noise=noise)
    same_trajectory("euler_a", [step.x for step in steps], reference(ref, start(ref), generator=generator))


@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
@TRAILING_AND_KARRAS
def test_heun_matches_diffusers(config, spacing, prediction, same_trajectory):
    ref = HeunDiscreteScheduler(**SD, prediction_type=NAMES[prediction], **config)
    ref.set_timesteps(30)
    steps = ours("heun", Schedule().sigmas(30, spacing), prediction)
    same_trajectory("heun", [step.x for step in steps], reference(ref, start(ref)))


@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
@pytest.mark.parametrize("n", [3, 30])
@TRAILING_AND_KARRAS
def test_dpmpp_2m_matches_diffusers(config, spacing, n, prediction, same_trajectory):
    ref = DPMSolverMultistepScheduler(**SD, prediction_type=NAMES[prediction], **config)
    ref.set_timesteps(n)
    steps = ours("dpmpp_2m", Schedule().sigmas(n, spacing), prediction, net=whole_timesteps)
    same_trajectory("dpmpp_2m", [step.z for step in steps], reference(ref, unit_noise(), net=whole_timesteps))


@pytest.mark.parametrize("n", [3, 30, 110])
@pytest.mark.filterwarnings("ignore:3 steps of:UserWarning")
def test_plms_matches_diffusers(n, same_trajectory):
    ref = PNDMScheduler(**SD, skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1)
    ref.set_timesteps(n)
    steps = ours("plms", Schedule().sigmas(n, "leading"))
    _, *expected = reference(ref, unit_noise())         # without the place where the first step evaluates again
    same_trajectory("plms", [step.z for step in steps], expected)


@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
@TRAILING_AND_KARRAS
def test_lms_matches_diffusers(config, spacing, prediction, monkeypatch, same_trajectory):
    def quad(f, a, b, epsrel):                                      # Gauss's, exact for the cubics in question
        middle, r = (a + b) / 2, (b - a) / math.sqrt(12)
        return [(b - a) / 2 * (f(middle - r) + f(middle + r))]

    # the one function of SciPy, an optional dependency of diffusers, that its scheduler needs
    monkeypatch.setattr(scheduling_lms_discrete, "integrate", SimpleNamespace(quad=quad), raising=False)
    ref = scheduling_lms_discrete.LMSDiscreteScheduler(**SD, prediction_type=NAMES[prediction], **config)
    ref.set_timesteps(30)
    steps = ours("lms", Schedule().sigmas(30, spacing), prediction)
    same_trajectory("lms", [step.x for step in steps], reference(ref, start(ref)))


@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")      # diffusers under NumPy 2
@pytest.mark.parametrize("prediction", ["eps", "v"])
@pytest.mark.parametrize("config, spacing", [({"timestep_spacing": "trailing"}, "trailing"),
                                             ({"use_exponential_sigmas": True}, "exponential")])
def test_dpm2_matches_diffusers(config, spacing, prediction, same_trajectory):
    ref = KDPM2DiscreteScheduler(**SD, prediction_type=NAMES[prediction], **config)
    ref.set_timesteps(30)
    steps = ours("dpm2", Schedule().sigmas(30, spacing), prediction)
    same_trajectory("dpm2", [step.x for step in steps], reference(ref, start(ref)))


@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")      # diffusers under NumPy 2
@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_dpm2_a_matches_diffusers(prediction, same_trajectory):
    ref = KDPM2AncestralDiscreteScheduler(**SD, prediction_type=NAMES[prediction], timestep_spacing="trailing")
    ref.set_timesteps(30)
    generator, noise = same_draws()
    steps = ours("dpm2_a", Schedule().sigmas(30, "trailing"), prediction, noise=noise)
    same_trajectory("dpm2_a", [step.x for step in steps], reference(ref, start(ref), generator=generator))


def singlestep(prediction, **config):
    """diffusers' two-evaluation DPM-Solver++, and what our steps visit.

    Its middles are points of the grid: in the middle of log sigma, as ours, on an exponential grid alone.
    """
    ref = DPMSolverSinglestepScheduler(**SD, prediction_type=NAMES[prediction], use_exponential_sigmas=True,
                                       final_sigmas_type="zero", lower_order_final=True, **config)
    ref.set_timesteps(31)                                           # 15 steps of two, and one to sigma 0
    return ref, [*Schedule().sigmas(31, "exponential")[:-1:2], 0.0]


@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
def test_dpmpp_2s_a_matches_diffusers(prediction, same_trajectory):
    ref, sigmas = singlestep(prediction)
    steps = ours("dpmpp_2s_a", sigmas, prediction, net=timeless, eta=0.0)
    xs = reference(ref, unit_noise(), net=timeless)
    same_trajectory("dpmpp_2s_a", [step.z for step in steps], xs[1::2] + xs[-1:])


@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
def test_dpmpp_sde_matches_diffusers(prediction, same_trajectory):
    """The same but for one thing: diffusers draws a step's noise apart from its first half's, which is undone here."""
    ref, sigmas = singlestep(prediction, algorithm_type="sde-dpmsolver++")
    generator, draw = same_draws()

    def halves():
        for s, s_next in pairwise(sigmas):
            first, whole = draw(unit_noise()), draw(unit_noise())
            share = math.sqrt(s) / (math.sqrt(s) + math.sqrt(s_next))
            yield first
            yield (whole - math.sqrt(share) * first) / math.sqrt(1 - share)

    draws = halves()
    steps = ours("dpmpp_sde", sigmas, prediction, net=timeless, noise=lambda x: next(draws))
    xs = reference(ref, unit_noise(), net=timeless, generator=generator)
    same_trajectory("dpmpp_sde", [step.z for step in steps], xs[1::2] + xs[-1:])


@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
@TRAILING_AND_KARRAS
def test_dpmpp_2m_sde_matches_diffusers(config, spacing, prediction, same_trajectory):
    ref = DPMSolverMultistepScheduler(**SD, prediction_type=NAMES[prediction], algorithm_type="sde-dpmsolver++",
                                      **config)
    ref.set_timesteps(30)
    generator, noise = same_draws()
    steps = ours("dpmpp_2m_sde", Schedule().sigmas(30, spacing), prediction, net=whole_timesteps, noise=noise)
    expected = reference(ref, unit_noise(), net=whole_timesteps, generator=generator)
    same_trajectory("dpmpp_2m_sde", [step.z for step in steps], expected)


@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
@pytest.mark.parametrize("n", [3, 30])
@TRAILING_AND_KARRAS
def test_unipc_matches_diffusers(config, spacing, n, prediction, same_trajectory):
    ref = UniPCMultistepScheduler(**SD, prediction_type=NAMES[prediction], **config)
    ref.set_timesteps(n)
    steps = ours("unipc", Schedule().sigmas(n, spacing), prediction, net=whole_timesteps)
    same_trajectory("unipc", [step.z for step in steps], reference(ref, unit_noise(), net=whole_timesteps))


@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
@pytest.mark.parametrize("n", [5, 10])
def test_lcm_matches_diffusers(n, prediction, same_trajectory):
    ref = LCMScheduler(**SD, prediction_type=NAMES[prediction])
    ref.set_timesteps(n)
    generator, noise = same_draws()
    steps = ours("lcm", Schedule().sigmas(n, "trailing"), prediction, noise=noise)
    same_trajectory("lcm", [step.z for step in steps], reference(ref, unit_noise(), generator=generator))
