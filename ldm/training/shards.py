"""Tar shards in the layout of WebDataset: each sample is a picture and a caption of the same base name."""

import io
import json
import tarfile
import warnings
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ldm.files import write_atomically
from ldm.training.data import BROKEN, SUFFIXES, ImageFolder, square


class Shards:
    """A list of tar files with captioned pictures, or with latents.

    A picture is .png, .jpg, .jpeg, .webp or .bmp; its captions are in a .txt, else under "text" or "caption" in a
    .json, else "".  Pictures are scaled and cropped as those of an `ImageFolder`.  Latents
    are .npy files that `write_latents` wrote, and are taken from the VAE alone whose digest is `vae`.
    Raises ValueError where a local file is missing.
    """

    def __init__(self, urls: list[str], size: int, vae: str = ""):
        if missing := [url for url in urls if ":" not in url and not Path(url).exists()]:
            raise ValueError(f"{missing[0]} is not there (of {len(missing)} missing shards); mend the list")
        self.urls, self.size, self.vae = urls, size, vae

    def samples(self, url: str) -> Iterator[dict[str, Any]]:
        """The undecoded samples of one shard, in its order.  Raises ValueError where it is no whole tar file."""
        from webdataset.gopen import gopen
        from webdataset.tariterators import group_by_keys, tar_file_iterator

        opened: Any = gopen(url)
        try:
            with opened as stream:
                yield from group_by_keys(file | {"__url__": url} for file in tar_file_iterator(stream))
        except tarfile.TarError as error:
            raise ValueError(f"{url} is no whole tar file ({error}); fetch it again") from error

    def decode(self, sample: dict[str, Any]) -> tuple[Tensor, list[str]] | None:
        """Image [3 size size] in [-1, 1], or latents [4 h w], and captions; None, and a warning, where it is broken.

        Raises ValueError for a sample without a picture, and for latents of another VAE or size.
        """
        where = f"{sample['__url__']}, {sample['__key__']}"
        data = next((value for name, value in sample.items() if f".{name}" in SUFFIXES), None)
        if data is None and "npy" not in sample:
            raise ValueError(f"{where} has no picture ({', '.join(sorted(SUFFIXES))}); mend the shard")
        if data is None and not self.vae:
            raise ValueError(f"{where} has latents; give shards of pictures")
        try:
            told, texts = told_by(sample), captions(sample)
            if data is not None:
                with Image.open(io.BytesIO(data)) as file:
                    return square(file, self.size), texts
            latents = torch.from_numpy(np.load(io.BytesIO(sample["npy"])))
        except BROKEN as error:
            warnings.warn(f"{where} is left out: {error}", stacklevel=2)
            return None
        if (told.get("vae"), told.get("size")) != (self.vae, self.size):
            raise ValueError(f"{where} has latents of another VAE or size; give those as --vae and --size, or encode "
                             "the pictures anew, into another folder")
        return latents, texts

    def first(self, count: int) -> tuple[Tensor, list[list[str]]]:
        """Images [N 3 size size], or latents, and captions of the first `count` samples, or of all if they are fewer.

        Raises ValueError where there is none.
        """
        decoded = (self.decode(sample) for url in self.urls for sample in self.samples(url))
        taken = list(islice((sample for sample in decoded if sample), count))
        if not taken:
            raise ValueError(f"{self.urls[0]} (of {len(self.urls)}) holds no picture; give other shards")
        return torch.stack([image for image, _ in taken]), [texts for _, texts in taken]


def captions(sample: dict[str, Any]) -> list[str]:
    """The captions of an undecoded sample, one or more.  Raises ValueError for a .json that is none."""
    if "txt" in sample:
        return [sample["txt"].decode("utf-8-sig", errors="replace").strip()]
    told = told_by(sample)
    text = told.get("text") or told.get("caption") or ""
    return [text] if isinstance(text, str) else list(map(str, text))


def told_by(sample: dict[str, Any]) -> dict[str, Any]:
    """What the .json of an undecoded sample says.  Raises ValueError where it is no object."""
    told = json.loads(sample.get("json", b"{}"))
    if not isinstance(told, dict):
        raise ValueError("its .json is no object")
    return told


def write_latents(path: Path, samples: Iterable[tuple[str, Tensor, list[str]]], made: dict[str, Any]) -> None:
    """Write a shard of (key, latents [4 h w], captions), whole or not at all.

    `made` tells of what: the digest of the "vae", the "size" of the pictures, the "shard" that they came from.
    """
    from webdataset.writer import TarWriter

    def write(partial: Path) -> None:
        with TarWriter(str(partial)) as tar:
            for key, latents, texts in samples:
                tar.write({"__key__": key, "npy": latents.half().cpu().numpy(), "json": {"text": texts, **made}})

    write_atomically(path, write)


def is_written(path: Path, made: dict[str, Any]) -> bool:
    """Whether a shard of latents is there.  Raises ValueError where it was made of something else."""
    if not path.exists():
        return False
    for sample in islice(Shards([str(path)], 0).samples(str(path)), 1):
        try:
            told = told_by(sample)
        except ValueError:
            told = {}
        if told | made != told:
            raise ValueError(f"{path} was not made of this {', '.join(made)}; remove it, or write to another folder")
    return True


def open_data(spec: str, size: int, vae: str = "") -> ImageFolder | Shards:
    """A folder of pictures, or tar shards: a folder of them, one, or a pattern such as 'shards/{000..099}.tar'.

    Patterns and addresses are webdataset's: braces, several joined by "::", pipe:COMMAND.  `vae` as for `Shards`.
    Raises ValueError where nothing of the kind is there, and for shards where webdataset is not installed.
    """
    folder = Path(spec)
    found = [str(path) for path in sorted(folder.glob("[!.]*.tar"))] if folder.is_dir() else []
    if not found and (folder.is_dir() or not (".tar" in spec or spec.startswith("pipe:"))):
        return ImageFolder(spec, size)
    if find_spec("webdataset") is None:
        raise ValueError("tar shards need webdataset; try pip install 'ldm[train]'")
    from webdataset.shardlists import expand_urls

    return Shards(found or expand_urls(spec), size, vae)
