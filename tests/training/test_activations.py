"""Activations computed again: the same gradients, bit for bit, from less memory."""

import pytest
import torch

from ldm.training.activations import recompute
from ldm.unet import UNet, UNetConfig
from ldm.unet.blocks import ResBlock, TransformerBlock


@pytest.fixture
def unet() -> UNet:
    torch.manual_seed(0)
    return UNet(UNetConfig(channels=16, multipliers=(1, 2), attn_levels=(False, True), cross_only=(False, False),
                           res_blocks=1, context_width=8, heads=2, groups=4))


def loss_and_kept(unet: UNet) -> tuple[torch.Tensor, int]:
    """A loss, and how many numbers its graph keeps."""
    x, t, context = torch.randn(2, 4, 8, 8), torch.tensor([3, 900]), torch.randn(2, 5, 8)
    kept = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = unet(x, t, context).square().mean()
    return loss, sum(kept)


def test_recomputed_gradients_are_the_same(unet):
    names, gradients, kept = list(unet.state_dict()), [], []
    for _ in range(2):
        torch.manual_seed(1)
        loss, size = loss_and_kept(unet)
        unet.zero_grad()
        loss.backward()
        gradients.append([weight.grad.clone() for weight in unet.parameters()])
        kept.append(size)
        recompute(unet, (ResBlock, TransformerBlock))
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert kept[1] < kept[0] / 2
    assert list(unet.state_dict()) == names
