"""Open a model file: its family, its three parts, and what is left over."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ldm.weights import openclip
from ldm.weights.entries import CheckpointError, Entry, Reader
from ldm.weights.families import MODELS, PREFIXES, Kind, identify
from ldm.weights.formats import read_header

VOCABULARY = 49408                                      # tokens of CLIP, and rows of its embedding
# What official files carry beside the weights: the schedule's buffers (CompVis ddpm.py, and those of the x4 upscaler's
# low-resolution picture), counters, a loss network; and two empty tensors that mean something by their names
EXTRAS = re.compile(r"betas|alphas_cumprod(_prev)?|sqrt_.*|log_one_minus_.*|posterior_.*|lvlb_weights|loss\..*|"
                    r"(.*\.)?(position_ids|logit_scale)|model_ema\.(decay|num_updates)|embedding_manager\..*|"
                    r"low_scale_model\..*|v_pred|ztsnr")
MARKERS = {"v_pred": {"prediction": "v"}, "ztsnr": {"zero_terminal_snr": True}}
DIFFUSERS = ("unet/", "vae/", "encoder.down_blocks.", "encoder.layers.", "decoder.layers.")     # how its names begin
# Attention in VAE folders that diffusers wrote before 0.18
OLD_VAE = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


@dataclass(frozen=True)
class Part:
    """The tensors of one component, by their name without prefix."""

    name: str                                           # "unet", "vae" or "text"
    layout: str                                         # "compvis" or "diffusers"
    path: Path
    entries: dict[str, Entry]

    @property
    def shapes(self) -> "Shapes":
        return Shapes(self)

    @property
    def dtypes(self) -> dict[str, torch.dtype | str]:
        return {name: entry.dtype for name, entry in self.entries.items()}


class Shapes(dict[str, tuple[int, ...]]):
    """Shapes by name, for `config_from`.  A name that is not there is a fault of the file: CheckpointError."""

    def __init__(self, part: Part):
        super().__init__({name: entry.shape for name, entry in part.entries.items()})
        self.part = part

    def __missing__(self, name: str) -> tuple[int, ...]:
        raise CheckpointError(f"{self.part.path} lacks {name} of the {self.part.name}; take a whole file")


@dataclass(frozen=True)
class Checkpoint:
    """What the header of a model file or folder says."""

    path: Path
    kind: Kind                                          # what it is, and why we think so
    layout: str                                         # "compvis" or "diffusers"
    parts: dict[str, Part]                              # "unet", "vae", "text", those that it has
    metadata: dict[str, Any]                            # heads, prediction, scale_factor, size, guidance: what it says
    twins: int                                          # how many EMA twins it has
    ignored: dict[str, Entry]                           # known extras
    unknown: dict[str, Entry]                           # tensors of no part
    vocabulary: Tensor | None                           # token ids whose embedding is stored, sorted; None: all

    @property
    def family(self) -> str:
        return self.kind.family


def open_checkpoint(path: str | Path, ema: bool = True, expect: Literal["model", "vae"] = "model") -> Checkpoint:
    """Read the header of a model file (.safetensors, .ckpt, .pt) or diffusers folder.  No weights are read.

    `ema` takes a weight's EMA twin where the file has twins.  `expect="vae"` takes the VAE of a VAE file or full model,
    or a tiny autoencoder.
    Raises CheckpointError where the file is missing, damaged, not a model, or of a family that is not supported.
    """
    found = survey(path, ema)
    if found.family not in (MODELS if expect == "model" else (*MODELS, "vae", "tiny")):
        wanted = "a VAE" if expect == "vae" else "a full Stable Diffusion 1 or 2 model"
        raise CheckpointError(f"{path} is {found.kind.what}, which is not supported here: "
                              f"{found.kind.because}; give {wanted}")
    if found.unknown:
        raise CheckpointError(f"{path} has {len(found.unknown)} tensors of no part ({listing(found.unknown)}); "
                              "give an official or merged Stable Diffusion file")
    return replace(found, parts={"vae": found.parts["vae"]}) if expect == "vae" else found


def survey(path: str | Path, ema: bool = True) -> Checkpoint:
    """Read the header of any model file or diffusers folder and sort its tensors, whether or not it is supported.

    Raises CheckpointError where the file is missing, damaged, or no model file at all.
    """
    path = Path(path)
    entries, metadata = read_header(path, ema)
    kind = identify({name: entry.shape for name, entry in entries.items()})
    entries, twins = take_twins(path, entries, ema)
    if kind.family == "tiny":
        entries = with_half(entries)
    for marker in MARKERS.keys() & entries.keys():
        metadata = MARKERS[marker] | metadata
    layout = "diffusers" if any(name.startswith(DIFFUSERS) for name in entries) else "compvis"
    prefixes = PREFIXES[layout]
    if kind.family in ("vae", "tiny") and not any(name.startswith(prefixes["vae"]) for name in entries):
        prefixes = {"vae": ""}
    if any(name.startswith(openclip.PREFIX) for name in entries):
        prefixes = prefixes | {"text": openclip.PREFIX}
    parts, ignored, unknown = split(path, layout, entries, prefixes)
    if "text" in parts and prefixes["text"] == openclip.PREFIX:
        text, left_out = take_open_clip(parts["text"])
        parts, ignored = parts | {"text": text}, ignored | left_out
    vocabulary = expand_vocabulary(parts["text"]) if "text" in parts else None
    return Checkpoint(path, kind, layout, parts, metadata, twins, ignored, unknown, vocabulary)


def take_twins(path: Path, entries: Mapping[str, Entry], ema: bool) -> tuple[dict[str, Entry], int]:
    """Entries without EMA twins, with the twins' values if `ema`; and the number of twins.

    A twin's name is `model_ema.` and the weight's name without `model.` and without dots (CompVis ldm/modules/ema.py).
    """
    twin_of = {name: "model_ema." + name.removeprefix("model.").replace(".", "") for name in entries}
    twin_of = {name: twin for name, twin in twin_of.items() if twin in entries}
    if twin_of and ema:
        lacking = [name for name in entries if name.startswith("model.diffusion_model.") and name not in twin_of]
        if lacking:
            raise CheckpointError(f"{path} has EMA twins, but {len(lacking)} are missing (of {listing(lacking)}); "
                                  "load the raw weights with ema=False")
    twins = set(twin_of.values())
    kept = {name: entries[twin_of.get(name, name) if ema else name] for name in entries if name not in twins}
    return kept, len(twins)


def split(path: Path, layout: str, entries: Mapping[str, Entry], prefixes: Mapping[str, str],
          ) -> tuple[dict[str, Part], dict[str, Entry], dict[str, Entry]]:
    """The parts by prefix, known extras, and what lies below none of the prefixes."""
    parts, ignored, unknown = {part: Part(part, layout, path, {}) for part in prefixes}, {}, {}
    for full_name, entry in entries.items():
        part = next((part for part, prefix in prefixes.items() if full_name.startswith(prefix)), None)
        name = full_name.removeprefix(prefixes[part]) if part else full_name
        if EXTRAS.fullmatch(name):
            ignored[full_name] = entry
        elif part:
            parts[part].entries[plain_name(part, name)] = entry
        else:
            unknown[full_name] = entry
    return {name: part for name, part in parts.items() if part.entries}, ignored, unknown


def with_half(entries: dict[str, Entry]) -> dict[str, Entry]:
    """A tiny autoencoder's tensors; in a file of one half alone, named as in the whole.

    There names are numbers.  The encoder begins with a convolution, 0; the decoder with a clamp, so its first is 1.
    """
    if not all(name[:1].isdigit() for name in entries):
        return entries
    half = "encoder" if "0.weight" in entries else "decoder"
    return {f"{half}.{name}": entry for name, entry in entries.items()}


def take_open_clip(text: Part) -> tuple[Part, dict[str, Entry]]:
    """OpenCLIP's text encoder by names of modules; and what Stable Diffusion 2 leaves out, by full name."""
    left_out = openclip.unused(text.entries)
    used = {name: entry for name, entry in text.entries.items() if name not in left_out}
    return (replace(text, entries=openclip.separate(used)),
            {openclip.PREFIX + name: text.entries[name] for name in text.entries if name in left_out})


