"""What the tests of the page do on it."""

from pathlib import Path

import pytest
from PIL import Image

from ldm.images import read_metadata
from ldm.web.history import pictures

OF_GRADIO = [                                           # warnings of what Gradio itself leaves open, and calls
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting'"),
]
PICTURE = "#draw_gallery img"


def ask(page, prompt="3d render of a fox", steps=4):
    """Fill in the form."""
    page.fill("#prompt textarea", prompt)
    page.fill("#steps input", str(steps))


def wait_for_end(page, words="Done"):
    """Wait until the last line says how it ended."""
    page.wait_for_function("words => document.querySelector('#status').innerText.includes(words)", arg=words)


def drawn(studio) -> tuple[Path, dict]:
    """The last picture on the disk, and what it says."""
    [path] = pictures(studio.out, 1)
    return path, read_metadata(path)


def task(page, name):
    page.get_by_label(name, exact=True).check()


def bright_picture(folder: Path) -> Path:
    path = folder / "bright.png"
    Image.new("RGB", (64, 64), "orange").save(path)
    return path
