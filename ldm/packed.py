"""Layers whose weights are packed once for oneDNN, instead of at every call.  For inference on a CPU.

Each stands in for the layer it is made from, under the same name: `weight` reads and sets the dense weight, saving
and loading go through it, and so does whatever changes weights later.  There is no second copy.  Where a gradient is
asked for, it flows to the input by the plain path; the weights have none.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ONE, SAME = [1, 1], "none"                              # stride or dilation of 1; no activation after the layer


class Packed(nn.Module):
    """What packed layers share.  `pack` and `plain` are the layer's own."""

    def __init__(self, layer: nn.Conv2d | nn.Linear):
        super().__init__()
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach(), requires_grad=False)
        self.train(layer.training)

    def pack(self, weight: Tensor) -> None:
        """Take a dense weight."""
        raise NotImplementedError

    def plain(self, x: Tensor) -> Tensor:
        """The layer by PyTorch's differentiable function."""
        raise NotImplementedError

    packed: Tensor

    @property
    def weight(self) -> Tensor:
        """A dense copy."""
        return self.packed.to_dense()

    @weight.setter
    def weight(self, weight: Tensor) -> None:
        self.pack(weight.detach())

    def _apply(self, fn, recurse=True):
        """`to`, `float`, ...: on the dense weight, packed again."""
        super()._apply(fn, recurse)
        self.pack(fn(self.weight))
        return self

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        destination[prefix + "weight"] = self.weight
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, state_dict, prefix, metadata, strict, missing, unexpected, errors):
        weight = state_dict.get(prefix + "weight")
        if weight is None:
            missing.append(prefix + "weight")
        elif weight.shape != self.shape:
            errors.append(f"{prefix}weight is {list(weight.shape)}, not {list(self.shape)}")
        else:
            self.pack(weight.detach().to(self.packed.dtype))
        rest = {name: tensor for name, tensor in state_dict.items() if name != prefix + "weight"}
        super()._load_from_state_dict(rest, prefix, metadata, strict, missing, unexpected, errors)

    @property
    def shape(self) -> torch.Size:
        return self.packed.shape

    def __getstate__(self):                             # copying and pickling know no packed tensors
        return {**{k: v for k, v in self.__dict__.items() if k != "packed"}, "dense": self.weight}

    def __setstate__(self, state):
        dense = state.pop("dense")
        super().__setstate__(state)
        self.pack(dense)


def by_hand(x: Tensor) -> bool:
    """Whether x asks for a gradient, which packed layers do not give."""
    return x.requires_grad and torch.is_grad_enabled()


class PackedLinear(Packed):
    """nn.Linear.  x [... in] -> [... out]."""

    def __init__(self, layer: nn.Linear):
        super().__init__(layer)
        self.pack(layer.weight.detach())

    def pack(self, weight: Tensor) -> None:
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())

    def plain(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def forward(self, x: Tensor) -> Tensor:
        if by_hand(x):
            return self.plain(x)
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, SAME, [], "")


class PackedConv2d(Packed):
    """nn.Conv2d with zero padding.  x [B Cin H W] -> [B Cout H' W']."""

    def __init__(self, layer: nn.Conv2d):
        super().__init__(layer)
        self.padding, self.stride = [int(side) for side in layer.padding], list(layer.stride)
        self.pack(layer.weight.detach())

    def pack(self, weight: Tensor) -> None:
        self.packed = torch.ops.mkldnn._reorder_convolution_weight(weight, self.padding, self.stride, ONE, 1,
                                                                     [2, weight.shape[1], 64, 64])

    def plain(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding)

    def forward(self, x: Tensor) -> Tensor:
        if by_hand(x):
            return self.plain(x)
        return torch.ops.mkldnn._convolution_pointwise(x, self.packed, self.bias, self.padding, self.stride, ONE, 1,
                                                       SAME, [], "")


def doubling_weight(weight: Tensor) -> Tensor:
    """A 3x3 convolution of the doubled picture as a 4x4 one that doubles.  [Cout Cin 3 3] -> [Cin Cout 4 4].

    Each pixel that nearest-neighbour repeats meets two taps of the convolution or one: their sums, in float32, are
    the taps of a transposed convolution of stride 2, 16 products per pixel where there were 36.
    """
    c_out, c_in = weight.shape[:2]
    flipped = weight.float().flip(2, 3).reshape(-1, 1, 3, 3)
    summed = F.conv2d(flipped, torch.ones(1, 1, 2, 2), padding=1)
    return summed.view(c_out, c_in, 4, 4).transpose(0, 1).contiguous().to(weight.dtype)


class DoublingConv2d(PackedConv2d):
    """A 3x3 convolution that can also run on the nearest-neighbour double of its input, without making it."""

    def pack(self, weight: Tensor) -> None:
        super().pack(weight)
        self.doubling = torch.ops.mkldnn._reorder_convolution_transpose_weight(
            doubling_weight(weight), [1, 1], [0, 0], [2, 2], ONE, 1, [2, weight.shape[1], 32, 32])

    def double(self, x: Tensor) -> Tensor:
        """x [B Cin H W] -> [B Cout 2H 2W]."""
        return torch.ops.mkldnn._convolution_transpose_pointwise(x, self.doubling, self.bias, [1, 1], [0, 0], [2, 2],
                                                                 ONE, 1, SAME, [], "")

    def __getstate__(self):
        return {k: v for k, v in super().__getstate__().items() if k != "doubling"}


class PackedUpsample(nn.Module):
    """The upsampling of UNet and VAE.  x [B C h w] -> [B C 2h 2w], or `size`, which may be one less on a side."""

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        self.conv = DoublingConv2d(conv)

    def forward(self, x: Tensor, size=None) -> Tensor:
        doubled = [2 * side for side in x.shape[2:]]
        size = doubled if size is None else list(size)
        if size == doubled and not by_hand(x):
            return self.conv.double(x)
        return self.conv(F.interpolate(x, size=size, mode="nearest"))
