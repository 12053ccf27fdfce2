"""How a picture comes about: the plan, the tokens, the latents step by step, and where each word looks."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor, nn

from ldm.pipeline import Pipeline
from ldm.plan import Plan
from ldm.samplers import Step
from ldm.text import Tokenizer, at_steps, chunk
from ldm.unet import UNet
from ldm.unet.blocks import Attention, TransformerBlock

START, PADDING = "<start>", "<padding>"                 # what the tokens around the text count as; no word
NONE, HALF, MOST = "#000004", "#bc3754", "#fcffa4"      # colors of heat
SHOWN = 50                                              # steps at most that are kept as pictures


class Token(NamedTuple):
    """One token of a prompt."""

    text: str
    id: int
    weight: float


class WordMap(NamedTuple):
    """How much attention each place pays to a word, [H W] in 0..1 over the picture; `share` is the mean."""

    word: str
    heat: Tensor

    @property
    def share(self) -> float:
        return self.heat.mean().item()


class Moment(NamedTuple):
    """One step as quick pictures: the latents after it, and what the model expected in the end."""

    i: int                                              # counts from 1
    sigma: float                                        # noise level after it
    noisy: Image.Image
    x0: Image.Image


@dataclass(frozen=True)
class Explained:
    """A picture, and how it came about."""

    plan: Plan
    picture: Image.Image
    tokens: list[list[Token]]                           # chunks of the prompt; of one that changes, as it ends
    negative: list[list[Token]]
    moments: list[Moment]
    words: list[WordMap]                                # of the prompt as it ends


class Recorder:
    """Adds up the cross-attention of a UNet, which stays as it is, while it is watched.

    What counts of each evaluation is the last row of the batch, and that only under `context` [1 S W], or copies of it
    side by side.  So of a pair under guidance it is the one with the prompt, and of a prompt that changes its present
    text.
    `probabilities`: softmax(q k^T / sqrt(d)), the mean over heads, layers and evaluations, at the size of the latents.
    """

    def __init__(self, unet: UNet, context: Tensor, height: int, width: int):
        self.unet, self.context, self.size = unet, context[0].to(unet.conv_in.weight.dtype), (height, width)
        self.total, self.count = torch.zeros(len(self.context), height, width), 0

    @contextmanager
    def watch(self) -> Iterator["Recorder"]:
        """Record what the network does inside; afterwards nothing of this is left in it."""
        blocks = [module for module in self.unet.modules() if isinstance(module, TransformerBlock)]
        hooks = [block.cross_attn.register_forward_hook(self.see) for block in blocks]
        try:
            yield self
        finally:
            for hook in hooks:
                hook.remove()

    @torch.no_grad()
    def see(self, module: nn.Module, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        """The hook: x [B L C], context [B S W]."""
        assert isinstance(module, Attention)
        x, context = (given[-1:] for given in inputs)
        tokens = len(self.context)
        if context.shape[1] % tokens or not torch.equal(context[0, :tokens], self.context):
            return
        maps = probabilities(module, x, context).mean(1)[0].T               # [nS L], n copies of the context
        maps = maps.unflatten(0, (-1, tokens)).sum(0).unflatten(1, grid_of(len(x[0]), *self.size))
        self.total += F.interpolate(maps[None], self.size, mode="bilinear")[0].cpu()
        self.count += 1

    @property
    def probabilities(self) -> Tensor:
        """[S h w]: at each place, how much of the attention goes to each of S tokens; they sum to 1."""
        if not self.count:
            raise ValueError("no cross-attention to this context was seen; run the network with it inside `watch`")
        return self.total / self.count


def probabilities(attention: Attention, x: Tensor, context: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) of a layer, in float32.  x [B L C], context [B S W] -> [B heads L S].

    Vaswani et al. 2017, eq. 1.
    """
    q, k = (layer(given).float().unflatten(-1, (attention.heads, -1)).transpose(1, 2)
            for layer, given in ((attention.q, x), (attention.k, context)))
    return (q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])).softmax(-1)


