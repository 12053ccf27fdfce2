"""Less memory for activations: they are computed again on the way back.  Chen et al. 2016 (sublinear memory cost)."""

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint


def recompute(network: nn.Module, blocks: tuple[type[nn.Module], ...]) -> None:
    """Keep of each block only what goes in; its gradients need another forward pass.  Blocks draw no random numbers."""
    for block in network.modules():
        if isinstance(block, blocks):
            block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
