"""KID: the squared maximum mean discrepancy of two sets of features.  Binkowski et al. 2018."""

import numpy as np
import torch
from torch import Tensor


def cubic(x: Tensor, y: Tensor) -> Tensor:
    """The kernel of KID, (x . y / D + 1)^3.  x [m D], y [n D] -> [m n]."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def mmd2(x: Tensor, y: Tensor) -> float:
    """Unbiased estimate of the squared discrepancy, in float64; may be below 0.  x [m D], y [n D], m and n 2 or more.

    Gretton et al. 2012, lemma 6.
    """
    x, y = x.double(), y.double()
    among_x, among_y = (without_self(cubic(own, own)) for own in (x, y))
    return (among_x + among_y - 2 * cubic(x, y).mean()).item()


def without_self(kernel: Tensor) -> Tensor:
    """Mean of a matrix [n n] beside its diagonal."""
    n = len(kernel)
    return (kernel.sum() - kernel.trace()) / (n * (n - 1))


def kernel_distance(made: Tensor, real: Tensor, subsets: int = 100, size: int = 1000,
                    seed: int = 0) -> tuple[float, float]:
    """KID: mean and standard deviation of `mmd2` over random subsets of `size` pictures of each.  [M D], [N D].

    Raises ValueError for a size that is below 2, or above M or N.
    """
    if not 2 <= size <= min(len(made), len(real)):
        raise ValueError(f"subsets of {size} pictures do not fit {len(made)} and {len(real)}; "
                         f"try 2 to {min(len(made), len(real))}")
    choice = np.random.default_rng(seed)

    def subset(features: Tensor) -> Tensor:
        return features[torch.from_numpy(choice.choice(len(features), size, replace=False))]

    estimates = np.array([mmd2(subset(made), subset(real)) for _ in range(subsets)])
    return float(estimates.mean()), float(estimates.std())
