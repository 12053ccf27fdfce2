"""Textual inversion: a new word whose vectors are learned, while the model stays as it is.  Gal et al. 2022."""

import torch
from torch import nn

from ldm.text import CLIPText, Tokenizer
from ldm.text.chunks import ROOM
from ldm.text.inversion import InversionTokenizer


def new_word(text: CLIPText, tokenizer: Tokenizer, word: str, start: str, count: int | None = None,
             ) -> InversionTokenizer:
    """The tokenizer, knowing one more word: `count` vectors that begin as the tokens of the text `start`, in turn.

    Without `count` they are as many as its tokens.  `vectors` of the tokenizer [count W] is the parameter to train:
    `ldm.text.encode` passes gradients on to it.
    Raises ValueError for a word that cannot name a file, a start without tokens, and more than 75 vectors.
    """
    if not word or word != word.strip() or set(word) & set("/\\"):
        raise ValueError(f"word {word!r} cannot name a file, or has space around it; try 'zorbl'")
    ids = tokenizer.encode(start)
    if not ids:
        raise ValueError(f"{start!r} has no word to begin with; try one that is near what the pictures show")
    count = count or len(ids)
    if count > ROOM:
        raise ValueError(f"{count} vectors do not fit into the {ROOM} tokens of a prompt; try 1 to 8")
    rows = text.token_embedding.weight.detach().float().cpu()[ids]
    words = InversionTokenizer(tokenizer, {word: rows[torch.arange(count) % len(ids)]})
    words.vectors = nn.Parameter(words.vectors)
    return words
