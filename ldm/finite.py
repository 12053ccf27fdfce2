"""Numbers that overflowed: an error that says where, and whether the weights are at fault."""

from collections.abc import Mapping

from torch import nn


class NonFiniteError(ArithmeticError):
    """Numbers overflowed, so there is no picture.  The message says where, and whether the weights are at fault."""


def bad_weights(networks: Mapping[str, nn.Module]) -> str:
    """Which weights are not finite, in words; "" where all are.  `networks` by the names to call them."""
    for name, module in networks.items():
        bad = [key for key, weight in module.state_dict().items() if not weight.isfinite().all()]
        if bad:
            return f"the {name}'s weights themselves hold such numbers ({', '.join(bad[:3])}); take another file"
    return ""


def blame(networks: Mapping[str, nn.Module]) -> str:
    """Whether the weights are the reason for numbers that are not finite."""
    return bad_weights(networks) or ("all weights are finite, so the computation overflowed; "
                                     "try dtype float32 or less guidance")
