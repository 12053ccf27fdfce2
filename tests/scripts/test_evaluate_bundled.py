"""Scores of the bundled model: what they say of pictures of which everything is known, and of real sprites."""

import json
import math
import random

import numpy as np
import pytest
import torch
from emoji_scenes import BACKGROUNDS, Scene, Thing, compose
from emoji_scores import Score, background_of, colour_of, in_order, psnr, ranks, sharpness, ssim
from emoji_sprites import STYLES
from PIL import Image
from toy_emoji import OBJECTS


def test_ranks_count_the_references_that_are_nearer():
    references = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 3.0]])
    drawn = torch.tensor([[0.1, 0.0], [0.1, 0.0], [0.1, 0.0], [0.0, 2.9]])
    assert ranks(drawn, references, [0, 1, 2, 2]).tolist() == [0, 1, 2, 0]


def test_in_order_tells_left_from_right():
    g = torch.Generator().manual_seed(0)
    left, right = torch.randn(2, 5, 4, 8, 4, generator=g)
    noise = 0.1 * torch.randn(2, 2, 4, 8, 4, generator=g)
    first, second = left[[0, 3]] + noise[0], right[[1, 2]] + noise[1]
    assert in_order(first, second, (left, right), [0, 3], [1, 2]).tolist() == [True, True]
    assert in_order(first, second, (left, right), [1, 2], [0, 3]).tolist() == [False, False]


def test_background_of_names_all_backgrounds(sprites):
    for name in BACKGROUNDS:
        for i, emoji in enumerate(sprites.objects):
            scene = Scene((Thing(emoji),), STYLES[i % 3], background=name)
            assert background_of(compose(sprites, scene, 128, random.Random(i))) == name


def test_colour_of_names_all_recolours(sprites):
    for emoji in sprites.objects:
        for colour in emoji.colours:
            for style in STYLES:
                assert colour_of(compose(sprites, Scene((Thing(emoji, colour),), style), 128)) == colour


def test_psnr_is_that_of_the_mean_square():
    black, gray = torch.full((1, 3, 16, 16), -1.0), torch.full((1, 3, 16, 16), -0.8)
    assert psnr(black, gray).item() == pytest.approx(20, abs=1e-4)                  # a tenth of the range off
    assert psnr(black - 5, gray).item() == pytest.approx(20, abs=1e-4)              # clamped
    assert psnr(gray, gray).item() == math.inf


def test_ssim_is_that_of_the_paper():
    g = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 1, 3, 11, 11, generator=g) * 2 - 1
    window = np.exp(-((np.arange(-5, 6)) ** 2) / 4.5)
    window = np.outer(window, window) / np.outer(window, window).sum()
    expected = []
    for x, y in zip(a[0].numpy() / 2 + 0.5, b[0].numpy() / 2 + 0.5, strict=True):   # one window a channel, eq. 13
        mx, my = (window * x).sum(), (window * y).sum()
        vx, vy = (window * (x - mx) ** 2).sum(), (window * (y - my) ** 2).sum()
        cov = (window * (x - mx) * (y - my)).sum()
        expected.append((2 * mx * my + 1e-4) * (2 * cov + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4)))
    assert ssim(a, b).item() == pytest.approx(np.mean(expected), abs=1e-5)
    assert ssim(a, a).item() == pytest.approx(1, abs=1e-5)
    light, dark = torch.full((1, 3, 20, 20), 0.6), torch.full((1, 3, 20, 20), -0.6)
    assert ssim(light, dark).item() == pytest.approx((2 * 0.8 * 0.2 + 1e-4) / (0.8**2 + 0.2**2 + 1e-4), abs=1e-3)


def test_sharpness_falls_with_blur(sprites):
    scenes = [Scene((Thing(sprites.objects[0]),), degraded=degraded) for degraded in (False, True)]
    pictures = [np.asarray(compose(sprites, scene, 64), np.float32) / 127.5 - 1 for scene in scenes]
    plain, blurred = sharpness(torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2))
    assert 0 < blurred < 0.8 * plain


def test_score_is_a_row_of_a_table():
    assert Score("3d", "top-1", 0.8766, 1.0, 1 / 988, 988).row() == "| 3d | top-1 | 87.7% | 100.0% | 0.1% | 988 |"
    assert Score("VAE, 3d", "PSNR", 30.123, None, 9.9, 99).row() == "| VAE, 3d | PSNR | 30.1 dB | - | 9.9 dB | 99 |"


@pytest.mark.filterwarnings("ignore:.*was trained without")
def test_real_sprites_pass_every_score(run_script, source, tmp_path):
    """With the bundled VAE; a score that real sprites fail would say nothing of drawings."""
    scores, sheet = tmp_path / "scores.json", tmp_path / "sheet.png"
    done = run_script("evaluate_bundled.py", "--source", source, "--steps", 1, "--sampler", "euler", "--json", scores)
    assert done.returncode == 0 and done.stdout.startswith("| | score | drawn | real sprites | chance | of |")
    told = json.loads(scores.read_text())
    found = {(s["of"], s["measure"]): s for s in told["scores"]}
    for measured, s in found.items():
        if s["real"] is not None:
            assert s["real"] == 1, measured
    assert {of for of, _ in found} == {
        *STYLES, "held-out styles", "held-out colours", "backgrounds", "pairs", "Chinese", "no negative prompt",
        "negative prompt 'blurry, low quality'", "VAE, 3d", "VAE, flat"}
    assert found["3d", "top-5"]["chance"] == 5 / len(OBJECTS) and found["3d", "top-5"]["count"] == len(OBJECTS)
    assert found["held-out styles", "top-1"]["count"] == 3 and found["held-out colours", "colour"]["count"] == 4
    assert found["pairs", "left/right"]["chance"] == 1 / 2
    assert told["steps"] == 1 and told["guidance"] == 4 and told["model"] == "bundled"
    assert not sheet.exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*was trained without")
def test_evaluate_draws_a_sheet_and_curves(run_script, source, tiny_model, tmp_path):
    sheet, curves = tmp_path / "sheet.webp", tmp_path / "curves.png"
    done = run_script("evaluate_bundled.py", "--ckpt", tiny_model, "--source", source, "--tasks", "--every", 6,
                      "--steps", 1, "--sampler", "euler", "--sheet", sheet, "--curves", curves)
    assert done.returncode == 0, done.stderr
    with Image.open(sheet) as image:
        assert image.size == (16 * 66 + 2, 15 * 66 + 2)                 # 15 rows of 16 pictures of 64 pixels
    with Image.open(curves) as image:
        assert image.size == (700, 400)
