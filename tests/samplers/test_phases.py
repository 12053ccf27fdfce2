"""A denoiser per step: the right one at every noise level that a sampler asks for."""

import pytest
import torch

from ldm.samplers import SAMPLERS, seeded_noise
from ldm.samplers.phases import Phases

SIGMAS = [8.0, 4.0, 2.0, 1.0, 0.0]


def test_phases_choose_by_the_noise_level():
    phases = Phases(SIGMAS, [lambda x, sigma, i=i: x + i for i in range(4)])
    asked = [9.0, 8.0, 6.0, 4.0, 3.9, 2.0, 1.0, 0.5, 0.0]
    assert [int(phases(torch.zeros(()), sigma)) for sigma in asked] == [0, 0, 0, 1, 1, 2, 3, 3, 3]


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "euler", "euler_a", "dpmpp_2m"])
def test_phases_give_step_i_the_denoiser_i(sampler):
    asked = []
    phases = Phases(SIGMAS, [lambda x, sigma, i=i: (asked.append(i), 0.5 * x)[1] for i in range(4)])
    list(SAMPLERS[sampler](phases, torch.ones(1, 4, 2, 2), SIGMAS, seeded_noise([0])))
    assert asked == [0, 1, 2, 3]


def test_phases_depend_on_the_level_alone_where_a_step_looks_ahead():
    asked = []
    phases = Phases(SIGMAS, [lambda x, sigma, i=i: (asked.append(i), 0.5 * x)[1] for i in range(4)])
    list(SAMPLERS["heun"](phases, torch.ones(1, 4, 2, 2), SIGMAS, seeded_noise([0])))
    assert asked == [0, 1, 1, 2, 2, 3, 3]


def test_phases_beyond_the_last_denoiser_keep_it():
    """CompVis's spacing has steps to spare."""
    phases = Phases(SIGMAS, [lambda x, sigma: x, lambda x, sigma: x + 1])
    assert [int(phases(torch.zeros(()), sigma)) for sigma in SIGMAS] == [0, 1, 1, 1, 1]
