"""Layers whose weights are packed once for oneDNN, instead of at every call.  For inference on a CPU.

Each stands in for the layer it is made from, under the same name: `weight` reads and sets the dense weight, and so do
`state_dict`, `load_state_dict`, `to` and copying.  What `weight` returns is a copy: assign to it, do not edit it in
place.  A dtype or device that oneDNN does not pack keeps its dense weight.  Gradients flow to the input by the plain
path; the weights have none, so these layers refuse to be trained.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ONE, SAME = [1, 1], "none"                              # stride or dilation of 1; no activation after the layer
OPERATIONS = ("_reorder_linear_weight", "_linear_pointwise", "_reorder_convolution_weight", "_convolution_pointwise",
              "_reorder_convolution_transpose_weight", "_convolution_transpose_pointwise")


def packable(weight: Tensor) -> bool:
    """Whether oneDNN packs weights of this dtype and device here."""
    mkldnn = torch.ops.mkldnn
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if not all(hasattr(mkldnn, name) for name in OPERATIONS):
        return False
    return weight.dtype == torch.float32 or weight.dtype == torch.bfloat16 and mkldnn._is_mkldnn_bf16_supported()


class Packed(nn.Module):
    """What packed layers share.  `reorder` and `plain` are the layer's own."""

    packed: Tensor                                      # in oneDNN's layout, or dense where it has none
    others: tuple[str, ...] = ()                        # further packed tensors that `reorder` leaves, by name

    def __init__(self, layer: nn.Conv2d | nn.Linear):
        super().__init__()
        self.shape = layer.weight.shape
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach(), requires_grad=False)
        self.train(False)

    def reorder(self, weight: Tensor) -> Tensor:
        """The packed form of a dense weight; what else a layer packs becomes an attribute, one of `others`."""
        raise NotImplementedError

    def plain(self, x: Tensor) -> Tensor:
        """The layer by PyTorch's differentiable function."""
        raise NotImplementedError

    def dense(self) -> Tensor:
        """What `reorder` was given."""
        return self.packed.to_dense()

    def pack(self, weight: Tensor) -> None:
        """Take a dense weight."""
        weight = weight.detach()
        for name in self.others:
            self.__dict__.pop(name, None)               # where nothing is packed they must not stay
        self.packed = self.reorder(weight) if packable(weight) else weight

    def by_hand(self, x: Tensor) -> bool:
        """Whether the plain path must be taken: for a gradient, or where nothing is packed."""
        return not self.packed.is_mkldnn or x.requires_grad and torch.is_grad_enabled()

    def fusible(self, x: Tensor) -> bool:
        """Whether this layer may run as one with its neighbours: packed, and no hook is to see what goes in or out."""
        return not (self.by_hand(x) or self._forward_hooks or self._forward_pre_hooks)

    @property
    def weight(self) -> Tensor:
        """A dense copy."""
        return self.dense() if self.packed.is_mkldnn else self.packed

    @weight.setter
    def weight(self, weight: Tensor) -> None:
        self.pack(weight)

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """`layer.weight = nn.Parameter(w)` packs w."""
        if name == "weight" and param is not None:
            self.pack(param)
        else:
            super().register_parameter(name, param)

    def train(self, mode: bool = True):
        if mode:
            raise ValueError("packed layers are for inference; to train, load the model with kernels='plain'")
        return super().train(False)

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
            self.pack(weight.to(self.packed.dtype))
        rest = {name: tensor for name, tensor in state_dict.items() if name != prefix + "weight"}
        super()._load_from_state_dict(rest, prefix, metadata, strict, missing, unexpected, errors)

    def __getstate__(self):                             # copying and pickling know no packed tensors
        packed = {"packed", *self.others}
        return {**{name: value for name, value in self.__dict__.items() if name not in packed}, "dense": self.weight}

    def __setstate__(self, state):
        dense = state.pop("dense")
        super().__setstate__(state)
        self.pack(dense)


class PackedLinear(Packed):
    """nn.Linear.  x [... in] -> [... out]."""

    def __init__(self, layer: nn.Linear):
        super().__init__(layer)
        self.pack(layer.weight.detach())

    def reorder(self, weight: Tensor) -> Tensor:
        return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())

    def plain(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.by_hand(x):
            return self.plain(x)
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, SAME, [], "")


