"""A prompt to a PNG: our pipeline, with our networks or with a peer's in their place.

Every function here returns what a worker times.  The text encoder, the sampler and the PNG are ours throughout.
"""

import gc
import io
import itertools
from collections.abc import Callable
from typing import Any

import networks
import torch
from torch import Tensor, nn
from worker import resident_mib

from ldm import Pipeline

PROMPT = "3d render of a fox"
Run = Callable[..., Tensor]


class Stand(nn.Module):
    """A peer's UNet where a pipeline expects ours: the same configuration, device, dtype and call."""

    def __init__(self, replaced: nn.Module, run: Run):
        super().__init__()
        self.cfg, self.conv_in, self.run = replaced.cfg, replaced.conv_in, run

    def forward(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        return self.run(x.repeat(len(context) // len(x), 1, 1, 1), t[:1], context)


def put(pipe: Pipeline, unet: Run, decode: Run) -> Pipeline:
    """The pipeline with a peer's networks."""
    pipe.unet = Stand(pipe.unet, unet)
    pipe.vae.decode = lambda z, tile=None: decode(z)
    gc.collect()
    return pipe


def png(pipe: Pipeline, **settings: Any) -> None:
    """Draw a picture and encode it."""
    (picture,) = pipe(PROMPT, **settings)
    picture.save(io.BytesIO(), "PNG")


def ldm(ckpt: str | None, steps: int, size: int | None = None, dtype: str = "bfloat16") -> networks.Call:
    """Ours throughout."""
    pipe = Pipeline.load(ckpt, "cpu", dtype)
    return lambda: png(pipe, steps=steps, width=size, height=size)


def openvino(ckpt: str, steps: int, size: int, cache: str) -> networks.Call:
    """OpenVINO's UNet and VAE decoder in bfloat16."""
    unet, decode = (networks.compiled(kind, size, rows, "bf16", cache) for kind, rows in (("unet", 2), ("vae", 1)))
    pipe = put(Pipeline.load(ckpt, "cpu", "bfloat16"), unet, decode)
    return lambda: png(pipe, steps=steps, width=size, height=size)


def diffusers(ckpt: str, steps: int, size: int) -> networks.Call:
    """diffusers' UNet and VAE decoder in bfloat16, channels last."""
    def eager(kind: networks.Kind) -> Run:
        module = networks.materialise(networks.peer(kind), torch.bfloat16).to(memory_format=torch.channels_last)
        return lambda x, *given: module(x.bfloat16(), *given).float()

    pipe = put(Pipeline.load(ckpt, "cpu", "bfloat16"), eager("unet"), eager("vae"))
    return lambda: png(pipe, steps=steps, width=size, height=size)


def growth(steps: int) -> networks.Call:
    """A picture of the bundled model, and the memory held after it."""
    pipe, seeds = Pipeline.load(device="cpu"), itertools.count()

    def draw() -> dict[str, float]:
        png(pipe, steps=steps, seed=next(seeds))
        return {"resident_mib": resident_mib()}
    return draw


def switches(ckpt: str, size: int) -> networks.Call:
    """Load the bundled model, draw, load another in its place, draw; and the memory held then."""
    def switch() -> dict[str, float]:
        for path in (None, ckpt):
            pipe = Pipeline.load(path, "cpu", "bfloat16")
            png(pipe, steps=1, width=size, height=size, spacing="trailing")
        return {"resident_mib": resident_mib()}
    return switch
