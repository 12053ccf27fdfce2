"""Textual inversions: files whose vectors a word of the prompt stands for.  Gal et al. 2022."""

from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from ldm.plugins.reading import family, kind_of, not_a, read_entries, read_tensor
from ldm.text import Tokenizer
from ldm.text.chunks import ROOM
from ldm.text.inversion import InversionTokenizer
from ldm.weights import CheckpointError
from ldm.weights.checkpoint import listing
from ldm.weights.entries import Reader

NAMELESS = ("emb_params", "tensor", "string_to_param.*")        # A1111's tensors: there the file's name is the word
OF_XL = {"clip_l", "clip_g"}                                    # one for each of its text encoders


def read_embedding(path: str | Path) -> tuple[str, Tensor]:
    """The word and the vectors [n W], float32, of a textual inversion: .pt of A1111, .safetensors, .bin of diffusers.

    Raises CheckpointError where the file is damaged, or is no textual inversion of Stable Diffusion 1 or 2.
    """
    entries = read_entries(path)
    if OF_XL & set(entries):
        raise CheckpointError(f"{path} is a textual inversion for {family(1280)}: it has {listing(entries)}")
    kind = kind_of(entries)
    if kind.family != "embedding":
        raise not_a("a textual inversion", path, kind)
    (name, entry), *others = entries.items()
    if others or len(entry.shape) not in (1, 2):
        told = listing(f"{name} {list(entry.shape)}" for name, entry in entries.items())
        raise CheckpointError(f"{path} holds {told}, not the vectors [n W] of one word; take another file")
    word = Path(path).stem if name in NAMELESS else name.removeprefix("string_to_param.")
    vectors = read_tensor(Reader(), name, entry)
    return word, vectors[None] if vectors.ndim == 1 else vectors


def with_embedding(tokenizer: Tokenizer, width: int, path: str | Path, word: str | None = None,
                   ) -> tuple[InversionTokenizer, str]:
    """The tokenizer, knowing one more word, and that word: `word`, else the file's own, else the file's name.

    `width` is the text encoder's.
    Raises CheckpointError as `read_embedding`, where the vectors have another width, and where there are more than
    75; ValueError for a word that is taken, empty or has space around it.
    """
    own, vectors = read_embedding(path)
    word = own if word is None else word
    if vectors.shape[1] != width:
        raise CheckpointError(f"{path} holds vectors of width {vectors.shape[1]}, for {family(vectors.shape[1])}; "
                              f"this model's are {width} wide, as for {family(width)}")
    if not 1 <= len(vectors) <= ROOM:
        raise CheckpointError(f"{path} holds {len(vectors)} vectors, but a chunk of a prompt has {ROOM} tokens; "
                              "take another file")
    if not word or word != word.strip():
        raise ValueError(f"word {word!r} is empty or has space around it; try 'my-style'")
    known = words_of(tokenizer)
    if word.casefold() in map(str.casefold, known):
        raise ValueError(f"the word {word!r} stands for a textual inversion already; give this one another")
    return InversionTokenizer(tokenizer, {**known, word: vectors}), word


def without_embedding(tokenizer: Tokenizer, word: str | None = None) -> Tokenizer:
    """The tokenizer without the textual inversion of a word, or without any.  Raises ValueError for another word."""
    rest = words_of(tokenizer)
    if word is not None and rest.pop(word, None) is None:
        raise ValueError(f"the word {word!r} stands for no textual inversion; those are {', '.join(rest) or 'none'}")
    plain = Tokenizer(tokenizer.pad, tokenizer.glossary)
    return InversionTokenizer(plain, rest) if word is not None and rest else plain


def words_in(tokenizer: Tokenizer, ids: Iterable[int]) -> dict[str, Tensor]:
    """Those words of `words_of` whose vectors are among some token ids."""
    if not isinstance(tokenizer, InversionTokenizer):
        return {}
    found = set(ids)
    return {word: vectors for (word, vectors), own in zip(tokenizer.embeddings.items(), tokenizer.ids, strict=True)
            if not found.isdisjoint(own)}


def words_of(tokenizer: Tokenizer) -> dict[str, Tensor]:
    """The words that stand for textual inversions, with their vectors [n W]."""
    return dict(tokenizer.embeddings) if isinstance(tokenizer, InversionTokenizer) else {}
