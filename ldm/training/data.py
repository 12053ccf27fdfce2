"""Folders of captioned pictures, and a fixed order to read them in."""

import json
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ldm.images import on_white, to_tensor

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


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
        listed = self.folder / "metadata.jsonl"
        if listed.exists():
            self.files, self.texts = [], []
            for name, text in read_captions(listed):
                self.files.append(self.folder / name)
                self.texts.append([text] if isinstance(text, str) else text or [""])
        else:
            self.files = sorted(p for p in self.folder.rglob("*") if p.suffix.lower() in SUFFIXES)
            beside = [p.with_suffix(".txt") for p in self.files]
            self.texts = [[t.read_text(encoding="utf-8").strip()] if t.exists() else [""] for t in beside]
        if missing := [file.name for file in self.files if not file.exists()]:
            raise ValueError(f"{listed} names {missing[0]}, which is not there (of {len(missing)}); mend it")
        if not self.files:
            raise ValueError(f"{folder} holds no picture ({', '.join(sorted(SUFFIXES))})")

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> tuple[Tensor, list[str]]:
        with Image.open(self.files[i]) as file:
            image = on_white(file)
        scale = self.size / min(image.size)
        if scale != 1:
            size = [max(self.size, round(side * scale)) for side in image.size]
            image = image.resize((size[0], size[1]), Image.Resampling.LANCZOS)
        left, top = (image.width - self.size) // 2, (image.height - self.size) // 2
        image = image.crop((left, top, left + self.size, top + self.size))
        return to_tensor(image)[0], self.texts[i]

    def batch(self, indices: list[int]) -> Tensor:
        """Images [B 3 size size] in [-1, 1]."""
        return torch.stack([self[i][0] for i in indices])


def read_captions(path: Path) -> Iterator[tuple[str, str | list[str]]]:
    """File name and caption, or captions, of each line of a metadata.jsonl.  Raises ValueError for another line."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
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
    picked = []
    for n in range(step * batch, (step + 1) * batch):
        epoch, at = divmod(n, count)
        picked.append(int(permutation(count, seed, epoch)[at]))
    return picked


@lru_cache(maxsize=2)
def permutation(count: int, seed: int, epoch: int) -> Tensor:
    """The order of one epoch [count]."""
    return torch.randperm(count, generator=generator(seed, epoch))


def generator(seed: int, step: int) -> torch.Generator:
    """A random generator that depends on (seed, step) alone, so that a resumed run draws what an unbroken one would."""
    state = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def random_crop(images: Tensor, side: int, g: torch.Generator) -> Tensor:
    """Another square of each picture.  [B 3 H W] -> [B 3 side side]."""
    room = torch.tensor([images.shape[2] - side + 1, images.shape[3] - side + 1])
    corners = (torch.rand(len(images), 2, generator=g) * room).long()
    return torch.stack([x[:, top : top + side, left : left + side]
                        for x, (top, left) in zip(images, corners.tolist(), strict=True)])


class Captions:
    """Token ids of a data set's captions, over the vocabulary that occurs in them.

    Models trained from scratch on few words need few rows of CLIP's 49,408; `vocabulary` [n] lists their ids, sorted,
    and all ids given out are places in it.
    """

    def __init__(self, texts: list[list[str]], tokenizer: Callable[[list[str]], Tensor]):
        distinct = sorted({text for several in texts for text in several} | {""})
        ids = tokenizer(distinct)
        self.vocabulary = ids.unique()
        self.ids = torch.searchsorted(self.vocabulary, ids)                                 # [texts 77]
        place = {text: i for i, text in enumerate(distinct)}
        self.of = [[place[text] for text in several] for several in texts]
        self.empty = self.ids[[place[""]]]                                                  # [1 77]

    def first(self, indices: list[int]) -> Tensor:
        """Ids of the first caption of each picture [B 77]."""
        return self.ids[[self.of[i][0] for i in indices]]

    def draw(self, indices: list[int], drop: float, g: torch.Generator) -> Tensor:
        """Ids of one caption of each picture, chosen at random; a share `drop` of them is empty -> [B 77]."""
        chance = torch.rand(len(indices), 2, generator=g)
        chosen = [self.of[i][int(c * len(self.of[i]))] for i, c in zip(indices, chance[:, 0].tolist(), strict=True)]
        return torch.where(chance[:, 1:] < drop, self.empty, self.ids[chosen])

    def dense(self, state: dict[str, Tensor], vocab: int = 49408) -> dict[str, Tensor]:
        """A text encoder's state_dict with the whole vocabulary; words that never occurred are zero."""
        rows = state["token_embedding.weight"]
        dense = rows.new_zeros(vocab, rows.shape[1]).index_copy(0, self.vocabulary, rows)
        return {**state, "token_embedding.weight": dense}
