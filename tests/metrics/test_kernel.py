"""KID: against its definition, sum by sum, and torch-fidelity."""

import pytest
import torch
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

from ldm.metrics import kernel_distance, mmd2


def samples(n: int, width: int, seed: int) -> torch.Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


def by_definition(x: list[list[float]], y: list[list[float]]) -> float:
    """Gretton et al. 2012, lemma 6, one pair at a time."""
    def k(a, b):
        return (sum(p * q for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 3

    m, n = len(x), len(y)
    among_x = sum(k(x[i], x[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    among_y = sum(k(y[i], y[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    return among_x + among_y - 2 * sum(k(a, b) for a in x for b in y) / (m * n)


def test_mmd2_equals_its_definition(parity):
    x, y = samples(7, 3, 1), samples(5, 3, 2) + 0.5
    expected = by_definition(x.tolist(), y.tolist())
    parity("KID, one subset", "definition", abs(mmd2(x, y) - expected) / abs(expected), 1e-12)


def test_mmd2_is_unbiased():
    """Of two draws from one distribution it is 0 on average, within 4 standard errors; the diagonals would be seen."""
    found = torch.tensor([mmd2(samples(10, 4, seed), samples(10, 4, 1000 + seed)) for seed in range(500)])
    error = found.std() / len(found) ** 0.5
    assert abs(found.mean()) < 4 * error and (found < 0).any()
    diagonals = sum(((samples(10, 4, seed).square().sum(1) / 4 + 1) ** 3).mean() / 10 for seed in range(2))
    assert diagonals > 20 * error


def test_kernel_distance_equals_torch_fidelity(parity):
    """With subsets of all, for which ones are drawn differs."""
    made, real = samples(60, 8, 1) * 1.2, samples(60, 8, 2)
    theirs = kid_features_to_metric(made.double(), real.double(), kid_subsets=5, kid_subset_size=60, verbose=False)
    mean, deviation = kernel_distance(made, real, subsets=5, size=60)
    parity("KID", "torch-fidelity", abs(mean - theirs[KEY_METRIC_KID_MEAN]) / mean, 1e-10)
    assert deviation == pytest.approx(theirs[KEY_METRIC_KID_STD], abs=1e-12) and deviation < 1e-12


def test_kernel_distance_draws_each_picture_once_into_a_subset():
    """Else a subset of all would not be all: the deviation would not be 0."""
    made, real = samples(40, 6, 1), samples(50, 6, 2)
    mean, deviation = kernel_distance(made, real, subsets=8, size=20)
    assert deviation > 0 and mean == kernel_distance(made, real, subsets=8, size=20)[0]
    assert mean != kernel_distance(made, real, subsets=8, size=20, seed=1)[0]
    assert kernel_distance(made, real[:40], subsets=3, size=40)[1] < 1e-12


def test_kernel_distance_tells_distributions_apart():
    real = samples(400, 8, 1)
    same, deviation = kernel_distance(samples(400, 8, 2), real, subsets=20, size=200)
    other, _ = kernel_distance(samples(400, 8, 2) * 1.5, real, subsets=20, size=200)
    assert abs(same) < 5 * deviation < other


@pytest.mark.parametrize("size", [1, 31])
def test_kernel_distance_refuses_sizes_that_do_not_fit(size):
    with pytest.raises(ValueError, match=f"subsets of {size} pictures do not fit 30 and 40; try 2 to 30"):
        kernel_distance(samples(30, 4, 1), samples(40, 4, 2), size=size)
