"""From a model file to the three components and back: what the formats (ldm.weights) and the components agree on."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ldm import native
from ldm.attention import Kernels
from ldm.prepare import prepare, release_memory
from ldm.samplers import Schedule
from ldm.samplers.schedule import check_prediction
from ldm.text import CLIPText, Glossary
from ldm.text import names as text_names
from ldm.unet import UNet
from ldm.unet import names as unet_names
from ldm.vae import VAE, TinyVAE, tiny_names
from ldm.vae import names as vae_names
from ldm.weights import Checkpoint, CheckpointError, Part, fill, match, open_checkpoint, save_checkpoint

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PREDICTIONS = ("eps", "v", "x0")
FIXED = {"beta_schedule": "scaled_linear", "trained_betas": None}       # of the noise schedule, in diffusers' words
# By family, what shapes cannot say and files need not.  The upscaler's numbers: Stability-AI x4-upscaling.yaml
RULES: dict[str, dict[str, Any]] = {
    "sd1": {"prediction": "eps"},
    "sd1_inpaint": {"prediction": "eps"},
    "sd2": {"open_clip": True},
    "sd2_inpaint": {"prediction": "eps", "open_clip": True},
    "x4": {"prediction": "v", "open_clip": True, "scale_factor": 0.08333, "beta_start": 1e-4, "beta_end": 2e-2},
}


def resolve_device(device: str) -> str:
    """"auto" -> "cuda" where there is a GPU, else "cpu"; another name as it is.

    Raises ValueError for a device that is unknown or not there.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:     # PyTorch without CUDA asserts
        raise ValueError(f"device {device!r} cannot be used here; try auto or cpu") from error
    return device


def resolve_dtype(dtype: str | torch.dtype, device: str) -> torch.dtype:
    """"auto", a name or a torch.dtype -> dtype to compute in.  "auto" is bfloat16 where the device has it in hardware.

    Raises ValueError for an unknown name.
    """
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        if device.startswith("cuda"):
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            fast = device == "cpu" and (native.cpu().get("avx512_bf16") or native.cpu().get("amx_bf16"))
        return torch.bfloat16 if fast else torch.float32
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r} is unknown; try auto, {', '.join(DTYPES)}")
    return DTYPES[dtype]


@dataclass(frozen=True)
class Told:
    """What shapes cannot say: from a file's metadata, else by the rules of its family."""

    heads: int | None = None                            # of the UNet's attention; None: as its shapes suggest
    head_channels: int | None = None                    # or the channels of each
    open_clip: bool = False                             # the text encoder, where its names do not tell
    groups: int = 32                                    # of the UNet's GroupNorms
    vae_groups: int = 32
    scale_factor: float = 0.18215
    prediction: str | None = None                       # None: neither file nor family says
    size: int | None = None                             # native side in pixels; None: as the prediction suggests
    guidance: float = 7.5
    beta_start: float = 0.00085                         # of the noise schedule
    beta_end: float = 0.012
    timesteps: int = 1000
    zero_terminal_snr: bool = False


def told(source: Checkpoint, **rules: Any) -> Told:
    """A file's metadata, checked; without it the family's rules, and without these `rules`.

    Raises CheckpointError for a value that makes no sense or is not supported.
    """
    for name, value in FIXED.items():
        if source.metadata.get(name, value) != value:
            raise CheckpointError(f"{source.path} has a noise schedule of {name} {source.metadata[name]!r}; only "
                                  f"{value!r} is supported")
    known = {f.name: source.metadata[f.name] for f in fields(Told) if f.name in source.metadata}
    for name, value in known.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0
        whole = number and value == int(value)
        beta, flag = number and value < 1, isinstance(value, bool)
        meant = {"prediction": value in PREDICTIONS, "scale_factor": number, "guidance": number or value == 0,
                 "beta_start": beta, "beta_end": beta, "zero_terminal_snr": flag, "open_clip": flag}
        good = meant.get(name, whole)
        if not good or (name == "size" and value % 8):
            raise CheckpointError(f"{source.path} says {name} {value!r}, which makes no sense; correct its metadata")
    return Told(**{**rules, **RULES.get(source.family, {}), **known})


def read_glossary(source: Checkpoint) -> Glossary | None:
    """That of a file's metadata, if it has one.  Raises CheckpointError where it makes no sense."""
    try:
        return Glossary(source.metadata["glossary"]) if "glossary" in source.metadata else None
    except ValueError as error:
        raise CheckpointError(f"{source.path} has a glossary that makes no sense ({error}); correct its metadata"
                              ) from error


