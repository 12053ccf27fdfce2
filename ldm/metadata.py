"""The text that AUTOMATIC1111's web UI (A1111) writes into pictures, made from our settings and read back into them."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

SAMPLERS = {"ddpm": "DDPM", "ddim": "DDIM", "euler": "Euler", "euler_a": "Euler a", "heun": "Heun", "plms": "PLMS",
            "lms": "LMS", "dpm2": "DPM2", "dpm2_a": "DPM2 a", "dpmpp_2m": "DPM++ 2M", "dpmpp_2s_a": "DPM++ 2S a",
            "dpmpp_sde": "DPM++ SDE", "dpmpp_2m_sde": "DPM++ 2M SDE", "unipc": "UniPC", "lcm": "LCM"}
SPACINGS = {"linspace": "Uniform", "karras": "Karras", "exponential": "Exponential"}
SOURCES = {"cpu": "CPU", "nv": "NV"}

OUR_SAMPLERS = {theirs: ours for ours, theirs in SAMPLERS.items()}
OUR_SPACINGS = {theirs: ours for ours, theirs in SPACINGS.items()} | {
    "Automatic": None, "Normal": "linspace", "Polyexponential": "exponential"}
OUR_SOURCES = {"CPU": "cpu", "NV": "nv", "GPU": "nv"}

PROGRAM = "ldm "                                        # starts our Version
# Key: value, or Key: "a, quoted one".  Both patterns take time in proportion to the text, whatever a stranger wrote.
PAIR = re.compile(r'(?:^|(?<=,))\s*(\w[\w /-]*):\s*("(?:[^"\\]|\\.)*"|[^,]*)(?=,|$)')
SUFFIX = re.compile(r"\.(?:safetensors|ckpt|pth?|bin)$", re.IGNORECASE)        # of a file of weights
NEGATIVE = re.compile(r"^[^\S\n]*Negative prompt:", re.M)


class Parameters(NamedTuple):
    """What such a text says."""

    prompt: str
    settings: dict[str, Any]                            # keywords of the pipeline
    rest: dict[str, str]                                # what has no place among them, in A1111's words


def to_parameters(told: Mapping[str, Any], width: int, height: int) -> str:
    """Our JSON -> prompt, negative prompt and a line of pairs, in A1111's words.

    `told` as a picture's metadata; what it lacks, the text leaves out.  Size in pixels of the picture.
    A1111 modules/processing.py, create_infotext.
    """
    pairs = {
        "Steps": told.get("steps"),
        "Sampler": SAMPLERS.get(told.get("sampler", "")),
        "Schedule type": SPACINGS.get(told.get("spacing", "")),
        "CFG scale": told.get("guidance"),
        "Seed": told.get("seed"),
        "Size": f"{width}x{height}",
        "Model": model_name(told["model"]) if told.get("model") else None,
        "Denoising strength": told.get("strength") if "image_sha256" in told else None,
        "Clip skip": told.get("clip_skip") if told.get("clip_skip", 1) > 1 else None,
        "Eta DDIM": told.get("eta") or None,
        "RNG": SOURCES.get(told.get("noise", "cpu")),
        "Preset": told.get("preset") if told.get("preset") != "ldm" else None,          # our own word
        "Version": f"{PROGRAM}{told['version']}" if "version" in told else None,
    }
    negative = f"\nNegative prompt: {told['negative_prompt']}" if told.get("negative_prompt") else ""
    line = ", ".join(f"{key}: {quote(value)}" for key, value in pairs.items() if value is not None)
    return f"{with_tags(told)}{negative}\n{line}".strip()


def with_tags(told: Mapping[str, Any]) -> str:
    """The prompt of our JSON, with its LoRAs as A1111 writes them there: "a fox <lora:snow:0.8>"."""
    return told.get("prompt", "") + "".join(f" <lora:{one['name']}:{one['weight']:g}>" for one in told.get("loras", ()))


def from_parameters(text: str) -> Parameters:
    """Read such a text: the last line holds the pairs if there are 3 or more, else all is prompt.

    Nothing is refused: pairs that are unknown, or whose value makes no sense, are kept in `rest`.  Where the text is
    not ours, the settings say to sample as A1111 does.  A1111 modules/infotext_utils.py, parse_generation_parameters.
    """
    *lines, last = text.strip().split("\n")
    pairs = {key.strip(): unquote(value.strip()) for key, value in PAIR.findall(last)}
    if len(pairs) < 3:
        lines, pairs = [*lines, last], {}
    prompt, *negative = (part.strip() for part in NEGATIVE.split("\n".join(lines), maxsplit=1))
    settings, rest = {"negative_prompt": "".join(negative)}, {}
    if not pairs.get("Version", "").startswith(PROGRAM):
        settings |= {"preset": "a1111", "noise": "nv"}
    for key, value in pairs.items():
        try:
            settings |= READERS[key](value)
        except (KeyError, ValueError):
            rest[key] = value
    return Parameters(prompt, settings, rest)


def model_name(file: str) -> str:
    """A model's file name without its suffix; "v1.5", a folder, has none."""
    return SUFFIX.sub("", file)


def quote(value: object) -> str:
    """A value as it stands in a pair: 7.0 is 7, and what holds a comma, a colon or a new line is quoted as in JSON."""
    text = str(value).removesuffix(".0") if isinstance(value, float) else str(value)
    return json.dumps(text, ensure_ascii=False) if re.search("[,:\n]", text) else text


def unquote(text: str) -> str:
    """Undo `quote`; what only looks quoted stays as it is."""
    try:
        return str(json.loads(text)) if text.startswith('"') else text
    except json.JSONDecodeError:
        return text


def read_sampler(name: str) -> dict[str, Any]:
    """A sampler's name; before A1111 1.9 it could end in that of the schedule, as in "DPM++ 2M Karras"."""
    sampler, _, schedule = name.rpartition(" ")
    if name not in OUR_SAMPLERS and schedule in SPACINGS.values():
        return {"sampler": OUR_SAMPLERS[sampler], "spacing": OUR_SPACINGS[schedule]}
    return {"sampler": OUR_SAMPLERS[name]}


def read_size(size: str) -> dict[str, Any]:
    """Width x height in pixels."""
    width, height = map(int, size.split("x"))
    return {"width": width, "height": height}


READERS: dict[str, Callable[[str], dict[str, Any]]] = {
    "Steps": lambda value: {"steps": int(value)},
    "Sampler": read_sampler,
    "Schedule type": lambda value: {"spacing": OUR_SPACINGS[value]},
    "CFG scale": lambda value: {"guidance": float(value)},
    "Seed": lambda value: {"seed": int(value)},
    "Size": read_size,
    "Denoising strength": lambda value: {"strength": float(value)},
    "Clip skip": lambda value: {"clip_skip": int(value)},
    "Eta DDIM": lambda value: {"eta": float(value)},
    "RNG": lambda value: {"noise": OUR_SOURCES[value]},
    "Preset": lambda value: {"preset": value},
}
