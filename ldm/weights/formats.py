"""Headers of model files: which tensors, and where.  The format is told by content, never by the file's name."""

import difflib
import json
import struct
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ldm.weights.entries import CheckpointError, Entry, check_extent, contiguous_stride
from ldm.weights.pickles import read_legacy, read_zip

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
          "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
          "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}
SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
NOT_WEIGHTS = {                                         # how files begin that people take for weights
    b"version https://git-lfs": "a git-LFS pointer, not the weights; run `git lfs pull` in its repository",
    b"<": "a web page, not the weights; download the file itself, not the page about it",
    b"GGUF": "a GGUF file, which is not supported; take the .safetensors file of the same model",
}
COMPONENTS = ("unet", "vae", "text_encoder", "text_encoder_2", "text_encoder_3", "transformer", "prior", "decoder")
# In the words of diffusers, of Stability AI's ModelSpec and of transformers
PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "v": "v", "sample": "x0"}
OPEN_CLIP = {"gelu": True, "quick_gelu": False}
HALVES = ("encoder", "decoder")                         # of a tiny autoencoder, each in a file of its own


class Header(NamedTuple):
    """What a model file or folder says without its weights being read."""

    entries: dict[str, Entry]                           # by name; in a folder "unet/…", "vae/…", "text_encoder/…"
    metadata: dict[str, Any]                            # heads, prediction, scale_factor, …, where the file says


def read_header(path: str | Path, ema: bool = True) -> Header:
    """Header of a model file or diffusers folder.  `ema=False` prefers a folder's non_ema files.

    Raises CheckpointError where there is no such file, or it is not a model file, or is truncated.
    """
    path = Path(path)
    if path.is_dir():
        return read_folder(path, ema)
    if not path.exists():
        raise CheckpointError(f"there is no file {path}{near_matches(path)}")
    try:
        with open(path, "rb") as file:
            head = file.read(64)
    except OSError as e:
        raise CheckpointError(f"{path} cannot be read ({e.strerror}); check its permissions") from e
    if head[4:9] == b"\0\0\0\0{":                       # a length below 4 GiB, then JSON
        return read_safetensors(path)
    if not head:
        raise CheckpointError(f"{path} is empty; download or copy it again")
    for start, what in NOT_WEIGHTS.items():
        if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(start):
            raise CheckpointError(f"{path} is {what}")
    if head.startswith(b"PK\x03\x04"):
        return Header(read_zip(path), {})
    if head.startswith(b"\x80"):
        return Header(read_legacy(path), {})
    raise CheckpointError(f"{path} is no model file that we know: it begins with {head[:16]!r}; give a .safetensors "
                          "file, a file of torch.save (.ckpt, .pt) or a diffusers folder")


def near_matches(path: Path) -> str:
    """What to try instead of a file that does not exist."""
    if not path.parent.is_dir():
        return f", and no folder {path.parent}; check the path"
    names = [p.name for p in path.parent.iterdir()]
    close = difflib.get_close_matches(path.name, names, n=3) or sorted(n for n in names if n.endswith(SUFFIXES))[:3]
    return f"; near it: {', '.join(close)}" if close else f"; {path.parent} holds no model files, so check the path"


def read_safetensors(path: Path) -> Header:
    """Header of a .safetensors file: 8 bytes of length, JSON, then the numbers.  Raises CheckpointError.

    Format: huggingface/safetensors README.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > size - 8:
            raise CheckpointError(f"{path} is truncated: its header alone has {length:,} bytes, the file {size:,}; "
                                  "download or copy it again")
        text = file.read(length)
    try:
        header = json.loads(text)
        metadata = header.pop("__metadata__", {})
        entries = {}
        for name, tensor in header.items():
            shape, (begin, end) = tuple(tensor["shape"]), tensor["data_offsets"]
            dtype = DTYPES.get(tensor["dtype"], str(tensor["dtype"]))
            entries[name] = Entry(path, 8 + length + begin, dtype, shape, contiguous_stride(shape))
            if isinstance(dtype, torch.dtype) and end - begin != prod(shape) * dtype.itemsize:
                raise ValueError(f"{name} has {end - begin} bytes, but its shape is {list(shape)}")
            check_extent(name, entries[name], 8 + length, size)
        return Header(entries, said(metadata))
    except CheckpointError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise CheckpointError(f"{path} is damaged: its safetensors header cannot be read ({e}); copy it again") from e


def said(metadata: dict[str, str]) -> dict[str, Any]:
    """What the metadata of a .safetensors file say: our own JSON, and without it Stability AI's ModelSpec 1.0."""
    spec = PREDICTIONS.get(metadata.get("modelspec.prediction_type", ""))
    return ({"prediction": spec} if spec else {}) | dict(json.loads(metadata.get("ldm", "{}")))


