"""CLIP's byte-pair tokenizer: prompts to token ids and back."""

import gzip
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property, lru_cache
from importlib.util import find_spec
from itertools import accumulate, islice, pairwise
from pathlib import Path

import regex
import torch
from torch import Tensor

from ldm.text.glossary import Glossary

FILE = "bpe_simple_vocab_16e6.txt.gz"                   # a heading, then one merge a line, the most frequent first
MERGES = 48894                                          # as many of them as CLIP uses
BOS, EOS = 49406, 49407
LENGTH = 77                                             # BOS, up to 75 tokens of text, EOS, padding

SPECIAL = {"<|startoftext|>": BOS, "<|endoftext|>": EOS}
SPECIAL_TEXT = regex.compile(r"(<\|startoftext\|>|<\|endoftext\|>)")
WORD = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+")
CHUNK = regex.compile(f"{SPECIAL_TEXT.pattern}|{WORD.pattern}")


class Tokenizer:
    """Text <-> token ids, equal to transformers' CLIPTokenizer.  Radford et al. 2021, sec. 2.4; Sennrich et al. 2016.

    `pad` fills up to 77 tokens: 49407, the end token, in Stable Diffusion 1.x; 0 in OpenCLIP.  With a `glossary`, texts
    are translated before.
    The vocabulary is read at first use, from the package open_clip_torch; FileNotFoundError where that is missing.
    """

    def __init__(self, pad: int = EOS, glossary: Glossary | None = None):
        self.pad, self.glossary = pad, glossary

    def __call__(self, texts: str | list[str]) -> Tensor:
        """Prompts -> ids [B 77], int64: BOS, the text, EOS, padding.  One string is a batch of one.

        A text of more than 75 tokens keeps the first 75, and a UserWarning names the words that were cut.
        """
        texts = [texts] if isinstance(texts, str) else texts
        ids = torch.full((len(texts), LENGTH), self.pad)
        for row, text in zip(ids, texts, strict=True):
            tokens = self.encode(text)
            if len(tokens) > LENGTH - 2:
                warnings.warn(f"a prompt of {len(tokens)} tokens is longer than {LENGTH - 2}; shorten it, "
                              f"else these words are cut: {self.cut(text)}", stacklevel=2)
            tokens = [BOS, *tokens[: LENGTH - 2], EOS]
            row[: len(tokens)] = torch.tensor(tokens)
        return ids

    def encode(self, text: str) -> list[int]:
        """Token ids of a text of any length, without BOS and EOS."""
        return [i for _, ids in self.words(text) for i in ids]

    def decode(self, ids: Iterable[int]) -> str:
        """Token ids -> text in lower case, a space after each word.  BOS and EOS are left out.

        Raises ValueError where an id is outside 0..49407.
        """
        ids = [int(i) for i in ids]
        for i in ids:
            if not 0 <= i <= EOS:
                raise ValueError(f"token id {i} is outside the vocabulary; use 0..{EOS}")
        return self._vocabulary.decode(i for i in ids if i not in (BOS, EOS))

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """The text of each token other than BOS and EOS; a space ends the last one of a word."""
        return [self._vocabulary.texts[i].decode(errors="replace") for i in ids]

    def words(self, text: str) -> list[tuple[str, list[int]]]:
        """The words of a text, in lower case, each with its token ids.

        A word is a run of letters, one digit, or a run of other signs; an ending such as 's is a word of its own.
        """
        text = self.glossary(text) if self.glossary else text
        return [(word, [SPECIAL[word]] if word in SPECIAL else [*self._encode_word(word)]) for word in split(text)]

    def cut(self, text: str) -> str:
        """The words that do not fit (whole) into the 75 tokens of a prompt; "" where all fit."""
        words = self.words(text)
        ends = accumulate(len(ids) for _, ids in words)
        return " ".join(word for (word, _), end in zip(words, ends, strict=True) if end > LENGTH - 2)

    @cached_property
    def _vocabulary(self) -> "Vocabulary":
        return Vocabulary(vocabulary_path())

    @cached_property
    def _encode_word(self) -> Callable[[str], list[int]]:
        return lru_cache(maxsize=2**16)(self._vocabulary.encode)


def split(text: str) -> Iterator[str]:
    """The words of a text, normalised: NFC, then lower case letter by letter (no final sigma), as in transformers.

    A special token is a word where it is spelled exactly.  In capitals it is text, but the signs after it stay apart.
    """
    for part in SPECIAL_TEXT.split(text):
        if part in SPECIAL:
            yield part
            continue
        normal = "".join(c.lower() for c in unicodedata.normalize("NFC", part))
        for chunk in CHUNK.finditer(normal):
            yield from WORD.findall(chunk[0])


def vocabulary_path() -> Path:
    """The vocabulary file in open_clip_torch, found without importing that package, which takes seconds.

    Raises FileNotFoundError where the package or the file is missing.
    """
    spec = find_spec("open_clip")
    for folder in (spec and spec.submodule_search_locations) or []:
        if (path := Path(folder, FILE)).is_file():
            return path
    raise FileNotFoundError(f"CLIP's vocabulary {FILE} comes with open_clip_torch, which is not installed whole; "
                            "try pip install --force-reinstall open_clip_torch")


class Vocabulary:
    """CLIP's tokens: ids 0..255 are bytes inside a word, 256..511 bytes at its end, then one id per merge."""

    def __init__(self, path: Path):
        printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
        order = printable + [b for b in range(256) if b not in printable]
        self.byte_ids = {byte: i for i, byte in enumerate(order)}
        self.texts = [bytes([b]) for b in order] + [bytes([b]) + b" " for b in order]   # what an id stands for
        self.merges: dict[tuple[int, int], int] = {}                                    # two ids -> the id of both
        # The file writes a printable byte as the character of that code, and the others as those from 256 on.
        symbols = [chr(b) for b in printable] + [chr(256 + i) for i in range(256 - len(printable))]
        ids = {symbol: i for i, symbol in enumerate(symbols + [f"{s}</w>" for s in symbols])}
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for new, line in enumerate(islice(file, 1, MERGES + 1), start=len(ids)):
                left, right = line.split()
                ids[left + right] = self.merges[ids[left], ids[right]] = new
                self.texts.append(self.texts[ids[left]] + self.texts[ids[right]])

    def encode(self, word: str) -> list[int]:
        """Byte-pair encoding of one word: merge the most frequent pair, until no pair is known."""
        ids = [self.byte_ids[byte] for byte in word.encode()]
        ids[-1] += 256
        while known := [pair for pair in pairwise(ids) if pair in self.merges]:
            ids = self._merge(ids, min(known, key=self.merges.__getitem__))             # lowest id = most frequent
        return ids

    def _merge(self, ids: list[int], pair: tuple[int, int]) -> list[int]:
        out: list[int] = []
        for i in ids:
            if out and (out[-1], i) == pair:
                out[-1] = self.merges[pair]
            else:
                out.append(i)
        return out

    def decode(self, ids: Iterable[int]) -> str:
        """Ids of bytes and merges -> text, with a space for the end of each word but the last."""
        return b"".join(self.texts[i] for i in ids).decode(errors="replace").strip()
