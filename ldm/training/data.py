"""Folders of captioned pictures, a fixed order to read them in, captions as tokens."""

import json
import warnings
from collections.abc import Callable, Iterable, Iterator
from copy import copy
from functools import lru_cache
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ldm.files import listed
from ldm.images import on_white, to_tensor
from ldm.training.draws import generator

BROKEN = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)       # what Pillow says of broken pictures
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
VOCABULARY = 49408                                      # tokens of CLIP


class ImageFolder:
    """Pictures with captions.  `folder[i]` -> (image [3 size size] in [-1, 1], captions).

    Captions come from `metadata.jsonl` ({"file_name": ..., "text": str or list of str}), else from a .txt beside each
    picture, else they are "".  Pictures are scaled to cover the square and cropped at the centre.
    Transparency is laid on white.
    Raises ValueError where the folder is missing, holds no picture, or its metadata.jsonl cannot be understood.
    """

    def __init__(self, folder: str | Path, size: int):
        self.folder, self.size = Path(folder), size
        if not self.folder.is_dir():
            raise ValueError(f"{folder} is no folder; give a folder of pictures")
        metadata = self.folder / "metadata.jsonl"
        if metadata.exists():
            self.files, self.texts = [], []
            for name, text in read_captions(metadata):
                self.files.append(self.folder / name)
                self.texts.append([text] if isinstance(text, str) else text or [""])
        else:
            self.files = listed(self.folder, SUFFIXES)
            beside = [p.with_suffix(".txt") for p in self.files]
            self.texts = [[read_text(t).strip()] if t.exists() else [""] for t in beside]
        if missing := [file.name for file in self.files if not file.exists()]:
            raise ValueError(f"{metadata} names {missing[0]}, which is not there (of {len(missing)}); mend it")
        if not self.files:
            raise ValueError(f"{folder} holds no picture ({', '.join(sorted(SUFFIXES))})")

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> tuple[Tensor, list[str]]:
        try:
            with Image.open(self.files[i]) as file:
                return square(file, self.size), self.texts[i]
        except BROKEN as error:
            raise ValueError(f"{self.files[i]} is no whole picture ({error}); mend or remove it") from error

    def only(self, indices: Iterable[int]) -> "ImageFolder":
        """The folder with these pictures alone."""
        part, picked = copy(self), list(indices)
        part.files, part.texts = [self.files[i] for i in picked], [self.texts[i] for i in picked]
        return part

    def first(self, count: int) -> tuple[Tensor, list[list[str]]]:
        """Images [N 3 size size] and captions of the first `count` pictures, or of all where they are fewer."""
        count = min(count, len(self))
        return self.batch(range(count)), self.texts[:count]

    def batch(self, indices: Iterable[int]) -> Tensor:
        """Images [B 3 size size] in [-1, 1]."""
        return torch.stack([self[i][0] for i in indices])


def check_outside(out: Path, pictures: Path) -> None:
    """Raises ValueError where a run would write its samples among the pictures that it learns from."""
    if out.resolve().is_relative_to(pictures.resolve()):
        raise ValueError(f"--out {out} lies in {pictures}, where its samples would be learned; give another folder")


def square(file: Image.Image, size: int) -> Tensor:
    """A picture scaled to cover a square and cropped at its centre, on white -> [3 size size] in [-1, 1]."""
    image = on_white(file)
    scale = size / min(image.size)
    if scale != 1:
        sides = [max(size, round(side * scale)) for side in image.size]
        image = image.resize((sides[0], sides[1]), Image.Resampling.LANCZOS)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return to_tensor(image.crop((left, top, left + size, top + size)))[0]


def read_text(path: Path) -> str:
    """A text in UTF-8, without the mark that some editors put before it.  Raises ValueError for another encoding."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not in UTF-8 ({error}); save it in that encoding") from error


def read_captions(path: Path) -> Iterator[tuple[str, str | list[str]]]:
    """File name and caption, or captions, of each line of a metadata.jsonl.  Raises ValueError for another line."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            try:
                entry = json.loads(line)
                file_name, text = entry["file_name"], entry["text"]
                if not all(isinstance(one, str) for one in ([text] if isinstance(text, str) else text)):
                    raise TypeError(f"text is {text!r}")
                yield file_name, text
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f'{path}, line {number} is not {{"file_name": ..., "text": ...}}; mend it') from error


def split(count: int, held_out: int) -> tuple[list[int], list[int]]:
    """Indices to train on and to hold out; the latter are spread evenly over the whole set.

    Raises ValueError unless both are left with one at least.
    """
    if not 0 < held_out < count:
        raise ValueError(f"{held_out} of {count} pictures cannot be held out; give at least 2 pictures, hold out 1")
    held = {i * count // held_out for i in range(held_out)}
    return [i for i in range(count) if i not in held], sorted(held)


def batch_indices(count: int, batch: int, seed: int, step: int) -> list[int]:
    """Which of `count` samples step `step` trains on: every epoch a new permutation, known from (seed, step) alone."""
    return [nth(n, count, seed) for n in range(step * batch, (step + 1) * batch)]


def nth(n: int, count: int, seed: int) -> int:
    """Which of `count` samples is the n-th to be read, epoch after epoch."""
    epoch, at = divmod(n, count)
    return int(permutation(count, seed, epoch)[at])


@lru_cache(maxsize=2)
def permutation(count: int, seed: int, epoch: int) -> Tensor:
    """The order of one epoch [count]."""
    return torch.randperm(count, generator=generator(seed, epoch))


def random_crop(images: Tensor, side: int, chance: Tensor) -> Tensor:
    """A square of each picture, its corner by chance [B 2] in [0, 1).  [B 3 H W] -> [B 3 side side]."""
    room = torch.tensor([images.shape[2] - side + 1, images.shape[3] - side + 1])
    corners = (chance * room).long()
    return torch.stack([x[:, top : top + side, left : left + side]
                        for x, (top, left) in zip(images, corners.tolist(), strict=True)])


class Words:
    """Captions to token ids that are places in a vocabulary: `words(texts)` -> [B 77], long.

    Models trained from scratch on few words need few rows of CLIP's 49,408; `vocabulary` [n] lists their ids, sorted.
    """

    def __init__(self, tokenizer: Callable[[list[str]], Tensor], vocabulary: Tensor):
        self.tokenizer, self.vocabulary = tokenizer, vocabulary
        self.ids = lru_cache(2**17)(self._ids)          # tokenizing is slow, and captions come again

    def _ids(self, text: str) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")             # of a long caption, the first 75 tokens count
            return torch.searchsorted(self.vocabulary, self.tokenizer([text])[0])

    def __call__(self, texts: list[str]) -> Tensor:
        return torch.stack([self.ids(text) for text in texts])

    @property
    def some(self) -> bool:
        """Whether they are not all of CLIP's."""
        return len(self.vocabulary) < VOCABULARY

    def dense(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A text encoder's state_dict with CLIP's whole vocabulary; words outside this one are zero."""
        rows = state["token_embedding.weight"]
        dense = rows.new_zeros(VOCABULARY, rows.shape[1]).index_copy(0, self.vocabulary.to(rows.device), rows)
        return {**state, "token_embedding.weight": dense}


def vocabulary_of(texts: Iterable[list[str]], tokenizer: Callable[[list[str]], Tensor]) -> Tensor:
    """The ids of all tokens of some captions, and of the empty one; sorted."""
    return tokenizer(sorted({text for several in texts for text in several} | {""})).unique()
