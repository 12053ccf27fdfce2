"""Pictures and masks brought to the size and the content that requests of A1111 mean."""

import numpy as np
import torch
from PIL import Image, ImageOps

from ldm.images import on_white, to_images, to_tensor
from ldm.masks import blur, extend

LANCZOS, BOX = Image.Resampling.LANCZOS, Image.Resampling.BOX
SIDE = 256                                              # pixels, at most, at which `fill` computes: it is smooth
REACHES = (2, 8, 32, 128)                               # standard deviations of its averages, in such pixels


def fit(image: Image.Image, size: tuple[int, int], mode: int) -> Image.Image:
    """A picture at `size`: mode 0 stretched, 1 cropped, 2 whole, with its outermost pixels repeated around it."""
    if mode == 0:
        return image.resize(size, LANCZOS)
    if mode == 1:
        return ImageOps.fit(image, size, LANCZOS)
    inner = ImageOps.contain(image, size, LANCZOS)
    (width, height), (w, h) = size, inner.size
    left, top = (width - w) // 2, (height - h) // 2
    sides = left, top, width - w - left, height - h - top
    return extend(inner, *sides)[0] if any(sides) else inner


def resize(image: Image.Image, size: tuple[int, int], method: Image.Resampling, crop: bool) -> Image.Image:
    """A picture that covers `size`, and is cropped to it; or, in its own proportions, stays within it."""
    if crop:
        return ImageOps.fit(image, size, method)
    scale = min(side / own for side, own in zip(size, image.size, strict=True))
    width, height = (max(1, round(own * scale)) for own in image.size)
    return image.resize((width, height), method)


def read_mask(mask: Image.Image, size: tuple[int, int], invert: bool) -> Image.Image:
    """A mask as A1111 reads it -> L, white where to repaint, of `size`.

    Where it is transparent in places, what is opaque is to be repainted; else what is white.
    """
    alpha = mask.convert("RGBA").getchannel("A")
    grey = alpha if np.asarray(alpha).min() < 255 else mask.convert("L")
    sharp = grey.resize(size, Image.Resampling.NEAREST).point([0] * 129 + [255] * 127)
    return ImageOps.invert(sharp) if invert else sharp


def fill(image: Image.Image, mask: Image.Image) -> Image.Image:
    """A picture in which what the mask will repaint, white, continues its surroundings smoothly: RGB.

    Gaussian averages of the known pixels, from narrow to wide, each where the ones before saw too few of them.  What
    is to be kept stays bit for bit.  Knutsson and Westin 1993 (normalized convolution).
    """
    scale = min(1.0, SIDE / max(image.size))
    width, height = (max(1, round(side * scale)) for side in image.size)
    x, small = to_tensor(image.resize((width, height), BOX)), mask.resize((width, height), BOX)
    known = torch.from_numpy(np.asarray(small) == 0)[None, None].float()
    filled, lacking = x * known, 1 - known
    for sigma in REACHES:
        weight = blur(known, sigma)
        average = blur(x * known, sigma) / weight.clamp(min=1e-3)
        seen = lacking * (weight > 1e-3)
        filled, lacking = filled + seen * average, lacking - seen
    [picture] = to_images(filled)
    return Image.composite(picture.resize(image.size, LANCZOS), on_white(image), mask)
