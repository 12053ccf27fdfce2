"""Repainting a part of a picture: the mask, the part to paint on, and the way back into the picture."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from torch import Tensor

from ldm.images import digest, on_white, pad_to_multiple, to_images, to_tensor
from ldm.settings import Settings, within

Box = tuple[int, int, int, int]                         # left, top, right, bottom in pixels; the last two are outside
Fill = Literal["edge", "symmetric"]                     # numpy.pad's words

LANCZOS = Image.Resampling.LANCZOS


@dataclass(frozen=True)
class Canvas:
    """An input picture, the part of it to paint on, and what the painting replaces."""

    image: Image.Image                                  # RGB, as large as the result
    repaint: Image.Image | None                         # L, 255 where to repaint, 0 where to keep; None: no mask
    alpha: Image.Image | None                           # L, the same with a soft edge: the share of the painting
    box: Box                                            # the part to paint on
    size: tuple[int, int]                               # width and height at which to paint it, in pixels
    sources: dict[str, str]                             # SHA-256 of the pixels that were given

    @property
    def picture(self) -> Image.Image:
        """What to paint on: RGB, of `size`."""
        return self.image.crop(self.box).resize(self.size, LANCZOS)

    @property
    def mask(self) -> Tensor:
        """1 where to repaint, 0 where to keep, [1 1 H W] of `size`; all 1 without a mask."""
        if self.repaint is None:
            return torch.ones(1, 1, *self.size[::-1])
        return torch.from_numpy(np.array(scale_mask(self.repaint.crop(self.box), self.size)))[None, None] / 255

    def pooled_mask(self, factor: int) -> Tensor:
        """The mask over latents: 1 where any pixel of theirs is to be repainted.  [1 1 h w]."""
        return F.max_pool2d(pad_to_multiple(self.mask, factor), factor)

    def sampled_mask(self, factor: int) -> Tensor:
        """The mask over latents as inpainting models know it: its value at their first pixel.  [1 1 h w]."""
        return pad_to_multiple(self.mask, factor)[:, :, ::factor, ::factor]

    @property
    def known(self) -> Tensor:
        """The picture, [1 3 H W] in [-1, 1], with 0, grey, where the mask is 1."""
        return to_tensor(self.picture) * (1 - self.mask)

    def paste(self, painted: Image.Image) -> Image.Image:
        """The whole picture with the painting (of `size`) in it; where `alpha` is 0, bit for bit as it was.

        Of its information only the colour profile stays, without which the same bits would look otherwise.
        """
        if self.alpha is None:
            return painted
        left, top, right, bottom = self.box
        whole = self.image.copy()
        whole.paste(painted.resize((right - left, bottom - top), LANCZOS), (left, top))
        whole = Image.composite(meet(whole, self.image, self.alpha), self.image, self.alpha)
        profile = self.image.info.get("icc_profile")
        whole.info = {"icc_profile": profile} if profile and is_rgb(profile) else {}
        return whole

    def describe(self) -> str:
        """What is painted on, in words."""
        words = f"a picture of {self.image.width}x{self.image.height} pixels"
        if self.alpha is None:
            return words
        left, top, right, bottom = self.box
        share = np.array(self.alpha).mean() / 255
        return f"{words}, {share:.1%} of it repainted, seen from ({left}, {top}) to ({right}, {bottom})"


def is_rgb(profile: bytes) -> bool:
    """Whether a colour profile is one of RGB; ICC.1:2022, 7.2.8: its data colour space."""
    return profile[16:20] == b"RGB "


def blank(width: int, height: int) -> Canvas:
    """A canvas of which nothing is known."""
    size = width, height
    return Canvas(Image.new("RGB", size), None, None, (0, 0, *size), size, {})


def make_canvas(image: Image.Image | None, mask: Image.Image | None, s: Settings, native: int) -> Canvas | None:
    """The input picture with its mask as the settings want them painted on; None without a picture.

    Both are scaled to `width` x `height` where these are set.  With `only_masked` they stay, and the surroundings of
    the mask are painted at that size, by default `native`, the model's side in pixels.
    Raises ValueError as `read_mask` and `soften`, and for a mask, or its settings, without what they belong to.
    """
    if mask is None and (s.mask_blur or s.only_masked is not None):
        raise ValueError("mask_blur and only_masked are for a mask, and there is none; give one, or leave them out")
    if image is None:
        if mask is not None:
            raise ValueError("there is a mask but no picture that it belongs to; give image, too")
        return None
    image = on_white(image)
    sources, size = {"image_sha256": digest(image)}, (s.width or image.width, s.height or image.height)
    scaled, whole = image.resize(size, LANCZOS), (0, 0, *size)
    if mask is None:
        return Canvas(scaled, None, None, whole, size, sources)
    repaint = read_mask(mask, image.size)
    sources["mask_sha256"] = digest(repaint)
    if s.only_masked is None:
        repaint = scale_mask(repaint, size)
        return Canvas(scaled, repaint, soften(repaint, s.mask_blur), whole, size, sources)
    alpha, width, height = soften(repaint, s.mask_blur), s.width or native, s.height or native
    box = surroundings(alpha, s.only_masked, width / height)
    return Canvas(image, repaint, alpha, box, painting_size(box, width * height), sources)


def read_mask(mask: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A mask of any mode -> L, 255 where it is white (0.5 or more), to repaint, and 0 where it is black, to keep.

    Raises ValueError where it has another size than the picture's, is transparent anywhere, or black everywhere.
    """
    grey = on_white(mask).convert("L")
    if grey.size != size:
        (width, height), (w, h) = size, grey.size
        raise ValueError(f"the mask has {w}x{h} pixels, but its picture {width}x{height}; scale it to {width}x{height}")
    if np.array(mask.convert("RGBA"))[:, :, 3].min() < 255:
        raise ValueError("the mask is transparent in places, which may mean either; make it white where to repaint, "
                         "black where to keep")
    repaint = grey.point([0] * 128 + [255] * 128)
    if repaint.getbbox() is None:
        raise ValueError("the mask is black everywhere, so nothing is to be repainted; make it white where to repaint")
    return repaint


