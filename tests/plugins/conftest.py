"""LoRAs of the tiny model, and programs, which run here as in tests/scripts."""

from collections.abc import Callable
from pathlib import Path

import pytest
from lora_files import File, Layer, layers, write_lora
from scripts.conftest import run_script

from ldm import Pipeline
from ldm.plugins import LoRA, LoRAs

__all__ = ["run_script"]


@pytest.fixture
def everywhere(pipe: Pipeline) -> list[Layer]:
    return layers(pipe.unet, pipe.text)


@pytest.fixture
def fox(everywhere: list[Layer], tmp_path: Path) -> File:
    """A LoRA in kohya's layout that changes every layer."""
    return write_lora(tmp_path / "fox.safetensors", everywhere)


@pytest.fixture
def load(pipe: Pipeline) -> Callable[..., LoRA]:
    """load(path, ...): one LoRA, on nothing else."""
    return lambda path, *args, **kwargs: LoRAs().load(pipe.unet, pipe.text, path, *args, **kwargs)
