"""From a model file to a pipeline that is ready to sample, and what any program needs for the same numbers.

Imports are inside the functions, for they are part of what is timed.
"""

from collections.abc import Callable


def ready(ckpt: str) -> Callable[[], None]:
    """What `txt2img.py` does before the first step; a second call loads the same file again."""
    def load() -> None:
        from ldm import Pipeline
        Pipeline.load(ckpt, "cpu", "bfloat16")
    return load


def floor(ckpt: str) -> Callable[[], None]:
    """Import torch and read the file into fresh bfloat16 memory."""
    def read() -> None:
        import torch
        from safetensors import safe_open
        with safe_open(ckpt, "pt") as file:
            tensors = {name: file.get_tensor(name).to(torch.bfloat16) for name in file.keys()}
        assert tensors
    return read
