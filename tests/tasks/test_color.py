"""Colorizing: the luma of the input, everywhere; the hue of the drawing, as much of it as fits."""

import json
import math

import numpy as np
import pytest
from PIL import Image

from ldm.tasks import Colorizer, keep_luma, luma

REC_601 = (0.299, 0.587, 0.114)


def difference(picture: Image.Image, grey: Image.Image) -> int:
    """Largest difference in luma, as Pillow computes it."""
    ours, theirs = (np.asarray(image.convert("L"), int) for image in (picture, grey))
    return np.abs(ours - theirs).max()


def random_picture(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Noise of a random contrast about a random color, so that much of it is black, white or saturated."""
    noise = rng.normal(rng.uniform(0, 255, 3), rng.uniform(1, 200), (height, width, 3))
    return Image.fromarray(noise.clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("seed", range(20))
def test_keep_luma_keeps_it_within_1(seed):
    rng = np.random.default_rng(seed)
    size = rng.integers(1, 90, 2)
    color, grey = random_picture(rng, *size), random_picture(rng, *size).convert("L")
    result = keep_luma(color, grey)
    assert result.size == color.size and result.mode == "RGB"
    assert difference(result, grey) <= 1


def test_keep_luma_keeps_it_for_every_pure_color_and_every_grey():
    corners = np.array([[r, g, b] for r in (0, 255) for g in (0, 255) for b in (0, 255)], np.uint8)
    color = Image.fromarray(np.tile(corners[:, None], (1, 256, 1)))
    grey = Image.fromarray(np.tile(np.arange(256, dtype=np.uint8), (8, 1)))
    assert difference(keep_luma(color, grey), grey) <= 1


def test_keep_luma_scales_the_chroma_as_far_as_it_fits():
    """Against a search, pixel by pixel, for the largest share of the chroma that stays in 0..255."""
    rng = np.random.default_rng(0)
    color, grey = random_picture(rng, 9, 7), random_picture(rng, 9, 7).convert("L")
    result = keep_luma(color, grey)
    shares = []
    for x in range(9):
        for y in range(7):
            rgb, target = color.getpixel((x, y)), grey.getpixel((x, y))
            own = sum(w * c for w, c in zip(REC_601, rgb, strict=True))
            share = max(s for s in np.linspace(0, 1, 2001)
                        if all(-1e-6 <= target + s * (c - own) <= 255 + 1e-6 for c in rgb))
            shares.append(share)
            expected = [target + share * (c - own) for c in rgb]
            assert result.getpixel((x, y)) == pytest.approx(expected, abs=0.65)     # rounding 0.5, the search 0.13
    assert min(shares) < 0.5 and max(shares) == 1


def test_keep_luma_of_a_picture_on_itself_changes_nothing():
    """Up to the rounding of the luma, away from the ends of the range, where chroma must give way to it."""
    picture = random_picture(np.random.default_rng(1), 40, 30).point(lambda v: 40 + v * 2 // 3)
    change = np.abs(np.asarray(keep_luma(picture, picture), int) - np.asarray(picture, int))
    assert change.max() <= 1


def test_keep_luma_of_grey_is_grey():
    grey = random_picture(np.random.default_rng(2), 8, 8).convert("L")
    assert keep_luma(Image.new("RGB", (8, 8), (90, 90, 90)), grey).tobytes() == grey.convert("RGB").tobytes()


def test_keep_luma_refuses_another_size(photo):
    with pytest.raises(ValueError, match=r"\(8, 8\) and \(8, 9\) differ; resize"):
        keep_luma(photo(8, 8), photo(8, 9))


def test_luma_takes_any_mode(photo):
    for mode in ("RGB", "RGBA", "L", "P", "LA"):
        assert luma(photo(9, 7).convert(mode)).mode == "L"
    with pytest.raises(ValueError, match="more than 8 bits"):
        luma(Image.new("I;16", (8, 8)))


@pytest.mark.parametrize("seed", range(4))
def test_colorizer_keeps_the_luma_of_its_input(pipe, photo, seed):
    width, height = np.random.default_rng(seed).integers(9, 100, 2)
    image = photo(width, height, seed)
    [result] = Colorizer(pipe)("a red cat", image=image, steps=4, strength=0.8, seed=seed)
    assert result.size == image.size and difference(result, image) <= 1
    red, green, blue = np.asarray(result, float).reshape(-1, 3).mean(0)
    assert math.dist((red, green), (green, blue)) > 1   # and it has color


def test_colorizer_sees_no_color_of_its_input(pipe, photo):
    from_color, from_grey = (Colorizer(pipe)("a cat", image=image, steps=4, strength=0.5)[0]
                             for image in (photo(), luma(photo())))
    assert from_color.tobytes() == from_grey.tobytes()


def test_colorizer_says_what_it_did(pipe, photo):
    first, second = Colorizer(pipe)("a cat", image=photo(), steps=4, count=2)
    told = json.loads(second.info["ldm"])
    assert (told["task"], told["prompt"], told["seed"], "image_sha256" in told) == ("colorize", "a cat", 1, True)
    assert first.tobytes() != second.tobytes()


def test_colorizer_shares_the_parts_of_its_pipeline(pipe):
    task = Colorizer(pipe)
    assert task.unet is pipe.unet and task.vae is pipe.vae and task.text is pipe.text
    with pytest.raises(ValueError, match="a Colorizer cannot become a Colorizer as well"):
        Colorizer(task)


def test_colorizer_needs_an_image(pipe):
    with pytest.raises(ValueError, match="no picture to colorize; give image"):
        Colorizer(pipe)("a cat")
