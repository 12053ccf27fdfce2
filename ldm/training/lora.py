"""Low-rank adapters beside the layers of a frozen model.  Their state_dict is a LoRA file in kohya's layout."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ldm.files import write_atomically
from ldm.text import CLIPText
from ldm.text.names import rows as text_rows
from ldm.unet import UNet
from ldm.unet.names import rows as unet_rows

Layers = Literal["attention", "transformer", "all"]

ATTENTION = r"attn\.(q|k|v|out)"
TRANSFORMER = rf"{ATTENTION}|ff\.(proj|out)|mlp\.fc[12]|proj_(in|out)"
# How our names of the layers end
ENDINGS: dict[Layers, str] = {"attention": ATTENTION, "transformer": TRANSFORMER,
                              "all": rf"{TRANSFORMER}|\.(conv[12]|skip|time)|sample\.conv"}


class LowRank(nn.Module):
    """What is added to a layer: alpha / rank x up(down(x)), at first nothing.  x as the layer's -> as its output.

    Hu et al. 2022, eq. 3; of a convolution, down has its kernel, as in kohya-ss/sd-scripts networks/lora.py.
    """

    alpha: Tensor

    def __init__(self, layer: nn.Linear | nn.Conv2d, rank: int, alpha: float):
        super().__init__()
        if isinstance(layer, nn.Conv2d):
            shape = layer.kernel_size, layer.stride, layer.padding
            self.lora_down = nn.Conv2d(layer.in_channels, rank, *shape, bias=False)     # type: ignore[arg-type]
            self.lora_up = nn.Conv2d(rank, layer.out_channels, 1, bias=False)
        else:
            self.lora_down = nn.Linear(layer.in_features, rank, bias=False)
            self.lora_up = nn.Linear(rank, layer.out_features, bias=False)
        nn.init.zeros_(self.lora_up.weight)
        self.rank = rank
        self.register_buffer("alpha", torch.tensor(float(alpha)))

    def forward(self, x: Tensor) -> Tensor:
        return self.lora_up(self.lora_down(x)) * (self.alpha / self.rank)


def adapt(unet: UNet, text: CLIPText | None, rank: int, alpha: float, layers: Layers = "attention") -> nn.ModuleDict:
    """Put a new adapter beside every layer of a kind, of the UNet and, where it is given, of the text encoder.

    Each layer then computes layer(x) + adapter(x).  "attention": its projections; "transformer": the feed-forward
    layers and the projections around it too; "all": the convolutions and time projections between as well.
    Raises ValueError for other layers, an alpha that is not above 0, and where a model has packed layers, which have
    no gradients.
    """
    if layers not in ENDINGS:
        raise ValueError(f"layers {layers!r} is unknown; try one of {', '.join(ENDINGS)}")
    if not alpha > 0:
        raise ValueError(f"alpha {alpha} is not above 0; try the rank, {rank}")
    networks = [("lora_unet_", unet, unet_rows(unet.cfg))]
    networks += [("lora_te_", text, text_rows(text.cfg))] if text else []
    adapters = nn.ModuleDict()
    for prefix, network, rows in networks:
        present = dict(network.named_modules())
        for ours, _, diffusers in rows:
            layer = present.get(ours)
            if isinstance(layer, nn.Linear | nn.Conv2d) and re.search(rf"({ENDINGS[layers]})$", ours):
                adapter = adapters[prefix + diffusers.replace(".", "_")] = LowRank(layer, rank, alpha)
                layer.register_forward_hook(beside(adapter))
    if not adapters:
        raise ValueError("the layers of this model are packed and cannot be trained; load it with kernels 'plain'")
    return adapters


def beside(adapter: nn.Module) -> Callable[[Any, tuple[Tensor], Tensor], Tensor]:
    """A forward hook that adds what an adapter computes to what its layer does."""
    return lambda layer, inputs, output: output + adapter(inputs[0])


def save_lora(path: str | Path, adapters: nn.ModuleDict, metadata: Mapping[str, str]) -> None:
    """Write adapters as a .safetensors file, whole or not at all, with `metadata` in its header."""
    tensors = {name: tensor.cpu().contiguous() for name, tensor in adapters.state_dict().items()}
    write_atomically(path, lambda p: save_file(tensors, p, metadata={"format": "pt", **metadata}))
