import math
import warnings

import numpy as np
import pytest
import torch
from diffusers.schedulers import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler
from relative_error import relative_error
from torch.testing import assert_close

from ldm.samplers import DEFAULT_SPACING, SAMPLERS, Schedule

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SPACINGS = ["leading", "linspace", "trailing", "karras", "exponential", "compvis"]
SCHEDULE = Schedule()


def timesteps(n, spacing):
    return [SCHEDULE.timestep(sigma) for sigma in SCHEDULE.sigmas(n, spacing)[:-1]]


def test_schedule_has_the_official_end_points():
    assert SCHEDULE.alphas_cumprod[[0, 999]].tolist() == pytest.approx([0.99915, 0.0046601], rel=1e-5)
    assert [SCHEDULE.grid[0], SCHEDULE.grid[-1]] == pytest.approx([0.029167, 14.614641], rel=1e-5)


def test_alphas_cumprod_match_diffusers(parity):
    ref = DDPMScheduler(**SD).alphas_cumprod.double()
    parity("schedule, alpha_bar, elementwise", "diffusers", (SCHEDULE.alphas_cumprod / ref - 1).abs().max(), 1e-4)


def test_zero_terminal_snr_matches_diffusers():
    ref = DDIMScheduler(**SD, rescale_betas_zero_snr=True).alphas_cumprod.double()
    schedule = Schedule(zero_terminal_snr=True)
    assert_close(schedule.alphas_cumprod[:-1], ref[:-1], rtol=1e-4, atol=1e-7)
    assert schedule.grid[-1] == pytest.approx(4096, rel=1e-6)
    assert schedule.timestep(schedule.grid[-1]) == 999


def test_timestep_is_exact_on_the_grid():
    assert [SCHEDULE.timestep(sigma) for sigma in SCHEDULE.grid] == list(range(1000))
    assert [SCHEDULE.sigma(t) for t in range(1000)] == SCHEDULE.grid


@pytest.mark.parametrize("t", [0.25, 17.5, 500.1, 998.9])
def test_timestep_inverts_sigma_between_grid_points_interpolating_in_log_sigma(t):
    expected = math.exp(np.interp(t, range(1000), np.log(SCHEDULE.grid)))
    assert SCHEDULE.sigma(t) == pytest.approx(expected, rel=1e-12)
    assert SCHEDULE.timestep(SCHEDULE.sigma(t)) == pytest.approx(t, abs=1e-9)


def test_timestep_beyond_the_grid_is_its_end():
    assert (SCHEDULE.timestep(0.001), SCHEDULE.timestep(80.0)) == (0, 999)


@pytest.mark.parametrize("t, remedy", [(-1, 0), (1000, 999)])
def test_sigma_refuses_a_timestep_outside_the_grid(t, remedy):
    with pytest.raises(ValueError, match=rf"timestep {t} is outside 0\.\.999; try {remedy}"):
        SCHEDULE.sigma(t)


@pytest.mark.filterwarnings("ignore:[13] steps of:UserWarning")
@pytest.mark.parametrize("n", [1, 3, 30, 110, 999])
@pytest.mark.parametrize("spacing", SPACINGS[:-1])
def test_sigmas_are_n_plus_1_falling_floats(spacing, n):
    sigmas = SCHEDULE.sigmas(n, spacing)
    assert len(sigmas) == n + 1
    assert all(type(sigma) is float for sigma in sigmas)
    assert all(s > s_next for s, s_next in zip(sigmas, sigmas[1:], strict=False))
    assert sigmas[-1] == (SCHEDULE.grid[0] if spacing == "leading" else 0.0)


@pytest.mark.parametrize("spacing", ["linspace", "trailing", "karras", "exponential"])
def test_one_step_goes_from_sigma_max_to_0(spacing):
    assert SCHEDULE.sigmas(1, spacing) == [SCHEDULE.grid[-1], 0.0]


@pytest.mark.parametrize("n", [50, 30, 110, 999])
def test_leading_matches_diffusers_with_steps_offset_1(n, parity):
    ref = DDIMScheduler(**SD, steps_offset=1)
    ref.set_timesteps(n)
    wrong = [t for t, theirs in zip(timesteps(n, "leading"), ref.timesteps.tolist(), strict=True) if t != theirs]
    parity("schedule, timesteps of leading", "diffusers", len(wrong), 0)


def test_trailing_matches_diffusers_at_every_step_count(parity):
    ref = DDIMScheduler(**SD, timestep_spacing="trailing")
    wrong = []
    for n in range(1, 1000):
        ref.set_timesteps(n)
        if timesteps(n, "trailing") != ref.timesteps.tolist()[:n]:          # for some n diffusers ends with a stray -1
            wrong.append(n)
    print(*wrong[:9])                                                       # shown where the test fails
    parity("schedule, timesteps of trailing", "diffusers", len(wrong), 0)