def plain_name(part: str, name: str) -> str:
    """A weight's name without the infix that some files have, in today's words."""
    if part == "text":
        return name.removeprefix("text_model.")         # merges and new transformers drop it
    if part == "vae" and ".attentions." in name:
        return ".".join(OLD_VAE.get(word, word) for word in name.split("."))
    return name


def expand_vocabulary(text: Part) -> Tensor | None:
    """Where the token embedding is stored row-sparse, describe it as a dense one; returns the stored rows.

    `token_embedding.rows` [n] int32 lists the rows that `token_embedding.weight` [n W] holds; the others are zero.
    """
    name = "token_embedding" if "token_embedding.weight" in text.entries else "embeddings.token_embedding"
    where, weight = text.entries.pop(f"{name}.rows", None), text.entries.get(f"{name}.weight")
    if where is None or weight is None:                 # no weight: `match` says so
        return None
    fits = len(weight.shape) == 2 and where.shape == weight.shape[:1] and where.shape[0] <= VOCABULARY
    if not fits or where.dtype not in (torch.int32, torch.int64):
        raise CheckpointError(f"{text.path} is damaged: {name}.rows is {where.dtype} {list(where.shape)}, but the "
                              f"weight is {list(weight.shape)}; save the file again")
    rows = Reader().read(where, torch.int64)
    ids = rows.unique()
    if len(ids) < len(rows) or len(ids) == 0 or ids[0] < 0 or ids[-1] >= VOCABULARY:
        raise CheckpointError(f"{text.path} is damaged: {name}.rows are not distinct ids in 0..{VOCABULARY - 1}; "
                              "save the file again")
    text.entries[f"{name}.weight"] = replace(weight, shape=(VOCABULARY, weight.shape[1]), rows=rows)
    return ids


def listing(names: Iterable[str]) -> str:
    """At most ten names."""
    names = list(names)
    return ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
