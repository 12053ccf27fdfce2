"""FID: the Fréchet distance of two sets of features, each taken for a Gaussian.  Heusel et al. 2017, section 3."""

from typing import NamedTuple

import torch
from torch import Tensor


class Moments(NamedTuple):
    """What a Gaussian is made of, in float64."""

    mean: Tensor                                        # [D]
    covariance: Tensor                                  # [D D]


def moments(features: Tensor, rows: int = 1024) -> Moments:
    """Mean and unbiased covariance of features [N D], read so many rows at a time.  Raises ValueError for N < 2."""
    n, width = features.shape
    if n < 2:
        raise ValueError(f"{n} picture has no covariance; give at least 2")
    mean = features.new_zeros(width, dtype=torch.float64)
    for part in features.split(rows):
        mean += part.double().sum(0) / n
    covariance = mean.new_zeros(width, width)
    for part in features.split(rows):
        centered = part.double() - mean
        covariance.addmm_(centered.T, centered, alpha=1 / (n - 1))
    return Moments(mean, covariance)


def frechet_distance(a: Moments, b: Moments) -> float:
    """|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)), 0 for equal moments.  Dowson & Landau 1982, eq. 4.

    S_a S_b has the eigenvalues of R^T S_b R, where R R^T = S_a, which is symmetric: they are real, and no root of a
    matrix that is not symmetric is needed.  Raises ValueError for features of different widths.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"features of {len(a.mean)} and {len(b.mean)} numbers cannot be compared; take one network")
    values, vectors = torch.linalg.eigh(a.covariance)
    root = vectors * values.clamp(min=0).sqrt()
    shared = torch.linalg.eigvalsh(root.T @ b.covariance @ root).clamp(min=0).sqrt().sum()
    distance = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * shared
    return distance.item()
