"""What a file adds to the weight of one layer, from its factors: LoRA, LoHa and LoKr."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Factors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Change:
    """A change of a weight [out in] or [out in k k]: a product of factors, times `scale`."""

    factors: Factors                                    # float32, by the names of kohya and LyCORIS
    scale: float = 1.0

    @property
    def rank(self) -> int | None:
        """The inner dimension; None where there is none."""
        inner = ("down", "hada_w1_b", "lokr_w2_b", "lokr_w1_b")
        return next((len(self.factors[name]) for name in inner if name in self.factors), None)

    def to(self, device: str | torch.device) -> "Change":
        return replace(self, factors={name: factor.to(device) for name, factor in self.factors.items()})

    def delta(self, shape: torch.Size) -> Tensor:
        """What is added to a weight of this shape.  Raises ValueError where the factors do not make it."""
        told = ", ".join(f"{name} {list(factor.shape)}" for name, factor in self.factors.items())
        try:
            made = product(self.factors, shape).flatten(1)
        except KeyError as lacking:
            raise ValueError(f"has {told or 'no factors'}, but lacks {lacking}") from lacking
        except RuntimeError as error:
            raise ValueError(f"has {told}, which do not make the layer's {list(shape)}") from error
        if made.shape != (shape[0], prod(shape[1:])):
            raise ValueError(f"has {told}, which do not make the layer's {list(shape)}")
        return self.scale * made.reshape(shape)

    def chain(self, like: Tensor) -> list[Tensor]:
        """Weights of layers in a row that do what the change does: for a LoRA two or three of low rank, which is cheap.

        `like` is the layer's weight; they get its dtype and device.
        """
        kernel, f = like.shape[2:], self.factors
        names = [name for name in ("down", "mid", "up") if name in f]
        if not names:
            return [self.delta(like.shape).to(like)]
        spatial = "mid" if "mid" in f else "down"       # the one that has the kernel; the others mix channels
        shapes = {name: kernel if name == spatial else [1] * len(kernel) for name in names}
        chain = [f[name].reshape(len(f[name]), -1, *shapes[name]) for name in names]
        return [w.to(like) for w in [*chain[:-1], self.scale * chain[-1]]]


def beside(change: Change, like: Tensor, weight: float) -> Callable[[Any, tuple[Tensor], Tensor], Tensor]:
    """A forward hook that adds `weight` times the change to what a layer computes.  `like` is the layer's weight."""
    *first, last = change.chain(like)
    chain, kernel = [*first, weight * last], like.shape[2:]

    def add(layer: Any, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        x = inputs[0]
        for w in chain:
            x = apply(layer, x, w.to(x), kernel)
        return output + x

    return add


def apply(layer: Any, x: Tensor, weight: Tensor, kernel: torch.Size) -> Tensor:
    """x by another weight: as `layer` does it where the weight has the layer's kernel, else it mixes channels."""
    if not kernel:
        return F.linear(x, weight)
    if weight.shape[2:] == kernel:
        return F.conv2d(x, weight, None, layer.stride, layer.padding)
    return F.conv2d(x, weight)


def product(f: Factors, shape: torch.Size) -> Tensor:
    """The factors' product, [out ...].  Raises KeyError for a missing factor, RuntimeError for one of wrong shape."""
    if any(name.startswith("hada") for name in f):
        return hadamard(f)
    if any(name.startswith("lokr") for name in f):
        return kronecker(f, shape)
    return low_rank(f)


def low_rank(f: Factors) -> Tensor:
    """LoRA: up down, or up mid down.  Hu et al. 2022, eq. 3; kohya-ss/sd-scripts networks/lora.py."""
    up, down = f["up"].flatten(1), f["down"]
    if "mid" in f:
        return torch.einsum("nm...,on,mi->oi...", f["mid"], up, down.flatten(1))
    return (up @ down.flatten(1)).reshape(len(up), *down.shape[1:])


def hadamard(f: Factors) -> Tensor:
    """LoHa: the elementwise product of two products.  Hyeon-Woo et al. 2022, prop. 1 and 3; LyCORIS modules/loha.py."""
    return factor(f, "hada_w1", "hada_t1").flatten(1) * factor(f, "hada_w2", "hada_t2").flatten(1)


def kronecker(f: Factors, shape: torch.Size) -> Tensor:
    """LoKr: the Kronecker product of two, each whole or a product.  Yeh et al. 2024; LyCORIS modules/lokr.py."""
    w1, w2 = factor(f, "lokr_w1", "lokr_t1"), factor(f, "lokr_w2", "lokr_t2")
    w1, w2 = w1.reshape(*w1.shape, *[1] * (len(shape) - 2)), w2.reshape(len(w2), -1, *shape[2:])
    return torch.kron(w1.contiguous(), w2.contiguous())


def factor(f: Factors, name: str, core: str) -> Tensor:
    """A factor that is stored whole, or as a b, or with a core [r r k k] between a [r out] and b [r in] (Tucker)."""
    if name in f:
        return f[name]
    a, b = f[f"{name}_a"], f[f"{name}_b"]
    return torch.einsum("ij...,jr,ip->pr...", f[core], b, a) if core in f else a @ b
