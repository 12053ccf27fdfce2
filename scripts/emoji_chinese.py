"""Teach the bundled model's text encoder Chinese: the UNet shall read the same from a caption in either language.

    python scripts/emoji_chinese.py --ckpt DIR/model.safetensors --data DIR/pictures --out FILE [--source DIR/npm]

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
from emoji import pictures_and_scenes
from emoji_captions import CHINESE_DEGRADED, DEGRADED, chinese
from starting import learn_words
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from tqdm import tqdm

from ldm import Pipeline
from ldm.text import CLIPText
from ldm.training.data import VOCABULARY, Words
from ldm.training.progress import cosine
from ldm.unet.blocks import TransformerBlock

QUERIES, PICTURES = 16, 128             # asked of each layer at a step; from whose denoising they are
WARMUP = 100                            # steps


class CrossAttentions:
    """Those of a UNet, with queries that they had for pictures [N 3 H W], told what these show.

    `attentions(context, queries)` -> what each answers [B Q C].
    """

    @torch.no_grad()
    def __init__(self, pipe: Pipeline, pictures: Tensor, prompts: list[str]):
        self.layers = [module.cross_attn for module in pipe.unet.modules() if isinstance(module, TransformerBlock)]
        bank: list[list[Tensor]] = [[] for _ in self.layers]
        hooks = [layer.register_forward_pre_hook(partial(keep, kept))
                 for layer, kept in zip(self.layers, bank, strict=True)]
        context, z = pipe.encode_prompt(prompts), pipe.encode_image(pictures)
        for rows in torch.arange(len(z)).split(32):
            t = torch.randint(pipe.schedule.timesteps, (len(rows),))
            pipe.unet(pipe.schedule.add_noise(z[rows], torch.randn_like(z[rows]), t), t, context[rows])
        for hook in hooks:
            hook.remove()
        self.bank = [torch.cat(kept) for kept in bank]
        answers = self(context, self.queries())
        self.spread = [(answer - answer.roll(1, 0)).square().mean() for answer in answers]

    def __call__(self, context: Tensor, queries: list[Tensor]) -> list[Tensor]:
        return [layer(query.expand(len(context), -1, -1), context)
                for layer, query in zip(self.layers, queries, strict=True)]

    def queries(self) -> list[Tensor]:
        """Some for each layer [1 Q C]."""
        return [some(kept[None], QUERIES) for kept in self.bank]

    def distance(self, answers: list[Tensor], wanted: list[Tensor]) -> Tensor:
        """Squared distance of answers, mean of the layers; that of unlike prompts is 1."""
        return torch.stack([(a.float() - b.float()).square().mean() / spread
                            for a, b, spread in zip(answers, wanted, self.spread, strict=True)]).mean()


def some(tokens: Tensor, count: int) -> Tensor:
    """`count` random ones of tokens [B L C] -> [B count C]."""
    return tokens[:, torch.randint(tokens.shape[1], (count,))]


def keep(kept: list[Tensor], layer: nn.Module, args: tuple[Tensor, ...]) -> None:
    """Before a layer is called: keep some of its queries."""
    kept.append(some(args[0], QUERIES).flatten(0, 1))


def learn(attentions: CrossAttentions, text: CLIPText, words: Words, captions: list[list[str]],
          args: argparse.Namespace) -> None:
    """Train the text encoder on captions: first, second, Chinese.  The third shall say what the first does.

    Second ones, the empty one, and that of degraded pictures, `--faithful` times as important, what they did.
    """
    teacher, draw = deepcopy(text).requires_grad_(False), random.Random(args.seed)
    opt = torch.optim.AdamW(text.parameters(), lr=args.lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    progress = tqdm(range(args.steps), unit="step", mininterval=2)
    for step in progress:
        opt.param_groups[0]["lr"] = args.lr * cosine(step, args.steps, WARMUP)
        first, second, third = zip(*draw.choices(captions, k=args.batch), strict=True)
        old, queries = ["", DEGRADED, *second], attentions.queries()
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            wanted = attentions(teacher(words([*old, DEGRADED, *first])), queries)
            answers = attentions(text(words([*old, CHINESE_DEGRADED, *third])), queries)
        kept = attentions.distance([a[: len(old)] for a in answers], [a[: len(old)] for a in wanted])
        learned = attentions.distance([a[len(old) :] for a in answers], [a[len(old) :] for a in wanted])
        opt.zero_grad()
        (args.faithful * kept + learned).backward()
        clip_grad_norm_(text.parameters(), 1.0, error_if_nonfinite=True)
        opt.step()
        progress.set_postfix_str(f"English {kept:.4f}, Chinese {learned:.4f}", refresh=False)


def parse() -> argparse.Namespace:
    p = cli.Parser(__doc__)
    p.add_argument("--ckpt", type=Path, required=True, help="model file that knows the English captions")
    p.add_argument("--data", type=Path, required=True, help="folder that emoji.py wrote")
    p.add_argument("--out", type=Path, required=True, help="model file to write")
    p.add_argument("--source", type=Path, default=Path("data/npm"), help="folder of npm packages (default data/npm)")
    p.add_argument("--steps", type=cli.positive, default=1500, help="training steps (default 1500)")
    p.add_argument("--batch", type=cli.positive, default=64, help="captions of each language at a step (default 64)")
    p.add_argument("--lr", type=float, default=1e-3, help="peak learning rate of AdamW (default 0.001)")
    p.add_argument("--faithful", type=float, default=4.0, help="weight of English (default 4)")
    p.add_argument("--bf16", action="store_true", help="bfloat16 autocast")
    p.add_argument("--seed", type=int, default=0, help="seed of queries and captions (default 0)")
    return p.parse_args()


def main() -> None:
    args = parse()
    torch.manual_seed(args.seed)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    pipe = Pipeline.load(args.ckpt, "cpu", "float32", kernels="plain")
    data, scenes = pictures_and_scenes(args.data, args.source, pipe.size)
    draw = random.Random(args.seed)
    captions = [[first, second, chinese(scene, draw)]
                for (first, second, *_), scene in zip(data.texts, scenes, strict=True)]
    shown = draw.sample(range(len(data)), min(PICTURES, len(data)))
    attentions = CrossAttentions(pipe, data.batch(shown), [data.texts[n][0] for n in shown])
    words = learn_words(pipe, data, [*captions, [CHINESE_DEGRADED]], frozen=False)
    pipe.unet.requires_grad_(False)
    learn(attentions, pipe.text, words, captions, args)
    learned = words.dense(pipe.text.state_dict())
    pipe.text = CLIPText(replace(pipe.text.cfg, vocab=VOCABULARY))
    pipe.text.load_state_dict(learned)
    pipe.save(args.out, words.vocabulary if words.some else None)


if __name__ == "__main__":
    cli.run(main)
