"""FID: against closed forms, scipy's matrix root and torch-fidelity."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

from ldm.metrics import Moments, frechet_distance, moments


def covariance(width: int, seed: int) -> torch.Tensor:
    """A random positive definite matrix [D D]."""
    factor = torch.randn(width, 2 * width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return factor @ factor.T / width


def samples(n: int, width: int, seed: int) -> torch.Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


def test_frechet_of_gaussians_along_the_axes_is_the_closed_form(parity):
    """Where the covariances commute, it is |m - n|^2 + sum (a - b)^2 of the deviations a and b."""
    a, b = torch.tensor([1.0, 2, 3, 0], dtype=torch.float64), torch.tensor([2.0, 0.5, 3, 1], dtype=torch.float64)
    mean = torch.tensor([0.5, -1, 2, 0], dtype=torch.float64)
    found = frechet_distance(Moments(mean, a.square().diag()), Moments(-mean, b.square().diag()))
    expected = (4 * mean.square().sum() + (a - b).square().sum()).item()
    parity("FID, moments along the axes", "closed form", abs(found - expected) / expected, 1e-12)


def test_frechet_of_rotated_gaussians_is_the_closed_form(parity):
    """Of 2 x 2 matrices, tr (AB)^(1/2) = (tr AB + 2 det(AB)^(1/2))^(1/2)."""
    zero, worst = torch.zeros(2, dtype=torch.float64), 0.0
    for seed in range(10):
        a, b = covariance(2, seed), covariance(2, 100 + seed)
        root = ((a @ b).trace() + 2 * (a @ b).det().sqrt()).sqrt()
        expected = (a.trace() + b.trace() - 2 * root).item()
        worst = max(worst, abs(frechet_distance(Moments(zero, a), Moments(zero, b)) - expected) / expected)
    parity("FID, rotated moments", "closed form", worst, 1e-10)


def test_frechet_equals_scipy_sqrtm(parity):
    a, b = (Moments(samples(1, 48, seed)[0].double(), covariance(48, seed)) for seed in (1, 2))
    root = np.trace(sqrtm((a.covariance @ b.covariance).numpy())).real
    expected = ((a.mean - b.mean).square().sum() + (a.covariance + b.covariance).trace()).item() - 2 * root
    parity("FID, random moments", "scipy", abs(frechet_distance(a, b) - expected) / expected, 1e-10)


@pytest.mark.parametrize("n", [300, 20])               # of 24 features: 20 pictures have a singular covariance
def test_frechet_equals_torch_fidelity(n, parity):
    made, real = samples(n, 24, 1) * 0.7 + 0.2, samples(n, 24, 2)
    theirs = fid_statistics_to_metric(*(fid_features_to_statistics(x.double()) for x in (made, real)), verbose=False)
    expected = theirs["frechet_inception_distance"]
    found = frechet_distance(moments(made), moments(real))
    parity("FID, features" if n > 24 else "FID, fewer pictures than features", "torch-fidelity",
           abs(found - expected) / expected, 1e-9 if n > 24 else 1e-5)


def test_frechet_of_samples_converges_to_that_of_their_gaussians():
    """Noise falls as n^(-1/2), bias as 1/n: a thousand times as many samples make it 30 times smaller; 5 are asked."""
    root = torch.linalg.cholesky(covariance(4, 3)).float()
    exact = frechet_distance(Moments(torch.ones(4, dtype=torch.float64), (root @ root.T).double()),
                             Moments(torch.zeros(4, dtype=torch.float64), torch.eye(4, dtype=torch.float64)))
    errors = [abs(frechet_distance(moments(samples(n, 4, 4) @ root.T + 1), moments(samples(n, 4, 5))) - exact) / exact
              for n in (100, 100_000)]
    assert errors[1] < errors[0] / 5 and errors[1] < 0.02


def test_frechet_is_symmetric_and_zero_for_the_same():
    a, b = moments(samples(200, 16, 1)), moments(samples(200, 16, 2) * 2)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-12)
    assert abs(frechet_distance(a, a)) < 1e-10 < 1 < frechet_distance(a, b)


def test_moments_in_parts_equal_numpy():
    x = samples(100, 5, 6) * 3 + 1
    mean, spread = moments(x, rows=7)
    np.testing.assert_allclose(mean, x.double().mean(0), rtol=1e-13)
    np.testing.assert_allclose(spread, np.cov(x.double().numpy(), rowvar=False), rtol=1e-12)


def test_moments_are_exact_far_from_zero():
    """Where the mean of squares less the square of the mean would lose all: 1e12 has 1e-4 left in float64."""
    x = samples(1000, 3, 7).double()
    torch.testing.assert_close(moments(x + 1e6).covariance, moments(x).covariance, rtol=1e-8, atol=1e-8)


def test_frechet_refuses_what_has_no_moments():
    with pytest.raises(ValueError, match="1 picture has no covariance; give at least 2"):
        moments(torch.zeros(1, 4))
    with pytest.raises(ValueError, match="features of 4 and 5 numbers cannot be compared"):
        frechet_distance(moments(samples(9, 4, 1)), moments(samples(9, 5, 1)))
