"""The commands of README.md, in a folder where the files lie that they name, with 2 steps where they say none.

Where the README has an official model there is a tiny random one of Stable Diffusion 1, and the plug-in files fit that.
Training, scores, Ray and the web page have tests of their own; nothing runs the commands that make the bundled model
again.
"""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from plugins.controlnet_files import official
from plugins.lora_files import layers, write_lora
from randomise import randomise
from safetensors.torch import save_file

from ldm import Pipeline
from ldm.images import save_image
from ldm.plugins import ControlNet, canny
from ldm.weights import open_checkpoint

pytestmark = [pytest.mark.filterwarnings("ignore:2 steps of"),            # which are few
              pytest.mark.filterwarnings("ignore:.* was trained without .*zorbl")]

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
OTHERS = ("train_", "encode_", "evaluate", "generate_many", "webui")        # how programs begin that are not run here
COMMANDS = [command for command in re.findall(r"^python scripts/(.*?)(?: +#.*)?$", README, re.M)
            if not command.startswith(OTHERS)]
MODELS = set(re.findall(r"(?:--ckpt|inspect_checkpoint.py) (\S+)", "\n".join(COMMANDS)))
WITHOUT_STEPS = ("canny.py", "inspect_checkpoint.py", "make_random_checkpoint.py", "replay.py")
SIDE, TINY, PHOTO = 128, 64, (96, 64)                   # of pictures of the bundled model, the tiny one, and photo.png

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def prepared(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all files that the commands name."""
    home = tmp_path_factory.mktemp("readme")
    for name in MODELS:
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        os.link(tiny_model, home / name)
    [fox] = Pipeline.load()("3d render of a fox", steps=4, seed=7)
    for name in ("fox.png", "out/00000.png"):
        save_image(fox, home / name)
    photo, mask = fox.resize(PHOTO), Image.new("L", fox.size)
    mask.paste(255, (SIDE // 2, 0, SIDE, SIDE))
    for name, picture in {"photo.png": photo, "mask.png": mask, "edges.png": canny(photo)}.items():
        save_image(picture, home / name)
    pipe = Pipeline.load(device="cpu", dtype="float32")
    for folder in ("runs/lora", "runs/inversion"):
        (home / folder).mkdir(parents=True)
    write_lora(home / "runs/lora/lora.safetensors", layers(pipe.unet, pipe.text))
    save_file({"zorbl": torch.randn(2, pipe.text.cfg.width)}, home / "runs/inversion/zorbl.safetensors")
    pipe = Pipeline.load(tiny_model, "cpu", "float32")
    for folder in ("models/loras", "controlnets"):
        (home / folder).mkdir(parents=True)
    write_lora(home / "models/loras/watercolor.safetensors", layers(pipe.unet, pipe.text))
    official(randomise(ControlNet(pipe.unet.cfg)), home / "controlnets/canny.safetensors")
    return home


@pytest.fixture
def run(run_script: Run, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """run('txt2img.py "a fox"'): in a folder of its own, with few steps where the command does not say how many."""
    shutil.copytree(prepared, tmp_path, copy_function=os.link, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)

    def run(command: str) -> subprocess.CompletedProcess[str]:
        script, *args = shlex.split(command)
        if script not in WITHOUT_STEPS and "--steps" not in args:
            args += ["--steps", "2"]
        if (made := Path(value(command, "--out", "out"))).is_file():
            made.unlink()                               # another command's input: edges.png
        done = run_script(script, *args)
        assert done.returncode == 0, done.stderr
        return done

    return run


def value(command: str, flag: str, default: str) -> str:
    """What a command gives for a flag."""
    found = re.search(rf"{flag} (\S+)", command)
    return found[1] if found else default


def drawn(command: str) -> tuple[int, int]:
    """Width and height of the pictures that a command makes."""
    n = TINY if "--ckpt" in command else SIDE
    of = {"outpaint.py": (n + 2 * 32, n), "upscale.py": (2 * n, 2 * n), "colorize.py": PHOTO, "canny.py": PHOTO,
          "controlnet.py": PHOTO}
    return of.get(command.split()[0], (n, n))


OTHERS = ("grid.py", "inspect_checkpoint.py", "make_random_checkpoint.py", "replay.py")


@pytest.mark.parametrize("command", [command for command in COMMANDS if not command.startswith(OTHERS)])
def test_readme_command_writes_pictures(command, run):
    done, out = run(command), Path(value(command, "--out", "out"))
    paths = [Path(line) for line in done.stdout.splitlines()]
    assert len(paths) == int(value(command, "--count", "1"))
    assert paths == [out] if out.suffix else {path.parent for path in paths} == {out}
    for path in paths:
        with Image.open(path) as image:
            image.load()
            assert image.size == drawn(command)
            assert getattr(image, "is_animated", False) == command.startswith("interpolate.py")


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("grid.py")])
def test_readme_command_writes_a_grid(command, run):
    [path] = run(command).stdout.splitlines()
    columns, rows = (len(value(command, axis, "").split(",")) for axis in ("--x", "--y"))
    with Image.open(path) as image:
        assert path == value(command, "--out", "") and image.width > columns * SIDE and image.height > rows * SIDE


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("replay.py")])
def test_readme_command_makes_a_picture_again(command, run):
    assert run(command).stdout.startswith("bit-exact: ")


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("inspect_checkpoint.py")])
def test_readme_command_says_what_a_file_is(command, run):
    assert "Stable Diffusion 1" in run(command).stdout


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("make_random")])
def test_readme_command_writes_a_model(command, run):
    run(command)
    assert open_checkpoint(command.split()[1]).family == "sd1"


def test_readme_has_a_command_for_every_task():
    tasks = {"txt2img", "img2img", "inpaint", "outpaint", "upscale", "colorize", "variations", "interpolate", "grid",
             "replay", "canny", "controlnet"}
    assert tasks <= {command.partition(".py")[0] for command in COMMANDS}
    assert any("<lora:" in command for command in COMMANDS)
