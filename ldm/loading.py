"""From a model file to the three components and back: what the formats (ldm.weights) and the components agree on."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ldm.text import CLIPText
from ldm.text import names as text_names
from ldm.unet import UNet
from ldm.unet import names as unet_names
from ldm.vae import VAE
from ldm.vae import names as vae_names
from ldm.weights import CheckpointError, fill, match, open_checkpoint, save_checkpoint

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PREDICTIONS = ("eps", "v", "x0")


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
            cpu = torch.cpu.get_capabilities() if device == "cpu" else {}
            fast = bool(cpu.get("avx512_bf16") or cpu.get("amx_bf16"))
        return torch.bfloat16 if fast else torch.float32
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r} is unknown; try auto, {', '.join(DTYPES)}")
    return DTYPES[dtype]


def load_parts(path: Path, device: str, dtype: torch.dtype, ema: bool) -> dict[str, Any]:
    """Read a model file into the keywords of `Pipeline`.  Everything is matched before any weight is read.

    Raises CheckpointError where the file is missing, damaged, incomplete or of a family that is not supported.
    """
    source = open_checkpoint(path, ema)
    told = source.metadata
    if told.get("prediction", "eps") not in PREDICTIONS:
        raise CheckpointError(f"{path} says prediction {told['prediction']!r}; known are {', '.join(PREDICTIONS)}")
    shapes = {name: part.shapes for name, part in source.parts.items()}
    with torch.device("meta"):
        vae = VAE(vae_names.config_from(shapes["vae"], told.get("scale_factor", 0.18215), told.get("vae_groups", 32)))
        unet = UNet(unet_names.config_from(shapes["unet"], told.get("heads", 8), told.get("groups", 32)))
        text = CLIPText(text_names.config_from(shapes["text"]))
    rows = {"vae": vae_names.rows(vae.cfg), "unet": unet_names.rows(unet.cfg), "text": text_names.rows(text.cfg)}
    modules: dict[str, nn.Module] = {"vae": vae, "unet": unet, "text": text}
    tables = {name: list(table) for name, table in rows.items()}
    for name, module in modules.items():
        match(module, tables[name], source.parts[name])
    for name, module in modules.items():
        fill(module, tables[name], source.parts[name], dtype, device)
        module.eval().to(memory_format=torch.channels_last)
    return {**modules, "prediction": told.get("prediction", "eps"), "size": told.get("size", 512),
            "guidance": told.get("guidance", 7.5), "vocabulary": source.vocabulary}


def save_parts(path: str | Path, vae: VAE, unet: UNet, text: CLIPText, metadata: dict[str, Any],
               vocabulary: Tensor | None = None) -> None:
    """Write a model as one official .safetensors file, with what its shapes cannot say as metadata."""
    parts = {"unet": (unet.state_dict(), unet_names.rows(unet.cfg)), "vae": (vae.state_dict(), vae_names.rows(vae.cfg)),
             "text": (text.state_dict(), text_names.rows(text.cfg))}
    shape = {"heads": unet.cfg.heads, "groups": unet.cfg.groups, "vae_groups": vae.cfg.groups,
             "scale_factor": vae.cfg.scale_factor}
    save_checkpoint(path, parts, {**shape, **metadata}, vocabulary)
