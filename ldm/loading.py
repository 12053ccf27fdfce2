"""From a model file to the three components and back: what the formats (ldm.weights) and the components agree on."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ldm import native
from ldm.attention import Kernels
from ldm.prepare import prepare, release_memory
from ldm.samplers import Schedule
from ldm.text import CLIPText
from ldm.text import names as text_names
from ldm.unet import UNet
from ldm.unet import names as unet_names
from ldm.vae import VAE
from ldm.vae import names as vae_names
from ldm.weights import Checkpoint, CheckpointError, fill, match, open_checkpoint, save_checkpoint

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PREDICTIONS = ("eps", "v", "x0")
FIXED = {"beta_schedule": "scaled_linear", "trained_betas": None}       # of the noise schedule, in diffusers' words


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
    """What shapes cannot say: from a file's metadata, else the rules of Stable Diffusion 1."""

    heads: int | None = None                            # of the UNet's attention; None: as its shapes suggest
    groups: int = 32                                    # of the UNet's GroupNorms
    vae_groups: int = 32
    scale_factor: float = 0.18215
    prediction: str = "eps"
    size: int = 512                                     # native side in pixels
    guidance: float = 7.5
    beta_start: float = 0.00085                         # of the noise schedule
    beta_end: float = 0.012
    timesteps: int = 1000
    zero_terminal_snr: bool = False


def told(source: Checkpoint) -> Told:
    """A file's metadata, checked.  Raises CheckpointError for a value that makes no sense or is not supported."""
    for name, value in FIXED.items():
        if source.metadata.get(name, value) != value:
            raise CheckpointError(f"{source.path} has a noise schedule of {name} {source.metadata[name]!r}; only "
                                  f"{value!r} is supported")
    known = {f.name: source.metadata[f.name] for f in fields(Told) if f.name in source.metadata}
    for name, value in known.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0
        whole = number and value == int(value)
        beta, flag = number and value < 1, isinstance(value, bool)
        rules = {"prediction": value in PREDICTIONS, "scale_factor": number, "guidance": number or value == 0,
                 "beta_start": beta, "beta_end": beta, "zero_terminal_snr": flag}
        good = rules.get(name, whole)
        if not good or (name == "size" and value % 8):
            raise CheckpointError(f"{source.path} says {name} {value!r}, which makes no sense; correct its metadata")
    return Told(**known)


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
        raise CheckpointError(f"{source.path} has tensors of shapes that fit no Stable Diffusion 1 model ({error}); "
                              "take a file of the official layout") from error


def load_parts(path: Path, device: str, dtype: torch.dtype, ema: bool, kernels: Kernels = "auto") -> dict[str, Any]:
    """Read a model file into the keywords of `Pipeline`.  Everything is matched before any weight is read.

    Raises CheckpointError where the file is missing, damaged, incomplete or of a family that is not supported.
    """
    source = open_checkpoint(path, ema)
    say = told(source)
    shapes = {name: part.shapes for name, part in source.parts.items()}
    with shapes_of(source):
        vae = VAE(vae_names.config_from(shapes["vae"], say.scale_factor, say.vae_groups))
        unet = UNet(unet_names.config_from(shapes["unet"], say.heads, say.groups))
        text = CLIPText(text_names.config_from(shapes["text"]))
    rows = {"vae": list(vae_names.rows(vae.cfg)), "unet": list(unet_names.rows(unet.cfg)),
            "text": list(text_names.rows(text.cfg))}
    modules: dict[str, nn.Module] = {"vae": vae, "unet": unet, "text": text}
    for name, module in modules.items():
        match(module, rows[name], source.parts[name])
    for name, module in modules.items():
        fill(module, rows[name], source.parts[name], dtype, device, torch.channels_last)
        prepare(module, kernels)
    release_memory()
    schedule = Schedule(say.beta_start, say.beta_end, say.timesteps, say.zero_terminal_snr)
    return {**modules, "prediction": say.prediction, "size": say.size, "guidance": say.guidance,
            "vocabulary": source.vocabulary, "schedule": schedule}


def load_vae(path: Path, dtype: torch.dtype = torch.float32) -> VAE:
    """The VAE of a VAE file or full model.  Raises CheckpointError as `load_parts`."""
    source = open_checkpoint(path, expect="vae")
    say = told(source)
    with shapes_of(source):
        vae = VAE(vae_names.config_from(source.parts["vae"].shapes, say.scale_factor, say.vae_groups))
    fill(vae, vae_names.rows(vae.cfg), source.parts["vae"], dtype)
    return vae.eval()


def save_parts(path: str | Path, vae: VAE, unet: UNet, text: CLIPText, metadata: dict[str, Any],
               vocabulary: Tensor | None = None) -> None:
    """Write a model as one official .safetensors file, with what its shapes cannot say as metadata."""
    parts = {"unet": (unet.state_dict(), unet_names.rows(unet.cfg)), "vae": (vae.state_dict(), vae_names.rows(vae.cfg)),
             "text": (text.state_dict(), text_names.rows(text.cfg))}
    heads = {"heads": unet.cfg.heads} if unet.cfg.head_channels is None else {}
    shape = {**heads, "groups": unet.cfg.groups, "vae_groups": vae.cfg.groups,
             "scale_factor": vae.cfg.scale_factor}
    save_checkpoint(path, parts, {**shape, **metadata}, vocabulary)
