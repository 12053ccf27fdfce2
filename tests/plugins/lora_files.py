"""LoRA files with random weights, in every layout, and what they should do to a model."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ldm import Pipeline
from ldm.packed import Packed
from ldm.text import CLIPText
from ldm.text.names import rows as text_rows
from ldm.unet import UNet
from ldm.unet.names import rows as unet_rows


class Layer(NamedTuple):
    """A layer of a model and its names."""

    part: str                                           # "unet" or "text"
    ours: str
    compvis: str
    diffusers: str
    module: Any

    @property
    def shape(self) -> torch.Size:
        return self.module.weight.shape


def layers(unet: UNet, text: CLIPText) -> list[Layer]:
    """Every linear layer and convolution of the two networks."""
    found = []
    for part, network, rows in (("unet", unet, unet_rows(unet.cfg)), ("text", text, text_rows(text.cfg))):
        modules = dict(network.named_modules())
        found += [Layer(part, *row, modules[row[0]]) for row in rows
                  if isinstance(modules.get(row[0]), nn.Linear | nn.Conv2d | Packed)]
    return found


def kohya(layer: Layer) -> tuple[str, str]:
    stem = {"unet": "lora_unet_", "text": "lora_te_"}[layer.part] + layer.diffusers.replace(".", "_")
    return f"{stem}.lora_down.weight", f"{stem}.lora_up.weight"


def peft(layer: Layer) -> tuple[str, str]:
    stem = {"unet": "unet.", "text": "text_encoder."}[layer.part] + layer.diffusers
    return f"{stem}.lora_A.weight", f"{stem}.lora_B.weight"


def peft_adapter(layer: Layer) -> tuple[str, str]:
    return f"base_model.model.{layer.diffusers}.lora_A.weight", f"base_model.model.{layer.diffusers}.lora_B.weight"


def diffusers(layer: Layer) -> tuple[str, str]:
    stem = {"unet": f"unet.{layer.diffusers}.lora",
            "text": f"text_encoder.{layer.diffusers}.lora_linear_layer"}[layer.part]
    return f"{stem}.down.weight", f"{stem}.up.weight"


def old_diffusers(layer: Layer) -> tuple[str, str] | None:
    """It knew attention alone."""
    attention, _, which = layer.diffusers.removesuffix(".0").rpartition(".")
    if not attention.endswith(("attn", "attn1", "attn2")):
        return None
    stem = {"unet": f"unet.{attention}.processor", "text": f"text_encoder.{attention}"}[layer.part]
    which = which if layer.part == "unet" else f"to_{which.removesuffix('_proj')}"
    return f"{stem}.{which}_lora.down.weight", f"{stem}.{which}_lora.up.weight"


def comfy(layer: Layer) -> tuple[str, str] | None:
    """In the official names of the UNet."""
    stem = f"diffusion_model.{layer.compvis}"
    return (f"{stem}.lora_A.weight", f"{stem}.lora_B.weight") if layer.part == "unet" else None


LAYOUTS: dict[str, Callable[[Layer], tuple[str, str] | None]] = {
    "kohya": kohya, "peft": peft, "peft adapter": peft_adapter, "diffusers": diffusers, "old diffusers": old_diffusers,
    "comfy": comfy}


class File(NamedTuple):
    """A LoRA that was written, and the changes of weights that are in it, in float64, at weight 1."""

    path: Path
    keys: list[str]
    deltas: dict[Any, Tensor]


def write_lora(path: Path, chosen: Iterable[Layer], layout: str = "kohya", rank: int = 4, alpha: float | None = None,
               seed: int = 0) -> File:
    """Random factors for these layers, which change a weight by about its own size.

    Convolutions have theirs in the down factor.  Only kohya's layout says alpha.
    """
    g, tensors, deltas = torch.Generator().manual_seed(seed), {}, {}
    for layer in chosen:
        names = LAYOUTS[layout](layer)
        if names is None:
            continue
        (out, *rest), n = layer.shape, layer.shape[1:].numel()
        down = torch.randn(rank, *rest, generator=g) / n**0.5
        up = torch.randn(out, rank, *[1] * (len(rest) - 1), generator=g) / rank**0.5
        tensors |= dict(zip(names, (down, up), strict=True))
        if alpha is not None:
            tensors[names[0].replace("lora_down.weight", "alpha")] = torch.tensor(alpha)
        scale = 1 if alpha is None else alpha / rank
        deltas[layer.module] = scale * (up.double().flatten(1) @ down.double().flatten(1)).reshape(layer.shape)
    save_file(tensors, path)
    return File(path, list(tensors), deltas)


def weights(pipe: Pipeline) -> dict[str, Tensor]:
    """A copy of all weights of the two networks."""
    return {f"{part}.{name}": tensor.clone() for part in ("unet", "text")
            for name, tensor in getattr(pipe, part).state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Bit for bit, signs of zeros too."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) and
                                        torch.equal(a[name].signbit(), b[name].signbit()) for name in a)


def outputs(pipe: Pipeline) -> tuple[Tensor, Tensor]:
    """What the UNet makes of fixed latents, and the text encoder of a fixed prompt."""
    g = torch.Generator().manual_seed(9)
    x, context = torch.randn(2, 4, 10, 8, generator=g), torch.randn(2, 77, pipe.unet.cfg.context_width, generator=g)
    with torch.no_grad():
        return pipe.unet(x, torch.tensor([500]), context), pipe.text(pipe.tokenizer("a red fox"))
