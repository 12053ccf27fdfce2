"""scripts/train_vae.py and train_unet.py as programs: they learn."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from training_runs import UNET, VAE, held_out, same_states, train

from ldm import Pipeline
from ldm.training.checkpoint import newest
from ldm.unet import UNet as Network


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
        "vae.safetensors", "state-00000100.pt", "state-00000200.pt", "losses.csv", "losses.png", "samples.png"}
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
        "model.safetensors", "state-00000100.pt", "state-00000200.pt", "losses.csv", "losses.png", "samples.png",
        "latents.safetensors"}
    pipe = Pipeline.load(tmp_path / "model.safetensors", "cpu", "float32")
    assert (pipe.prediction, pipe.size, pipe.guidance, pipe.unet.cfg.heads) == (prediction, 64, 4.0, 2)
    picture, = pipe("a red square", steps=10)
    assert picture.size == (64, 64) and np.array(picture).std() > 10


@pytest.mark.parametrize(("script", "flags"), [("train_unet.py", UNET), ("train_vae.py", [*VAE, "--crop", 32])])
def test_accumulated_batches_are_one_batch(run_script, shapes, tiny_model, tmp_path, script, flags):
    flags = [*flags, "--vae", tiny_model] if script == "train_unet.py" else flags
    arguments = ["--data", shapes, *flags, "--steps", 8, "--every", 4]
    assert run_script(script, *arguments, "--out", tmp_path / "a", "--batch", 8).returncode == 0
    assert run_script(script, *arguments, "--out", tmp_path / "b", "--batch", 2, "--accumulate", 4).returncode == 0
    assert held_out(tmp_path / "a") == pytest.approx(held_out(tmp_path / "b"), rel=2e-4)


def test_recomputed_activations_change_nothing(run_script, shapes, tiny_model, tmp_path):
    arguments = ["--data", shapes, "--vae", tiny_model, *UNET, "--steps", 2, "--batch", 4]
    assert run_script("train_unet.py", *arguments, "--out", tmp_path / "a").returncode == 0
    assert run_script("train_unet.py", *arguments, "--out", tmp_path / "b", "--checkpointing").returncode == 0
    assert same_states(tmp_path / "a", tmp_path / "b")


def test_levels_share_pictures_and_captions(run_script, shapes, tiny_model, tmp_path, monkeypatch):
    """Each picture at three timesteps, a third of the range apart; each caption encoded once."""
    seen = []
    forward = Network.forward

    def remember(self, x, t, context):
        if torch.is_grad_enabled():
            seen.append((t, context))
        return forward(self, x, t, context)

    monkeypatch.setattr(Network, "forward", remember)
    done = run_script("train_unet.py", "--data", shapes, "--vae", tiny_model, "--out", tmp_path, *UNET, "--steps",
                      1, "--batch", 6, "--levels", 3)
    assert done.returncode == 0
    [(t, context)] = seen
    assert torch.equal(context, context[:2].repeat(3, 1, 1)) and not torch.equal(context[0], context[1])
    assert ((t * 6 // 1000) == torch.arange(6)).all()


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
    ("train_unet.py", ["--text", "frozen"], "without --init, --vae has to be given and --text to be trained"),
    ("train_unet.py", ["--data", "nowhere/{0..3}.tar"], "nowhere/0.tar is not there (of 4 missing shards)"),
    ("train_unet.py", ["--levels", "3"], "--levels 3 does not divide --batch 32"),
    ("train_unet.py", ["--fsdp"], "start this script with torchrun"),
    ("train_vae.py", ["--device", "warp"], "device 'warp' cannot be used here; try auto or cpu"),
    ("train_unet.py", ["--attn", "0"], "differ in length; give one entry per level"),
])
def test_training_says_mistakes_in_one_line(run_script, shapes, tiny_model, tmp_path, script, arguments, message):
    needed = ["--data", shapes, "--out", tmp_path] + (["--vae", tiny_model] if script == "train_unet.py" else [])
    done = run_script(script, *needed, *(VAE if script == "train_vae.py" else UNET), *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
    assert newest(tmp_path) is None
