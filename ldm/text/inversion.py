"""Textual inversion: words of a prompt that stand for learned vectors.  Gal et al. 2022."""

import re
from collections.abc import Iterable, Mapping
from copy import copy
from itertools import accumulate, chain, pairwise

import torch
from torch import Tensor, nn

from ldm.text.clip import CLIPText
from ldm.text.tokenizer import BOS, EOS, Tokenizer


class InversionTokenizer(Tokenizer):
    """A tokenizer that reads some words as vectors, one token a vector; else it is `tokenizer`.

    `embeddings`: word -> vectors [n W].  Upper and lower case are one; where two words fit, the longer is meant.  The
    tokens have ids above EOS: EOS + 1 + i stands for row i of `vectors`, and `ldm.text.encode` puts it in its place.
    """

    def __init__(self, tokenizer: Tokenizer, embeddings: Mapping[str, Tensor]):
        super().__init__(tokenizer.pad, tokenizer.glossary)
        self.embeddings = dict(sorted(embeddings.items(), key=lambda item: len(item[0]), reverse=True))
        counts = [len(vectors) for vectors in self.embeddings.values()]
        self.ids = [range(*pair) for pair in pairwise(accumulate(counts, initial=EOS + 1))]
        self.inner = {i for ids in self.ids for i in ids[1:]}           # no chunk may begin with one of these
        self.vectors = torch.cat([*self.embeddings.values()])
        whole = [rf"(?:(?<!\w)|(?=\W))({re.escape(word)})(?:(?!\w)|(?<=\W))" for word in self.embeddings]
        self.pattern = re.compile("|".join(whole), re.IGNORECASE)
        self._vocabulary = copy(tokenizer._vocabulary)
        texts = [[b""] * (n - 1) + [word.encode() + b" "] for word, n in zip(self.embeddings, counts, strict=True)]
        self._vocabulary.texts = [*self._vocabulary.texts[:BOS], b"", b"", *chain.from_iterable(texts)]

    def words(self, text: str) -> list[tuple[str, list[int]]]:
        """The words of a text, each with its token ids, as `Tokenizer.words`."""
        found, end = [], 0
        for match in self.pattern.finditer(text):
            assert match.lastindex                                      # which of the words
            found += [*super().words(text[end : match.start()]), (match[0], [*self.ids[match.lastindex - 1]])]
            end = match.end()
        return [*found, *super().words(text[end:])]

    def decode(self, ids: Iterable[int]) -> str:
        """Token ids -> text, as `Tokenizer.decode`; vectors give their word.

        Raises ValueError where an id is neither of the vocabulary nor of a vector.
        """
        ids, last = [int(i) for i in ids], EOS + len(self.vectors)
        for i in ids:
            if not 0 <= i <= last:
                raise ValueError(f"token id {i} is outside the vocabulary; use 0..{last}")
        return self._vocabulary.decode(i for i in ids if i not in (BOS, EOS))


def run(text: CLIPText, tokenizer: Tokenizer, ids: Tensor, clip_skip: int = 1) -> Tensor:
    """The text encoder, told what ids above EOS stand for.  ids [N 77], int64 -> context [N 77 W]."""
    places = ids > EOS
    if not isinstance(tokenizer, InversionTokenizer) or not places.any():
        return text(ids, clip_skip)
    rows = tokenizer.vectors[ids[places].cpu() - (EOS + 1)]

    def put(module: nn.Module, inputs: tuple[Tensor], embedded: Tensor) -> Tensor:
        return embedded.index_put((places,), rows.to(embedded))

    hook = text.token_embedding.register_forward_hook(put)
    try:
        return text(ids.masked_fill(places, EOS), clip_skip)
    finally:
        hook.remove()
