"""Make a picture again from what its file tells, and say how near that comes.

    python scripts/replay.py out/00000.png
    python scripts/replay.py repainted.webp --image photo.png --mask mask.png
    python scripts/replay.py webui.jpg --ckpt v1-5-pruned-emaonly --vae vae-ft-mse-840000 --models-dir ~/sd

LoRAs and textual inversions are loaded by their names from --models-dir; ControlNets are not.  Says what is not as it
was (model, precision, version), what it cannot make again, and a verdict.  Exit code 0: bit-exact, the same pixels
before encoding; 1: close, 30 dB or more; 3: different; 2: a mistake.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import cli
from PIL import Image

from ldm import Pipeline, Settings
from ldm.images import check_target, digest, on_white, psnr, read_metadata, read_parameters, save_image
from ldm.metadata import PROGRAM, from_parameters
from ldm.pipeline import BUNDLED
from ldm.plugins.folders import Kind, extract_loras, find, search
from ldm.tasks import Colorizer, Enlarger, Outpainter, Task, Varied, X4Upscaler, tiled
from ldm.weights.fingerprint import fingerprint

CLOSE = 30                                              # dB
INPUTS = ("image", "mask")
FILES = ("model", "vae")                                # told by name and "_hash"
SETTINGS = [f.name for f in fields(Settings)]
KINDS: dict[str, Any] = {                               # of what is told besides settings, which check themselves
    "prompt": str, "model": str, "vae": str, "dtype": str, "kernels": str, "prediction": str, "ema": bool, "task": str,
    "loras": list, "embeddings": list, "first": dict, "scale": int | float, "unet_tile": int, "noise_level": int,
    "variation_seed": int, "variation_strength": int | float, "left": int, "top": int, "right": int, "bottom": int,
    "fill": str}
OUTPAINTED = ("left", "top", "right", "bottom", "fill")
NEEDED: dict[str, tuple[str, ...]] = {"outpaint": OUTPAINTED, "variation": ("variation_seed", "variation_strength")}
SEVERAL = {"grid": "a sheet of many pictures; give one of its cells",
           "interpolate": "an animation, not one picture; those are made by scripts/interpolate.py"}


def read_told(path: Path) -> dict[str, Any]:
    """Our JSON, or where that is not there, what A1111's text says, in the words of our JSON as far as they go.

    Raises ValueError where a file has neither, our JSON is not as we write it, or the text does not name sampler, steps
    and seed, and for an animation.
    """
    with Image.open(path) as image:
        if getattr(image, "n_frames", 1) > 1:
            raise ValueError(f"{path} is {SEVERAL['interpolate']}")
    try:
        told = read_metadata(path)
    except ValueError:
        return read_text(path)
    if wrong := [*senseless(told)]:
        raise ValueError(f"{path} tells what makes no sense ({', '.join(wrong)}); give a picture as it was written")
    return told


def senseless(told: Any) -> Iterator[str]:
    """What of our JSON is of another kind than we write: files may come from anybody."""
    if not isinstance(told, dict) or "prompt" not in told:
        yield "no prompt"
        return
    yield from (f"{name} {told[name]!r}" for name, kind in KINDS.items()
                if name in told and not isinstance(told[name], kind))
    yield from (f"no {name}" for name in NEEDED.get(str(told.get("task")), ()) if name not in told)
    plugins = [one for name in ("loras", "embeddings") if isinstance(told.get(name), list) for one in told[name]]
    yield from (f"{one!r}" for one in plugins if not isinstance(one, dict) or not isinstance(one.get("name"), str)
                or not isinstance(one.get("weight", 1), int | float))
    if "first" in told:
        yield from senseless(told["first"])


def read_text(path: Path) -> dict[str, Any]:
    """What A1111's text says, in the words of our JSON.  Raises as `read_told`."""
    prompt, settings, rest = from_parameters(read_parameters(path))
    lacking = {"sampler", "steps", "seed"} - settings.keys()
    if lacking:
        raise ValueError(f"{path} names no {' and no '.join(sorted(lacking))} that is known here; it says {rest}")
    text, loras = extract_loras(prompt)
    told = {"prompt": text, **settings, **rest, "loras": [{"name": name, "weight": weight} for name, weight in loras]}
    for theirs in ("Model hash", "VAE hash"):           # of all of a file
        told.pop(theirs, None)
    for theirs in ("Model", "VAE", "Version"):
        if theirs in told:
            told[theirs.lower()] = told.pop(theirs).removeprefix(PROGRAM)
    if "strength" in settings and not any(name.startswith("Hires") for name in rest):
        told["image_sha256"] = None                     # there was a picture, more is not said
    return told


