"""From prompts of any length to the context that the UNet attends to: chunks of 75 tokens, weights, equal lengths."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ldm.text.clip import CLIPText
from ldm.text.grammar import Syntax, parse
from ldm.text.inversion import InversionTokenizer, run
from ldm.text.tokenizer import BOS, EOS, LENGTH, Tokenizer

ROOM = LENGTH - 2                                       # tokens of text in a chunk, between BOS and EOS
COMMA = 267
BACKTRACK = 20                                          # tokens at most that move on to the next chunk with a comma
MOST = 64                                               # chunks that one evaluation of the UNet attends to


@dataclass(frozen=True)
class Chunks:
    """A prompt as the text encoder reads it.  BOS, EOS and padding weigh 1.  Ids above EOS: `InversionTokenizer`."""

    tokens: list[list[int]]                             # C chunks of up to 75, the text alone
    ids: Tensor                                         # [C 77] int64, with BOS, EOS and padding
    weights: Tensor                                     # [C 77] float32


def chunk(tokenizer: Tokenizer, prompt: str, syntax: Syntax = "a1111") -> Chunks:
    """Read a prompt and cut its tokens into chunks: at each BREAK, and where a chunk is full.

    An empty section between two BREAKs is an empty chunk; after the last BREAK it is none.  The vectors of a textual
    inversion stay in one chunk.
    AUTOMATIC1111/stable-diffusion-webui modules/sd_hijack_clip.py, tokenize_line.
    """
    cut: list[list[tuple[int, float]]] = []
    inner = tokenizer.inner if isinstance(tokenizer, InversionTokenizer) else set()
    *before, last = ([(i, weight) for text, weight in section for i in tokenizer.encode(text)]
                     for section in parse(prompt, syntax))
    for section in [*before, last] if last or not before else before:
        cut += wrap(section, inner)
    ids = torch.full((len(cut), LENGTH), tokenizer.pad)
    weights = torch.ones(len(cut), LENGTH)
    for i, tokens in enumerate(cut):
        end = len(tokens) + 2
        ids[i, :end] = torch.tensor([BOS, *(token for token, _ in tokens), EOS])
        weights[i, 1 : end - 1] = torch.tensor([weight for _, weight in tokens])
    return Chunks([[token for token, _ in tokens] for tokens in cut], ids, weights)


def wrap(tokens: list[tuple[int, float]], inner: set[int]) -> list[list[tuple[int, float]]]:
    """Chunks of up to 75 (id, weight) pairs; a full one ends at its last comma, if that is among its last 20.

    None begins with one of the `inner` ids: there it ends before the word that they belong to.
    """
    chunks = []
    while len(tokens) > ROOM:
        end = ROOM
        if tokens[ROOM][0] in inner:
            while tokens[end][0] in inner:
                end -= 1
        elif tokens[ROOM][0] != COMMA:
            commas = [i for i in range(ROOM - BACKTRACK, ROOM) if tokens[i][0] == COMMA]
            end = commas[-1] + 1 if commas else ROOM
        chunks.append(tokens[:end])
        tokens = tokens[end:]
    return [*chunks, tokens]


def told_of_cuts(tokenizer: Tokenizer, chunks: list[list[int]]) -> Iterator[str]:
    """What the ends of chunks cut, and what programs without chunks would, in lines of words.

    `chunks`: tokens as in `Chunks`.
    """
    halves = pairwise("".join(tokenizer.pieces(tokens)) for tokens in chunks)
    words = [a.split(" ")[-1] + b.split(" ")[0] for a, b in halves if a and not a.endswith(" ")]
    yield f"cut in two by the end of a chunk: {', '.join(words) or 'nothing'}"
    rest = [i for tokens in chunks for i in tokens][ROOM:]
    if rest:
        yield f"programs without chunks would cut: {tokenizer.decode(rest)}"


def encode(text: CLIPText, tokenizer: Tokenizer, prompts: Sequence[str], clip_skip: int = 1,
           syntax: Syntax = "a1111") -> Tensor:
    """Prompts -> context [B 77C W]: their chunks side by side, at equal lengths as by `same_length`.

    A row does not depend on the others, up to rounding.  Raises ValueError as `same_length` and for a clip_skip that
    leaves no layer.
    """
    chunks = [chunk(tokenizer, prompt, syntax) for prompt in prompts]
    device = text.final_norm.weight.device
    ids, weights = torch.cat([c.ids for c in chunks]), torch.cat([c.weights for c in chunks])
    context = emphasize(run(text, tokenizer, ids.to(device), clip_skip), weights.to(device))
    rows = context.split([len(c.ids) for c in chunks])
    return torch.cat(same_length(*(row.flatten(0, 1)[None] for row in rows)))


def emphasize(context: Tensor, weights: Tensor) -> Tensor:
    """Weigh the vectors of tokens, then bring each chunk back to its mean.  [N 77 W], [N 77] -> [N 77 W].

    As AUTOMATIC1111/stable-diffusion-webui modules/sd_emphasis.py, "Original", but there the mean is the batch's, so
    that a picture depends on those beside it.
    """
    if (weights == 1).all():
        return context
    exact = context.to(torch.promote_types(context.dtype, weights.dtype))
    weighed = exact * weights[:, :, None]
    mean, size = exact.mean((1, 2), keepdim=True), exact.abs().mean((1, 2), keepdim=True)
    back = torch.where(mean.abs() > 1e-4 * size, mean / weighed.mean((1, 2), keepdim=True), 1.0)
    return (weighed * back).to(context.dtype)           # a mean that is but rounding, as of random weights, is left


def common_length(chunks: Iterable[int]) -> int:
    """The least common multiple of some numbers of chunks.  Raises ValueError where that is more than 64."""
    counts = sorted(set(chunks))
    length = math.lcm(*counts)
    if length > MOST:
        raise ValueError(f"prompts of {', '.join(map(str, counts))} chunks make {length} together, more than {MOST}; "
                         "shorten one, or the negative prompt")
    return length


def same_length(*contexts: Tensor) -> list[Tensor]:
    """Contexts [B S W] repeated to one length, the least common multiple of theirs.

    That is exact: attention shares each weight out among the copies, so their sum stays.  An empty chunk in place of
    a copy would draw attention to itself.
    Raises ValueError as `common_length`.
    """
    length = LENGTH * common_length(context.shape[1] // LENGTH for context in contexts)
    return [context.repeat(1, length // context.shape[1], 1) for context in contexts]
