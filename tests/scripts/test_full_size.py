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
peak = resident() - base
print(sum(w.nbytes for m in (pipe.unet, pipe.vae, pipe.text) for w in m.state_dict().values()), peak)
"""

PEAK_OF = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
RESIDENT = """
import resource, sys, torch
from ldm import Pipeline
peak = lambda: 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
def now():
    with open("/proc/self/statm") as file:
        return resource.getpagesize() * int(file.read().split()[1])
"""
SWITCH = RESIDENT + """
base, pipe = now(), None
for _ in range(4):
    pipe = None                             # as an application switches: drop the one, then load the next
    freed = now()
    pipe = Pipeline.load(sys.argv[1], device="cpu", dtype="bfloat16")
    pipe.encode_prompt(["a cat"])
    print(freed - base, now() - base)
"""
DECODE = RESIDENT + """
pipe = Pipeline.load(sys.argv[1], device="cpu", dtype="bfloat16")
for weight in pipe.vae.state_dict().values():
    weight.sum()                            # mapped weights count once they are touched
del weight
before, side, tile = now(), int(sys.argv[2]) // 8, int(sys.argv[3]) or None
pipe.decode_latents(torch.randn(1, 4, side, side), tile)
print(peak() - before)
"""


def numbers(program: str, *arguments) -> list[int]:
    """What a fresh interpreter prints."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return list(map(int, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()))


@pytest.fixture(scope="module")
def full_size(tmp_path_factory):
    path = tmp_path_factory.mktemp("full") / "sd15.safetensors"
    subprocess.run([sys.executable, SCRIPTS / "make_random_checkpoint.py", path], check=True)
    yield path
    path.unlink()


@pytest.mark.slow
def test_loading_to_bfloat16_peaks_at_the_weights_and_half_a_gigabyte(full_size):
    assert full_size.stat().st_size == pytest.approx(2 * PARAMETERS, rel=1e-3)
    weights, peak = numbers(LOAD, full_size, "bfloat16")
    assert weights == 2 * PARAMETERS
    assert 0.75 * weights < peak <= weights + 0.5e9     # memory that the imports freed may be used again, uncounted


@pytest.mark.slow
def test_txt2img_draws_512_pixels_from_a_full_size_file(full_size, tmp_path):
    out = tmp_path / "full.png"
    command = [sys.executable, SCRIPTS / "txt2img.py", "a cat", "--ckpt", full_size, "--steps", "4", "--out", out,
               "--dtype", "bfloat16"]
    [peak] = numbers(PEAK_OF, *command)
    assert peak <= 3.5 * 2**30
    with Image.open(out) as image:
        assert image.size == (512, 512)
        assert max(high - low for low, high in image.convert("RGB").getextrema()) > 0


@pytest.mark.slow
def test_switching_models_does_not_grow(full_size):
    resident = numbers(SWITCH, full_size)
    freed, loaded = resident[::2], resident[1::2]
    assert max(loaded[1:]) <= loaded[0] + 0.6e9         # the allocator keeps some of what packing freed, once
    assert max(loaded[2:]) <= loaded[1] + 0.3e9         # a model is 2.1 GB
    assert max(freed[2:]) <= freed[1] + 0.3e9           # what it keeps it uses again


@pytest.mark.slow
def test_decoding_stays_within_two_and_a_half_gigabytes_and_tiles_take_less(full_size):
    [whole], [tiled] = numbers(DECODE, full_size, 1024, 0), numbers(DECODE, full_size, 2048, 512)
    assert tiled < whole <= 2.5e9                       # 2048 pixels in tiles take less than 1024 pixels whole
