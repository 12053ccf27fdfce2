"""scripts/txt2img.py and img2img.py as programs."""

import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from ldm import Pipeline
from ldm.images import digest, read_metadata

SCRIPTS = Path(__file__).parents[2] / "scripts"


def pictures(stdout: str) -> list[Path]:
    """The files that a script says it wrote."""
    return [Path(line) for line in stdout.splitlines()]


def test_txt2img_runs_as_a_program(tiny_model, tmp_path):
    done = subprocess.run([sys.executable, SCRIPTS / "txt2img.py", "a fox", "--ckpt", tiny_model, "--out",
                           tmp_path / "fox.png", "--steps", "4", "--width", "72", "--dtype", "float32"],
                          capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'fox.png'}\n"), done.stderr
    assert "4/4" in done.stderr                         # progress
    told = read_metadata(tmp_path / "fox.png")
    assert (told["prompt"], told["steps"], told["width"], told["height"]) == ("a fox", 4, 72, 64)
    expected, = Pipeline.load(tiny_model, "cpu", "float32")("a fox", steps=4, width=72)
    with Image.open(tmp_path / "fox.png") as image:
        assert image.size == (72, 64) and digest(image) == digest(expected) == told["sha256"]


def test_img2img_runs_as_a_program(tiny_model, tmp_path):
    Image.new("RGB", (61, 43), "orange").save(tmp_path / "photo.png")
    done = subprocess.run([sys.executable, SCRIPTS / "img2img.py", tmp_path / "photo.png", "a fox", "--ckpt",
                           tiny_model, "--out", tmp_path / "out", "--steps", "8", "--strength", "0.5"],
                          capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert pictures(done.stdout) == [tmp_path / "out" / "00000.png"] and "4/4" in done.stderr
    assert read_metadata(tmp_path / "out" / "00000.png")["strength"] == 0.5
    with Image.open(tmp_path / "out" / "00000.png") as image:
        assert image.size == (61, 43)


def test_txt2img_numbers_pictures(run_script, tiny_model, tmp_path):
    arguments = ["a fox", "--ckpt", tiny_model, "--out", tmp_path, "--steps", 4, "--seed", 5]
    first, second = run_script("txt2img.py", *arguments, "--count", 2), run_script("txt2img.py", *arguments)
    assert [path.name for path in pictures(first.stdout + second.stdout)] == ["00000.png", "00001.png", "00002.png"]
    assert [read_metadata(tmp_path / f"{i:05d}.png")["seed"] for i in range(3)] == [5, 6, 5]


@pytest.mark.filterwarnings("default")
def test_txt2img_reports_warnings_in_a_line(run_script, tiny_model, tmp_path):
    done = run_script("txt2img.py", "a fox", "--ckpt", tiny_model, "--out", tmp_path, "--steps", 2)
    assert done.returncode == 0 and 'txt2img: 2 steps of "leading" start at timestep 501' in done.stderr


@pytest.mark.parametrize(("script", "words"), [
    ("txt2img.py", ["--width", "multiple of 8", "(default 30)", "--ckpt", "(default out)", "prompt"]),
    ("img2img.py", ["--strength", "above 0, up to 1", "(default 0.75)", "(default ddim)", "image"]),
    ("train_vae.py", ["--size", "pixels", "(default 128)", "(default 5000)", "--gan"]),
    ("train_unet.py", ["--size", "pixels", "else v)", "(default 4)", "--prediction"]),
])
def test_help_says_units_and_defaults(run_script, script, words):
    done = run_script(script, "--help")
    text = " ".join(done.stdout.split())
    assert (done.returncode, done.stderr) == (0, "")
    assert f"python scripts/{script}" in text and [word for word in words if word not in text] == []


@pytest.mark.parametrize(("arguments", "message"), [
    (["--ckpt", "nowhere.safetensors"], "nowhere.safetensors"), (["--vae", ""], "the name of the model is empty"),
    (["--width", "500"], "width 500 is not a multiple of 8; try 504"),
    (["--steps", "0"], "steps 0 is outside 1..999; try 1"),
    (["--sampler", "euler", "--eta", "1"], "eta 1.0 is for sampler ddim alone, not 'euler'; leave it at 0"),
    (["--out", "fox.gif"], "fox.gif is neither a folder nor a .png, .jpg, .jpeg or .webp; try fox.png"),
    (["--device", "toaster"], "device 'toaster' cannot be used here; try auto or cpu"),
])
def test_txt2img_says_mistakes_in_one_line(run_script, tiny_model, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    ckpt = [] if "--ckpt" in arguments else ["--ckpt", tiny_model]
    done = run_script("txt2img.py", "a fox", *ckpt, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("txt2img: ") and message in done.stderr and done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_txt2img_refuses_unknown_samplers(run_script):
    done = run_script("txt2img.py", "a fox", "--sampler", "nope")
    assert done.returncode == 2 and "invalid choice: 'nope'" in done.stderr and done.stderr.count("\n") == 1


def test_img2img_says_mistakes_in_one_line(run_script, tiny_model, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    for image, arguments, message in (
            (tmp_path / "none.png", [], "none.png cannot be used (No such file or directory); check the path"),
            (tmp_path, [], "cannot be used (Is a directory); check the path"),
            (tmp_path / "text.png", [], "cannot identify image file"),
            ("x", ["--strength", "1.5"], "strength 1.5 is not above 0")):
        done = run_script("img2img.py", image, "a fox", "--ckpt", tiny_model, *arguments)
        assert (done.returncode, done.stdout) == (2, "") and message in done.stderr
        assert done.stderr.startswith("img2img: ") and done.stderr.count("\n") == 1


def test_txt2img_says_how_the_networks_were_prepared(run_script, tiny_model, tmp_path):
    arguments = ["a fox", "--ckpt", tiny_model, "--out", tmp_path, "--steps", 4, "--dtype", "float32", "--verbose"]
    plain = run_script("txt2img.py", *arguments, "--kernels", "plain")
    assert "unet: cpu, float32, 0 packed layers, attention sdpa\n" in plain.stderr
    packed = run_script("txt2img.py", *arguments)
    assert packed.returncode == 0 and " 0 packed layers" not in packed.stderr and "vae: cpu, float32" in packed.stderr


def test_too_little_memory_is_one_line(capsys, monkeypatch):
    import cli  # conftest.py says where scripts are

    monkeypatch.setattr(sys, "argv", ["txt2img.py"])
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    with pytest.raises(SystemExit) as error:
        cli.run(lambda: torch.empty(10**14) and None)
    assert error.value.code == 2
    assert capsys.readouterr().err.startswith("txt2img: there is not enough memory; ask for a smaller picture")
    with pytest.raises(RuntimeError, match="size of tensor"):           # a defect of ours is not taken for that
        cli.run(lambda: torch.ones(2) + torch.ones(3) and None)


def test_a_damaged_picture_is_one_line(run_script, tiny_model, tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (64, 64)).save(path)
    whole = path.read_bytes()
    at = whole.index(b"IDAT")
    path.write_bytes(whole[: at - 4] + bytes([0, 0, 0, 9]) + whole[at:])        # a length that ends in the middle
    done = run_script("img2img.py", path, "a fox", "--ckpt", tiny_model)
    assert done.returncode == 2 and "the picture is damaged (" in done.stderr and done.stderr.count("\n") == 1


def test_an_embedding_that_a_prompt_names_keeps_its_name_beside_the_flag(run_script, tiny_model, tmp_path):
    """The file calls its word otherwise."""
    (tmp_path / "embeddings").mkdir()
    save_file({"my-style": torch.randn(2, 64)}, tmp_path / "embeddings" / "zorbl.safetensors")
    for flags in ([], ["--embedding", "zorbl"]):
        done = run_script("txt2img.py", "a zorbl", "--ckpt", tiny_model, "--models-dir", tmp_path, "--steps", 4,
                          "--out", tmp_path / "out", *flags)
        assert [one["name"] for one in read_metadata(done.stdout.strip())["embeddings"]] == ["zorbl"]
