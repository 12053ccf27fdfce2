"""Latent diffusion from scratch.

`ldm.Pipeline.load()` draws; `ldm.vae`, `ldm.unet`, `ldm.text` and `ldm.samplers` work alone.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ldm.pipeline import NonFiniteError, Pipeline
    from ldm.settings import Settings
    from ldm.weights import CheckpointError

__version__ = "0.1.0"
__all__ = ["CheckpointError", "NonFiniteError", "Pipeline", "Settings"]

_HOME = {"CheckpointError": "ldm.weights", "NonFiniteError": "ldm.pipeline", "Pipeline": "ldm.pipeline",
         "Settings": "ldm.settings"}


def __getattr__(name: str) -> Any:
    """Import the public names at first use, so that `import ldm.vae` costs nothing but the VAE."""
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'ldm' has no attribute {name!r}")
