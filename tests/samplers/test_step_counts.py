"""Step counts and strengths at which other programs crash, or sample no step: none does here, whatever is asked for."""

from itertools import pairwise

import pytest
import torch

from ldm.samplers import SAMPLERS, Schedule
from ldm.samplers.presets import PRESETS, find_course

# these start far below full noise
pytestmark = pytest.mark.filterwarnings("ignore:([1-3]|3[345][0-9]|[56][0-9][0-9]) steps of:UserWarning")

SCHEDULE = Schedule()
COUNTS = [2, 3, 7, 27, 36, 37, 101, 251, 333, 501, 998]
COMBINATIONS = [(preset, name) for preset, of in PRESETS.items() for name in of.samplers]


def timesteps(n: int) -> list[float]:
    return [SCHEDULE.timestep(sigma) for sigma in SCHEDULE.sigmas(n, "compvis")[:-1]]


def test_compvis_stays_within_the_timesteps_at_every_step_count():
    """CompVis's list ends above the last timestep, 999, at exactly these counts: "index 1000 is out of bounds"."""
    beyond = []
    for n in range(1, 1000):
        theirs = range(1, 1001, 1000 // n)
        assert timesteps(n) == sorted({min(t, 999) for t in theirs}, reverse=True)
        if theirs[-1] == 1000:
            beyond.append(n)
    assert beyond == [3, 9, 27, 36, 37, *range(101, 112), *range(251, 334), *range(501, 1000)]


@pytest.mark.parametrize(("preset", "name"), COMBINATIONS)
def test_every_strength_makes_a_step_at_every_step_count(preset, name):
    for n in COUNTS[: 4 if (preset, name) == ("diffusers", "lcm") else None]:
        whole = find_course(SCHEDULE, name, n, preset=preset).sigmas
        for strength in (1e-9, 0.01, 0.5, 0.999, 1.0):
            sigmas = find_course(SCHEDULE, name, n, strength=strength, preset=preset).sigmas
            assert len(sigmas) >= 2 and all(a > b >= 0 for a, b in pairwise(sigmas))
            assert sigmas == whole[-len(sigmas):] and sigmas[-1] <= SCHEDULE.grid[1]        # no noise is left


@pytest.mark.parametrize("strength", [None, 1e-9, 1.0])
@pytest.mark.parametrize(("preset", "name"), COMBINATIONS)
def test_samplers_run_at_the_counts_that_crash_elsewhere(preset, name, strength):
    for n in (2, 3, 9, 37):
        course = find_course(SCHEDULE, name, n, strength=strength, preset=preset)
        x = course.begin(torch.ones(1, 4, 2, 2), None if strength is None else torch.zeros(1, 4, 2, 2))
        *_, last = SAMPLERS[name](lambda x, sigma: 0.1 * torch.tanh(x), x, course.sigmas, torch.zeros_like)
        assert last.i == len(course.sigmas) - 2 and last.x.isfinite().all() and last.x.abs().max() < x.abs().max()


def test_the_longest_course_of_a_sampler_with_a_spare_step_is_named():
    with pytest.raises(ValueError, match="steps 999 is too many for sampler 'dpm2' of preset 'a1111'; try 998"):
        find_course(SCHEDULE, "dpm2", 999, preset="a1111")
    assert len(find_course(SCHEDULE, "dpm2", 998, preset="a1111").sigmas) == 999
