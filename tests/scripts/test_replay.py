"""scripts/replay.py: pictures made again."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from plugins.lora_files import layers, write_lora
from replays import FAST, drawn, retell
from safetensors.torch import save_file

from ldm import Pipeline, __version__
from ldm.images import read_metadata, save_image, with_metadata
from ldm.tasks import Colorizer, Enlarger, Outpainter, Varied, save_animation
from ldm.weights.fingerprint import fingerprint


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_replay_is_bit_exact_from_every_format(pipe, replay, tmp_path, suffix):
    path = drawn(pipe, tmp_path / f"cat.{suffix}", negative_prompt="blur", sampler="euler_a", width=72)
    assert replay(path) == (0, [f"bit-exact: SHA-256 {read_metadata(path)['sha256']}"])


def test_replay_writes_the_picture_where_it_is_told_to(pipe, replay, tmp_path):
    path = drawn(pipe, tmp_path / "cat.png")
    code, (written, _) = replay(path, "--out", tmp_path / "out")
    assert (code, written) == (0, str(tmp_path / "out" / "00000.png"))
    assert Path(written).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("preset", ["compvis", "a1111", "diffusers"])
def test_replay_keeps_the_preset(pipe, replay, tmp_path, preset):
    path = drawn(pipe, tmp_path / "cat.png", preset=preset, steps=7)
    assert read_metadata(path)["preset"] == preset and replay(path)[0] == 0


def test_replay_of_a_redrawn_picture_asks_for_the_input(pipe, replay, run_script, tiny_model, tmp_path, photo):
    with Image.open(photo) as image:
        path = drawn(pipe, tmp_path / "cat.png", image=image, strength=0.5)
    assert replay(path, "--image", photo)[0] == 0
    done = run_script("replay.py", path)
    assert (done.returncode, done.stderr) == (2, f"replay: {path} was made from an input image; give that with "
                                                 "--image\n")
    Image.new("RGB", (61, 43)).save(tmp_path / "other.png")
    done = run_script("replay.py", path, "--image", tmp_path / "other.png", "--ckpt", tiny_model)
    assert done.returncode == 2 and f"other.png is not the image that {path} was made from" in done.stderr


def test_replay_of_a_repainted_picture_asks_for_the_mask(pipe, replay, run_script, tmp_path, photo):
    mask = Image.new("L", (61, 43))
    mask.paste(255, (20, 10, 40, 30))
    mask.save(tmp_path / "mask.png")
    with Image.open(photo) as image:
        path = drawn(pipe, tmp_path / "cat.png", image=image, mask=mask)
    assert replay(path, "--image", photo, "--mask", tmp_path / "mask.png")[0] == 0
    done = run_script("replay.py", path, "--image", photo)
    assert done.returncode == 2 and "was made from an input mask; give that with --mask" in done.stderr


@pytest.mark.parametrize("task", [Colorizer, lambda pipe: Enlarger(pipe, 1.5),
                                  lambda pipe: Outpainter(pipe, left=16, bottom=8, fill="symmetric")])
def test_replay_makes_what_a_task_made_of_an_input(pipe, replay, tmp_path, photo, task):
    with Image.open(photo) as image:
        path = drawn(task(pipe), tmp_path / "cat.png", image=image)
    assert replay(path, "--image", photo) == (0, [f"bit-exact: SHA-256 {read_metadata(path)['sha256']}"])


def test_replay_scales_an_outpainted_picture_as_it_was(pipe, replay, tmp_path, photo):
    with Image.open(photo) as image:
        path = drawn(Outpainter(pipe, left=16), tmp_path / "cat.png", image=image, width=64, height=64)
    assert replay(path, "--image", photo)[0] == 0


def test_replay_of_a_damaged_png_is_one_line(pipe, run_script, tmp_path):
    path = drawn(pipe, tmp_path / "cat.png")
    whole = path.read_bytes()
    at = whole.index(b"IDAT")
    path.write_bytes(whole[: at - 4] + bytes([0, 0, 0, 9]) + whole[at:])        # a length that ends in the middle
    done = run_script("replay.py", path)
    assert done.returncode == 2 and "the picture is damaged" in done.stderr and done.stderr.count("\n") == 1


def test_replay_makes_a_variation_and_what_was_enlarged_after_drawing(pipe, replay, run_script, tiny_model, tmp_path):
    assert replay(drawn(Varied(pipe, 9, 0.3), tmp_path / "cat.png"))[0] == 0
    done = run_script("upscale.py", "a cat", "--scale", 1.5, "--steps", 4, "--ckpt", tiny_model, "--dtype", "float32",
                      "--out", tmp_path)
    code, lines = replay(done.stdout.strip())
    assert code == 0 and len(lines) == 1


def test_replay_says_that_the_precision_is_another(pipe, replay, tmp_path):
    path = drawn(pipe, tmp_path / "cat.png")
    code, (change, verdict) = replay(path, "--dtype", "bfloat16")
    assert (code, change) == (1, "dtype: then float32, now bfloat16") and verdict.startswith("close: ")
    assert 30 <= float(verdict.split()[1]) < 70


def test_replay_takes_the_precision_that_it_is_told(tiny_model, replay, tmp_path):
    path = drawn(Pipeline.load(tiny_model, "cpu", "bfloat16"), tmp_path / "cat.png")
    assert replay(path)[0] == 0


def test_replay_says_that_the_model_is_another(pipe, replay, run_script, tmp_path):
    path = drawn(pipe, tmp_path / "cat.png")
    then = f"tiny.safetensors ({read_metadata(path)['model_hash']})"
    with torch.no_grad():
        pipe.unet.conv_in.weight.mul_(-1)
    other = tmp_path / "tiny.safetensors"               # a name tells nothing
    pipe.save(other)
    code, (change, verdict) = replay(path, ckpt=other)
    assert (code, change) == (3, f"model: then {then}, now tiny.safetensors ({fingerprint(other)})")
    assert verdict.startswith("different: ") and float(verdict.split()[1]) < 30
    done = run_script("replay.py", path)
    assert done.returncode == 2 and f"was drawn with {then}, not with the bundled model; give it with" in done.stderr


def test_replay_knows_models_by_what_they_hold(pipe, replay, run_script, tiny_model, tmp_path):
    renamed = shutil.copy(tiny_model, tmp_path / "model.safetensors")       # the name of the bundled one
    path = drawn(Pipeline.load(renamed, "cpu", "float32"), tmp_path / "cat.png")
    assert len(replay(path)[1]) == 1
    done = run_script("replay.py", path)
    assert done.returncode == 2 and "not with the bundled model; give it with --ckpt" in done.stderr
    path = drawn(Pipeline.load(None, "cpu", "float32"), tmp_path / "bundled.png", width=64, height=64)
    assert replay(path, ckpt=None)[0] == 0


def test_replay_of_a_picture_from_before_there_were_hashes_goes_by_names(pipe, replay, tiny_model, tmp_path):
    path = drawn(pipe, tmp_path / "cat.png")
    told = read_metadata(path)
    path = retell(path, {name: told[name] for name in told if name not in ("model_hash", "vae_hash", "kernels")})
    code, lines = replay(path, "--out", tmp_path / "again.png")
    assert code == 0 and len(lines) == 2 and read_metadata(tmp_path / "again.png")["kernels"] == "auto"
    renamed = shutil.copy(tiny_model, tmp_path / "other.safetensors")
    assert replay(path, ckpt=renamed)[1][0] == (
        f"model: then tiny.safetensors, now other.safetensors ({fingerprint(tiny_model)})")


def test_replay_takes_the_kernels_that_it_is_told(tiny_model, replay, tmp_path):
    path = drawn(Pipeline.load(tiny_model, "cpu", "float32", kernels="plain"), tmp_path / "cat.png")
    assert replay(path, "--out", tmp_path / "again.png")[0] == 0
    assert read_metadata(tmp_path / "again.png")["kernels"] == "plain"


def test_replay_asks_for_the_vae(pipe, tiny_model, other_vae, replay, run_script, tmp_path, monkeypatch):
    path = drawn(Pipeline.load(tiny_model, "cpu", "float32", vae=other_vae), tmp_path / "cat.png")
    assert replay(path, "--vae", other_vae) == (0, [f"bit-exact: SHA-256 {read_metadata(path)['sha256']}"])
    now = f"tiny.safetensors ({fingerprint(tiny_model)})"
    then = f"sharp.safetensors ({fingerprint(other_vae)})"
    assert replay(path, "--vae", tiny_model)[1][0] == f"vae: then {then}, now {now}"
    own = drawn(pipe, tmp_path / "own.png")
    assert replay(own, "--vae", tiny_model)[1][0] == f"vae: then none, now {now}"
    monkeypatch.setattr(Pipeline, "load", None)
    done = run_script("replay.py", path, "--ckpt", tiny_model)
    assert (done.returncode, done.stderr) == (
        2, f"replay: {path} was decoded with sharp.safetensors; give it with --vae\n")


def test_replay_plans(pipe, replay, tmp_path, monkeypatch):
    path = drawn(pipe, tmp_path / "cat.png")
    monkeypatch.setattr(Pipeline, "draw", None)
    code, lines = replay(path, "--plan", "--dtype", "bfloat16")
    told = pipe.plan("a cat", **FAST).describe().splitlines()
    assert code == 0 and lines == ["dtype: then float32, now bfloat16", *told]


def test_replay_loads_plugins_by_their_names(pipe, replay, tiny_model, tmp_path):
    home = tmp_path / "sd"
    for kind in ("models", "loras", "embeddings"):
        (home / kind).mkdir(parents=True)
    shutil.copy(tiny_model, home / "models" / "tiny.safetensors")
    write_lora(home / "loras" / "fox.safetensors", layers(pipe.unet, pipe.text))
    save_file({"my-hat": torch.randn(2, 64)}, home / "embeddings" / "my-hat.safetensors")
    pipe.load_lora(home / "loras" / "fox.safetensors", 0.5)
    pipe.load_embedding(home / "embeddings" / "my-hat.safetensors")
    path = save_image(pipe("a cat in my-hat", **FAST)[0], tmp_path / "cat.png")
    exact = f"bit-exact: SHA-256 {read_metadata(path)['sha256']}"
    assert replay(path, "--models-dir", home, ckpt="tiny") == (0, [exact])
    code, lines = replay(path)
    assert code != 0 and [line.partition(":")[0] for line in lines[:2]] == ["embeddings", "loras"]
    assert all(line.endswith("not made again") for line in lines[:2])
    write_lora(home / "loras" / "fox.safetensors", layers(pipe.unet, pipe.text), seed=1)        # of the same name
    code, (change, _) = replay(path, "--models-dir", home)
    fox = r"hash \w{16} name fox weight 0\.5"
    assert code != 0 and re.fullmatch(f"loras: then {fox}, now {fox}", change)


def test_replay_takes_the_cells_of_a_grid_and_not_the_sheet(replay, run_script, tiny_model, tmp_path):
    sheet, cells = tmp_path / "grid.png", tmp_path / "cells"
    done = run_script("grid.py", "a cat", "--x", "seed=1,2", "--steps", 4, "--ckpt", tiny_model, "--out", sheet,
                      "--cells", cells)
    assert done.returncode == 0 and [replay(cell)[0] for cell in cells.iterdir()] == [0, 0]
    done = run_script("replay.py", sheet, "--ckpt", tiny_model)
    assert (done.returncode, done.stderr) == (2, f"replay: {sheet} is a sheet of many pictures; give one of its "
                                                 "cells\n")


@pytest.mark.parametrize("name", ["path.webp", "path.gif", "still.webp"])
def test_replay_refuses_animations(run_script, tmp_path, name):
    colors = ["red", "red" if name == "still.webp" else "blue"]             # of equal frames the file has one
    save_animation([Image.new("RGB", (8, 8), color) for color in colors], tmp_path / name, 8,
                   {"task": "interpolate", "prompt": "a cat", "sampler": "ddim", **FAST})
    done = run_script("replay.py", tmp_path / name)
    assert (done.returncode, done.stderr) == (2, f"replay: {tmp_path / name} is an animation, not one picture; those "
                                                 "are made by scripts/interpolate.py\n")


def test_replay_says_that_the_size_is_another(pipe, replay, tmp_path):
    path = drawn(pipe, tmp_path / "cat.png")
    cropped = Image.open(path).crop((0, 0, 64, 32))
    told = read_metadata(path)
    path = save_image(with_metadata(cropped, told), tmp_path / "cropped.png")
    assert replay(path) == (3, ["different: then 64x32 pixels, now 64x64"])


def test_replay_says_what_it_does_not_know_and_that_the_file_was_changed(pipe, replay, tmp_path):
    path = drawn(pipe, tmp_path / "cat.png")
    told = {**read_metadata(path), "version": "9.9", "holograms": 3, "sounds": []}
    with Image.open(path) as image:
        image.putpixel((0, 0), (1, 2, 3))
        image.save(path)
    code, lines = replay(retell(path, told))
    assert code == 0 and lines == [
        f"version: then 9.9, now {__version__}", "holograms: then 3, not made again",
        "the file's own pixels were changed after it was drawn", f"bit-exact: SHA-256 {told['sha256']}"]


@pytest.mark.parametrize(("changes", "message"), [
    ({"prompt": 3}, "tells what makes no sense (prompt 3); give a picture as it was written"),
    ({"task": ["upscale"], "unet_tile": None}, "makes no sense (task ['upscale'], unet_tile None)"),
    ({"loras": [{"weight": 1}, "fox"]}, "makes no sense ({'weight': 1}, 'fox')"),
    ({"embeddings": 5}, "makes no sense (embeddings 5)"), ({"task": "variation"}, "makes no sense (no variation_seed"),
    ({"task": "outpaint", "left": 8, "image_sha256": "a"}, "makes no sense (no top, no right, no bottom, no fill)"),
    ({"first": {"steps": 4}}, "makes no sense (no prompt)"),
    ({"strength": "x"}, "strength 'x' is not a number; give one"),
    ({"sampler": []}, "sampler [] is not a text; give one"),
    ({"steps": None}, "steps None is not a whole number; give an int"),
    ({"width": 8 * 10**30}, "is outside 8..100000; try 100000"),
])
def test_replay_refuses_metadata_that_make_no_sense(pipe, run_script, tiny_model, tmp_path, changes, message):
    path = drawn(pipe, tmp_path / "cat.png")
    done = run_script("replay.py", retell(path, {**read_metadata(path), **changes}), "--ckpt", tiny_model)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1) and message in done.stderr


@pytest.mark.parametrize("told", [[], 3, None, {}])
def test_replay_refuses_what_is_no_record_of_a_picture(pipe, run_script, tmp_path, told):
    done = run_script("replay.py", retell(drawn(pipe, tmp_path / "cat.png"), told))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1) and "makes no sense (no prompt)" in done.stderr


def test_replay_says_mistakes_in_one_line(pipe, run_script, tiny_model, tmp_path, photo):
    path = drawn(pipe, tmp_path / "cat.png")
    for arguments, message in (([photo], "photo.png carries no parameters; give a picture that this library"),
                               ([tmp_path / "none.png"], "No such file"),
                               ([path, "--image", photo], "was made without an input image; leave out --image"),
                               ([path, "--ckpt", tiny_model, "--out", "a.gif"], "a.gif is neither a folder nor")):
        done = run_script("replay.py", *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert message in done.stderr and done.stderr.startswith("replay: ") and done.stderr.count("\n") == 1
