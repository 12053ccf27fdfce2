"""Animated pictures: WebP and GIF files with metadata."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ldm.files import write_atomically
from ldm.images import encoding, with_metadata
from ldm.settings import within

QUALITY = 90                                            # of a WebP, up to 100


def check_animation(path: Path, fps: float) -> None:
    """Raises ValueError where `save_animation` would refuse: to be called before the work starts."""
    if path.suffix.lower() not in (".webp", ".gif"):
        raise ValueError(f"{path} is neither a .webp nor a .gif; try {path.with_suffix('.webp')}")
    if path.exists():
        raise ValueError(f"{path} is there already and is not overwritten; give another name")
    within("fps", fps, 1, 50)                           # browsers slow down what is faster


def save_animation(frames: Sequence[Image.Image], path: Path, fps: float, metadata: dict[str, Any]) -> None:
    """Write RGB pictures of one size as an endless animation, `fps` (1 to 50) a second.

    The metadata are in a WebP as `save_image` writes them, so `read_metadata` reads them; in a GIF they are a comment.
    Raises ValueError for another suffix, a file that is there already, and another fps.
    """
    check_animation(path, fps)
    first, *rest = frames
    if path.suffix.lower() == ".webp":
        how = encoding(with_metadata(first, metadata), "WEBP", QUALITY)
    else:
        how = {"format": "GIF", "comment": json.dumps(metadata, sort_keys=True).encode()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda p: first.save(p, save_all=True, append_images=rest, duration=round(1000 / fps),
                                                loop=0, **how))
