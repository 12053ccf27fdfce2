"""scripts/replay.py: pictures that carry A1111's text alone."""

import pytest
from PIL import Image
from plugins.lora_files import layers, write_lora
from replays import drawn, text_alone

from ldm import __version__
from ldm.images import digest, read_parameters


def test_replay_of_the_text_alone_makes_what_a1111_means(pipe, replay, tmp_path):
    path = drawn(pipe, tmp_path / "cat.png", preset="a1111", noise="nv", sampler="dpmpp_2m", negative_prompt="blur")
    text = ("a cat\nNegative prompt: blur\nSteps: 4, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 3, Seed: 5, "
            "Size: 64x64, Model hash: 45dee52b, Model: tiny, Hires upscale: 2, Version: v1.10.1")
    code, lines = replay(text_alone(path, text), "--dtype", "float32")
    assert code == 0 and lines == [
        "Hires upscale: then 2, not made again", f"version: then v1.10.1, now {__version__}",
        f"bit-exact: SHA-256 {digest(Image.open(path))}"]


def test_replay_of_our_text_alone(pipe, replay, tmp_path):
    path = drawn(pipe, tmp_path / "cat.png", sampler="euler_a", guidance=2.5)
    path = text_alone(path, read_parameters(path))
    assert replay(path, "--dtype", "float32") == (0, [f"bit-exact: SHA-256 {digest(Image.open(path))}"])


def test_replay_of_the_text_of_a_redrawn_picture_asks_for_the_input(pipe, run_script, tmp_path, photo):
    with Image.open(photo) as image:
        path = drawn(pipe, tmp_path / "cat.png", image=image)
    done = run_script("replay.py", text_alone(path, read_parameters(path)))
    assert done.returncode == 2 and "was made from an input image; give that with --image" in done.stderr


@pytest.mark.parametrize(("text", "message"), [
    ("a cat\nSteps: 4, Sampler: DPM adaptive, Seed: 5", "names no sampler that is known here; it says {'Sampler': "),
    ("a cat", "names no sampler and no seed and no steps that is known here"),
])
def test_replay_refuses_a_text_that_says_too_little(run_script, tmp_path, photo, text, message):
    done = run_script("replay.py", text_alone(photo, text))
    assert (done.returncode, done.stdout) == (2, "") and message in done.stderr and done.stderr.count("\n") == 1


def test_replay_of_a_text_does_without_the_vae_and_says_so(pipe, replay, tmp_path):
    path = drawn(pipe, tmp_path / "cat.png")
    path = text_alone(path, read_parameters(path) + ", VAE hash: 735e4c3a44, VAE: vae-ft-mse.safetensors")
    code, lines = replay(path, "--dtype", "float32")
    assert code == 0 and lines[0] == "vae: then vae-ft-mse.safetensors, now none" and len(lines) == 2


def test_replay_of_a_text_loads_the_loras_of_its_prompt(pipe, replay, tmp_path):
    (tmp_path / "loras").mkdir()
    write_lora(tmp_path / "loras" / "fox.safetensors", layers(pipe.unet, pipe.text))
    pipe.load_lora(tmp_path / "loras" / "fox.safetensors", 0.5)
    path = drawn(pipe, tmp_path / "cat.png")
    assert read_parameters(path).startswith("a cat <lora:fox:0.5>\n")
    path = text_alone(path, read_parameters(path))
    assert replay(path, "--dtype", "float32", "--models-dir", tmp_path) == (
        0, [f"bit-exact: SHA-256 {digest(Image.open(path))}"])
    assert replay(path, "--dtype", "float32")[1][0] == "loras: then name fox weight 0.5, not made again"
