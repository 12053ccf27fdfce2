"""A small CLIP of random weights, as open_clip has them: a name and a file."""

import json
from pathlib import Path

import open_clip
import torch

NAME = "tiny-for-tests"
CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


def write_clip(folder: Path) -> tuple[str, Path]:
    """Make the name known to open_clip, and write weights for it."""
    (folder / f"{NAME}.json").write_text(json.dumps(CONFIG))
    open_clip.add_model_config(folder / f"{NAME}.json")
    torch.manual_seed(0)
    torch.save(open_clip.create_model(NAME).state_dict(), folder / "clip.pt")
    return NAME, folder / "clip.pt"
