"""Improved precision and recall: against their definition, known cases and torch-fidelity."""

import math

import pytest
import torch
from torch_fidelity.metric_prc import prc_features_to_metric

from ldm.metrics import precision_recall
from ldm.metrics.manifold import distances


def samples(n: int, width: int, seed: int) -> torch.Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


def by_definition(points: list[list[float]], others: list[list[float]], k: int) -> float:
    """Kynkäänniemi et al. 2019, eq. 1 and 2: the share of points within reach of another's k-th neighbour."""
    reach = [sorted(math.dist(a, b) for j, b in enumerate(others) if i != j)[k - 1] for i, a in enumerate(others)]
    return sum(any(math.dist(p, a) <= r for a, r in zip(others, reach, strict=True)) for p in points) / len(points)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_precision_and_recall_equal_their_definition(k, parity):
    made, real = samples(60, 3, 1) * 0.6 + 0.4, samples(70, 3, 2)
    found = precision_recall(made, real, k)
    expected = (by_definition(made.tolist(), real.tolist(), k), by_definition(real.tolist(), made.tolist(), k))
    assert 0 < expected[1] < expected[0] < 1
    parity("precision and recall", "definition", max(abs(a - b) for a, b in zip(found, expected, strict=True)), 1e-12)


def test_precision_and_recall_equal_torch_fidelity(parity):
    made, real = samples(800, 16, 1) * 0.8, samples(900, 16, 2)                 # more than a block of rows
    theirs = prc_features_to_metric(made.double(), real.double(), prc_neighborhood=3, verbose=False)
    precision, recall = precision_recall(made, real)
    parity("precision", "torch-fidelity", abs(precision - theirs["precision"]), 1e-6)
    parity("recall", "torch-fidelity", abs(recall - theirs["recall"]), 1e-6)


def test_same_pictures_have_precision_and_recall_1():
    x = samples(50, 8, 1)
    assert precision_recall(x, x) == (1, 1)


def test_disjoint_pictures_have_precision_and_recall_0():
    assert precision_recall(samples(50, 8, 1), samples(50, 8, 2) + 100) == (0, 0)


def test_lost_variety_costs_recall_alone():
    """Real pictures are of two kinds, made ones of the first; if half of these are of neither, that costs precision."""
    kinds = torch.tensor([[0.0, 0], [50, 0]])
    real = samples(200, 2, 1) + kinds.repeat_interleave(100, 0)
    precision, recall = precision_recall(samples(100, 2, 2), real)
    assert precision > 0.9 and 0.4 < recall <= 0.5
    far = torch.cat([samples(50, 2, 2), samples(50, 2, 3) + torch.tensor([0, 200.0])])
    assert precision_recall(far, real)[0] <= 0.5


def test_distances_in_blocks_are_those_of_all_pairs():
    x, y = samples(10, 4, 1), samples(50, 4, 2)
    blocks = list(distances(x, y, rows=3))
    assert [len(block) for block in blocks] == [3, 3, 3, 1]
    torch.testing.assert_close(torch.cat(blocks), torch.cdist(x.double(), y.double()), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("neighbours", "most"), [(0, 2), (3, 2)])
def test_precision_and_recall_refuse_too_few_pictures(neighbours, most):
    with pytest.raises(ValueError, match=f"3 and 9 pictures have no {neighbours} neighbours each; try 1 to {most}"):
        precision_recall(samples(3, 4, 1), samples(9, 4, 2), neighbours)
