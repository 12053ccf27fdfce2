"""Resizing, masks and fillings as requests of A1111 mean them."""

import numpy as np
import pytest
from PIL import Image

from ldm.web.fitting import fill, fit, read_mask


def halves(width: int, height: int) -> Image.Image:
    """Left black, right white."""
    image = Image.new("RGB", (width, height))
    image.paste("white", (width // 2, 0, width, height))
    return image


@pytest.mark.parametrize("mode", [0, 1, 2])
def test_every_mode_gives_the_size(mode: int):
    assert fit(halves(40, 20), (32, 32), mode).size == (32, 32)


def test_mode_1_crops_and_mode_2_repeats_the_edges():
    tall = Image.new("RGB", (16, 64), "red")
    tall.paste("blue", (0, 0, 16, 16))
    assert fit(tall, (32, 32), 1).getpixel((16, 0))[2] < 30             # the blue top is cut off
    wide = fit(halves(64, 16), (64, 64), 2)
    assert wide.getpixel((2, 2)) == (0, 0, 0) and wide.getpixel((60, 60)) == (255, 255, 255)


def test_a_mask_is_scaled_sharpened_and_inverted():
    grey = Image.new("L", (4, 4), 100)
    grey.paste(200, (0, 0, 2, 4))
    mask = np.asarray(read_mask(grey, (8, 8), invert=False))
    assert (mask[:, :4] == 255).all() and (mask[:, 4:] == 0).all()
    assert (np.asarray(read_mask(grey, (8, 8), invert=True)) == 255 - mask).all()


def test_a_transparent_mask_repaints_what_is_opaque():
    mask = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    mask.paste((0, 0, 0, 255), (0, 0, 2, 4))
    assert np.asarray(read_mask(mask, (4, 4), invert=False))[0].tolist() == [255, 255, 0, 0]


@pytest.mark.parametrize("size", [(64, 64), (700, 500)])
def test_fill_continues_the_surroundings_and_keeps_the_rest(size: tuple[int, int]):
    image = Image.new("RGB", size, (40, 120, 200))
    box = (size[0] // 4, size[1] // 4, size[0] // 2, size[1] // 2)
    image.paste("red", box)
    mask = Image.new("L", size)
    mask.paste(255, (box[0] - 1, box[1] - 1, box[2] + 1, box[3] + 1))
    filled = np.asarray(fill(image, mask)).astype(int)
    assert abs(filled - [40, 120, 200]).max() <= 3                      # a plain surface is continued as such
    kept = np.asarray(mask) == 0
    assert (filled[kept] == np.asarray(image)[kept]).all()


def test_fill_of_all_is_grey():
    filled = fill(Image.new("RGB", (16, 16), "red"), Image.new("L", (16, 16), 255))
    assert filled.getpixel((8, 8)) == (128, 128, 128)
