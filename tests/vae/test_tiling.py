"""Tiles: exact for maps that look nowhere else, without seams for a VAE."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from ldm.vae.tiling import map_tiles, spans


@pytest.mark.parametrize("tile", [4, 5, 8, 16, 100])
@pytest.mark.parametrize("length", [1, 4, 7, 16, 37, 53])
def test_spans_cover_a_side_and_overlap(length, tile):
    parts = spans(length, tile)
    assert parts[0][0] == 0 and parts[-1][1] == length
    assert all(end - begin == min(tile, length) for begin, end in parts)
    assert all(begin < after < end for (begin, end), (after, _) in zip(parts, parts[1:], strict=False))


@pytest.mark.parametrize("tile", [4, 8, 50])
@pytest.mark.parametrize(("height", "width"), [(8, 16), (13, 37), (3, 9)])
def test_map_tiles_is_exact_for_local_maps(height, width, tile):
    x = torch.randn(2, 3, height, width)
    assert_close(map_tiles(lambda x: 2 * x, x, tile), 2 * x)
    enlarged = map_tiles(lambda x: F.interpolate(x, scale_factor=4.0), x, tile, up=4)
    assert_close(enlarged, F.interpolate(x, scale_factor=4.0))
    assert_close(map_tiles(lambda x: F.avg_pool2d(x, 4), enlarged, tile, down=4), x)


def test_map_tiles_never_sees_more_than_a_tile():
    sizes = []
    map_tiles(lambda x: sizes.append(tuple(x.shape[2:])) or x, torch.zeros(1, 1, 40, 11), 16)
    assert set(sizes) == {(16, 11)} and len(sizes) == 3


def test_blending_does_not_round_to_16_bits():
    """In bfloat16 the weighted sums would be off by up to 1 %."""
    x = torch.randn(1, 3, 37, 53).bfloat16()
    assert torch.equal(map_tiles(lambda x: x, x, 8).bfloat16(), x)


def test_one_tile_that_covers_the_picture_changes_nothing(tiny):
    z, image = torch.randn(2, 4, 9, 14), torch.rand(2, 3, 36, 56)
    assert_close(tiny.decode(z, tile=56), tiny.decode(z), rtol=1e-5, atol=1e-5)
    ours, expected = tiny.encode(image, tile=64), tiny.encode(image)
    assert_close(ours.mean, expected.mean, rtol=1e-5, atol=1e-5)
    assert_close(ours.logvar, expected.logvar, rtol=1e-5, atol=1e-5)


def columns(x: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring columns -> [W-1]."""
    return x.diff(dim=3).abs().mean(dim=(0, 1, 2))


def seams(length: int, tile: int, factor: int) -> list[int]:
    """Where tiles begin and end inside the picture, as indices into `columns`."""
    parts = spans(length, tile)
    return [edge * factor - 1 for edge in [begin for begin, _ in parts[1:]] + [end for _, end in parts[:-1]]]


def assert_seamless(tiled: Tensor, whole: Tensor, tile: int, factor: int) -> None:
    """Neighbours across a tile's edge differ hardly more than they do untiled.  Tiles pasted side by side: 2.7 times as
    much in the decoder, 15 times in the encoder."""
    for ours, expected in ((tiled, whole), (tiled.mT, whole.mT)):
        jump = columns(ours) / columns(expected)
        assert jump[seams(ours.shape[3] // factor, tile, factor)].max() < 1.3


def test_tiled_decoding_shows_no_seam(tiny):
    """Tiles of 32 latents, sides no multiple of them; measured 0.04 of the spread, pasted 0.28."""
    z = torch.randn(1, 4, 53, 83, generator=torch.Generator().manual_seed(0))
    whole, tiled = tiny.decode(z), tiny.decode(z, tile=128)
    assert (tiled - whole).std() < 0.07 * whole.std()
    assert_seamless(tiled, whole, tile=32, factor=4)


def test_tiled_encoding_shows_no_seam(tiny):
    """Measured 0.012 of the spread, pasted 0.12."""
    image = torch.rand(1, 3, 4 * 53, 4 * 83, generator=torch.Generator().manual_seed(0)) * 2 - 1
    whole, tiled = tiny.encode(image), tiny.encode(image, tile=128)
    for ours, expected in ((tiled.mean, whole.mean), (tiled.logvar, whole.logvar)):
        assert (ours - expected).std() < 0.03 * expected.std()
        assert_seamless(ours, expected, tile=32, factor=1)
