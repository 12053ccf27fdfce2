"""Reading and writing model files.  Knows formats, prefixes and name rows; imports no component.

    source = open_checkpoint(path)                                  # reads the header only
    with torch.device("meta"):
        vae = VAE(config_from(source.parts["vae"].shapes))
    fill(vae, rows(vae.cfg), source.parts["vae"], torch.bfloat16)
"""

from ldm.weights.checkpoint import Checkpoint, Part, open_checkpoint
from ldm.weights.entries import CheckpointError
from ldm.weights.matching import fill, match
from ldm.weights.saving import save_checkpoint

__all__ = ["Checkpoint", "CheckpointError", "Part", "fill", "match", "open_checkpoint", "save_checkpoint"]
