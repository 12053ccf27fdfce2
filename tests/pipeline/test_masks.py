"""Masks: how they are read and softened, what part of a picture is painted for them, and what is pasted back."""

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from random_pictures import noise, random_mask, rectangle, sizes

from ldm import Settings
from ldm.masks import blank, extend, make_canvas, meet, painting_size, read_mask, scale_mask, soften, surroundings


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK"])
def test_read_mask_takes_every_mode(mode):
    mask = rectangle(9, 7, (2, 3, 5, 6))
    assert read_mask(mask.convert(mode), (9, 7)).tobytes() == mask.tobytes()


def test_read_mask_repaints_from_half_on():
    greys = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    assert np.array(read_mask(greys, (256, 1)))[0].tolist() == [0] * 128 + [255] * 128


def test_read_mask_says_both_sizes():
    with pytest.raises(ValueError) as error:
        read_mask(Image.new("L", (64, 32), "white"), (61, 43))
    assert str(error.value) == "the mask has 64x32 pixels, but its picture 61x43; scale it to 61x43"


@pytest.mark.parametrize("mask, message", [
    (Image.new("L", (8, 8), 127), "black everywhere, so nothing is to be repainted; make it white where to repaint"),
    (Image.new("RGBA", (8, 8), (255, 255, 255, 254)), "transparent in places, which may mean either; make it white"),
    (Image.new("I;16", (8, 8)), "more than 8 bits a channel"),
])
def test_read_mask_refuses_what_says_nothing(mask, message):
    with pytest.raises(ValueError, match=message):
        read_mask(mask, (8, 8))


def test_scale_mask_marks_what_covers_anything_of_the_mask():
    rng = np.random.default_rng(0)
    for _ in range(100):
        (width, height), (w, h) = sizes(rng, 30), sizes(rng, 30)
        mask = random_mask(rng, width, height)
        fine = np.array(mask).repeat(h, 0).repeat(w, 1)             # of pixels that both sizes consist of
        expected = fine.reshape(h, height, w, width).max((1, 3))
        assert (np.array(scale_mask(mask, (w, h))) == expected).all()


@pytest.mark.parametrize("blur", [0.0, 0.5, 1.0, 4.0, 7.5])
def test_soften_reaches_three_deviations_far(blur):
    alpha = np.array(soften(rectangle(90, 20, (45, 0, 90, 20)), blur), int)
    far = math.ceil(3 * blur)
    assert (alpha[:, : 45 - far] == 0).all() and (alpha[:, 45 + far :] == 255).all()
    assert (np.diff(alpha) >= 0).all() and (alpha == alpha[:1]).all()
    if blur:                                            # and is a Gaussian's integral
        expected = [255 * (1 + math.erf((x + 0.5 - 45) / blur / math.sqrt(2))) / 2 for x in range(90)]
        assert np.abs(alpha[0] - expected).max() < (20 if blur < 2 else 6)


def test_soften_refuses_to_leave_nothing():
    mask = rectangle(90, 90, (40, 40, 41, 41))
    with pytest.raises(ValueError, match="mask_blur 20 leaves nothing of so small a mask; try 5"):
        soften(mask, 20)
    assert soften(mask, 5).getbbox()


def test_surroundings_hold_the_mask_and_its_padding_and_have_the_aspect():
    rng, roomy = np.random.default_rng(0), 0
    for _ in range(500):
        size = width, height = sizes(rng)
        padding, aspect = int(rng.integers(0, 30)), float(rng.choice([0.5, 1.0, 1.5]))
        mask = random_mask(rng, *size)
        left, top, right, bottom = surroundings(mask, padding, aspect)
        x, y, x_end, y_end = mask.getbbox() or (0, 0, 0, 0)
        assert 0 <= left <= x and 0 <= top <= y and x_end <= right <= width and y_end <= bottom <= height
        assert right - left >= min(x_end - x + 2 * padding, width)
        assert bottom - top >= min(y_end - y + 2 * padding, height)
        if right - left < width and bottom - top < height:
            roomy += 1
            assert abs((right - left) - (bottom - top) * aspect) <= max(1, aspect)
    assert roomy > 30


