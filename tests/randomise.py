"""Weights at random, for comparisons that no zero or one at the start shall make easy."""

import torch
from torch import nn


def randomise(model: nn.Module) -> nn.Module:
    """Every parameter random, the norms' and those that start at zero too; features keep a variance of about 1."""
    g = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5, generator=g)
        else:
            nn.init.uniform_(parameter, -0.5, 1.5, generator=g)
    return model.requires_grad_(False)
