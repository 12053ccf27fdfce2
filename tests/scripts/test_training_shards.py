"""Training on tar shards, of pictures and of latents."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from training_runs import UNET, VAE, held_out

from ldm import Pipeline
from ldm.loading import load_vae


def test_shards_need_pictures_to_hold_out(run_script, tars, tmp_path):
    done = run_script("train_vae.py", "--data", tars, "--out", tmp_path, *VAE)
    assert done.returncode == 2 and "give --held-out-data, such as" in done.stderr.splitlines()[-1]


def test_training_on_shards_learns_any_word(run_script, shapes, tars, tiny_model, tmp_path):
    done = run_script("train_unet.py", "--data", tars, "--held-out-data", shapes, "--vae", tiny_model, *UNET, "--batch",
                      4, "--steps", 1, "--out", tmp_path, "--tensorboard")
    assert done.returncode == 0
    assert Pipeline.load(tmp_path / "model.safetensors", "cpu").vocabulary is None
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1 and not (tmp_path / "latents.safetensors").exists()


def test_a_vae_trained_on_shards_has_unit_latents(run_script, shapes, tars, tmp_path):
    done = run_script("train_vae.py", "--data", tars, "--held-out-data", shapes, *VAE, "--batch", 4, "--steps", 1,
                      "--crop", 32, "--out", tmp_path)
    assert done.returncode == 0
    vae = load_vae(tmp_path / "vae.safetensors")
    images = torch.stack([torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1) / 127.5 - 1
                          for path in sorted(shapes.glob("*.png"))])
    with torch.no_grad():
        z = vae.encode(images).mean * vae.cfg.scale_factor
    torch.testing.assert_close(z.std((0, 2, 3)), torch.ones(4), rtol=0, atol=1e-3)
    assert z.mean((0, 2, 3)).abs().max() < 1e-3


def test_shards_of_latents_train_as_their_pictures_do(run_script, shapes, tars, tiny_model, tmp_path):
    """float16 as they are."""
    encode = ["--data", tars, "--vae", tiny_model, "--size", 64, "--out", tmp_path / "latents"]
    assert run_script("encode_shards.py", *encode).returncode == 0
    written = {path: path.stat().st_mtime_ns for path in sorted((tmp_path / "latents").iterdir())}
    assert [path.name for path in written] == [f"00000{n}.tar" for n in range(4)]
    next(iter(written)).unlink()
    assert run_script("encode_shards.py", *encode).returncode == 0
    assert [path.stat().st_mtime_ns == written[path] for path in written] == [False, True, True, True]
    common = ["--held-out-data", shapes, *UNET, "--batch", 4, "--steps", 2, "--vae"]
    for name, data in {"a": tars, "b": tmp_path / "latents"}.items():
        done = run_script("train_unet.py", "--data", data, "--out", tmp_path / name, *common, tiny_model)
        assert done.returncode == 0
    assert held_out(tmp_path / "a") == pytest.approx(held_out(tmp_path / "b"), rel=1e-3)
    assert held_out(tmp_path / "a", "train") == pytest.approx(held_out(tmp_path / "b", "train"), rel=1e-3)


def test_latents_of_another_vae_are_refused(run_script, shapes, tars, tiny_model, tmp_path):
    assert run_script("train_vae.py", "--data", shapes, *VAE, "--batch", 2, "--crop", 16, "--steps", 1, "--out",
                      tmp_path / "vae").returncode == 0
    assert run_script("encode_shards.py", "--data", tars, "--vae", tmp_path / "vae" / "vae.safetensors", "--size", 64,
                      "--out", tmp_path / "latents").returncode == 0
    done = run_script("train_unet.py", "--data", tmp_path / "latents", "--held-out-data", shapes, *UNET, "--vae",
                      tiny_model, "--out", tmp_path / "out")
    assert done.returncode == 2 and "000000.tar, " in done.stderr
    assert "has latents of another VAE or size; give those as --vae and --size" in done.stderr
    done = run_script("encode_shards.py", "--data", tars, "--vae", tiny_model, "--size", 64, "--out",
                      tmp_path / "latents")
    assert done.returncode == 2 and "000000.tar was not made of this vae, size, shard; remove it" in done.stderr
    done = run_script("train_vae.py", "--data", tmp_path / "latents", "--held-out-data", shapes, *VAE, "--out",
                      tmp_path / "again")
    assert done.returncode == 2 and "has latents; give shards of pictures" in done.stderr
    done = run_script("encode_shards.py", "--data", shapes, "--vae", tiny_model, "--out", tmp_path / "x")
    assert done.returncode == 2 and "is a folder of pictures" in done.stderr


@pytest.mark.parametrize("held_out", [False, True])
def test_latents_of_another_size_are_refused(run_script, shapes, tars, tiny_model, tmp_path, held_out):
    """In the middle of the shards, and held out."""
    for size in (64, 32):
        assert run_script("encode_shards.py", "--data", tars, "--vae", tiny_model, "--size", size, "--out",
                          tmp_path / str(size)).returncode == 0
    shutil.copy(tmp_path / "32" / "000002.tar", tmp_path / "64")
    data = [tars, tmp_path / "64" / "000002.tar"] if held_out else [tmp_path / "64", shapes]
    done = run_script("train_unet.py", "--data", data[0], "--held-out-data", data[1], *UNET, "--batch", 4, "--steps", 4,
                      "--vae", tiny_model, "--out", tmp_path / "out")
    assert done.returncode == 2 and "000002.tar" in done.stderr and "of another VAE or size" in done.stderr
