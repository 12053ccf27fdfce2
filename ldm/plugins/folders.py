"""Plug-in files by name: from the folders models, loras, embeddings and controlnets, and from a prompt.

    find("loras", "fox")                                # ./loras/animals/Fox.safetensors
    extract_loras("a fox <lora:fox:0.8>")               # ("a fox ", [("fox", 0.8)])
"""

import difflib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, get_args

from ldm.weights.checkpoint import listing
from ldm.weights.formats import SUFFIXES

Kind = Literal["models", "loras", "embeddings", "controlnets"]

MARKS = ("model_index.json", "config.json", "adapter_config.json")      # what a folder that is one model holds
LORA_FILES = [f"{stem}{suffix}" for stem in ("pytorch_lora_weights", "adapter_model")     # in a folder that is a LoRA
              for suffix in (".safetensors", ".bin")]
STATE = re.compile(r"state(-\d+)?\.pt")                 # what training resumes from
TAG = re.compile(r"<(?:lora|lyco):([^<>]*)>")
WEIGHTED = re.compile(r"(.*):\s*([+-]?(?:\d+(?:\.\d*)?|\.\d+))\s*")


def find(kind: Kind, name: str | Path, models_dir: str | Path | None = None) -> Path:
    """The file, or folder of diffusers or PEFT, that `name` means: a path, or a name without suffix below `kind`.

    A path that exists, or is absolute, is taken as it is.  Else the folder `kind` in `models_dir` (default: the
    environment variable LDM_MODELS, or here) is searched with its subfolders; "fox", "Fox.safetensors" and
    "animals/fox" all mean animals/Fox.safetensors.  A folder here that is no model does not hide what has its name.
    Raises ValueError where nothing has that name, naming near ones, and where two files have it, naming both.
    """
    if not str(name):
        raise ValueError(f"the name of the {kind[:-1]} is empty; give a path or a name, or leave it out")
    path = Path(name)
    other = path.is_dir() and not holds(path, (*MARKS, *LORA_FILES)) and called(name, home(kind, models_dir))
    exact = path.is_absolute() or path.exists() and not other
    return path if exact else search(kind, name, models_dir)


def search(kind: Kind, name: str | Path, models_dir: str | Path | None = None) -> Path:
    """As `find`, but by name alone."""
    root = home(kind, models_dir)
    same = called(name, root)
    if len(same) > 1:
        raise ValueError(f"{name} may be {' or '.join(map(str, same))}; say which, by folder or suffix")
    if not same:
        raise ValueError(f"there is no {name} here or in {root}{hint(str(name), root)}")
    return same[0]


def called(name: str | Path, root: Path) -> list[Path]:
    """The entries below a folder that have a name; where it is the whole name of one, with or without suffix, that."""
    wanted = str(name).casefold()
    same = [path for path in entries(root) if wanted in names(path, root)]
    whole = [path for path in same if wanted in whole_names(path, root)]
    return [path for path in whole if path.relative_to(root).as_posix().casefold() == wanted] or whole or same


def hint(name: str, root: Path) -> str:
    """What to try in place of a name that is not there."""
    present = {path: names(path, root) for path in entries(root)}
    if not present:
        return ", which is empty" if root.is_dir() else ", which does not exist; --models-dir says where it is"
    scores = {path: max(difflib.SequenceMatcher(None, name.casefold(), n).ratio() for n in own)
              for path, own in present.items()}
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
        if path.is_dir() and not holds(path, MARKS):
            yield from entries(path)
        elif path.is_dir() or path.suffix.lower() in SUFFIXES and not STATE.fullmatch(path.name):
            yield path


def holds(folder: Path, files: Iterable[str]) -> bool:
    """Whether a folder has a file of one of these names."""
    return any((folder / name).is_file() for name in files)


def stem(path: Path) -> str:
    """What a file or folder is called: without suffix."""
    return path.stem if path.suffix.lower() in SUFFIXES else path.name


def names(path: Path, root: Path) -> set[str]:
    """All that a file may be called, in lower case: with and without folder and suffix."""
    return {stem(path).casefold(), path.name.casefold()} | whole_names(path, root)


def whole_names(path: Path, root: Path) -> set[str]:
    """A file's name from the folder `root` on, with and without suffix, in lower case."""
    below = path.relative_to(root)
    return {name.as_posix().casefold() for name in (below, below.with_name(stem(path)))}


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
    written, found = "\n".join(texts), {}
    for path in entries(home("embeddings", models_dir)):
        word = stem(path)
        if re.search(rf"(?<!\w){re.escape(word)}(?!\w)", written, re.IGNORECASE):
            if other := next((found[known] for known in found if known.casefold() == word.casefold()), None):
                raise ValueError(f"{word} may be {other} or {path}; rename one, for the prompt means both")
            found[word] = path
    return found
