"""LoRAs on a UNet and a text encoder: merged into the weights or kept beside them, and taken off again exactly."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ldm.plugins.changes import Change, beside
from ldm.plugins.folders import LORA_FILES
from ldm.plugins.layouts import DORA, Scaling, Target, lora_file, scaling, sort_keys, targets
from ldm.plugins.reading import family, kind_of, not_a, read_entries, read_tensor
from ldm.text import CLIPText
from ldm.unet import UNet
from ldm.weights import CheckpointError
from ldm.weights.checkpoint import listing
from ldm.weights.entries import Entry, Reader
from ldm.weights.fingerprint import digest

# Names that tell for which other family a LoRA was made
OTHERS = [("Stable Diffusion XL", r"lora_te2_|text_encoder_2|add_embedding|label_emb"),
          ("a Flux-like transformer", r"(double|single|single_transformer)_blocks"),
          ("a diffusion transformer", r"joint_blocks|lora_transformer_|^transformer\.")]


@dataclass(frozen=True)
class LoRA:
    """A file that changes weights: which of its tensors fit the model, and what they change."""

    name: str
    digest: str                                         # tells the file from others of its name
    weight: float                                       # 1 is as it was trained, 0 nothing, negative the opposite
    merged: bool                                        # else kept beside
    matched: list[str]                                  # names of tensors in the file
    unmatched: list[str]
    changes: Mapping[Any, Change] = field(repr=False)   # by layer


class LoRAs:
    """The LoRAs on a model, by name, and the exact weights under those that are merged.

    A merged weight is always made anew from the exact one and the LoRAs on it, in the order of loading.  So whatever
    was loaded and unloaded between, the weights depend on what is loaded alone, bit for bit.
    """

    def __init__(self):
        self.loaded: dict[str, LoRA] = {}
        self.originals: dict[Any, Tensor] = {}          # by layer
        self.hooks: dict[str, list[RemovableHandle]] = {}

    def load(self, unet: UNet, text: CLIPText, path: str | Path, weight: float = 1.0, merge: bool = True) -> LoRA:
        """Put a LoRA on, by weight.  Its name is that of its file, or of the folder of PEFT or diffusers.

        `merge` puts it into the weights: as fast as without it, but the exact weights are kept, which takes memory.
        Else it is computed beside them, which costs time at every step, but little memory.
        Raises CheckpointError where nothing of the file fits the model, or something has a wrong shape, or the file is
        damaged or a DoRA; ValueError for a weight that is not finite, and where the name is loaded already.  Nothing
        is changed then.
        """
        name = name_of(lora_file(path))
        if name in self.loaded:
            raise ValueError(f"LoRA {name!r} is loaded already, by weight {self.loaded[name].weight}; unload it first")
        lora = self.loaded[name] = read_lora(unet, text, path, weight, merge)
        if merge:
            self.renew(lora.changes)
        else:
            self.hooks[name] = [layer.register_forward_hook(beside(change, layer.weight, weight))
                                for layer, change in lora.changes.items()]
        return lora

    def unload(self, name: str | None = None) -> None:
        """Take a LoRA off, or all of them.  Raises ValueError where no LoRA of that name is loaded."""
        if name is not None and name not in self.loaded:
            raise ValueError(f"LoRA {name!r} is not loaded; loaded are {', '.join(self.loaded) or 'none'}")
        gone = [self.loaded.pop(n) for n in ([name] if name is not None else list(self.loaded))]
        for hook in [hook for lora in gone for hook in self.hooks.pop(lora.name, [])]:
            hook.remove()
        self.renew(dict.fromkeys(layer for lora in gone if lora.merged for layer in lora.changes))

    @torch.no_grad()
    def renew(self, layers: Iterable[Any]) -> None:
        """Give layers the weights that follow from what is loaded now."""
        for layer in layers:
            present: Tensor = layer.weight
            exact = self.originals.setdefault(layer, present)
            total, merged = exact, [lora for lora in self.loaded.values() if lora.merged and layer in lora.changes]
            for lora in merged:
                total = total.float() + lora.weight * lora.changes[layer].to(exact.device).delta(exact.shape)
            weight = torch.empty_like(present).copy_(total) if merged else self.originals.pop(layer).to(present)
            layer.weight = nn.Parameter(weight, requires_grad=exact.requires_grad)


def read_lora(unet: UNet, text: CLIPText, path: str | Path, weight: float = 1.0, merge: bool = True) -> LoRA:
    """Read a LoRA, LoHa or LoKr for these networks; nothing is changed.  Raises as `LoRAs.load`."""
    if not math.isfinite(weight):
        raise ValueError(f"weight {weight} is not a finite number; try 1")
    file = lora_file(path)
    entries = read_entries(file)
    layers, unmatched = sort_keys(entries, targets(unet, text))
    if any(DORA.search(key) for key in entries):
        raise CheckpointError(f"{file} is a DoRA, which is not supported; take a LoRA")
    if not layers:
        raise no_match(file, entries)
    changes, reader, settings = {}, Reader(), {part: scaling(file, part) for part in ("unet", "text")}
    for target, keys in layers.items():
        layer: Any = (unet if target.part == "unet" else text).get_submodule(target.name)
        tensors = {role: read_tensor(reader, key, entries[key]) for role, key in keys.items()}
        try:
            change = changes[layer] = scaled(tensors, settings[target.part], target)
            change.to("meta").delta(layer.weight.shape)
        except ValueError as error:
            raise CheckpointError(f"{file} does not fit the model: {target.diffusers} {error}; "
                                  f"it was made for {made_for(entries)}") from error
    matched = [key for keys in layers.values() for key in keys.values()]
    told = digest(entries, [asdict(scaled) for scaled in settings.values()])
    return LoRA(name_of(file), told, weight, merge, matched, unmatched, changes)


def scaled(tensors: dict[str, Tensor], settings: Scaling, target: Target) -> Change:
    """The change of a layer from its tensors, at the strength that the file says: alpha over rank, or 1.

    Raises ValueError where alpha is no number, or a factor no matrix.
    """
    alpha = tensors.pop("alpha", None)
    odd = [f"{name} {list(factor.shape)}" for name, factor in tensors.items() if factor.ndim < 2]
    if alpha is not None and alpha.numel() != 1:
        odd.append(f"alpha {list(alpha.shape)}")
    if odd:
        raise ValueError(f"has {', '.join(odd)}, which makes no sense")
    change = Change(tensors)
    if not change.rank:
        return change
    if alpha is None:
        return Change(tensors, settings.of(target.diffusers, change.rank))
    return Change(tensors, (alpha.item() or change.rank) / change.rank)         # kohya: 0 is the rank


def name_of(file: Path) -> str:
    """The name of a LoRA: its file's, or where every file is called so, its folder's."""
    return file.absolute().parent.name if file.name in LORA_FILES else file.stem


def no_match(file: Path, entries: dict[str, Entry]) -> CheckpointError:
    """Why nothing of a file fits the model."""
    kind = kind_of(entries)
    if kind.family != "lora":
        return not_a("a LoRA", file, kind)
    return CheckpointError(f"none of the {len(entries)} tensors of {file} is of a layer of this model ("
                           f"{listing(list(entries)[:3])}); it was made for {made_for(entries)}")


def made_for(entries: Mapping[str, Entry]) -> str:
    """The family that a LoRA was made for, as far as names and the width of the context tell."""
    for words, pattern in OTHERS:
        if any(re.search(pattern, name) for name in entries):
            return words
    widths = {entry.shape[1] for name, entry in entries.items()
              if re.search(r"attn2[._](processor\.)?to_k[._]lora.*(down|A)\b", name) and len(entry.shape) > 1}
    return family(widths.pop()) if len(widths) == 1 else "another model"
