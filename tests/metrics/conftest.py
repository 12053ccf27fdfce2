"""What the tests of scores share."""

from pathlib import Path

import pytest
from clip_files import write_clip


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Name and file of a small CLIP of random weights."""
    return write_clip(tmp_path_factory.mktemp("clip"))
