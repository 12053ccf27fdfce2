"""Orders of convergence on Gaussian data, for which the probability flow ODE has a solution in closed form.

Data N(0, std^2): D(x, sigma) = x std^2 / (std^2 + sigma^2), and x(sigma) is proportional to sqrt(std^2 + sigma^2).
"""

import math

import pytest
import torch

from ldm.samplers import SAMPLERS

SIGMA_MAX, SIGMA_MIN = 14.6, 0.03
STEPS = [80, 160, 320, 640]


def error(name, std, n):
    sigmas = [SIGMA_MAX * (SIGMA_MIN / SIGMA_MAX) ** (i / n) for i in range(n + 1)]
    x = torch.full((1, 1, 1, 1), math.hypot(std, SIGMA_MAX), dtype=torch.float64)
    *_, last = SAMPLERS[name](lambda x, sigma: x * std**2 / (std**2 + sigma**2), x, sigmas, None)
    return abs(last.x.item() - math.hypot(std, SIGMA_MIN))


@pytest.mark.parametrize("std", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("name, order", [("euler", 1), ("ddim", 1), ("heun", 2), ("dpmpp_2m", 2),
                                         ("plms", 2), ("dpm2", 2), ("unipc", 3)])
def test_sampler_converges_with_the_order_of_its_method(name, order, std, parity):
    errors = [error(name, std, n) for n in STEPS]
    slopes = [math.log2(coarse / fine) for coarse, fine in zip(errors, errors[1:], strict=False)]
    for slope in slopes:
        parity(f"sampler {name}, order {order}", "closed form", abs(slope - order), 0.15)


def test_lms_converges_with_order_4_where_its_first_steps_do_not_matter(parity):
    errors = [error("lms", 0.1, n) for n in STEPS[:3]]             # curvature at sigma_max is proportional to std^2
    slopes = [math.log2(coarse / fine) for coarse, fine in zip(errors, errors[1:], strict=False)]
    for slope in slopes:
        parity("sampler lms, order 4", "closed form", abs(slope - 4), 0.25)


@pytest.mark.parametrize("name", ["lms", "plms"])
def test_multistep_sampler_integrates_a_cubic_without_error_on_equal_steps(name):
    sigmas = [10.0 - i for i in range(11)]
    x, tangent = torch.zeros(1, dtype=torch.float64), torch.tensor([1.0, -0.5, 0.2, 0.03], dtype=torch.float64)
    powers, area = torch.arange(4, dtype=torch.float64), tangent / torch.arange(1, 5)

    def denoise(x, sigma):
        return x - sigma * (tangent * sigma**powers).sum()

    xs = [step.x for step in SAMPLERS[name](denoise, x, sigmas, None)]
    for i in range(2, 9):                                           # from the fourth tangent on
        exact = (area * (sigmas[i + 2] ** (powers + 1) - sigmas[i + 1] ** (powers + 1))).sum()
        assert (xs[i + 1] - xs[i]).item() == pytest.approx(exact.item(), abs=1e-10)


def spread(name, std, n, draws=lambda axes, sigmas: iter(axes)):
    """Relative error of the final std, without chance: every unit normal is one axis, so variances are lengths."""
    sigmas = [SIGMA_MAX * (SIGMA_MIN / SIGMA_MAX) ** (i / n) for i in range(n + 1)]
    start, *axes = torch.eye(2 * n + 1, dtype=torch.float64)
    fresh = draws(axes, sigmas)
    *_, last = SAMPLERS[name](lambda x, sigma: x * std**2 / (std**2 + sigma**2), math.hypot(std, SIGMA_MAX) * start,
                              sigmas, lambda x: next(fresh))
    return last.x.norm().item() / math.hypot(std, SIGMA_MIN) - 1


@pytest.mark.parametrize("std", [0.5, 2.0])
@pytest.mark.parametrize("name, order", [("ddpm", 1), ("euler_a", 1), ("dpm2_a", 2), ("dpmpp_2s_a", 2),
                                         ("dpmpp_sde", 2), ("dpmpp_2m_sde", 2)])
def test_variance_of_stochastic_sampler_converges_with_the_order_of_its_method(name, order, std, parity):
    coarse, fine = (abs(spread(name, std, n)) for n in (40, 80))
    parity(f"sampler {name}, order {order} of its variance", "closed form", abs(math.log2(coarse / fine) - order), 0.2)


def unshared(axes, sigmas):
    """For dpmpp_sde: draws with which the noise of a step is independent of that of its first half."""
    for s, s_next, first, whole in zip(sigmas, sigmas[1:], axes[::2], axes[1::2], strict=False):
        share = math.sqrt(s) / (math.sqrt(s) + math.sqrt(s_next))
        yield first
        yield (whole - math.sqrt(share) * first) / math.sqrt(1 - share)


def test_dpmpp_sde_would_be_of_first_order_if_the_halves_of_a_step_shared_no_noise():
    coarse, fine = (abs(spread("dpmpp_sde", 0.5, n, unshared)) for n in (40, 80))
    assert math.log2(coarse / fine) == pytest.approx(1, abs=0.2)


def test_lcm_keeps_the_variance_where_the_denoiser_is_the_consistency_function():
    std, sigmas = 0.5, [14.6, 3.0, 0.7, 0.0]
    axis, *axes = torch.eye(3, dtype=torch.float64)
    fresh = iter(axes)
    for step in SAMPLERS["lcm"](lambda x, sigma: x * std / math.hypot(std, sigma), math.hypot(std, 14.6) * axis,
                                sigmas, lambda x: next(fresh)):
        assert step.x.norm().item() == pytest.approx(math.hypot(std, step.sigma), rel=1e-12)


@pytest.mark.parametrize("name", ["ddpm", "euler_a"])
def test_stochastic_sampler_keeps_the_variance_of_gaussian_data(name):
    std, sigmas = 0.5, [SIGMA_MAX * (SIGMA_MIN / SIGMA_MAX) ** (i / 200) for i in range(201)]
    generator = torch.Generator().manual_seed(0)

    def noise(x):
        return torch.randn(x.shape, generator=generator, dtype=x.dtype)

    x = math.hypot(std, SIGMA_MAX) * noise(torch.empty(40_000, dtype=torch.float64))
    *_, last = SAMPLERS[name](lambda x, sigma: x * std**2 / (std**2 + sigma**2), x, sigmas, noise)
    # std of a std over 40,000 draws: 0.35 %; the steps' own first-order bias: below 3 %
    assert last.x.std().item() == pytest.approx(math.hypot(std, SIGMA_MIN), rel=0.04)
