"""Training that starts from a model file: its shape, its words, its VAE."""

from argparse import Namespace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from training_runs import UNET, held_out, train

from ldm import Pipeline
from ldm.loading import load_vae
from ldm.packed import Packed
from ldm.text import Glossary
from ldm.unet.blocks import Attention
from ldm.vae import TinyVAE
from ldm.vae.tiny_names import rows
from ldm.weights.saving import to_official


@pytest.fixture(scope="module")
def first(shapes: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the small vocabulary of its captions."""
    out = tmp_path_factory.mktemp("first")
    train("train_unet.py", "--data", shapes, "--vae", tiny_model, *UNET, "--batch", 4, "--out", out, "--steps", 2)
    return out / "model.safetensors"


def test_training_starts_from_a_model_file(run_script, shapes, first, tmp_path):
    """Which says shape, VAE, prediction and guidance."""
    done = run_script("train_unet.py", "--data", shapes, "--size", 64, "--held-out", 2, "--batch", 4, "--steps", 1,
                      "--lr", 1e-9, "--out", tmp_path, "--init", first)
    assert done.returncode == 0, done.stderr
    assert held_out(tmp_path)[0] == pytest.approx(held_out(first.parent)[-1], rel=1e-5)
    again = load_file(tmp_path / "model.safetensors")
    for name, weight in load_file(first).items():
        torch.testing.assert_close(again.pop(name), weight, rtol=0, atol=1e-6)
    assert not again


def test_a_model_file_is_trained_with_the_fastest_attention(first):
    """Loaded with PyTorch's own layers, which can be trained, but not with its attention, whose way back is slow."""
    import starting  # conftest.py says where scripts are

    args = Namespace(seed=0, init=first, prediction=None, vae=None, guidance=None, **dict.fromkeys(starting.SHAPE))
    unet = starting.open_model(args).unet
    assert {part.kernels for part in unet.modules() if isinstance(part, Attention)} == {"auto"}
    assert not any(isinstance(part, Packed) for part in unet.modules())


@pytest.mark.parametrize(("flags", "message"), [
    (["--heads", 1], "has heads 2, not 1; leave that flag out"),
    (["--text", "frozen", "--held-out-data", "CAT"], "frozen text encoder does not know cat (of 1 tokens)"),
])
def test_a_model_file_that_does_not_fit_is_refused(run_script, shapes, first, tmp_path, flags, message):
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    (tmp_path / "x.txt").write_text("a cat")
    flags = [tmp_path if flag == "CAT" else flag for flag in flags]
    done = run_script("train_unet.py", "--data", shapes, "--size", 64, "--init", first, "--out", tmp_path / "out",
                      *flags)
    assert done.returncode == 2 and message in done.stderr.splitlines()[-1]


def test_a_model_keeps_its_words_and_learns_new_ones(run_script, first, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name in ("a", "b", "c"):
        Image.new("RGB", (64, 64)).save(pictures / f"{name}.png")
        (pictures / f"{name}.txt").write_text("a walrus")
    pipe, chinese = Pipeline.load(first, "cpu", "float32"), tmp_path / "chinese.safetensors"
    pipe.tokenizer.glossary = Glossary({"海象": "walrus"})
    pipe.save(chinese, pipe.vocabulary)
    done = run_script("train_unet.py", "--data", pictures, "--size", 64, "--held-out", 1, "--batch", 2, "--steps", 1,
                      "--lr", 1e-9, "--init", chinese, "--out", tmp_path / "out")
    assert done.returncode == 0
    before, after = (Pipeline.load(path, "cpu", "float32") for path in (first, tmp_path / "out" / "model.safetensors"))
    known, words = set(before.vocabulary.tolist()), set(after.vocabulary.tolist())
    assert words == known | set(before.tokenizer.encode("a walrus")) > known
    assert after.tokenizer.encode("海象") == before.tokenizer.encode("walrus")
    rows = [pipe.text.token_embedding.weight for pipe in (before, after)]
    torch.testing.assert_close(rows[0][before.vocabulary], rows[1][before.vocabulary], rtol=0, atol=1e-6)
    assert rows[1][before.tokenizer.encode("walrus")].std().item() == pytest.approx(1, abs=0.4)


def test_a_frozen_text_encoder_stays(run_script, shapes, first, tmp_path):
    done = run_script("train_unet.py", "--data", shapes, "--size", 64, "--held-out", 2, "--batch", 2, "--steps", 2,
                      "--init", first, "--out", tmp_path, "--text", "frozen", "--warmup", 1)
    assert done.returncode == 0
    before, after = load_file(first), load_file(tmp_path / "model.safetensors")
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"model"}                         # model.diffusion_model; not cond_stage_model, first_stage_model


def test_a_vae_starts_from_a_model_file(run_script, shapes, tiny_model, tmp_path):
    done = run_script("train_vae.py", "--data", shapes, "--out", tmp_path, "--size", 64, "--crop", 32, "--batch", 2,
                      "--steps", 1, "--lr", 1e-9, "--held-out", 2, "--init", tiny_model)
    assert done.returncode == 0, done.stderr
    before, after = load_vae(tiny_model), load_vae(tmp_path / "vae.safetensors")
    assert after.cfg == before.cfg
    x = torch.rand(1, 3, 64, 64) * 2 - 1
    with torch.no_grad():                               # latents are scaled anew; pictures stay
        torch.testing.assert_close(after(x), before(x), rtol=0, atol=1e-4)


def test_a_tiny_autoencoder_is_not_trained(run_script, shapes, tmp_path):
    vae = TinyVAE()
    save_file(to_official(vae.state_dict(), rows(vae.cfg)), tmp_path / "taesd.safetensors")
    done = run_script("train_vae.py", "--data", shapes, "--out", tmp_path / "out", "--size", 64, "--init",
                      tmp_path / "taesd.safetensors")
    assert done.returncode == 2 and "holds a tiny autoencoder, which has no posterior" in done.stderr
