"""Many pictures from a file of prompts: which are wanted, and the record of those that are there.

    jobs = read_jobs("prompts.jsonl", {"seed": 0, "steps": 20})
    manifest = Manifest("many", identity(pipe))
    todo = [job for job in jobs if not manifest.holds(job)]
"""

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from PIL import Image

from ldm.files import write_atomically
from ldm.images import digest
from ldm.pipeline import Pipeline
from ldm.settings import Settings
from ldm.weights.fingerprint import digest_of_weights

KINDS = {f.name: (f.metadata["type"], f.default) for f in fields(Settings)}
WORDS = {int: "a whole number", float: "a number", str: "a text"}
NAME = re.compile(r"[^./\\\0][^/\\\0]*\.png")            # of a file in the folder itself, not hidden


@dataclass(frozen=True)
class Job:
    """One picture that is wanted, or why it cannot be drawn."""

    file: str                                           # its name, .png
    prompt: str
    settings: dict[str, Any]                            # all of Settings; seed and count are of this picture alone
    error: str = ""
    embeddings: tuple[dict[str, str], ...] = ()         # names and hashes of those that its prompts have


def read_jobs(path: str | Path, defaults: Mapping[str, Any]) -> list[Job]:
    """The pictures that a file of prompts asks for: .txt with one on each line, or .jsonl with {"prompt": ...}.

    A line of the latter may also hold any of `Settings`, which win over `defaults`, and "file_name".  Picture n of the
    whole file, from 0, has the seed `defaults["seed"] + n` and the name 0000n.png, unless its line says otherwise; a
    line with count above 1 asks for several, with seeds and names that run on.  A line that cannot be understood is a
    job with an error.  Raises ValueError for another kind of file, and one without prompts.
    """
    path = Path(path)
    if path.suffix not in (".txt", ".jsonl"):
        raise ValueError(f"{path} is neither .txt, a prompt a line, nor .jsonl; give one of these")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8; save it as such") from error
    jobs: list[Job] = []
    taken: set[str] = set()
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line:
            continue
        try:
            row = parse(line) if path.suffix == ".jsonl" else {"prompt": line}
            new = jobs_of(row, len(jobs), defaults)
            if names := taken & {job.file.casefold() for job in new}:
                raise ValueError(f"{min(names)} is the file of an earlier line; give another file_name")
        except ValueError as error:
            new = [Job(f"{len(jobs):05d}.png", line, {}, f"line {number}: {error}")]
        taken |= {job.file.casefold() for job in new if not job.error}
        jobs += new
    if not jobs:
        raise ValueError(f"{path} holds no prompt; write one on each line")
    return jobs


def parse(line: str) -> dict[str, Any]:
    """A line of JSON with a prompt, whose names are known and whose values are of the right kind."""
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError('it is not JSON; write {"prompt": "a fox"}') from error
    if not isinstance(row, dict) or not isinstance(row.get("prompt"), str):
        raise ValueError('it has no prompt; write {"prompt": "a fox"}')
    for name, value in row.items():
        if name not in KINDS and name not in ("prompt", "file_name"):
            near = difflib.get_close_matches(name, [*KINDS, "file_name"], 1, 0)[0]
            raise ValueError(f"{name} is no setting; try {near}")
        kind, default = KINDS.get(name, (str, ""))
        fits = isinstance(value, (kind, type(default), int if kind is float else kind))
        if not fits or isinstance(value, bool):
            raise ValueError(f"{name} {value!r} is not {WORDS[kind]}; give one")
    return row


def jobs_of(row: Mapping[str, Any], n: int, defaults: Mapping[str, Any]) -> list[Job]:
    """The pictures that a line asks for, after n others.  Raises ValueError for a setting or file name out of range."""
    said = {name: value for name, value in row.items() if name in KINDS}
    s = Settings(**{**defaults, "seed": defaults.get("seed", 0) + n, **said})
    name = row.get("file_name", "")
    if "file_name" in row and (not NAME.fullmatch(name) or len(name.encode()) > 200):
        raise ValueError(f"file_name {name!r} is not a plain name of up to 200 bytes that ends in .png; try fox.png")
    jobs = []
    for i in range(s.count):
        numbered = f"{name.removesuffix('.png')}-{i}.png" if name else f"{n + i:05d}.png"
        file = name if name and s.count == 1 else numbered
        jobs.append(Job(file, row["prompt"], asdict(replace(s, seed=s.seed + i, count=1))))
    return jobs


def identity(pipe: Pipeline) -> dict[str, Any]:
    """What all pictures depend on besides prompt and settings: model and plug-ins, with the SHA-256 of all weights."""
    told = {name: files for name, files in pipe.plugin_metadata().items() if name != "embeddings"}
    return {"prediction": pipe.prediction, **told, "weights": digest_of_weights(*pipe.networks.values())}


class Manifest:
    """The record of a folder of pictures: manifest.jsonl, with file, prompt, settings, model and SHA-256 of the pixels.

    A line is added before its picture is written, so that no picture is ever unknown.  A line that was cut off when
    the program died is forgotten.  Raises ValueError for a file that is not such a record.
    """

    def __init__(self, folder: str | Path, model: Mapping[str, Any]):
        self.folder, self.model = Path(folder), dict(model)
        self.path = self.folder / "manifest.jsonl"
        lines = self.path.read_bytes().split(b"\n")[:-1] if self.path.exists() else []
        try:
            told = [json.loads(line) for line in lines]
            self.records: dict[str, dict[str, Any]] = {one["file"]: one for one in told if "error" not in one}
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{self.path} is no record of pictures; give another folder") from error

    def record(self, job: Job, **result: str) -> dict[str, Any]:
        """A line: what was wanted, and `sha256` or `error`."""
        used = {"embeddings": [*job.embeddings]} if job.embeddings else {}
        return {"file": job.file, "prompt": job.prompt, "settings": job.settings, "model": self.model, **used, **result}

    def holds(self, job: Job) -> bool:
        """Whether the picture is there whole.  Raises ValueError where another one would be overwritten."""
        path = self.folder / job.file
        if job.error or not path.exists():
            return False
        known = self.records.get(job.file)
        if known is None:
            raise ValueError(f"{path} is there, but not in {self.path.name}; give another folder, or move it away")
        if known != self.record(job, sha256=known.get("sha256", "")):
            raise ValueError(f"{path} was drawn from another prompt, model or settings; give another folder, or delete "
                             "it")
        return pixels(path) == known["sha256"]

    def add(self, job: Job, sha256: str, content: bytes) -> None:
        """Note a picture, and write its file."""
        self.records[job.file] = self.record(job, sha256=sha256)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(self.records[job.file]) + "\n")
        write_atomically(self.folder / job.file, lambda path: path.write_bytes(content))

    def write(self, jobs: Sequence[Job] = ()) -> None:
        """Write the whole anew: `jobs` in their order, those that failed with the error; then all others."""
        lines = [self.record(job, error=job.error) if job.error else self.records[job.file] for job in jobs]
        told = {job.file for job in jobs if not job.error}     # what an error keeps from being drawn may be there yet
        lines += [record for file, record in self.records.items() if file not in told]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, lambda path: path.write_text(text, encoding="utf-8"))


def pixels(path: Path) -> str | None:
    """SHA-256 of a picture's pixels; None where the file is damaged."""
    try:
        with Image.open(path) as image:
            return digest(image)
    except (OSError, SyntaxError, ValueError):          # all of them are how Pillow says so
        return None
