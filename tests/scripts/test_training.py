"""scripts/train_vae.py and train_unet.py as programs: they learn, and go on where they were interrupted."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from ldm import Pipeline
from ldm.training.ema import EMA

SCRIPTS = Path(__file__).parents[2] / "scripts"
VAE = ["--size", 64, "--channels", 16, "--multipliers", 1, 1, 2, 2, "--held-out", 7, "--warmup", 20]
UNET = ["--size", 64, "--channels", 32, "--multipliers", 1, 2, "--attn", 0, 1, "--groups", 8, "--heads", 2,
        "--text-width", 64, "--text-layers", 1, "--held-out", 7, "--warmup", 20]


def held_out(folder: Path) -> list[float]:
    with (folder / "losses.csv").open(newline="") as file:
        return [float(row["held out"]) for row in csv.DictReader(file)]


def train(script: str, *arguments: object) -> None:
    done = subprocess.run([sys.executable, SCRIPTS / script, *map(str, arguments)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.fixture(scope="module")
def trained_vae(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("vae")
    train("train_vae.py", "--data", shapes, "--out", out, *VAE, "--steps", 200, "--every", 100, "--crop", 32,
          "--batch", 8)
    return out


@pytest.mark.slow
def test_train_vae_halves_the_held_out_loss_in_200_steps(trained_vae):
    first, _, last = held_out(trained_vae)
    assert last < first / 2
    assert {path.name for path in trained_vae.iterdir()} == {
        "vae.safetensors", "state.pt", "losses.csv", "losses.png", "samples.png"}
    with Image.open(trained_vae / "samples.png") as image:
        assert image.size == (7 * 66 + 2, 2 * 66 + 2)   # seven pictures above seven reconstructions


@pytest.mark.slow
@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_train_unet_halves_the_held_out_loss_in_200_steps(trained_vae, shapes, tmp_path, prediction):
    train("train_unet.py", "--data", shapes, "--vae", trained_vae / "vae.safetensors", "--out", tmp_path, *UNET,
          "--steps", 200, "--every", 100, "--batch", 16, "--prediction", prediction)
    first, _, last = held_out(tmp_path)
    assert last < first / 2
    assert {path.name for path in tmp_path.iterdir()} == {
        "model.safetensors", "state.pt", "losses.csv", "losses.png", "samples.png", "latents.safetensors"}
    pipe = Pipeline.load(tmp_path / "model.safetensors", "cpu", "float32")
    assert (pipe.prediction, pipe.size, pipe.guidance, pipe.unet.cfg.heads) == (prediction, 64, 4.0, 2)
    picture, = pipe("a red square", steps=10)
    assert picture.size == (64, 64) and np.array(picture).std() > 10


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch):
    """interrupt(n): the next training is interrupted in its n-th step."""
    def interrupt(n: int) -> None:
        update, calls = EMA.update, []

        def interrupted(self, module):
            update(self, module)
            calls.append(1)
            if len(calls) == n:
                monkeypatch.setattr(EMA, "update", update)
                raise KeyboardInterrupt

        monkeypatch.setattr(EMA, "update", interrupted)

    return interrupt


@pytest.mark.parametrize(("script", "arguments", "model"), [
    ("train_vae.py", [*VAE, "--gan", 0.5, "--gan-start", 1, "--crop", 24, "--batch", 4], "vae.safetensors"),
    ("train_unet.py", [*UNET, "--batch", 4], "model.safetensors"),
])
def test_training_resumes_bit_for_bit(run_script, interrupt, shapes, tiny_model, tmp_path, script, arguments, model):
    arguments += ["--vae", tiny_model] if script == "train_unet.py" else []
    arguments += ["--data", shapes, "--steps", 5, "--every", 2]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run_script(script, *arguments, "--out", whole).returncode == 0
    interrupt(4)                                        # after the checkpoint of step 2, before that of step 4
    assert run_script(script, *arguments, "--out", broken).returncode == 130
    assert torch.load(broken / "state.pt", weights_only=True)["step"] == 2
    assert len(held_out(broken)) == 2 and not [*broken.glob(".*")]
    assert run_script(script, *arguments, "--out", broken).returncode == 0
    expected, resumed = load_file(whole / model), load_file(broken / model)
    assert expected.keys() == resumed.keys()
    assert [name for name in expected if not torch.equal(expected[name], resumed[name])] == []
    assert (whole / "losses.csv").read_text() == (broken / "losses.csv").read_text()
    assert (whole / "samples.png").read_bytes() == (broken / "samples.png").read_bytes()


def test_training_takes_bfloat16(run_script, shapes, tiny_model, tmp_path):
    done = run_script("train_unet.py", "--data", shapes, "--vae", tiny_model, "--out", tmp_path, *UNET, "--bf16",
                      "--batch", 4, "--steps", 2)
    assert done.returncode == 0 and len(held_out(tmp_path)) == 2


@pytest.mark.parametrize(("script", "arguments", "message"), [
    ("train_vae.py", ["--data", "nowhere"], "nowhere is no folder; give a folder of pictures"),
    ("train_vae.py", ["--size", "60"], "is not a multiple of 8"),
    ("train_vae.py", ["--steps", "0"], "argument --steps: 0 is not 1 or more"),
    ("train_vae.py", ["--gan", "1", "--crop", "16"], "pictures of 16 pixels are too small to criticise; give 24"),
    ("train_unet.py", ["--vae", "nowhere.safetensors"], "nowhere.safetensors"),
    ("train_unet.py", ["--attn", "0"], "differ in length; give one entry per level"),
])
def test_training_says_mistakes_in_one_line(run_script, shapes, tiny_model, tmp_path, script, arguments, message):
    needed = ["--data", shapes, "--out", tmp_path] + (["--vae", tiny_model] if script == "train_unet.py" else [])
    done = run_script(script, *needed, *(VAE if script == "train_vae.py" else UNET), *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
    assert not (tmp_path / "state.pt").exists()


def test_training_refuses_to_resume_another_model(run_script, shapes, tmp_path):
    arguments = ["--data", shapes, "--out", tmp_path, *VAE, "--batch", 2, "--crop", 16]
    assert run_script("train_vae.py", *arguments, "--steps", 1).returncode == 0
    done = run_script("train_vae.py", *arguments, "--steps", 2, "--channels", 8)
    assert done.returncode == 2 and "does not fit the vae: it is of a run with other settings" in done.stderr
    assert done.stderr.count("\n") == 1


def test_training_starts_from_a_model_file(run_script, shapes, tiny_model, tmp_path):
    common = ["--data", shapes, "--vae", tiny_model, *UNET, "--batch", 4, "--every", 2]
    assert run_script("train_unet.py", *common, "--out", tmp_path / "a", "--steps", 2).returncode == 0
    first = tmp_path / "a" / "model.safetensors"
    done = run_script("train_unet.py", *common, "--out", tmp_path / "b", "--steps", 1, "--lr", 1e-9, "--init", first)
    assert done.returncode == 0
    assert held_out(tmp_path / "b")[0] == pytest.approx(held_out(tmp_path / "a")[-1], rel=1e-5)
    again = load_file(tmp_path / "b" / "model.safetensors")
    for name, weight in load_file(first).items():
        torch.testing.assert_close(again[name], weight, rtol=0, atol=1e-6)
    done = run_script("train_unet.py", *common, "--out", tmp_path / "c", "--init", first, "--heads", 1)
    assert done.returncode == 2 and "give the flags of that model" in done.stderr
