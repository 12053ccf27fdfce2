"""Disks that are full: one line, exit code 2, nothing half-written, and what was there before stays whole.

The operating system refuses to write: it lets no file of this process grow beyond a limit (RLIMIT_FSIZE, EFBIG).  A
full disk (ENOSPC) stops a writer at the same places.
"""

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ldm.files import write_atomically
from ldm.images import save_image
from ldm.tasks import save_animation
from ldm.training.checkpoint import save_state
from ldm.training.progress import Losses

SCRIPTS = Path(__file__).parents[2] / "scripts"
ROOM = 300                                              # bytes that a file may have
REASON = "cannot be written (File too large); make room, or give another place"


@contextmanager
def full_disk(room: int = ROOM) -> Iterator[None]:
    """No file grows beyond `room` bytes.  (Python ignores the signal that comes with it.)"""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def noise(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8))


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    noise().save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.mark.parametrize(("script", "arguments", "name"), [
    ("txt2img.py", ["a fox"], "fox.png"),
    ("txt2img.py", ["a fox"], "fox.jpg"),
    ("txt2img.py", ["a fox"], "fox.webp"),
    ("txt2img.py", ["a fox", "--count", 2], "folder"),
    ("upscale.py", ["a fox", "--image", "photo.png"], "fox.png"),
    ("interpolate.py", ["a fox", "a cat", "--frames", 3], "path.webp"),
    ("interpolate.py", ["a fox", "a cat", "--frames", 3], "path.gif"),
    ("grid.py", ["a fox", "--x", "seed=1,2"], "grid.png"),
])
def test_drawing_to_a_full_disk_is_one_line(run_script, tiny_model, photo, monkeypatch, script, arguments, name):
    monkeypatch.chdir(photo.parent)
    before = tree(photo.parent)
    with full_disk():
        done = run_script(script, *arguments, "--ckpt", tiny_model, "--steps", 4, "--out", name)
    *_, last = done.stderr.splitlines()                 # after the progress
    assert (done.returncode, done.stdout) == (2, "") and "Traceback" not in done.stderr
    assert last.startswith(f"{Path(script).stem}: ") and last.endswith(REASON)
    assert tree(photo.parent) == before


@pytest.mark.parametrize(("script", "arguments"), [
    ("canny.py", ["photo.png", "--out", "old.png"]),
    ("make_random_checkpoint.py", ["old.safetensors", "--tiny"]),
    ("make_random_checkpoint.py", ["old.ckpt", "--tiny"]),
])
def test_files_on_a_full_disk_stay_as_they_were(run_script, photo, monkeypatch, script, arguments):
    monkeypatch.chdir(photo.parent)
    for suffix in ("png", "safetensors", "ckpt"):
        (photo.parent / f"old.{suffix}").write_bytes(b"old")
    before = tree(photo.parent)
    with full_disk(100):
        done = run_script(script, *arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1) and done.stderr.endswith(f"{REASON}\n")
    assert tree(photo.parent) == before


def test_a_program_of_its_own_meets_a_full_disk(tiny_model, tmp_path):
    done = subprocess.run([sys.executable, SCRIPTS / "txt2img.py", "a fox", "--ckpt", tiny_model, "--steps", "4",
                           "--out", tmp_path / "fox.png"], capture_output=True, text=True, timeout=200,
                          preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, ROOM)))
    assert (done.returncode, done.stdout) == (2, "") and list(tmp_path.iterdir()) == []
    assert done.stderr.splitlines()[-1] == f"txt2img: {tmp_path / 'fox.png'} {REASON}"


def save_losses(path: Path) -> None:
    losses = Losses(path, ["loss"])
    losses.rows = [[step, 1 / 3] for step in range(1000)]
    losses.add(1000, 0.5)


@pytest.mark.parametrize("write", [
    lambda path, pipe: pipe.save(path),
    lambda path, pipe: save_state(path, unet=pipe.unet, step=3),
    lambda path, pipe: save_losses(path),
    lambda path, pipe: write_atomically(path, lambda p: p.write_text("new" * ROOM)),
], ids=["pipe.save", "save_state", "Losses", "text"])
def test_an_older_file_is_kept_where_the_disk_is_full(write, pipe, tmp_path):
    path = tmp_path / "old"
    path.write_bytes(b"step,loss\r\n")
    with full_disk(), pytest.raises(OSError) as error:
        write(path, pipe)
    assert str(error.value) == f"{path} {REASON}"
    assert tree(tmp_path) == {"old": b"step,loss\r\n"}


@pytest.mark.parametrize("write", [lambda path: save_image(noise(), path),
                                   lambda path: save_animation([noise(1), noise(2)], path, 8, {})],
                         ids=["save_image", "save_animation"])
@pytest.mark.parametrize("room", [0, 1, 100, 1000])
def test_nothing_is_left_wherever_the_disk_ends(write: Callable[[Path], None], room, tmp_path):
    with full_disk(room), pytest.raises(OSError, match="fox.webp cannot be written"):
        write(tmp_path / "fox.webp")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_room_for_a_name_is_told_in_the_same_words(tmp_path, monkeypatch):
    def touch(path: Path, exist_ok: bool) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(Path, "touch", touch)
    with pytest.raises(OSError, match="fox.png cannot be written .No space left on device.; make room"):
        save_image(noise(), tmp_path / "fox.png")


def test_errors_that_are_not_the_disks_stay_what_they_are(tmp_path):
    def fail(path: Path) -> None:
        path.write_text("half")
        raise RuntimeError("no disk")

    with pytest.raises(RuntimeError, match="^no disk$"):
        write_atomically(tmp_path / "file", fail)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [KeyError("x"), FileNotFoundError(2, "No such file or directory", "input.png")])
@pytest.mark.parametrize("folder", ["", "gone"])
def test_errors_of_the_writer_are_not_taken_for_the_disks(tmp_path, error, folder):
    def fail(path: Path) -> None:
        raise error

    with pytest.raises(type(error)) as raised:
        write_atomically(tmp_path / folder / "file", fail)
    assert raised.value is error


def test_errors_of_rust_are_told_by_their_number(tmp_path):
    """safetensors removes what it wrote, so that there is room again."""
    def fail(path: Path) -> None:
        raise RuntimeError("Error while serializing: I/O error: out of room (os error 28)")

    with pytest.raises(OSError, match="file cannot be written .No space left on device.; make room"):
        write_atomically(tmp_path / "file", fail)


def test_a_folder_that_is_gone_is_named(tmp_path):
    with pytest.raises(OSError, match="gone/state.pt cannot be written .No such file or directory"):
        save_state(tmp_path / "gone" / "state.pt", x=torch.zeros(3))