class PackedGate(PackedLinear):
    """A linear layer of values and their gates, [... in] -> [... 2 out]; packed in halves, to be multiplied at once."""

    bias: nn.Parameter
    gates: Tensor                                       # the second half, packed; `packed` is the first
    others = ("gates",)

    def reorder(self, weight: Tensor) -> Tensor:
        values, gates = weight.chunk(2)
        self.gates = super().reorder(gates)
        return super().reorder(values)

    def dense(self) -> Tensor:
        return torch.cat([self.packed.to_dense(), self.gates.to_dense()])

    def forward(self, x: Tensor) -> Tensor:
        if self.by_hand(x):
            return self.plain(x)
        halves = zip((self.packed, self.gates), self.bias.chunk(2), strict=True)
        return torch.cat([torch.ops.mkldnn._linear_pointwise(x, *half, SAME, [], "") for half in halves], dim=-1)

    def gated(self, x: Tensor) -> Tensor:
        """x [... in] -> values times the GELU of their gates [... out]."""
        value_bias, gate_bias = self.bias.chunk(2)
        gates = torch.ops.mkldnn._linear_pointwise(x, self.gates, gate_bias, "gelu", [], "none")
        return torch.ops.mkldnn._linear_pointwise.binary(x, gates, self.packed, value_bias, "mul")


class PackedGEGLU(nn.Module):
    """The gated feed-forward of the UNet.  x [B L C] -> [B L C]."""

    def __init__(self, proj: nn.Linear, out: nn.Linear):
        super().__init__()
        self.proj, self.out = PackedGate(proj), PackedLinear(out)

    def forward(self, x: Tensor) -> Tensor:
        if self.proj.fusible(x):
            return self.out(self.proj.gated(x))
        value, gate = self.proj(x).chunk(2, dim=-1)
        return self.out(value * F.gelu(gate))


class PackedConv2d(Packed):
    """nn.Conv2d with zero padding.  x [B Cin H W] -> [B Cout H' W']."""

    def __init__(self, layer: nn.Conv2d):
        super().__init__(layer)
        self.padding, self.stride = [int(side) for side in layer.padding], list(layer.stride)
        self.pack(layer.weight.detach())

    def reorder(self, weight: Tensor) -> Tensor:
        typical = [2, weight.shape[1], 64, 64]          # any input fits; without a size, 1x1 kernels are packed badly
        return torch.ops.mkldnn._reorder_convolution_weight(weight, self.padding, self.stride, ONE, 1, typical)

    def plain(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding)

    def forward(self, x: Tensor) -> Tensor:
        if self.by_hand(x):
            return self.plain(x)
        return torch.ops.mkldnn._convolution_pointwise(x, self.packed, self.bias, self.padding, self.stride, ONE, 1,
                                                       SAME, [], "")


def doubling_weight(weight: Tensor) -> Tensor:
    """A 3x3 convolution of the doubled picture as a 4x4 one that doubles.  [Cout Cin 3 3] -> [Cin Cout 4 4].

    Each pixel that nearest-neighbour repeats meets two taps of the convolution or one: their sums are the taps of a
    transposed convolution of stride 2, 16 products per pixel where there were 36.
    """
    rows = weight.new_tensor([[0, 0, 1, 1], [0, 1, 1, 0], [1, 1, 0, 0]])    # which of the 4 sums each of 3 taps is in
    taps = weight.transpose(0, 1).reshape(-1, 9)
    return (taps @ torch.kron(rows, rows)).view(weight.shape[1], weight.shape[0], 4, 4)


class DoublingConv2d(PackedConv2d):
    """A 3x3 convolution that can also run on the nearest-neighbour double of its input, without making it."""

    doubling: Tensor                                    # the 4x4 form, packed
    others = ("doubling",)

    def reorder(self, weight: Tensor) -> Tensor:
        self.doubling = torch.ops.mkldnn._reorder_convolution_transpose_weight(
            doubling_weight(weight), [1, 1], [0, 0], [2, 2], ONE, 1, [2, weight.shape[1], 32, 32])
        return super().reorder(weight)

    def enlarge(self, x: Tensor) -> Tensor:
        """x [B Cin H W] -> [B Cout 2H 2W]."""
        return torch.ops.mkldnn._convolution_transpose_pointwise(x, self.doubling, self.bias, [1, 1], [0, 0], [2, 2],
                                                                 ONE, 1, SAME, [], "")


class PackedUpsample(nn.Module):
    """The upsampling of UNet and VAE.  x [B C h w] -> [B C 2h 2w], or `size`, which may be one less on a side."""

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        self.conv = DoublingConv2d(conv)

    def forward(self, x: Tensor, size=None) -> Tensor:
        doubled = [2 * side for side in x.shape[2:]]
        size = doubled if size is None else list(size)
        if size == doubled and self.conv.fusible(x):
            return self.conv.enlarge(x)
        return self.conv(F.interpolate(x, size=size, mode="nearest"))