def check_flags(args: argparse.Namespace, told: dict[str, Any]) -> None:
    """Raises ValueError where the file is not of one picture, or the flags do not give what that was made from."""
    if told.get("task") in SEVERAL:
        raise ValueError(f"{args.picture} is {SEVERAL[told['task']]}")
    for name in INPUTS:
        path, needed = getattr(args, name), f"{name}_sha256" in told and "first" not in told
        if needed and path is None:
            raise ValueError(f"{args.picture} was made from an input {name}; give that with --{name}")
        if path is not None and not needed:
            raise ValueError(f"{args.picture} was made without an input {name}; leave out --{name}")
    if told.get("vae_hash") and args.vae is None:
        raise ValueError(f"{args.picture} was decoded with {told['vae']}; give it with --vae")
    if args.ckpt is None and "model" in told:
        bundled = {"model": BUNDLED.name, "model_hash": fingerprint(BUNDLED)}
        if not same_file("model", told, bundled):
            raise ValueError(f"{args.picture} was drawn with {file_words('model', told)}, not with the bundled model; "
                             "give it with --ckpt")


def same_file(name: str, told: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether model or VAE is the same: by hash, or without one by name, of which A1111 leaves out the suffix."""
    if told.get(f"{name}_hash"):
        return told[f"{name}_hash"] == now[f"{name}_hash"]
    return told[name] in (now[name], Path(now[name]).stem)


def file_words(name: str, told: dict[str, Any]) -> str:
    """What model or VAE are called, and what tells them from others of that name."""
    digest = told.get(f"{name}_hash")
    return f"{told[name]} ({digest})" if digest else told[name] or "none"


def changes(told: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    """What besides the settings is not as it was when the picture was drawn, in words."""
    for name, then in told.items():
        if name in SETTINGS or name.endswith(("sha256", "_hash")):
            continue
        if name in FILES:
            if not same_file(name, told, now):
                yield f"{name}: then {file_words(name, told)}, now {file_words(name, now)}"
        elif name in now and not is_told(then, now[name]):
            yield f"{name}: then {in_words(then)}, now {in_words(now[name])}"
        elif name not in now and then:
            yield f"{name}: then {in_words(then)}, not made again"


def is_told(then: Any, now: Any) -> bool:
    """Whether a value is the same; of plug-in files, of which A1111 tells no hash, as far as it was told."""
    if not isinstance(then, list) or not isinstance(now, list) or len(then) != len(now):
        return then == now
    pairs = zip(then, now, strict=True)
    return all(a.items() <= b.items() if isinstance(a, dict) and isinstance(b, dict) else a == b for a, b in pairs)


def in_words(value: Any) -> str:
    """A value of a picture's metadata; of plug-in files the names and hashes."""
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        return str(value)
    return ", ".join(" ".join(f"{key} {one[key]}" for key in sorted(one)) for one in value)


def verdict(again: Image.Image, picture: Image.Image, told: dict[str, Any]) -> tuple[str, int]:
    """How near the new picture comes to that of the file, in words and as an exit code."""
    if digest(again) == told.get("sha256", digest(picture)):
        return f"bit-exact: SHA-256 {digest(again)}", 0
    if again.size != picture.size:
        return "different: then {}x{} pixels, now {}x{}".format(*picture.size, *again.size), 3
    decibels = psnr(again, picture)
    return (f"close: {decibels:.1f} dB", 1) if decibels >= CLOSE else (f"different: {decibels:.1f} dB", 3)


def load(args: argparse.Namespace, told: dict[str, Any]) -> Pipeline:
    """The pipeline that flags and picture ask for, with those of its LoRAs and textual inversions that are found."""
    ckpt, vae = (find("models", name, args.models_dir) if name is not None else None for name in (args.ckpt, args.vae))
    pipe = Pipeline.load(ckpt, args.device, args.dtype or told.get("dtype", "auto"), told.get("ema", True),
                         told.get("kernels", "auto"), told.get("prediction"), vae)
    for lora in told.get("loras", []):
        if path := search_or_none("loras", lora["name"], args.models_dir):
            pipe.load_lora(path, lora.get("weight", 1))
    for embedding in told.get("embeddings", []):
        if path := search_or_none("embeddings", embedding["name"], args.models_dir):
            pipe.load_embedding(path, embedding["name"])
    return pipe


def search_or_none(kind: Kind, name: str, models_dir: Path | None) -> Path | None:
    """The file of that name, where there is one."""
    try:
        return search(kind, name, models_dir)
    except ValueError:
        return None


def settings_of(told: dict[str, Any]) -> dict[str, Any]:
    """The settings that a picture was drawn with; but the x4 upscaler takes no size, it follows from its picture."""
    left_out = ("width", "height") if "noise_level" in told else ()
    return {name: told[name] for name in SETTINGS if name in told and name not in left_out}


def as_told(pipe: Pipeline, told: dict[str, Any], inputs: dict[str, Image.Image], planned: bool) -> Pipeline:
    """The pipeline as the task needs it that the picture was drawn by.

    What was enlarged after drawing is drawn, unless it is only `planned`, and joins the inputs; what the x4 upscaler
    takes itself leaves them.
    """
    if "unet_tile" in told:
        pipe = tiled(pipe, told["unet_tile"])
    if "first" in told:
        first = told["first"]
        plan = pipe.plan(first["prompt"], **settings_of(first))
        [inputs["image"]] = [Image.new("RGB", (plan.width, plan.height))] if planned else pipe.draw(plan)
        pipe = Task(pipe, first=first)
    match told.get("task"):
        case "colorize":
            return Colorizer(pipe)
        case "outpaint":
            return Outpainter(pipe, *(told[name] for name in OUTPAINTED))
        case "variation":
            return Varied(pipe, told["variation_seed"], told["variation_strength"])
        case "upscale" if "noise_level" in told:
            return X4Upscaler(pipe, inputs.pop("image"), told["noise_level"])
        case "upscale":
            return Enlarger(pipe, told["scale"])
    return pipe


def arguments() -> argparse.Namespace:
    p = cli.Parser(__doc__)
    p.add_argument("picture", type=Path, help="PNG, JPEG or WebP of this library, or of A1111")
    p.add_argument("--ckpt", help=".safetensors, .ckpt, .pt or diffusers folder, or its name in models/ (default: "
                                  "bundled model)")
    p.add_argument("--vae", help="file, or its name in models/, whose VAE it was decoded with (default: the model's)")
    cli.add_models_dir(p, "models, loras and embeddings")
    p.add_argument("--image", type=Path, help="the input picture it was made from")
    p.add_argument("--mask", type=Path, help="the mask it was made with")
    p.add_argument("--out", type=Path, help="folder or file to write the new picture to (default: not written)")
    p.add_argument("--plan", action="store_true", help="say what would be done, step by step, and draw nothing")
    cli.add_device(p)
    p.add_argument("--dtype", choices=["auto", "float32", "bfloat16", "float16"], help="precision (default: as told)")
    return p.parse_args()


def main() -> None:
    args = arguments()
    told = read_told(args.picture)
    check_flags(args, told)
    if args.out:
        check_target(args.out)
    picture = on_white(Image.open(args.picture))
    inputs: dict[str, Image.Image] = {name: Image.open(getattr(args, name)) for name in INPUTS if getattr(args, name)}
    pipe = load(args, told)
    pipe = as_told(pipe, told, inputs, args.plan)
    plan = pipe.plan(told["prompt"], **inputs, **settings_of(told))
    now = pipe.metadata(plan, 0)
    for name in INPUTS:
        if getattr(args, name) and told[f"{name}_sha256"] not in (None, now[f"{name}_sha256"]):
            raise ValueError(f"{getattr(args, name)} is not the {name} that {args.picture} was made from")
    for line in changes(told, now):
        print(line)
    if args.picture.suffix.lower() == ".png" and told.get("sha256") not in (None, digest(picture)):
        print("the file's own pixels were changed after it was drawn")
    if args.plan:
        print(plan.describe())
        return
    [again] = pipe.draw(plan)
    if args.out:
        print(save_image(again, args.out))
    words, code = verdict(again, picture, told)
    print(words)
    sys.exit(code)


if __name__ == "__main__":
    cli.run(main)
