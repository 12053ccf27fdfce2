"""How well drawings of emoji fit what was asked for: functions of latents and pictures."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from emoji_scenes import BACKGROUNDS
from emoji_sprites import dominant_hue, nearest_hue
from PIL import Image, ImageColor
from torch import Tensor


@dataclass(frozen=True)
class Score:
    """One line of the table: of drawings, of real sprites (the best there is), and by chance; shares, or dB."""

    of: str
    measure: str
    drawn: float
    real: float | None                  # None where the best has no bound
    chance: float | None
    count: int

    def row(self) -> str:
        """As a row of a Markdown table."""
        cells = [say(value, self.measure) for value in (self.drawn, self.real, self.chance)]
        return f"| {self.of} | {self.measure} | {' | '.join(cells)} | {self.count} |"


def say(value: float | None, measure: str) -> str:
    if value is None:
        return "-"
    return f"{value:.1f} dB" if measure == "PSNR" else f"{value:.3f}" if measure == "SSIM" else f"{value:.1%}"


def ranks(drawn: Tensor, references: Tensor, true: list[int]) -> Tensor:
    """Place of the true reference among all, by distance.  drawn [N ...], references [M ...] -> [N], 0 is the first."""
    distance = torch.cdist(drawn.flatten(1), references.flatten(1))
    own = distance.gather(1, torch.tensor(true)[:, None])
    return (distance < own).sum(1)


def in_order(left: Tensor, right: Tensor, references: tuple[Tensor, Tensor], a: list[int], b: list[int]) -> Tensor:
    """Whether objects a and b stand left and right rather than right and left.

    left, right [N ...], references [M ...] of each place -> [N].
    """
    on_left, on_right = (torch.cdist(z.flatten(1), r.flatten(1)) ** 2
                         for z, r in zip((left, right), references, strict=True))
    n = torch.arange(len(left))
    return on_left[n, a] + on_right[n, b] < on_left[n, b] + on_right[n, a]


def colour_of(picture: Image.Image) -> str:
    """The name of the hue that most vivid pixels have: of an object on white, its colour."""
    return nearest_hue(dominant_hue(picture)[0])


def background_of(picture: Image.Image) -> str:
    """The name of the background that comes nearest to the median of the picture's outermost pixels."""
    pixels = np.asarray(picture.convert("RGB"), float)
    edge = np.median(np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]), axis=0)
    return min(BACKGROUNDS, key=lambda name: float(np.abs(edge - ImageColor.getrgb(BACKGROUNDS[name])).sum()))


def sharpness(image: Tensor) -> Tensor:
    """Root mean square difference between neighbouring pixels of each picture.  [B 3 H W] -> [B]."""
    return (image.diff(dim=2).square().mean((1, 2, 3)) + image.diff(dim=3).square().mean((1, 2, 3))).sqrt()


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of pictures [B 3 H W] in [-1, 1], clamped -> [B] dB."""
    return -10 * ((a.clamp(-1, 1) - b.clamp(-1, 1)) / 2).square().mean((1, 2, 3)).log10()


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity of pictures [B 3 H W] in [-1, 1], mean over channels and 11x11 Gaussian windows -> [B].

    Wang et al. 2004, eq. 13, with sigma 1.5, K1 0.01 and K2 0.03.
    """
    a, b = ((x.clamp(-1, 1) + 1) / 2 for x in (a, b))
    weights = torch.exp(-(torch.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = torch.outer(weights, weights) / weights.sum() ** 2

    def mean(x: Tensor) -> Tensor:
        return F.conv2d(x.flatten(0, 1)[:, None], window[None, None])[:, 0].unflatten(0, x.shape[:2])

    mu_a, mu_b, c1, c2 = mean(a), mean(b), 0.01**2, 0.03**2
    covariance = mean(a * b) - mu_a * mu_b
    variances = mean(a * a) - mu_a**2 + mean(b * b) - mu_b**2
    similarity = ((2 * mu_a * mu_b + c1) * (2 * covariance + c2) / ((mu_a**2 + mu_b**2 + c1) * (variances + c2)))
    return similarity.mean((1, 2, 3))
