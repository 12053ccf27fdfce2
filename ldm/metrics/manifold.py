"""Improved precision and recall.  Kynkäänniemi et al. 2019, section 3."""

from collections.abc import Iterator

import torch
from torch import Tensor


def precision_recall(made: Tensor, real: Tensor, neighbours: int = 3) -> tuple[float, float]:
    """Share of made pictures that look like real ones, and of real ones that the made cover.  [M D], [N D] -> 0 to 1.

    Raises ValueError where a set has not more than `neighbours` pictures.
    """
    if not 1 <= neighbours < min(len(made), len(real)):
        raise ValueError(f"{len(made)} and {len(real)} pictures have no {neighbours} neighbours each; "
                         f"try 1 to {min(len(made), len(real)) - 1}")
    return inside(made, real, neighbours), inside(real, made, neighbours)


def inside(points: Tensor, others: Tensor, neighbours: int) -> float:
    """Share of points that lie in the manifold of others: balls that reach to their k-th neighbour (eq. 1 and 2)."""
    radius = torch.cat([block.kthvalue(neighbours + 1).values for block in distances(others, others)])     # + itself
    return torch.cat([(block <= radius).any(1) for block in distances(points, others)]).double().mean().item()


def distances(x: Tensor, y: Tensor, rows: int = 256) -> Iterator[Tensor]:
    """Distances of all x [m D] to all y [n D], float64, so many rows at a time: [rows n]."""
    for part in x.split(rows):
        yield torch.cat([torch.cdist(part.double(), others.double()) for others in y.split(8 * rows)], dim=1)
