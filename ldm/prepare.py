"""One place that gets a loaded model ready for its device: memory layout, packed weights, compiled kernels."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ldm.attention import Kernels, check_kernels, choose
from ldm.packed import Packed, PackedConv2d, PackedGEGLU, PackedLinear, PackedUpsample, packable
from ldm.unet import blocks as unet_blocks
from ldm.vae import blocks as vae_blocks

UPSAMPLES = (unet_blocks.Upsample, vae_blocks.Upsample)
ATTENTIONS = (unet_blocks.Attention, vae_blocks.Attention)
NARROW = 16                                             # convolutions of fewer channels gain nothing from packing


def prepare(module: nn.Module, kernels: Kernels = "auto") -> None:
    """Make a module fast where it stands; what it computes stays the same up to rounding.

    "auto" takes packed weights and compiled kernels where there are any, "portable" no compiled kernels, "plain"
    only PyTorch's own layers.  Raises ValueError for other kernels.
    """
    check_kernels(kernels)
    module.eval().to(memory_format=torch.channels_last)
    use_kernels(module, kernels)
    if kernels != "plain" and packable(next(module.parameters())):
        pack(module)


def use_kernels(module: nn.Module, kernels: Kernels) -> None:
    """Set which kernels attention takes.  For training: a model loaded as "plain" learns faster with "auto"."""
    for part in module.modules():
        if isinstance(part, ATTENTIONS):
            part.kernels = kernels


def describe(module: nn.Module) -> str:
    """What `prepare` chose, in a line: device, dtype, packed layers, kernel of attention over a whole picture."""
    weight = next(module.parameters())
    packed = sum(isinstance(part, Packed) for part in module.modules())
    chosen = {choose(tokens, tokens, part.kernels) for part in module.modules() if isinstance(part, ATTENTIONS)
              for tokens in [weight.new_empty(1, 4096, 8)]}
    attention = "/".join(sorted(chosen)) or "sdpa"
    return f"{weight.device.type}, {str(weight.dtype)[6:]}, {packed} packed layers, attention {attention}"


def pack(module: nn.Module) -> None:
    """Replace every layer below `module` that has a packed form."""
    for name, child in module.named_children():
        stand_in = packed_form(child)
        if stand_in is None:
            pack(child)
        else:
            setattr(module, name, stand_in)


def packed_form(layer: nn.Module) -> nn.Module | None:
    """The packed layer that stands in for this one, or None."""
    if isinstance(layer, UPSAMPLES):
        return PackedUpsample(layer.conv)
    if isinstance(layer, unet_blocks.GEGLU):
        return PackedGEGLU(layer.proj, layer.out)
    if isinstance(layer, nn.Linear):
        return PackedLinear(layer)
    if isinstance(layer, nn.Conv2d) and min(layer.in_channels, layer.out_channels) >= NARROW and ordinary(layer):
        return PackedConv2d(layer)
    return None


def ordinary(conv: nn.Conv2d) -> bool:
    """Whether a convolution is of the kind that `PackedConv2d` stands in for."""
    return (conv.groups == 1 and conv.dilation == (1, 1) and conv.padding_mode == "zeros"
            and not isinstance(conv.padding, str))


@contextmanager
def enough_memory() -> Iterator[None]:
    """Raises MemoryError where PyTorch says that the CPU's memory ran out: it has a class for a GPU's alone."""
    try:
        yield
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):
            raise
        raise MemoryError("there is not enough memory; ask for a smaller picture, or fewer at once") from error


def release_memory() -> None:
    """Give back to the system what the C library keeps of freed tensors, where that is glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
