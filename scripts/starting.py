"""What train_unet.py starts from: a model file, or networks with random weights; and the words they are to learn."""

import argparse
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cli
import torch
from torch import nn

from ldm import Pipeline
from ldm.loading import load_vae
from ldm.prepare import use_kernels
from ldm.text import CLIPText, CLIPTextConfig
from ldm.training.data import ImageFolder, Words, vocabulary_of
from ldm.training.shards import Shards
from ldm.unet import UNet, UNetConfig
from ldm.unet.blocks import TransformerBlock
from ldm.vae import TinyVAE

SHAPE = {"channels": 96, "multipliers": [1, 2, 2], "attn": [0, 1, 1], "res_blocks": 1, "heads": 4, "groups": 16,
         "text_width": 256, "text_layers": 2}           # of networks that start from random weights


def add_flags(p: argparse.ArgumentParser) -> None:
    """The flags that say what training starts from."""
    p.add_argument("--vae", type=Path, help="file of the VAE (default: that of --init)")
    p.add_argument("--init", type=Path, help="model file to start from, which says all widths "
                                                 "(default: random weights)")
    p.add_argument("--channels", type=cli.positive, help="width of the first level (default 96)")
    p.add_argument("--multipliers", type=cli.positive, nargs="+",
                   help="width per level over the first (default 1 2 2)")
    p.add_argument("--attn", type=int, nargs="+", help="transformers per level (default 0 1 1)")
    p.add_argument("--res-blocks", type=cli.positive, help="ResBlocks per level (default 1)")
    p.add_argument("--heads", type=cli.positive, help="attention heads of the UNet (default 4)")
    p.add_argument("--groups", type=cli.positive, help="groups of the UNet's GroupNorms (default 16)")
    p.add_argument("--text-width", type=cli.positive, help="text encoder, a multiple of 64 (default 256)")
    p.add_argument("--text-layers", type=cli.positive, help="layers of the text encoder (default 2)")


def shape_of(pipe: Pipeline) -> dict[str, object]:
    """The flags that describe a model."""
    unet, text = pipe.unet.cfg, pipe.text.cfg
    return {"channels": unet.channels, "multipliers": list(unet.multipliers), "attn": list(map(int, unet.attn_levels)),
            "res_blocks": unet.res_blocks, "heads": unet.heads, "groups": unet.groups, "text_width": text.width,
            "text_layers": text.layers}


def random_model(args: argparse.Namespace) -> Pipeline:
    """Networks with random weights, of the shape that the flags say."""
    s = SimpleNamespace(**SHAPE | {name: vars(args)[name] for name in SHAPE if vars(args)[name] is not None})
    cfg = UNetConfig(channels=s.channels, multipliers=tuple(s.multipliers), res_blocks=s.res_blocks,
                     attn_levels=tuple(map(bool, s.attn)), cross_only=(False,) * len(s.attn),
                     context_width=s.text_width, heads=s.heads, groups=s.groups)
    text, unet = CLIPText(CLIPTextConfig(width=s.text_width, layers=s.text_layers)), UNet(cfg)
    nn.init.zeros_(text.token_embedding.weight)             # no word is known
    nn.init.normal_(text.position_embedding.weight, std=0.3)
    for block in (m for m in unet.modules() if isinstance(m, TransformerBlock)):
        for layer in (block.cross_attn.q, block.cross_attn.k, block.cross_attn.v, block.cross_attn.out):
            layer.weight.data *= 2                          # or it nearly averages 77 tokens, and the words are lost
    nn.init.zeros_(unet.conv_out.weight)
    return Pipeline(load_vae(args.vae), unet, text, args.prediction or "v", args.size, 4.0, torch.tensor([]).long())


def open_model(args: argparse.Namespace) -> Pipeline:
    """What training starts from.  Raises ValueError where the flags say another shape than the model file has."""
    torch.manual_seed(args.seed)
    if args.init is None:
        pipe = random_model(args)
    else:
        pipe = Pipeline.load(args.init, "cpu", "float32", kernels="plain", prediction=args.prediction, vae=args.vae)
        for name, value in shape_of(pipe).items():
            if vars(args)[name] not in (None, value):
                raise ValueError(f"{args.init} has {name} {value}, not {vars(args)[name]}; leave that flag out")
        pipe.unet, pipe.text = deepcopy(pipe.unet), deepcopy(pipe.text)     # their weights may lie in the file itself
        use_kernels(pipe.unet, "auto")
    if isinstance(pipe.vae, TinyVAE):
        raise ValueError("a tiny autoencoder gives no latents to train on; give --vae the model's own")
    pipe.vae.requires_grad_(False)
    pipe.guidance = pipe.guidance if args.guidance is None else args.guidance
    return pipe


def learn_words(pipe: Pipeline, data: ImageFolder | Shards, held_out: list[list[str]], frozen: bool) -> Words:
    """Cut the text encoder down to the words that the model knows or the captions have; new ones start at random.

    With shards, whose captions are not known beforehand, it keeps all.  Raises ValueError for new ones in a frozen one.
    """
    every = torch.arange(pipe.text.cfg.vocab)
    known = every if pipe.vocabulary is None else pipe.vocabulary.long()
    told = every if isinstance(data, Shards) else vocabulary_of([*data.texts, *held_out], pipe.tokenizer)
    words, weights = Words(pipe.tokenizer, torch.cat([known, told]).unique()), pipe.text.state_dict()
    rows = weights["token_embedding.weight"][words.vocabulary]
    new = ~torch.isin(words.vocabulary, known)
    if frozen and new.any():
        some = ", ".join(map(str.strip, pipe.tokenizer.pieces(words.vocabulary[new].tolist()[:5])))
        raise ValueError(f"the frozen text encoder does not know {some} (of {int(new.sum())} tokens); train it along")
    rows[new] = torch.randn(int(new.sum()), rows.shape[1])  # as large as what attention mixes in, or words drown in it
    pipe.text = CLIPText(replace(pipe.text.cfg, vocab=len(rows)))
    pipe.text.load_state_dict({**weights, "token_embedding.weight": rows})
    return words
