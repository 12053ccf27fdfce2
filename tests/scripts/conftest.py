"""Scripts run as programs, in this process: importing torch anew takes seconds."""

import contextlib
import io
import runpy
import subprocess
import sys
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))


@pytest.fixture
def run_script(monkeypatch: pytest.MonkeyPatch) -> Callable[..., subprocess.CompletedProcess[str]]:
    """run_script("txt2img.py", "a fox", "--steps", 4) -> its exit code, stdout and stderr."""
    monkeypatch.syspath_prepend(str(SCRIPTS))

    return partial(run, monkeypatch)


def run(patch: pytest.MonkeyPatch, script: str, *args: object) -> subprocess.CompletedProcess[str]:
    """A script as a program, in this process."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    patch.setattr(sys, "argv", [script, *map(str, args)])
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            runpy.run_path(str(SCRIPTS / script), run_name="__main__")
    except SystemExit as error:
        code = error.code or 0
    return subprocess.CompletedProcess(args, int(code), out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def tars(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The pictures as four shards of six, as a pattern."""
    folder = tmp_path_factory.mktemp("tars")
    for n in range(4):
        with tarfile.open(folder / f"{n}.tar", "w") as tar:
            for path in sorted(shapes.glob("*.png"))[n * 6 : n * 6 + 6]:
                tar.add(path, path.name)
                caption = folder / path.with_suffix(".txt").name
                caption.write_text(f"a {path.stem.replace('-', ' ')}")
                tar.add(caption, caption.name)
    return str(folder / "{0..3}.tar")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of toy emoji packages."""
    from toy_emoji import write_packages

    return write_packages(tmp_path_factory.mktemp("npm"))


@pytest.fixture(scope="module")
def emoji_pictures(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of 64 pixels of all scenes of these packages, as emoji.py writes them."""
    folder = tmp_path_factory.mktemp("emoji") / "pictures"
    with pytest.MonkeyPatch.context() as patch:
        done = run(patch, "emoji.py", "--source", source, "--out", folder, "--size", 64)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def sprites(source: Path):
    """The sprites of these packages."""
    from emoji_sprites import Sprites

    return Sprites(source)


@pytest.fixture
def photo(tmp_path) -> Path:
    """A file of 61 x 43 pixels."""
    small = np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)
    Image.fromarray(small).resize((61, 43), Image.Resampling.BICUBIC).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def replay(run_script, tiny_model):
    """replay(path, flags) -> exit code and lines of output."""
    def run(path, *args, ckpt=tiny_model):
        done = run_script("replay.py", path, *args, *(["--ckpt", ckpt] if ckpt else []))
        assert done.stderr == ""
        return done.returncode, done.stdout.splitlines()
    return run
