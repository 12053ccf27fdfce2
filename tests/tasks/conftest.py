"""A picture to start from."""

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def photo() -> Callable[..., Image.Image]:
    """photo(width, height, seed) -> a smooth picture."""
    def make(width: int = 64, height: int = 64, seed: int = 0) -> Image.Image:
        small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
        return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    return make
