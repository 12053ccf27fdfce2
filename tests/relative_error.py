"""The measure of the parity tests."""

from torch import Tensor


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference over the largest absolute value of the reference, which must not be nearly constant."""
    assert ours.shape == theirs.shape and theirs.std() > 0.1
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()
