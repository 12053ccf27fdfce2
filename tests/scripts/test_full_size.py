"""A file of Stable Diffusion 1.5's full size, random weights in the official layout: cost of loading, a picture."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

SCRIPTS = Path(__file__).parents[2] / "scripts"
PARAMETERS = 859_520_964 + 83_653_863 + 123_060_480         # UNet, VAE, text encoder

LOAD = """
import resource, sys, torch
resident = lambda: 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
base = resident()
from ldm import Pipeline
pipe = Pipeline.load(sys.argv[1], device="cpu", dtype=sys.argv[2])
print(sum(p.nbytes for m in (pipe.unet, pipe.vae, pipe.text) for p in m.parameters()), resident() - base)
"""


@pytest.fixture(scope="module")
def full_size(tmp_path_factory):
    path = tmp_path_factory.mktemp("full") / "sd15.safetensors"
    subprocess.run([sys.executable, SCRIPTS / "make_random_checkpoint.py", path], check=True)
    yield path
    path.unlink()


@pytest.mark.slow
def test_loading_to_bfloat16_peaks_at_the_weights_and_half_a_gigabyte(full_size):
    assert full_size.stat().st_size == pytest.approx(2 * PARAMETERS, rel=1e-3)
    program = [sys.executable, "-c", LOAD, full_size, "bfloat16"]
    weights, peak = map(int, subprocess.run(program, check=True, capture_output=True, text=True).stdout.split())
    assert weights == 2 * PARAMETERS
    assert weights < peak <= weights + 0.5e9


@pytest.mark.slow
def test_txt2img_draws_512_pixels_from_a_full_size_file(full_size, tmp_path):
    out = tmp_path / "full.png"
    command = [sys.executable, SCRIPTS / "txt2img.py", "a cat", "--ckpt", full_size, "--steps", "4", "--out", out]
    subprocess.run(command, check=True, capture_output=True)
    with Image.open(out) as image:
        assert image.size == (512, 512)
        assert max(high - low for low, high in image.convert("RGB").getextrema()) > 0