def grid_of(places: int, height: int, width: int) -> tuple[int, int]:
    """Height and width of a level of the UNet that has so many places: sides halve, and odd ones round up."""
    while height * width > places:
        height, width = math.ceil(height / 2), math.ceil(width / 2)
    if height * width != places:
        raise ValueError(f"{places} places are no level of this UNet; its levels halve the sides of the latents")
    return height, width


def tokens_of(tokenizer: Tokenizer, prompt: str, syntax: Any) -> list[list[Token]]:
    """The tokens of each chunk of a prompt, with their weights."""
    chunks = chunk(tokenizer, prompt, syntax)
    rows = zip(chunks.tokens, chunks.weights.tolist(), strict=True)
    return [[Token(text, i, weight) for text, i, weight in zip(tokenizer.pieces(ids), ids, weights[1:], strict=False)]
            for ids, weights in rows]


def words_of(chunks: list[list[Token]]) -> list[str]:
    """What each of the 77 places of each chunk belongs to: a word with its number, START or PADDING.

    The pieces of a word, up to the one that ends with a space, are one.
    """
    places, number = [], 0
    for tokens in chunks:
        owners, word = [], []
        for i, token in enumerate(tokens, start=1):
            word.append(token.text)
            if token.text.endswith(" ") or i == len(tokens):
                owners += [f"{number} {''.join(word).strip()}"] * len(word)
                number, word = number + 1, []
        places += [START, *owners, *[PADDING] * (76 - len(owners))]
    return places


def by_word(maps: Tensor, chunks: list[list[Token]], height: int, width: int) -> list[WordMap]:
    """Add up the maps of the tokens [S h w] of each word, at the size of the picture.  They still sum to 1."""
    places = words_of(chunks)
    order = sorted(range(len(places)), key=lambda i: (not places[i][0].isdigit(), number_of(places[i]), places[i]))
    sums = [(word, maps[[*which]].sum(0)) for word, which in groupby(order, key=places.__getitem__)]
    return [WordMap(word.split(" ", 1)[-1], F.interpolate(total[None, None], (height, width), mode="bilinear")[0, 0])
            for word, total in sums]


def number_of(place: str) -> int:
    """Which word of the prompt a place belongs to; those around the text come last."""
    return int(place.split(" ")[0]) if place[0].isdigit() else 0


def heat_map(word: WordMap, picture: Image.Image) -> Image.Image:
    """A word's map over the picture: dark is none, bright the most that any place pays to it."""
    scaled = word.heat / word.heat.max().clamp(min=1e-12)
    heat = ImageOps.colorize(Image.fromarray((scaled * 255).byte().numpy()), NONE, MOST, HALF)
    return Image.blend(picture.convert("RGB"), heat.resize(picture.size), 0.7)


def explain(pipe: Pipeline, prompt: str, settings: dict[str, Any], preview: Callable[[Tensor], Image.Image],
            report: Callable[[int, int, Image.Image], None]) -> Explained:
    """Draw one picture of a prompt, and keep what happens.  `preview`: latents -> picture; `report` after each step.

    The maps are of the steps under the prompt as it ends.  Recording does not change the picture.
    Raises as `Pipeline.plan` and `Pipeline.sample`.
    """
    plan = pipe.plan(prompt, **{**settings, "count": 1})
    s, total = plan.settings, len(plan.sigmas) - 1
    last, last_negative = (at_steps(text, s.steps, s.prompt_syntax)[-1] for text in (prompt, s.negative_prompt))
    moments: list[Moment] = []
    recorder = Recorder(pipe.unet, pipe.encode_prompt([last], s.clip_skip, s.prompt_syntax), *plan.latents[2:])

    def keep(steps: Iterator[Step]) -> Iterator[Step]:
        for step in steps:
            x0 = preview(step.x0)
            if step.i % math.ceil(total / SHOWN) == 0 or step.i == total - 1:
                moments.append(Moment(step.i + 1, step.sigma, preview(step.z), x0))
            report(step.i + 1, total, x0)
            yield step

    with recorder.watch():
        [picture] = pipe.draw(plan, keep)
    tokens, negative = (tokens_of(plan.tokenizer, text, s.prompt_syntax) for text in (last, last_negative))
    words = by_word(recorder.probabilities, tokens, plan.height, plan.width)
    return Explained(plan, picture, tokens, negative, moments, words)
