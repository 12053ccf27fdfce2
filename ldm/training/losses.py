"""Loss functions of the two training stages."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight

from ldm.samplers import Prediction
from ldm.vae import Posterior


def diffusion_loss(predicted: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean squared error [B C h w], each sample times its weight [B] -> scalar.  Rombach et al. 2022, eq. 3."""
    error = (predicted.float() - target.float()).square().mean((1, 2, 3))
    return (error if weight is None else error * weight.to(error.device)).mean()


def min_snr_weight(alpha_bar: Tensor, prediction: Prediction, gamma: float | None = 5.0) -> Tensor | None:
    """Weight of the loss at noise levels where a share alpha_bar [B] of the variance is the picture -> [B] float32.

    Without gamma there is none: all levels weigh alike.
    min(SNR, gamma) on the loss of x0, with SNR = alpha_bar / (1 - alpha_bar), in the units of the prediction: over SNR
    for eps, over SNR + 1 for v.  Hang et al. 2023, sec. 3.4.
    """
    if gamma is None:
        return None
    a = alpha_bar.double()
    weight = (a / (1 - a)).clamp(max=gamma)
    if prediction == "eps":
        weight = (gamma * (1 - a) / a).clamp(max=1)
    elif prediction == "v":
        weight = weight * (1 - a)
    return weight.float()


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


def adversarial_weight(reconstruction: Tensor, adversarial: Tensor, features: Tensor,
                       mean: Callable[[Tensor], Tensor]) -> Tensor:
    """Balance of the two losses' gradients at the decoder's last layer, a 3x3 convolution.  Esser et al. 2021, eq. 7.

    Gradients at its weights follow from those at the picture it made [B 3 H W] and the features it was given [B C H W].
    `mean` averages over ranks.
    """
    shape = [reconstruction.shape[1], features.shape[1], 3, 3]
    wanted, given = (mean(conv2d_weight(features.float(), shape, gradient.float(), padding=1)).norm()
                     for gradient in (reconstruction, adversarial))
    return (wanted / (given + 1e-4)).clamp(0, 1e4)
