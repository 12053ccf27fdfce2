"""Canny's edges of pictures whose edges are known, and OpenCV's of one that has many."""

import hashlib
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from ldm.plugins import canny


def edges(pixels: np.ndarray, *thresholds: int) -> np.ndarray:
    """Where the edges of a grey or colored picture are.  [H W] or [H W 3] -> [H W] bool."""
    found = np.asarray(canny(Image.fromarray(pixels.astype(np.uint8)), *thresholds))
    assert found.shape[2:] == (3,) and set(np.unique(found)) <= {0, 255} and (found == found[..., :1]).all()
    return found[..., 0] > 0


def step(height: float = 255, size: int = 16, at: int = 8) -> np.ndarray:
    """0 on the left, `height` from column `at` on.  Sobel's gradient there is 4 x height."""
    return np.where(np.arange(size)[None] < at, 0, height) * np.ones((size, 1))


def test_a_step_is_one_line_beside_it():
    """At the last pixel before it, on the left or above; all along, to the border."""
    expected = np.zeros((16, 16), bool)
    expected[:, 7] = True
    assert (edges(step()) == expected).all() and (edges(step().T) == expected.T).all()


def test_a_flat_picture_has_no_edges():
    assert not edges(np.full((9, 12), 200)).any() and not edges(np.zeros((1, 1))).any()


def test_a_square_is_its_outline():
    pixels = np.zeros((20, 20))
    pixels[6:14, 6:14] = 255
    found = edges(pixels)
    assert found[5, 8:12].all() and found[8:12, 5].all() and found[13, 8:12].all() and found[8:12, 13].all()
    assert not found[7:12, 7:12].any() and not found[:4].any() and not found[16:].any()


def test_a_slanting_edge_is_a_slanting_line():
    y, x = np.indices((24, 24))
    assert (edges(np.where(x > y, 255, 0)) == np.isin(x - y, (0, 1)))[2:-2, 2:-2].all()     # the two before and after


@pytest.mark.parametrize(("height", "seen"), [(24, False), (26, False), (50, False), (51, True)])
def test_an_edge_needs_a_place_above_the_high_threshold(height, seen):
    """Steepness 4 x height: 96 and 104 are about the low threshold, 200 and 204 about the high one."""
    assert edges(step(height)).any() == seen


def test_faint_edges_count_where_they_join_a_clear_one():
    fading, gap = np.linspace(70, 30, 16), [70, 60, 50, 40, 30, 20, 10, 0, 0, 10, 20, 30, 30, 30, 30, 30]

    def rows(heights: Sequence[float], *thresholds: int) -> np.ndarray:
        return edges(step(1) * np.array(heights)[:, None], *thresholds)[:, 7:9].any(1)

    assert rows(fading).all() and not rows(fading, 100, 400).any()              # from 280 to 120 steep
    assert rows(fading, 200, 210)[:5].all() and not rows(fading, 200, 210)[10:].any()
    assert rows(gap)[:4].all() and not rows(gap)[8:].any() and rows(gap, 100, 110)[12:].all()


def test_edges_of_color_are_those_of_the_steepest_channel():
    red, blue = np.zeros((16, 16, 3)), np.zeros((16, 16, 3))
    red[:, 8:, 0], blue[:, 8:, 2] = 255, 255
    assert (edges(red) == edges(step())).all() and (edges(blue) == edges(step())).all()
    grey = np.zeros((16, 16, 3))
    grey[:, :8], grey[:, 8:] = (200, 0, 0), (0, 60, 0)              # as dark to the eye, yet an edge
    assert edges(grey)[:, 7].all()


@pytest.mark.parametrize(("low", "high", "count", "digest"), [
    (100, 200, 910, "0d555791f1480a03a42b7030b6f3931345f7ce5be934a11413809f5360967da1"),
    (500, 900, 806, "2767d74d3427fa8ea087a9850df1962a9d69d4efb848cc1046a911f965ba8453")])
def test_edges_equal_opencv(low, high, count, digest):
    """cv2.Canny(pixels, low, high) of OpenCV 5.0.0: the sum and SHA-256 of what it gives, 0 and 255."""
    y, x, c = np.mgrid[0:48, 0:64, 0:3]
    found = edges((x * x * 7 + y * y * 5 + x * y * (c + 1) * 3) // 16 % 256, low, high)
    assert found.sum() == count
    assert hashlib.sha256((found * np.uint8(255)).tobytes()).hexdigest() == digest


@pytest.mark.parametrize(("low", "high", "message"), [
    (-1, 200, r"low -1 is outside 0\.\.200; try 0"), (300, 200, r"low 300 is outside 0\.\.200; try 200"),
    (100, 3000, r"high 3000 is outside 0\.\.2040; try 2040")])
def test_thresholds_are_checked(low, high, message):
    with pytest.raises(ValueError, match=message):
        canny(Image.new("RGB", (8, 8)), low, high)
