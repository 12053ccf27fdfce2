"""The programs of the tasks: upscale, colorize, variations, interpolate, grid."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from ldm import NonFiniteError, Pipeline
from ldm.images import digest, read_metadata
from ldm.plan import Plan
from ldm.samplers import Step


@pytest.fixture
def draw(run_script, tiny_model, tmp_path):
    """draw("upscale.py", "a fox", ...) -> the files that it says it wrote into tmp_path/out."""
    def run(script: str, *args: object) -> list[Path]:
        done = run_script(script, *args, "--ckpt", tiny_model, "--out", tmp_path / "out", "--dtype", "float32",
                          "--steps", 4)
        assert done.returncode == 0, done.stderr
        return [Path(line) for line in done.stdout.splitlines()]
    return run


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def test_upscale_draws_in_two_passes(draw, tiny_model):
    first, second = draw("upscale.py", "a fox", "--scale", 1.5, "--width", 72, "--count", 2, "--seed", 5)
    assert size(first) == size(second) == (108, 96)
    told = read_metadata(second)
    assert (told["task"], told["scale"], told["seed"], told["strength"]) == ("upscale", 1.5, 6, 0.2)
    assert (told["first"]["seed"], told["first"]["prompt"]) == (6, "a fox")
    pipe = Pipeline.load(tiny_model, "cpu", "float32")          # it can be made again from what the file tells
    first, common = told["first"], {"sampler": "dpmpp_2m", "steps": 4, "seed": 6}
    small, = pipe("a fox", width=first["width"], height=first["height"], **common)
    again, = pipe("a fox", image=small.resize((108, 96), Image.Resampling.LANCZOS), strength=0.2, **common)
    with Image.open(second) as image:                           # up to the last bits of a batch of two
        assert np.abs(np.asarray(again, int) - np.asarray(image, int)).max() <= 2


def test_upscale_takes_a_picture_in_tiles(draw, photo):
    [path] = draw("upscale.py", "a fox", "--image", photo, "--scale", 3, "--tile", 64)
    told = read_metadata(path)
    assert size(path) == (183, 129) and (told["unet_tile"], told["tile"], told["scale"]) == (64, 64, 3.0)


def test_colorize_keeps_the_luma(draw, photo):
    for path in draw("colorize.py", photo, "a fox", "--count", 2):
        with Image.open(path) as image, Image.open(photo) as original:
            luma = [np.asarray(picture.convert("L"), int) for picture in (image, original)]
            assert np.abs(luma[0] - luma[1]).max() <= 1
            assert np.ptp(np.asarray(image, int), axis=2).max() > 2     # and it has color
        assert read_metadata(path)["task"] == "colorize"


def test_variations_turn_to_one_seed_after_the_other(draw):
    paths = draw("variations.py", "a fox", "--seed", 5, "--variation-seed", 8, "--variation-strength", 0.2)
    told = [read_metadata(path) for path in paths]
    assert [(t["seed"], t["variation_seed"], t["variation_strength"]) for t in told] == [
        (5, 8, 0.2), (5, 9, 0.2), (5, 10, 0.2), (5, 11, 0.2)]
    assert len({path.read_bytes() for path in paths}) == 4


@pytest.mark.parametrize("name", ["path.webp", "v1.5/path.gif"])
def test_interpolate_writes_an_animation(run_script, tiny_model, tmp_path, name):
    done = run_script("interpolate.py", "a fox", "a cat", "a dog", "--frames", 5, "--fps", 10, "--ckpt", tiny_model,
                      "--out", tmp_path / name, "--steps", 4, "--blend", "lerp")
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / name}\n"), done.stderr
    with Image.open(tmp_path / name) as animation:
        comment, duration = animation.info.get("comment"), 0
        for i in range(animation.n_frames):             # of frames that hardly differ both formats make one
            animation.seek(i)
            animation.load()
            duration += animation.info["duration"]
    assert (animation.size, duration) == ((64, 64), 500)
    told = json.loads(comment) if comment else read_metadata(tmp_path / name)
    assert (told["prompts"], told["blend"], told["steps"]) == (["a fox", "a cat", "a dog"], "lerp", 4)


def test_grid_shows_all_and_draws_no_picture_twice(run_script, tiny_model, tmp_path):
    def run(x: str, name: str):
        return run_script("grid.py", "a fox", "--x", x, "--y", "steps=4,5", "--ckpt", tiny_model, "--out",
                          tmp_path / name, "--cells", tmp_path / "cells")

    done = run("sampler=ddim,euler", "one.png")
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'one.png'}\n"), done.stderr
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()}
    assert len(kept) == 4
    run("sampler=ddim,euler,heun", "two.png")
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()}
    assert len(after) == 6 and kept.items() <= after.items()
    (width, height), (wider, same) = size(tmp_path / "one.png"), size(tmp_path / "two.png")
    assert width > 2 * 64 and height > 2 * 64 and (wider - width, same) == (64 + 4, height)
    told = read_metadata(tmp_path / "two.png")
    assert (told["x"], told["y"]) == (["sampler", ["ddim", "euler", "heun"]], ["steps", [4, 5]])


def test_grid_saves_the_others_where_a_cell_fails(run_script, tiny_model, tmp_path, monkeypatch):
    sample = Pipeline.sample

    def overflowing(pipe: Pipeline, plan: Plan) -> Iterator[Step]:
        if plan.prompts == ["a cat"]:
            raise NonFiniteError("the latents are not finite")
        return sample(pipe, plan)

    monkeypatch.setattr(Pipeline, "sample", overflowing)
    arguments = ["grid.py", "a fox", "--x", "prompt=a fox,a cat", "--ckpt", tiny_model, "--out", tmp_path / "grid.png",
                 "--cells", tmp_path / "cells", "--steps", 4]
    done = run_script(*arguments)
    assert done.returncode == 2 and "1 of 2 pictures could not be drawn, the first because" in done.stderr
    assert size(tmp_path / "grid.png")[0] > 2 * 64 and len(list((tmp_path / "cells").iterdir())) == 1


@pytest.mark.parametrize(("x", "drawn"), [
    ("prompt=a fox,a my-hat", {"prompt": "a my-hat"}),
    ("negative_prompt=,my-hat", {"prompt": "a fox", "negative_prompt": "my-hat"}),
])
def test_grid_takes_embeddings_that_its_axes_name(run_script, tiny_model, tmp_path, x, drawn):
    (tmp_path / "embeddings").mkdir()
    hat = tmp_path / "embeddings" / "my-hat.safetensors"
    save_file({"emb_params": torch.randn(2, 64, generator=torch.Generator().manual_seed(0))}, hat)
    done = run_script("grid.py", "a fox", "--x", x, "--models-dir", tmp_path, "--ckpt", tiny_model, "--steps", 4,
                      "--dtype", "float32", "--out", tmp_path / "grid.png", "--cells", tmp_path / "cells")
    assert done.returncode == 0, done.stderr
    [told] = [told for told in map(read_metadata, (tmp_path / "cells").iterdir()) if drawn.items() <= told.items()]
    pipe = Pipeline.load(tiny_model, "cpu", "float32")
    pipe.load_embedding(hat)
    assert told["embeddings"][0]["name"] == "my-hat" and told["sha256"] == digest(pipe(**drawn, steps=4)[0])


def test_task_scripts_plan_without_drawing(run_script, tiny_model, tmp_path, photo):
    common = ["--plan", "--ckpt", tiny_model, "--steps", 4]
    for script, *arguments in (("upscale.py", "a fox"), ("upscale.py", "a fox", "--image", photo, "--tile", 64),
                               ("colorize.py", photo, "a fox"), ("variations.py", "a fox"),
                               ("interpolate.py", "a fox", "a cat", "--out", tmp_path / "path.gif"),
                               ("grid.py", "a fox", "--x", "seed=1,2", "--cells", tmp_path / "cells")):
        done = run_script(script, *arguments, *common)
        assert done.returncode == 0 and "noise levels:" in done.stdout, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photo.png"]


@pytest.mark.parametrize(("script", "arguments", "message"), [
    ("upscale.py", ["a fox", "--scale", "0.5"], "scale 0.5 is outside 1..16; try 1"),
    ("upscale.py", ["a fox", "--strength", "0"], "strength 0.0 is not above 0"),
    ("upscale.py", ["a fox", "--noise-level", "400"], "noise_level 400 is outside 0..350; try 350"),
    ("upscale.py", ["a fox", "--image", "photo.png", "--width", "64"], "with --image give --scale"),
    ("upscale.py", ["a fox", "--tile", "64", "--cache", "2"], "cache 2 does not go with tiles"),
    ("upscale.py", ["a fox", "--image", "none.png"], "none.png"),
    ("colorize.py", ["none.png", "a fox"], "none.png"),
    ("colorize.py", ["photo.png", "a fox", "--out", "fox.tiff"], "try fox.png"),
    ("variations.py", ["a fox", "--variation-strength", "2"], "variation_strength 2.0 is outside 0..1; try 1"),
    ("interpolate.py", ["a fox"], "a path has 2 prompts or more, not 1"),
    ("interpolate.py", ["a fox", "a cat", "--out", "path.png"], "try path.webp"),
    ("interpolate.py", ["a fox", "a cat", "--frames", "1"], "frames 1 is outside 2..10000; try 2"),
    ("grid.py", ["a fox", "--x", "stepz=1"], "NAME is one of prompt"),
    ("grid.py", ["a fox", "--x", "steps=1,0"], "steps 0 is outside 1..999; try 1"),
    ("grid.py", ["a fox", "--x", "strength=0.5,1"], "there is none; give --image"),
    ("grid.py", ["a fox", "--x", "seed=1", "--cells", "photo.png/cells"], "is no folder that can be written to"),
    ("grid.py", ["a fox", "--x", "prompt=a fox,a <lora:red:1> fox"],
     "'a <lora:red:1> fox' on an axis has a LoRA, but LoRAs are put on once, for all cells; give it with --lora"),
    ("grid.py", ["a fox", "--x", "seed=1", "--y", "negative_prompt=<lora:red>"], "'<lora:red>' on an axis has a LoRA"),
])
def test_task_scripts_say_mistakes_before_the_model_is_loaded(run_script, monkeypatch, tmp_path, photo, script,
                                                              arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Pipeline, "load", None)
    done = run_script(script, *arguments)
    assert (done.returncode, done.stdout) == (2, "") and message in done.stderr, done.stderr
    assert done.stderr.startswith(f"{Path(script).stem}: ") and done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["photo.png"]


@pytest.mark.parametrize(("script", "words"), [
    ("upscale.py", ["--scale", "(default 2;", "(default 0.2)", "(default dpmpp_2m)"]),
    ("colorize.py", ["brightness", "--strength"]),
    ("variations.py", ["(default 0.3)", "(default 4)"]),
    ("interpolate.py", ["(default 24)", "(default slerp)"]),
    ("grid.py", ["NAME=A,B,...", "out/cells"]),
])
def test_task_scripts_help_says_units_and_defaults(run_script, script, words):
    done = run_script(script, "--help")
    text = " ".join(done.stdout.split())
    assert (done.returncode, done.stderr) == (0, "")
    assert f"python scripts/{script}" in text and [word for word in words if word not in text] == []