@pytest.mark.parametrize("n", [1, 3, 30, 110])
def test_linspace_interpolates_log_sigma_at_uniform_timesteps(n):
    expected = np.exp(np.interp(np.linspace(999, 0, n), range(1000), np.log(SCHEDULE.grid)))
    assert SCHEDULE.sigmas(n, "linspace")[:-1] == pytest.approx(expected.tolist(), rel=1e-9)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("spacing", ["karras", "exponential"])
def test_karras_and_exponential_match_diffusers(spacing, parity):
    ref = EulerDiscreteScheduler(**SD, **{f"use_{spacing}_sigmas": True})
    ref.set_timesteps(30)
    *sigmas, last = SCHEDULE.sigmas(30, spacing)
    error = (torch.tensor(sigmas) / ref.sigmas[:-1] - 1).abs().max()
    parity(f"schedule, sigmas of {spacing}, elementwise", "diffusers", error, 1e-4)
    assert last == ref.sigmas[-1] == 0


def test_compvis_has_compvis_own_timesteps_and_ending():
    assert timesteps(50, "compvis") == list(range(981, 0, -20))
    assert timesteps(30, "compvis") == list(range(991, 0, -33))
    assert len(SCHEDULE.sigmas(30, "compvis")) == 31 + 1
    alpha_bar = 1 / (1 + SCHEDULE.sigmas(50, "compvis")[-1] ** 2)
    assert alpha_bar == pytest.approx(SCHEDULE.alphas_cumprod[0].item(), rel=1e-12)


@pytest.mark.parametrize("n, first, count", [(37, 999, 38), (3, 999, 4), (999, 999, 999)])
def test_compvis_takes_timestep_999_where_compvis_asks_for_1000(n, first, count):
    assert timesteps(n, "compvis")[0] == first
    assert len(timesteps(n, "compvis")) == count


@pytest.mark.parametrize("n, first", [(1, 1), (2, 501), (3, 667), (334, 667), (501, 501), (600, 600)])
def test_leading_far_below_full_noise_warns_and_names_trailing(n, first):
    message = f'{n} steps of "leading" start at timestep {first}, far below full noise; try spacing "trailing"'
    with pytest.warns(UserWarning, match=message) as caught:
        SCHEDULE.sigmas(n, "leading")
    assert caught[0].filename == __file__


def test_leading_from_4_steps_on_does_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert timesteps(4, "leading") == [751, 501, 251, 1]


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("n, remedy", [(0, 1), (-5, 1), (1000, 999)])
def test_sigmas_refuses_step_counts_outside_1_to_999(n, remedy, spacing):
    with pytest.raises(ValueError, match=rf"{n} steps is outside 1\.\.999; try {remedy}"):
        SCHEDULE.sigmas(n, spacing)


def test_sigmas_refuses_an_unknown_spacing():
    with pytest.raises(ValueError, match="spacing 'cosine' is not known; try one of leading, linspace, trailing"):
        SCHEDULE.sigmas(30, "cosine")


def test_every_sampler_has_a_default_spacing():
    assert DEFAULT_SPACING == {"ddpm": "leading", "ddim": "leading", "euler": "linspace", "euler_a": "linspace",
                               "heun": "linspace", "dpmpp_2m": "karras", "plms": "leading", "lms": "linspace",
                               "dpm2": "linspace", "dpm2_a": "linspace", "dpmpp_2s_a": "karras", "dpmpp_sde": "karras",
                               "dpmpp_2m_sde": "karras", "unipc": "trailing", "lcm": "trailing"}
    assert list(SAMPLERS) == list(DEFAULT_SPACING)


def batch():
    x0, noise = torch.randn(2, 3, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    return x0, noise, torch.tensor([0, 500, 999])


def test_add_noise_matches_diffusers(parity):
    error = relative_error(SCHEDULE.add_noise(*batch()), DDPMScheduler(**SD).add_noise(*batch()))
    parity("schedule, add_noise", "diffusers", error, 1e-5)


def test_target_matches_diffusers_velocity_and_is_noise_or_x0_otherwise(parity):
    x0, noise, t = batch()
    error = relative_error(SCHEDULE.target(x0, noise, t, "v"), DDPMScheduler(**SD).get_velocity(x0, noise, t))
    parity("schedule, target v", "diffusers", error, 1e-5)
    assert SCHEDULE.target(x0, noise, t, "eps") is noise
    assert SCHEDULE.target(x0, noise, t, "x0") is x0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_add_noise_and_target_keep_the_dtype(dtype):
    x0, noise, t = batch()
    assert SCHEDULE.add_noise(x0.to(dtype), noise.to(dtype), t).dtype == dtype
    assert SCHEDULE.target(x0.to(dtype), noise.to(dtype), t, "v").dtype == dtype


def test_target_refuses_an_unknown_prediction():
    with pytest.raises(ValueError, match="prediction 'epsilon' is not known; try one of eps, v, x0"):
        SCHEDULE.target(*batch(), "epsilon")