def scale_mask(repaint: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A mask at another size: to repaint is each pixel that covers anything of it."""
    pixels = torch.from_numpy(np.array(repaint))[None].float()
    return Image.fromarray(F.adaptive_max_pool2d(pixels, size[::-1])[0].byte().numpy())


def soften(repaint: Image.Image, blur: float) -> Image.Image:
    """A mask whose edge is a Gaussian of standard deviation `blur`, in pixels.  About 3 `blur` away it is 0 or 255.

    Raises ValueError where nothing is left of it.
    """
    alpha = repaint.filter(ImageFilter.GaussianBlur(blur))
    if alpha.getbbox() is None:
        raise ValueError(f"mask_blur {blur:g} leaves nothing of so small a mask; try {blur / 4:g}")
    return alpha


def meet(painting: Image.Image, image: Image.Image, alpha: Image.Image, sigma: float = 2.0) -> Image.Image:
    """The painting, shifted in colour where it begins, so that it meets the picture without a seam.

    A VAE gives back what is kept not quite as it was.  By how much it misses is seen where alpha is 0, and carried on
    by a Gaussian of `sigma` pixels; 3 sigma away nothing is changed.
    After Farbman et al. 2009 (instant image cloning), whose membrane reaches through the whole painting.
    """
    kept = torch.from_numpy(np.array(alpha) == 0)[None, None].float()
    x = to_tensor(painting)
    missed = blur(kept * (to_tensor(image) - x), sigma) / blur(kept, sigma).clamp(min=0.5)
    [shifted] = to_images(x + missed)
    return shifted


def blur(x: Tensor, sigma: float) -> Tensor:
    """Gaussian blur, with zeros around.  [B C H W] -> [B C H W]."""
    reach = math.ceil(3 * sigma)
    weights = torch.exp(-torch.arange(-reach, reach + 1) ** 2 / (2 * sigma**2))
    weights = (weights / weights.sum()).expand(x.shape[1], 1, 1, -1)
    x = F.conv2d(x, weights, padding=(0, reach), groups=x.shape[1])
    return F.conv2d(x, weights.mT, padding=(reach, 0), groups=x.shape[1])


def surroundings(alpha: Image.Image, padding: int, aspect: float) -> Box:
    """The box that holds all of the mask, `padding` pixels around it, and has the aspect: as far as the picture goes.

    Where the picture ends on one side, the box reaches further on the other.
    """
    left, top, right, bottom = alpha.getbbox() or (0, 0, *alpha.size)
    width, height = min(right - left + 2 * padding, alpha.width), min(bottom - top + 2 * padding, alpha.height)
    left, right = span(left, right, max(width, round(height * aspect)), alpha.width)
    top, bottom = span(top, bottom, max(height, round(width / aspect)), alpha.height)
    return left, top, right, bottom


def span(low: int, high: int, length: int, limit: int) -> tuple[int, int]:
    """An interval of this length, at most `limit`, about the middle of low..high but inside 0..limit."""
    length = min(length, limit)
    start = min(max((low + high - length) // 2, 0), limit - length)
    return start, start + length


def painting_size(box: Box, pixels: int) -> tuple[int, int]:
    """Width and height, multiples of 8, in the proportion of the box and of about so many pixels."""
    left, top, right, bottom = box
    scale = math.sqrt(pixels / ((right - left) * (bottom - top)))
    width, height = (max(8, 8 * round(side * scale / 8)) for side in (right - left, bottom - top))
    return width, height


def extend(image: Image.Image, left: int = 0, top: int = 0, right: int = 0, bottom: int = 0,
           fill: Fill = "edge") -> tuple[Image.Image, Image.Image]:
    """A picture with so many pixels added on each side, and the mask of what was added: for outpainting.

    `fill` is what a strength below 1 starts from: "edge" repeats the outermost pixels, "symmetric" mirrors the picture.
    Raises ValueError as `check_extension`.
    """
    check_extension(left, top, right, bottom, fill)
    pixels, sides = np.array(on_white(image)), ((top, bottom), (left, right))
    mask = np.pad(np.zeros(pixels.shape[:2], np.uint8), sides, constant_values=255)
    return Image.fromarray(np.pad(pixels, (*sides, (0, 0)), mode=fill)), Image.fromarray(mask)


def check_extension(left: int, top: int, right: int, bottom: int, fill: Fill) -> None:
    """Raises ValueError for numbers below 0, where all are 0, and for an unknown fill."""
    for name, pixels in {"left": left, "top": top, "right": right, "bottom": bottom}.items():
        within(name, pixels, 0, 100_000)
    if not left + top + right + bottom:
        raise ValueError("no side is to be extended; give left, top, right or bottom a number of pixels")
    if fill not in get_args(Fill):
        raise ValueError(f"fill {fill!r} is unknown; try one of {', '.join(get_args(Fill))}")