class Unfilled(TorchFunctionMode):
    """Modules built inside get no first values, which on the meta device would be lost.

    To draw them there, PyTorch would import SymPy: a second and 150 MB.
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        starts = getattr(function, "__module__", "") == "torch.nn.init"
        return None if starts else function(*args, **(kwargs or {}))


@contextmanager
def shapes_of(source: Checkpoint) -> Iterator[None]:
    """What fails inside, fails for the shapes of this file: a CheckpointError."""
    try:
        with torch.device("meta"), Unfilled():
            yield
    except CheckpointError:
        raise
    except (ValueError, TypeError, IndexError, ZeroDivisionError) as error:
        raise CheckpointError(f"{source.path} does not fit the layout of Stable Diffusion, by its shapes ({error}); "
                              "take a file of the official layout") from error


class Draft(NamedTuple):
    """A component on the meta device, the names of its weights, and where they lie."""

    module: Any                                         # VAE, UNet or CLIPText
    rows: list[tuple[str, str, str]]
    part: Part


def draft_vae(source: Checkpoint, say: Told) -> Draft:
    """The VAE of a file, KL or tiny."""
    part = source.parts["vae"]
    with shapes_of(source):
        if source.family == "tiny":
            vae = TinyVAE(tiny_names.config_from(part.shapes))
            return Draft(vae, list(tiny_names.rows(vae.cfg)), part)
        vae = VAE(vae_names.config_from(part.shapes, say.scale_factor, say.vae_groups))
        return Draft(vae, list(vae_names.rows(vae.cfg)), part)


def draft_other_vae(path: str | Path, own: VAE) -> Draft:
    """A VAE from a file of its own.  Raises CheckpointError where its latents are not of the kind of the model's."""
    source = open_checkpoint(path, expect="vae")
    draft = draft_vae(source, told(source, scale_factor=own.cfg.scale_factor))
    theirs, ours = ((vae.cfg.latent_channels, vae.cfg.factor) for vae in (draft.module, own))
    if theirs != ours:
        raise CheckpointError(f"{path} has latents of {theirs[0]} channels for {theirs[1]} pixels a side, the model of "
                              f"{ours[0]} for {ours[1]}; give a VAE of the model's family")
    return draft


def draft_parts(source: Checkpoint, say: Told) -> dict[str, Draft]:
    """The three components of a model file."""
    unet_part, text_part = source.parts["unet"], source.parts["text"]
    by_rule = source.layout == "diffusers" and say.open_clip            # official names tell OpenCLIP by themselves
    with shapes_of(source):
        unet = UNet(unet_names.config_from(unet_part.shapes, say.heads, say.groups, say.head_channels))
        text = CLIPText(text_names.config_from(text_part.shapes, by_rule))
    return {"vae": draft_vae(source, say),
            "unet": Draft(unet, list(unet_names.rows(unet.cfg)), unet_part),
            "text": Draft(text, list(text_names.rows(text.cfg)), text_part)}


def load_parts(path: Path, device: str, dtype: torch.dtype, ema: bool, kernels: Kernels = "auto",
               prediction: str | None = None, vae: str | Path | None = None) -> dict[str, Any]:
    """Read a model file into the keywords of `Pipeline`.  Everything is matched before any weight is read.

    `prediction` ("eps", "v" or "x0") wins over what the file says; Stable Diffusion 2 has eps and v, and official
    files do not say which.  `vae`: a file with a VAE, or TAESD, to take in place of the model's.
    Raises CheckpointError where a file is missing, damaged, incomplete, of a family that is not supported, or where
    the prediction is not known; ValueError for an unknown prediction.
    """
    if prediction is not None:
        check_prediction(prediction)
    source = open_checkpoint(path, ema)
    say = told(source)
    prediction = prediction or say.prediction
    if prediction is None:
        raise CheckpointError(f"{path} is {source.kind.what} and does not say what it predicts; give prediction 'eps' "
                              "(2-base and 2.1-base, of 512 pixels) or 'v' (2 and 2.1, of 768)")
    drafts, glossary = draft_parts(source, say), read_glossary(source)
    if vae is not None:
        drafts["vae"] = draft_other_vae(vae, drafts["vae"].module)
    for draft in drafts.values():
        match(*draft)
    for draft in drafts.values():
        fill(*draft, dtype, device, torch.channels_last)
        prepare(draft.module, kernels)
    release_memory()
    size = say.size or (768 if source.family == "sd2" and prediction == "v" else 512)
    schedule = Schedule(say.beta_start, say.beta_end, say.timesteps, say.zero_terminal_snr)
    return {**{name: draft.module for name, draft in drafts.items()}, "prediction": prediction, "size": size,
            "guidance": say.guidance, "vocabulary": source.vocabulary, "schedule": schedule, "glossary": glossary}


def load_vae(path: str | Path, dtype: torch.dtype = torch.float32) -> VAE:
    """The VAE of a VAE file or full model, or a tiny autoencoder.  Raises CheckpointError as `load_parts`."""
    source = open_checkpoint(path, expect="vae")
    draft = draft_vae(source, told(source))
    fill(*draft, dtype)
    return draft.module.eval()


def save_parts(path: str | Path, vae: VAE, unet: UNet, text: CLIPText, metadata: dict[str, Any],
               vocabulary: Tensor | None = None, states: Mapping[str, Mapping[str, Tensor]] | None = None) -> None:
    """Write a model as one official .safetensors file, with what its shapes cannot say as metadata.

    `states`: weights of "unet" and "text" to write in place of the networks' own, such as averaged ones.
    Raises ValueError for a tiny autoencoder, which has no place in such a file.
    """
    if isinstance(vae, TinyVAE):
        raise ValueError("a tiny autoencoder has no place in an official file; load the model with its own VAE to save")
    states = states or {"unet": unet.state_dict(), "text": text.state_dict()}
    parts = {"unet": (states["unet"], unet_names.rows(unet.cfg)), "vae": (vae.state_dict(), vae_names.rows(vae.cfg)),
             "text": (states["text"], text_names.rows(text.cfg))}
    channels = unet.cfg.head_channels
    heads = {"head_channels": channels} if channels else {"heads": unet.cfg.heads}
    shape = {**heads, "groups": unet.cfg.groups, "vae_groups": vae.cfg.groups,
             "scale_factor": vae.cfg.scale_factor}
    save_checkpoint(path, parts, {**shape, **metadata}, vocabulary)