def read_folder(path: Path, ema: bool) -> Header:
    """Header of a diffusers folder, or of one of its component folders.  Raises CheckpointError."""
    entries: dict[str, Entry] = {}
    for component in COMPONENTS:
        file = weights_file(path / component, ema)
        if file:
            entries |= {f"{component}/{name}": entry for name, entry in read_header(file).entries.items()}
    if entries:
        return Header(entries, folder_metadata(path))
    file = weights_file(path, ema)
    if file:
        return Header(read_header(file).entries, folder_metadata(path))
    for half in HALVES:
        file = path / f"taesd_{half}.safetensors"
        if file.is_file():
            entries |= {f"{half}.{name}": entry for name, entry in read_header(file).entries.items()}
    if entries:
        return Header(entries, {})
    models = sorted(p.name for p in path.iterdir() if p.name.endswith(SUFFIXES))
    hint = f"give one of its files: {', '.join(models[:3])}" if models else "a model has unet/, vae/ and text_encoder/"
    raise CheckpointError(f"folder {path} is no model; {hint}")


def weights_file(folder: Path, ema: bool) -> Path | None:
    """The file that holds a component's weights, in diffusers' naming; None without one."""
    variants = ("", ".fp16") if ema else (".non_ema", "", ".fp16")
    stems = [f"{stem}{v}" for v in variants for stem in ("diffusion_pytorch_model", "model", "pytorch_model")]
    files = [folder / f"{stem}{suffix}" for stem in stems for suffix in (".safetensors", ".bin")]
    return next((file for file in files if file.is_file()), None)


def folder_metadata(path: Path) -> dict[str, Any]:
    """What a diffusers folder's JSON files say that shapes do not.  Raises CheckpointError where one is damaged."""
    def load(name: str) -> dict[str, Any]:
        try:
            return json.loads((path / name).read_text(encoding="utf-8")) if (path / name).is_file() else {}
        except ValueError as e:
            raise CheckpointError(f"{path / name} is damaged ({e}); download or copy it again") from e

    unet, text, noise = (load(f"{name}.json") for name in ("unet/config", "text_encoder/config",
                                                           "scheduler/scheduler_config"))
    vae = load("vae/config.json") or load("config.json")    # of a whole model, or of a VAE alone
    prediction, activation = noise.get("prediction_type"), text.get("hidden_act")
    found = {**head_sizes(unet),
             "groups": unet.get("norm_num_groups"),
             "open_clip": activation and OPEN_CLIP.get(activation, activation),
             "vae_groups": vae.get("norm_num_groups"),
             "prediction": prediction and PREDICTIONS.get(prediction, prediction),
             "scale_factor": vae.get("scaling_factor"),
             "zero_terminal_snr": noise.get("rescale_betas_zero_snr"),
             "timesteps": noise.get("num_train_timesteps"),
             **{name: noise.get(name) for name in ("beta_start", "beta_end", "beta_schedule", "trained_betas")}}
    return {key: value for key, value in found.items() if value is not None}


def head_sizes(unet: dict[str, Any]) -> dict[str, Any]:
    """Attention heads of a UNet, or the channels of each, from diffusers' config.json."""
    heads, widths = unet.get("attention_head_dim"), unet.get("block_out_channels")      # a misnomer: how many heads
    if isinstance(heads, list) and isinstance(widths, list) and len(heads) == len(widths) and all(heads):
        per_head = {width / count for width, count in zip(widths, heads, strict=True)}
        if len(per_head) == 1 and len(set(heads)) > 1:
            return {"head_channels": int(per_head.pop())}
        heads = heads[0] if len(set(heads)) == 1 else heads
    return {"heads": heads}
