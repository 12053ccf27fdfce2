"""Teach the bundled model's text encoder Chinese: the UNet shall read the same from a caption in either language.

    python scripts/emoji_chinese.py --ckpt DIR/model.safetensors --out FILE [--source DIR/npm]

The encoder as it was teaches the one that learns, as in AltCLIP (Chen et al. 2022) and before it in multilingual
sentence embeddings (Reimers & Gurevych 2020).  In two languages the tokens stand at other places, so not they are
compared, but what each cross-attention of the UNet answers from them, to queries that it had while removing noise.
"""

import argparse
import random
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path

import cli
import torch
from emoji_captions import chinese, english
from emoji_scenes import Scene, compose, training_scenes
from emoji_sprites import Sprites, download
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from tqdm import tqdm

from ldm import Pipeline
from ldm.images import to_tensor
from ldm.text import CLIPText
from ldm.training.data import Words
from ldm.training.progress import cosine
from ldm.unet.blocks import TransformerBlock

QUERIES, PICTURES = 16, 128             # asked of each layer at a step; from whose denoising they are
WARMUP = 100


class Reader:
    """The cross-attentions of a UNet.  `reader(context, queries)` -> what each answers [B Q C]."""

    def __init__(self, pipe: Pipeline):
        self.layers = [module.cross_attn for module in pipe.unet.modules() if isinstance(module, TransformerBlock)]
        self.found: list[list[Tensor]] = [[] for _ in self.layers]
        self.spread = [1.0] * len(self.layers)

    def __call__(self, context: Tensor, queries: list[Tensor]) -> list[Tensor]:
        return [layer(asked.expand(len(context), -1, -1), context)
                for layer, asked in zip(self.layers, queries, strict=True)]

    def queries(self) -> list[Tensor]:
        """Some that each layer had [1 Q C]."""
        return [pick(torch.cat(found)[None], QUERIES) for found in self.found]

    def keep(self, found: list[Tensor], layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        found.append(pick(args[0], QUERIES).flatten(0, 1))

    @torch.no_grad()
    def listen(self, pipe: Pipeline, pictures: Tensor, prompts: list[str]) -> None:
        """Keep queries from one step of removing noise from pictures, and how far the answers to prompts lie apart."""
        hooks = [layer.register_forward_pre_hook(partial(self.keep, found))
                 for layer, found in zip(self.layers, self.found, strict=True)]
        context, z = pipe.encode_prompt(prompts), pipe.encode_image(pictures)
        t = torch.randint(pipe.schedule.timesteps, (len(z),))
        pipe.unet(pipe.schedule.add_noise(z, torch.randn_like(z), t), t, context)
        for hook in hooks:
            hook.remove()
        self.spread = [(told - told.roll(1, 0)).square().mean().item() for told in self(context, self.queries())]

    def distance(self, told: list[Tensor], wanted: list[Tensor]) -> Tensor:
        """Squared distance of answers, mean of the layers; that of unlike prompts is 1."""
        return torch.stack([(a - b).square().mean() / apart
                            for a, b, apart in zip(told, wanted, self.spread, strict=True)]).mean()


def pick(tokens: Tensor, count: int) -> Tensor:
    """So many of tokens [B L C] -> [B count C]."""
    return tokens[:, torch.randint(tokens.shape[1], (count,))]


def cut_down(pipe: Pipeline) -> tuple[CLIPText, Words]:
    """The text encoder with the rows of the model's vocabulary alone."""
    words = Words(pipe.tokenizer, torch.arange(pipe.text.cfg.vocab) if pipe.vocabulary is None else pipe.vocabulary)
    state = pipe.text.state_dict()
    text = CLIPText(replace(pipe.text.cfg, vocab=len(words.vocabulary)))
    text.load_state_dict({**state, "token_embedding.weight": state["token_embedding.weight"][words.vocabulary]})
    return text, words


def learn(reader: Reader, text: CLIPText, words: Words, scenes: list[Scene], args: argparse.Namespace) -> None:
    """Train the text encoder: Chinese like English, and English, `--keep` times as important, as it was."""
    teacher, draw = deepcopy(text).requires_grad_(False), random.Random(args.seed)
    opt = torch.optim.AdamW(text.parameters(), lr=args.lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    progress = tqdm(range(args.steps), unit="step", mininterval=2)
    for step in progress:
        opt.param_groups[0]["lr"] = args.lr * cosine(step, args.steps, WARMUP)
        some = draw.choices(scenes, k=args.batch)
        known, new = words([english(scene) for scene in some]), words([chinese(scene, draw) for scene in some])
        queries = reader.queries()
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            wanted = reader(teacher(known), queries)
            told = reader(text(torch.cat([known, new])), queries)
        kept, learned = (reader.distance([answers.chunk(2)[half] for answers in told], wanted) for half in (0, 1))
        opt.zero_grad()
        (args.keep * kept + learned).backward()
        clip_grad_norm_(text.parameters(), 1.0)
        opt.step()
        progress.set_postfix_str(f"English {kept:.4f}, Chinese {learned:.4f}", refresh=False)


def parse() -> argparse.Namespace:
    p = cli.Parser(__doc__)
    p.add_argument("--ckpt", type=Path, required=True, help="model file that knows the English captions")
    p.add_argument("--out", type=Path, required=True, help="model file to write")
    p.add_argument("--source", type=Path, default=Path("data/npm"), help="folder of npm packages (default data/npm)")
    p.add_argument("--steps", type=cli.positive, default=1500, help="training steps (default 1500)")
    p.add_argument("--batch", type=cli.positive, default=64, help="captions of each language at a step (default 64)")
    p.add_argument("--lr", type=float, default=1e-3, help="peak learning rate of AdamW (default 0.001)")
    p.add_argument("--keep", type=float, default=4.0, help="weight of English (default 4)")
    p.add_argument("--bf16", action="store_true", help="bfloat16 autocast")
    p.add_argument("--seed", type=int, default=0, help="seed of queries and captions (default 0)")
    return p.parse_args()


def main() -> None:
    args = parse()
    torch.manual_seed(args.seed)
    pipe = Pipeline.load(args.ckpt, "cpu", "float32", kernels="plain")
    download(args.source)
    sprites = Sprites(args.source)
    scenes = list(training_scenes(sprites))
    text, words = cut_down(pipe)
    pipe.unet.requires_grad_(False)
    reader, shown = Reader(pipe), random.Random(args.seed).choices(scenes, k=PICTURES)
    for i in range(0, PICTURES, 32):
        part = shown[i : i + 32]
        pictures = torch.cat([to_tensor(compose(sprites, scene, pipe.size)) for scene in part])
        reader.listen(pipe, pictures, [english(scene) for scene in part])
    learn(reader, text, words, scenes, args)
    pipe.text.load_state_dict(words.dense(text.state_dict()))
    pipe.save(args.out, pipe.vocabulary)


if __name__ == "__main__":
    cli.run(main)