def test_surroundings_are_about_the_middle():
    assert surroundings(rectangle(200, 100, (90, 40, 110, 50)), 5, 1.0) == (85, 30, 115, 60)
    assert surroundings(rectangle(200, 100, (0, 40, 20, 50)), 5, 1.0) == (0, 30, 30, 60)
    assert surroundings(rectangle(200, 100, (0, 0, 200, 3)), 0, 1.0) == (0, 0, 200, 100)


@pytest.mark.parametrize("box, size", [((0, 0, 50, 50), (512, 512)), ((3, 4, 1003, 1004), (512, 512)),
                                       ((0, 0, 200, 50), (1024, 256)), ((0, 0, 2, 1000), (24, 11448))])
def test_painting_size_keeps_the_proportion_and_the_number_of_pixels(box, size):
    assert painting_size(box, 512 * 512) == size


def test_canvas_keeps_what_the_mask_keeps_bit_for_bit():
    """Over random sizes, masks and settings; and is as painted where alpha is full and nothing kept is near."""
    rng, full = np.random.default_rng(0), 0
    for seed in range(200):
        size = sizes(rng)
        image, mask = noise(*size, seed), random_mask(rng, *size)
        padding = None if rng.random() < 0.5 else int(rng.integers(0, 20))
        settings = Settings(mask_blur=float(rng.choice([0, 0.5, 2])), only_masked=padding)
        try:
            canvas = make_canvas(image, mask, settings, 64)
        except ValueError as error:
            assert "leaves nothing" in str(error) and settings.mask_blur
            continue
        assert canvas is not None and canvas.alpha is not None
        painted = Image.new("RGB", canvas.size, (255, 0, 128))
        before, after, alpha = np.array(image), np.array(canvas.paste(painted)), np.array(canvas.alpha)
        assert (after[alpha == 0] == before[alpha == 0]).all()
        near = Image.fromarray(alpha == 0).convert("L").filter(ImageFilter.MaxFilter(13))
        inside = (alpha == 255) & (np.array(near) == 0)
        assert (after[inside] == (255, 0, 128)).all()
        full += inside.any()
        assert canvas.picture.size == canvas.size == (canvas.mask.shape[3], canvas.mask.shape[2])
    assert full > 50


def test_paintings_meet_the_picture_without_a_seam():
    """One that is off by 20 levels everywhere: a jump of 20, but for what `meet` does."""
    ramp = np.tile(np.arange(60, 180, 2, dtype=np.uint8)[:, None], (40, 1, 3))
    image, alpha = Image.fromarray(ramp), rectangle(60, 40, (30, 0, 60, 40))
    met = np.array(meet(Image.fromarray(ramp + 20), image, alpha), int)[8:32, :, 0] - ramp[8:32, :, 0]
    assert (met[:, 36:] == 20).all() and (np.diff(met[:, 30:]) >= 0).all()
    assert (met[:, 30] <= 5).all()
    assert meet(image, image, alpha).tobytes() == image.tobytes()


def test_canvas_pastes_under_the_colour_profile_and_forgets_the_rest():
    image = noise(20, 12)
    profile = b"0" * 16 + b"RGB "
    image.info = {"icc_profile": profile, "parameters": "a dog", "ldm": "{}"}
    canvas = make_canvas(image, rectangle(20, 12, (8, 3, 17, 8)), Settings(), 64)
    assert canvas is not None and canvas.paste(noise(20, 12, 1)).info == {"icc_profile": profile}


def test_canvas_masks_over_latents():
    mask = rectangle(20, 12, (8, 3, 17, 8))
    canvas = make_canvas(noise(20, 12), mask, Settings(), 64)
    assert canvas is not None
    pixels = torch.zeros(1, 1, 12, 20)
    pixels[:, :, 3:8, 8:17] = 1
    assert torch.equal(canvas.mask, pixels)
    assert canvas.pooled_mask(8)[0, 0].tolist() == [[0, 1, 1], [0, 0, 0]]          # any pixel of 8 x 8
    assert canvas.sampled_mask(8)[0, 0].tolist() == [[0, 0, 0], [0, 0, 0]]         # the first of 8 x 8
    assert canvas.sampled_mask(4)[0, 0].tolist() == [[0, 0, 0, 0, 0], [0, 0, 1, 1, 1], [0, 0, 0, 0, 0]]
    picture = torch.from_numpy(np.array(noise(20, 12))).permute(2, 0, 1)[None] / 127.5 - 1
    torch.testing.assert_close(canvas.known, torch.where(pixels == 1, 0.0, picture), rtol=0, atol=1e-6)


