"""Random numbers of samples: from seed, step and place alone."""

from collections import Counter

import pytest
import torch

from ldm.training.distributed import World
from ldm.training.draws import choose, draws, generator

SHAPE = (4, 3, 2)


def test_generator_depends_on_its_numbers_alone():
    places = [(0, 0), (0, 1), (1, 0), (0,), (0, 0, 0)]
    numbers = {place: torch.randn(4, generator=generator(*place)) for place in places}
    assert torch.equal(numbers[0, 1], torch.randn(4, generator=generator(0, 1)))
    assert len({tuple(x.tolist()) for x in numbers.values()}) == len(places)


@pytest.mark.parametrize(("ranks", "accumulate"), [(1, 1), (2, 1), (1, 3), (2, 3), (6, 1)])
def test_draws_do_not_depend_on_ranks_or_accumulation(ranks, accumulate):
    whole = draws(7, 5, range(12), 12, SHAPE, 1000)
    batch, seen = 12 // ranks // accumulate, []
    for rank in range(ranks):
        here = World(rank, ranks, torch.device("cpu"))
        for micro in range(accumulate):
            places = here.places(batch, micro)
            seen += places
            for part, all_ in zip(draws(7, 5, places, 12, SHAPE, 1000), whole, strict=True):
                assert torch.equal(part, all_[list(places)])
    assert sorted(seen) == list(range(12))


def test_draws_differ_with_seed_step_and_place():
    several = [draws(seed, step, range(2), 2, SHAPE, 1000).noise for seed in (0, 1) for step in (0, 1)]
    assert len({tuple(x.flatten().tolist()) for noise in several for x in noise}) == 8


def test_timesteps_are_spread_and_uniform():
    timesteps = torch.stack([draws(0, step, range(8), 8, (1,), 100).t for step in range(600)])
    assert timesteps.dtype == torch.long
    edges = torch.arange(9) * 12.5
    assert (timesteps >= edges[:8].long()).all() and (timesteps <= edges[1:]).all()
    counts = timesteps.flatten().bincount(minlength=100)
    assert counts.sum() == 4800 and (counts - 48).abs().max() < 30      # deviation of each: under 7


def test_noise_is_unit_normal_and_chance_uniform():
    drawn = draws(0, 0, range(2000), 2000, SHAPE, 1000)
    assert drawn.noise.dtype == torch.float32 and abs(drawn.noise.mean()) < 0.02        # 4 deviations
    assert drawn.noise.std() == pytest.approx(1, abs=0.015)
    assert 0 <= drawn.chance.min() < 0.01 < 0.99 < drawn.chance.max() < 1
    assert drawn.chance.mean(0).tolist() == pytest.approx([0.5, 0.5], abs=0.03)         # 4.6 deviations


def test_captions_are_any_of_a_sample_and_some_are_dropped():
    texts = [["a red disc", "disc in red"]] * 3000
    counts = Counter(choose(texts, draws(0, 0, range(3000), 3000, (1,), 1).chance, 0.1))
    assert set(counts) == {"a red disc", "disc in red", ""}
    assert counts[""] == pytest.approx(300, abs=66)                     # 4 deviations
    assert counts["a red disc"] == pytest.approx(1350, abs=110)         # 4 deviations
    assert set(choose([["a"]] * 50, torch.rand(50, 2))) == {"a"}
