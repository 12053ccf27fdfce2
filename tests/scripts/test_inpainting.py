"""scripts/inpaint.py and outpaint.py as programs, and --plan."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldm.images import read_metadata


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A picture of 61 x 43 pixels, and a mask."""
    pixels = np.random.default_rng(0).integers(0, 256, (43, 61, 3), np.uint8)
    mask = np.zeros((43, 61), np.uint8)
    mask[10:30, 20:50] = 255
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    return tmp_path / "photo.png", tmp_path / "mask.png"


@pytest.mark.parametrize("more", [[], ["--only-masked", "4"]])
def test_inpaint_writes_a_picture_that_is_the_same_outside_the_mask(run_script, tiny_model, files, tmp_path, more):
    done = run_script("inpaint.py", *files, "a fox", "--ckpt", tiny_model, "--out", tmp_path / "fox.png", "--steps", 4,
                      "--count", 2, *more)
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'fox.png'}\n{tmp_path / 'fox-1.png'}\n"), done.stderr
    before, mask, after = (np.array(Image.open(path)) for path in (*files, tmp_path / "fox-1.png"))
    assert (after[mask == 0] == before[mask == 0]).all() and (after[mask == 255] != before[mask == 255]).any()
    told = read_metadata(tmp_path / "fox-1.png")
    assert (told["prompt"], told["seed"], told["only_masked"]) == ("a fox", 1, 4 if more else None)


def test_outpaint_writes_a_larger_picture_around_the_same_one(run_script, tiny_model, files, tmp_path):
    done = run_script("outpaint.py", files[0], "a fox", "--ckpt", tiny_model, "--out", tmp_path / "wide.png", "--steps",
                      4, "--left", 16, "--top", 5, "--right", 3, "--fill", "symmetric")
    assert done.returncode == 0, done.stderr
    with Image.open(files[0]) as before, Image.open(tmp_path / "wide.png") as after:
        assert after.size == (80, 48) and after.crop((16, 5, 77, 48)).tobytes() == before.tobytes()


@pytest.mark.parametrize("script, count, words", [
    ("txt2img.py", 0, ["painted at 64x64 pixels, latents [1, 4, 8, 8]", "network calls: 8, at timesteps 876 751"]),
    ("img2img.py", 1, ["painted at 61x43", "from a picture of 61x43 pixels, strength 0.75", "network calls: 6, at"]),
    ("inpaint.py", 2, ["22.9% of it repainted, seen from (0, 0) to (61, 43)", "network calls: 6"]),
    ("outpaint.py", 1, ["painted at 69x43", "seen from (0, 0) to (69, 43)", "network calls: 6"]),
])
def test_plan_is_told_and_nothing_drawn(run_script, tiny_model, files, tmp_path, script, count, words):
    sides = ["--left", 8] if script == "outpaint.py" else []
    done = run_script(script, *files[:count], "a fox", "--ckpt", tiny_model, "--out", tmp_path / "out", "--steps", 8,
                      "--plan", *sides)
    assert done.returncode == 0 and not (tmp_path / "out").exists(), done.stderr
    assert [word for word in (*words, "text 'a fox': 2 of 75 tokens") if word not in done.stdout] == []


@pytest.mark.parametrize("script, arguments, message", [
    ("inpaint.py", ["photo.png", "small.png"], "the mask has 8x8 pixels, but its picture 61x43; scale it to 61x43"),
    ("inpaint.py", ["photo.png", "black.png"], "the mask is black everywhere, so nothing is to be repainted"),
    ("inpaint.py", ["photo.png", "none.png"], "none.png"),
    ("inpaint.py", ["photo.png", "mask.png", "--strength", "2"], "strength 2.0 is not above 0 and up to 1; try 0.75"),
    ("inpaint.py", ["photo.png", "mask.png", "--mask-blur", "-1"], "mask_blur -1.0 is outside 0..1000; try 0"),
    ("outpaint.py", ["photo.png"], "no side is to be extended; give left, top, right or bottom a number of pixels"),
    ("outpaint.py", ["photo.png", "--left", "-8"], "left -8 is outside 0..100000; try 0"),
])
def test_mistakes_are_one_line_before_a_model_is_loaded(run_script, files, tmp_path, monkeypatch, script, arguments,
                                                        message):
    monkeypatch.chdir(tmp_path)
    Image.new("L", (8, 8), "white").save("small.png")
    Image.new("L", (61, 43)).save("black.png")
    place = 2 if script == "inpaint.py" else 1
    done = run_script(script, *arguments[:place], "a fox", *arguments[place:], "--ckpt", "nowhere.safetensors")
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("script, words", [
    ("inpaint.py", ["white where to repaint", "--mask-blur", "--only-masked", "--plan", "(default 0.75)"]),
    ("outpaint.py", ["--left PIXELS", "to add on this side (default 0)", "(default edge)", "--plan"]),
])
def test_help_says_units_and_defaults(run_script, script, words):
    done = run_script(script, "--help")
    text = " ".join(done.stdout.split())
    assert (done.returncode, done.stderr) == (0, "")
    assert f"python scripts/{script}" in text and [word for word in words if word not in text] == []
    assert ("--width" in text) == (script == "inpaint.py")