def test_canvas_without_a_mask_is_painted_all_over():
    canvas = make_canvas(noise(20, 12), None, Settings(width=64), 64)
    assert canvas is not None and canvas.size == (64, 12)
    painted = noise(64, 12, 1)
    assert canvas.mask.all() and not canvas.known.any() and canvas.paste(painted) is painted
    assert torch.equal(blank(64, 12).mask, canvas.mask) and torch.equal(blank(64, 12).known, canvas.known)


def test_canvas_scales_picture_and_mask_together():
    canvas = make_canvas(noise(20, 12), rectangle(20, 12, (10, 0, 20, 12)), Settings(width=40, height=24), 64)
    assert canvas is not None and canvas.size == canvas.image.size == (40, 24)
    assert canvas.mask[0, 0, 0].tolist() == [0] * 20 + [1] * 20
    scaled = noise(20, 12).resize((40, 24), Image.Resampling.LANCZOS)
    assert canvas.paste(Image.new("RGB", (40, 24))).crop((0, 0, 20, 24)).tobytes() == scaled.crop(
        (0, 0, 20, 24)).tobytes()


def test_make_canvas_refuses_masks_and_their_settings_alone():
    with pytest.raises(ValueError, match="there is a mask but no picture that it belongs to; give image, too"):
        make_canvas(None, Image.new("L", (8, 8), "white"), Settings(), 64)
    for alone in (Settings(mask_blur=1), Settings(only_masked=0)):
        with pytest.raises(ValueError, match="mask_blur and only_masked are for a mask, and there is none"):
            make_canvas(noise(8, 8), None, alone, 64)
    assert make_canvas(None, None, Settings(), 64) is None


def test_extend_keeps_the_picture_and_masks_the_rest():
    rng = np.random.default_rng(0)
    for seed in range(100):
        size = width, height = sizes(rng, 30)
        left, top, right, bottom = map(int, rng.integers(0, 40, 4) * (rng.random(4) < 0.6))
        if not left + top + right + bottom:
            continue
        image = noise(*size, seed)
        for fill in ("edge", "symmetric"):
            wide, mask = extend(image, left, top, right, bottom, fill)
            assert wide.size == mask.size == (left + width + right, top + height + bottom)
            box = left, top, left + width, top + height
            assert wide.crop(box).tobytes() == image.tobytes() and not mask.crop(box).getbbox()
            assert np.count_nonzero(np.array(mask) == 255) == mask.width * mask.height - width * height


def test_extend_fills_with_the_edge_or_a_mirror():
    image = Image.fromarray(np.array([[[1, 1, 1], [2, 2, 2], [3, 3, 3]]], np.uint8))
    assert np.array(extend(image, left=2, right=4)[0])[0, :, 0].tolist() == [1, 1, 1, 2, 3, 3, 3, 3, 3]
    mirrored = extend(image, left=2, right=4, fill="symmetric")[0]
    assert np.array(mirrored)[0, :, 0].tolist() == [2, 1, 1, 2, 3, 3, 2, 1, 1]


@pytest.mark.parametrize("wrong, message", [
    ({}, "no side is to be extended; give left, top, right or bottom a number of pixels"),
    ({"left": 8, "top": -1}, "top -1 is outside 0..100000; try 0"),
    ({"left": 8, "fill": "grey"}, "fill 'grey' is unknown; try one of edge, symmetric"),
])
def test_extend_refuses_what_makes_no_sense(wrong, message):
    with pytest.raises(ValueError, match=message):
        extend(noise(8, 8), **wrong)


@pytest.mark.parametrize(("mode", "space", "kept"), [
    ("RGB", b"RGB ", True), ("L", b"GRAY", False), ("CMYK", b"CMYK", False), ("RGB", None, False)])
def test_a_repainted_picture_keeps_the_profile_of_rgb_alone(mode, space, kept):
    image = Image.new(mode, (16, 16))
    image.info["icc_profile"] = space and b"0" * 16 + space + b"0" * 100        # None: Pillow found it damaged
    canvas = make_canvas(image, rectangle(16, 16, (4, 4, 12, 12)), Settings(), 16)
    assert canvas is not None
    assert ("icc_profile" in canvas.paste(Image.new("RGB", canvas.size)).info) == kept
