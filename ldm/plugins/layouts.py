"""How LoRA files name what they change: kohya, PEFT, diffusers (old and new), ComfyUI; and how strongly.

A dot counts as an underscore, so that kohya's flat names need no table of their own: names are made from the rows of
each component, never taken apart.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from torch import nn

from ldm.naming import Row
from ldm.packed import Packed
from ldm.plugins.folders import LORA_FILES
from ldm.text import CLIPText
from ldm.text.names import rows as text_rows
from ldm.unet import UNet
from ldm.unet.names import rows as unet_rows
from ldm.weights import CheckpointError

#  (layer) lora_down | .lora_A.default | _lora.down | .lora_linear_layer.down ...; or alpha and the factors of LyCORIS
KEY = re.compile(r"(.+?)[._]lora(?:_linear_layer)?[._](down|up|mid|A|B)(?:\.\w+)?\.weight|"
                 r"(.+?)\.(alpha|hada_\w+|lokr_\w+)")
PEFT = {"A": "down", "B": "up"}
SLOW = re.compile(r"\)[*+?{]|(?:[*+?{][^*+?{]*){4}")      # what takes ages to match: a file may come from anywhere
DORA = re.compile(r"dora_scale|lora_magnitude_vector")
PREFIXES = {"unet": ("lora_unet_", "unet_", "diffusion_model_", "base_model_model_", ""),
            "text": ("lora_te_", "lora_te1_", "text_encoder_", "base_model_model_", "")}
# Attention in files that diffusers wrote before 0.20
OLD = {"to_out.0": "to_out", "q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}
LAYERS = (nn.Linear, nn.Conv2d, Packed)                 # what may be changed


class Target(NamedTuple):
    """A layer of the model."""

    part: str                                           # "unet" or "text"
    name: str                                           # ours
    diffusers: str


def targets(unet: UNet, text: CLIPText) -> dict[str, Target]:
    """Every layer that a file may change, by each of its names, flat."""
    rows: dict[str, Iterable[Row]] = {"unet": unet_rows(unet.cfg), "text": text_rows(text.cfg)}
    modules: dict[str, nn.Module] = {"unet": unet, "text": text}
    found = {}
    for part, table in rows.items():
        present = {name for name, module in modules[part].named_modules() if isinstance(module, LAYERS)}
        for ours, compvis, diffusers in table:
            old = next((diffusers.removesuffix(new) + former for new, former in OLD.items() if diffusers.endswith(new)),
                       diffusers)
            names = {name.removeprefix(prefix) for name in (compvis, diffusers, old) for prefix in ("", "text_model.")}
            flat = {prefix + name.replace(".", "_") for name in names for prefix in PREFIXES[part]}
            if ours in present:
                found |= dict.fromkeys(flat, Target(part, ours, diffusers))
    return found


def sort_keys(keys: Iterable[str], known: Mapping[str, Target]) -> tuple[dict[Target, dict[str, str]], list[str]]:
    """Keys of a file by layer and role ("down", "up", "alpha", "hada_w1_a", ...); and those of no layer of the model.

    Raises CheckpointError where two keys have one role.
    """
    found: dict[Target, dict[str, str]] = {}
    unmatched = []
    for key in keys:
        match = KEY.fullmatch(key)
        layer, role = (match[1] or match[3], match[2] or match[4]) if match else ("", "")
        target = known.get(layer.replace(".processor.", ".").replace(".", "_"))
        if target is None:
            unmatched.append(key)
            continue
        other = found.setdefault(target, {}).setdefault(PEFT.get(role, role), key)
        if other != key:
            raise CheckpointError(f"{other} and {key} are for one layer; give a file of one LoRA")
    return found, unmatched


def lora_file(path: str | Path) -> Path:
    """The file of weights: `path` itself, or where that is a folder of PEFT or diffusers, the one in it.

    Raises CheckpointError for a folder without one.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    file = next((path / name for name in LORA_FILES if (path / name).is_file()), None)
    if file is None:
        raise CheckpointError(f"folder {path} holds no {', '.join(LORA_FILES)}; give the file of a LoRA")
    return file


@dataclass(frozen=True)
class Scaling:
    """PEFT's settings of strength, for the layers whose alpha is not in a tensor."""

    alpha: float | None = None                          # None: the rank
    patterns: Mapping[str, float] = field(default_factory=dict)     # alpha by regular expressions for layers
    rank_stabilized: bool = False                       # over the root of the rank: Kalajdzievski 2023, eq. 8

    def of(self, layer: str, rank: int) -> float:
        """What the product of the factors is multiplied by.  `layer` is its name in diffusers."""
        by_name = (alpha for pattern, alpha in self.patterns.items() if re.fullmatch(rf"(.*\.)?({pattern})", layer))
        alpha = next(by_name, self.alpha) or rank
        return alpha / (rank**0.5 if self.rank_stabilized else rank)


def scaling(file: Path, part: str) -> Scaling:
    """What a file's PEFT settings say of "unet" or "text".  Raises CheckpointError where they make no sense."""
    config = adapter_config(file)
    prefix = {"unet": "unet.", "text": "text_encoder."}[part]
    config |= {key.removeprefix(prefix): value for key, value in config.items() if key.startswith(prefix)}
    alpha, patterns = config.get("lora_alpha"), config.get("alpha_pattern") or {}
    numbers = [*patterns.values(), alpha or 0] if isinstance(patterns, dict) else [None]
    if not (all(isinstance(n, int | float) for n in numbers) and all(map(harmless, patterns))):
        raise CheckpointError(f"{file} says lora_alpha {alpha!r}, alpha_pattern {patterns!r}: not numbers, or patterns "
                              "that repeat a group or more than 3 things; correct its metadata")
    return Scaling(alpha, patterns, bool(config.get("use_rslora")))


def harmless(pattern: str) -> bool:
    """Whether this is a regular expression that ends soon on any name: no repeated group, few repetitions."""
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        return False
    return not SLOW.search(pattern)


def adapter_config(file: Path) -> dict[str, Any]:
    """PEFT's settings: in the header of a file that diffusers wrote, or in a file beside one that PEFT wrote."""
    beside = file.with_name("adapter_config.json")
    try:
        if file.stem == "adapter_model" and beside.is_file():
            return dict(json.loads(beside.read_text(encoding="utf-8")))
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as opened:       # reads the header only
                return dict(json.loads((opened.metadata() or {}).get("lora_adapter_metadata", "{}")))
    except (ValueError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"the settings of {file} are damaged ({error}); copy it again") from error
    return {}
