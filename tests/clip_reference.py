"""transformers' CLIP without its hub: the tokenizer from open_clip's vocabulary, the text encoder from our weights."""

import gzip
import json
from pathlib import Path

from torch import nn

from ldm.text import CLIPText
from ldm.text.names import rows
from ldm.text.tokenizer import vocabulary_path


def clip_tokenizer(folder: Path):
    """transformers' tokenizer, from the files that its hub page has, which are written to a folder."""
    from transformers import CLIPTokenizerFast

    with gzip.open(vocabulary_path(), "rt", encoding="utf-8") as file:
        merges = file.read().split("\n")[1 : 49152 - 256 - 2 + 1]
    printable = [chr(b) for b in [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]]
    symbols = printable + [chr(256 + i) for i in range(256 - len(printable))]
    tokens = symbols + [f"{s}</w>" for s in symbols] + [m.replace(" ", "") for m in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    return CLIPTokenizerFast.from_pretrained(folder, model_max_length=77)


def transformers_text(text: CLIPText) -> nn.Module:
    """transformers' text encoder with our weights."""
    from transformers import CLIPTextConfig, CLIPTextModel

    cfg = text.cfg
    theirs = CLIPTextModel(CLIPTextConfig(
        vocab_size=cfg.vocab, hidden_size=cfg.width, intermediate_size=4 * cfg.width, num_hidden_layers=cfg.layers,
        num_attention_heads=cfg.heads, bos_token_id=0, eos_token_id=1))
    names = {ours: diffusers for ours, _, diffusers in rows(cfg)}
    flat = not any(name.startswith("text_model.") for name in theirs.state_dict())
    state = {}
    for name, tensor in text.state_dict().items():
        module, _, parameter = name.rpartition(".")
        state[f"{names[module].removeprefix('text_model.' if flat else '')}.{parameter}"] = tensor.clone()
    theirs.load_state_dict(state, strict=False)
    return theirs.eval().requires_grad_(False)
