"""Plug-in files by name: from the folders models, loras, embeddings and controlnets, and from a prompt.

    find("loras", "fox")                                # ./loras/animals/Fox.safetensors
    extract_loras("a fox <lora:fox:0.8>")               # ("a fox ", [("fox", 0.8)])
"""

import difflib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal, get_args

from ldm.weights.checkpoint import listing
from ldm.weights.formats import SUFFIXES

Kind = Literal["models", "loras", "embeddings", "controlnets"]

MARKS = ("model_index.json", "config.json", "adapter_config.json")      # what a folder that is one model holds
TAG = re.compile(r"<(?:lora|lyco):([^<>]*)>")
WEIGHTED = re.compile(r"(.*):\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*")


def find(kind: Kind, name: str | Path, models_dir: str | Path | None = None) -> Path:
    """The file, or folder of diffusers or PEFT, that `name` means: a path, or a name without suffix below `kind`.

    A path that exists, or is absolute, is taken as it is.  Else the folder `kind` in `models_dir` (default: the
    environment variable LDM_MODELS, or here) is searched with its subfolders; "fox", "Fox.safetensors" and
    "animals/fox" all mean animals/Fox.safetensors.
    Raises ValueError where nothing has that name, naming near ones, and where two files have it, naming both.
    """
    exact = Path(name).exists() or Path(name).is_absolute()
    return Path(name) if exact else search(kind, name, models_dir)


def search(kind: Kind, name: str | Path, models_dir: str | Path | None = None) -> Path:
    """As `find`, but by name alone."""
    root = home(kind, models_dir)
    present = {path: names(path, root) for path in entries(root)}
    same = [path for path, called in present.items() if str(name).casefold() in called]
    if len(same) > 1:
        raise ValueError(f"{name} may be {' or '.join(map(str, same))}; say which, by folder or suffix")
    if not same:
        raise ValueError(f"there is no {name} here or in {root}{hint(str(name), present, root)}")
    return same[0]


def hint(name: str, present: Mapping[Path, set[str]], root: Path) -> str:
    """What to try in place of a name that is not there."""
    if not present:
        return ", which is empty" if root.is_dir() else ", which does not exist; --models-dir says where it is"
    scores = {path: max(difflib.SequenceMatcher(None, name.casefold(), n).ratio() for n in called)
              for path, called in present.items()}
    near = sorted((path for path, score in scores.items() if score >= 0.6), key=scores.__getitem__, reverse=True)
    return f"; {'near it' if near else 'it holds'}: {listing(dict.fromkeys(map(stem, near or present)))}"


def home(kind: Kind, models_dir: str | Path | None = None) -> Path:
    """The folder of one kind of files.  Raises ValueError for an unknown kind."""
    if kind not in get_args(Kind):
        raise ValueError(f"kind {kind!r} is unknown; try one of {', '.join(get_args(Kind))}")
    return Path(models_dir or os.environ.get("LDM_MODELS", "."), kind)


def entries(root: Path) -> Iterator[Path]:
    """Every file of weights below a folder, and every folder that is one model."""
    for path in sorted(root.iterdir()) if root.is_dir() else ():
        if path.is_dir() and not any((path / mark).is_file() for mark in MARKS):
            yield from entries(path)
        elif path.is_dir() or path.suffix.lower() in SUFFIXES:
            yield path


def stem(path: Path) -> str:
    """What a file or folder is called: without suffix."""
    return path.stem if path.suffix.lower() in SUFFIXES else path.name


def names(path: Path, root: Path) -> set[str]:
    """All that a file may be called, in lower case: with and without folder and suffix."""
    below = path.relative_to(root).with_name(stem(path)).as_posix()
    return {name.casefold() for name in (stem(path), path.name, below, path.relative_to(root).as_posix())}


def extract_loras(prompt: str) -> tuple[str, list[tuple[str, float]]]:
    """A prompt without its <lora:name:weight>, and the (name, weight) pairs; without a number the weight is 1.

    As in AUTOMATIC1111's web UI, whose <lyco:name:weight> means the same.  Raises ValueError for a tag of another form.
    """
    loras = []
    for tag in TAG.finditer(prompt):
        name, weight = name_and_weight(tag[1])
        if not name or ":" in name:
            raise ValueError(f"{tag[0]} is neither <lora:name> nor <lora:name:weight>; try <lora:fox:0.8>")
        loras.append((name, weight))
    return TAG.sub("", prompt), loras


def name_and_weight(text: str) -> tuple[str, float]:
    """"fox:0.8" -> ("fox", 0.8); without a number at its end, all is the name, and the weight 1."""
    match = WEIGHTED.fullmatch(text)
    return (match[1].strip(), float(match[2])) if match else (text.strip(), 1.0)


def named_in(texts: Iterable[str], models_dir: str | Path | None = None) -> dict[str, Path]:
    """The files of the folder "embeddings" whose names are words of one of these prompts, by name.

    As in AUTOMATIC1111's web UI.  Raises ValueError where two files have such a name.
    """
    written = "\n".join(texts)
    words = dict.fromkeys(map(stem, entries(home("embeddings", models_dir))))
    return {word: search("embeddings", word, models_dir) for word in words
            if re.search(rf"(?<!\w){re.escape(word)}(?!\w)", written, re.IGNORECASE)}
