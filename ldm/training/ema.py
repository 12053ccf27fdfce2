"""Exponential moving average of weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class EMA:
    """Slow copy of a module's floating-point weights.  Decay warms up as (1 + n) / (10 + n), as CompVis LitEma does."""

    def __init__(self, module: nn.Module, decay: float = 0.9999):
        self.decay, self.updates = decay, 0
        self.weights = {k: v.detach().clone().float() for k, v in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move every weight (1 - decay) of the way to the module's."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, weight in module.state_dict().items():
            self.weights[name].lerp_(weight.float(), 1 - decay)

    @contextmanager
    def applied(self, module: nn.Module) -> Iterator[None]:
        """Give the module the averaged weights inside a `with` block, and its own back after it."""
        own = {k: v.clone() for k, v in module.state_dict().items()}
        module.load_state_dict(self.weights)
        try:
            yield
        finally:
            module.load_state_dict(own)

    def state_dict(self) -> dict[str, Tensor | int]:
        return {**self.weights, "updates": self.updates}

    def load_state_dict(self, state: dict) -> None:
        self.updates = int(state["updates"])
        for k, v in self.weights.items():
            v.copy_(state[k])
