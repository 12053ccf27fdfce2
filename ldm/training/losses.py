"""Loss functions of the two training stages."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.vae import Posterior


def gradients(x: Tensor) -> tuple[Tensor, Tensor]:
    """Differences between neighbours along both sides: [B C H W] -> [B C H W-1], [B C H-1 W]."""
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


def reconstruction_loss(image: Tensor, target: Tensor, scales: int = 3) -> Tensor:
    """L1 of the pictures plus L1 of their gradients, averaged over several resolutions -> scalar.

    The gradients stand in for a perceptual loss: they weigh edges, which the eye does, and need no pretrained network.
    """
    loss = F.l1_loss(image, target)
    for _ in range(scales):
        for a, b in zip(gradients(image), gradients(target), strict=True):
            loss = loss + F.l1_loss(a, b) / scales
        image, target = F.avg_pool2d(image, 2), F.avg_pool2d(target, 2)
    return loss


def kl_loss(posterior: Posterior) -> Tensor:
    """KL divergence to the unit Gaussian per latent value -> scalar, in nats."""
    return posterior.kl().mean() / posterior.mean[0].numel()


def hinge_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Hinge loss of a discriminator's scores, any shape -> scalar.  Lim & Ye 2017, eq. 1."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def adversarial_weight(reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor) -> Tensor:
    """Balance of the two losses' gradients at the decoder's last layer.  Esser et al. 2021, eq. 7."""
    wanted, given = (torch.autograd.grad(loss, last_layer, retain_graph=True)[0].norm()
                     for loss in (reconstruction, adversarial))
    return (wanted / (given + 1e-4)).clamp(0, 1e4).detach()
