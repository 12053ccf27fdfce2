"""OpenCLIP's text encoder without its last layer, as in Stable Diffusion 2: against open_clip's and transformers'."""

import pytest
import torch
from randomise import randomise
from relative_error import relative_error
from torch import Tensor, nn

from ldm.text import CLIPText, CLIPTextConfig, Tokenizer
from ldm.text.names import rows

TINY = CLIPTextConfig(vocab=500, width=128, layers=3, open_clip=True)
VIT_H = CLIPTextConfig(width=1024, layers=23, open_clip=True)
PARITY = 1e-5                                           # of the largest absolute value, float32


def prompts(cfg: CLIPTextConfig) -> Tensor:
    """Two prompts of random ids."""
    return torch.randint(cfg.vocab, (2, cfg.length), generator=torch.Generator().manual_seed(1))


def open_clip_model(cfg: CLIPTextConfig) -> nn.Module:
    """open_clip's own, whole: with one layer more than is used."""
    from open_clip.transformer import TextTransformer

    return randomise(TextTransformer(vocab_size=cfg.vocab, width=cfg.width, heads=cfg.heads, layers=cfg.layers + 1,
                                     output_dim=cfg.width)).eval()


def penultimate(model: nn.Module, ids: Tensor) -> Tensor:
    """All layers but the last, then the final norm: Stability-AI's FrozenOpenCLIPEmbedder, layer "penultimate"."""
    last_but_one = len(model.transformer.resblocks) - 2
    return model.forward_intermediates(ids, indices=[last_but_one], normalize_intermediates=True,
                                       intermediates_only=True, output_fmt="NLC")["text_intermediates"][0]


def filled(cfg: CLIPTextConfig, theirs: dict[str, Tensor], column: int) -> CLIPText:
    """Ours with the weights of another model, by the names of one column of our rows."""
    names = {row[0]: row[column] for row in rows(cfg)}
    with torch.device("meta"):
        text = CLIPText(cfg)
    split = {name: name.rpartition(".") for name in text.state_dict()}
    text.load_state_dict({ours: theirs[f"{names[module]}.{parameter}"] for ours, (module, _, parameter)
                          in split.items()}, assign=True)
    return text


def from_open_clip(model: nn.Module, cfg: CLIPTextConfig) -> CLIPText:
    """q, k and v are one matrix there, and the positions a parameter of no module."""
    theirs = model.state_dict()
    theirs["positional_embedding.weight"] = theirs["positional_embedding"]
    for name in [name for name in theirs if ".in_proj_" in name]:
        attention, kind = name.split(".in_proj_")
        theirs |= {f"{attention}.{letter}_proj.{kind}": part
                   for letter, part in zip("qkv", theirs[name].chunk(3), strict=True)}
    return filled(cfg, theirs, 1)


@torch.no_grad()
def test_open_clip_text_equals_open_clip_without_its_last_layer(parity):
    reference, ids = open_clip_model(TINY), prompts(TINY)
    difference = relative_error(from_open_clip(reference, TINY)(ids), penultimate(reference, ids))
    parity("text encoder of SD 2, tiny", "open_clip_torch", difference, PARITY)


@pytest.mark.slow
@torch.no_grad()
def test_open_clip_text_equals_open_clip_vit_h_14(parity):
    reference, ids = open_clip_model(VIT_H), prompts(VIT_H)
    difference = relative_error(from_open_clip(reference, VIT_H)(ids), penultimate(reference, ids))
    parity("text encoder of SD 2, full size, ViT-H-14", "open_clip_torch", difference, PARITY)


@torch.no_grad()
@pytest.mark.parametrize("skip", [1, 2])
def test_open_clip_text_equals_transformers(skip, parity):
    """The folders of SD 2 hold 23 layers, with the exact GELU.  A skip of n: hidden_states[-n], then the final norm."""
    from transformers import CLIPTextConfig as Config
    from transformers import CLIPTextModel

    reference = randomise(CLIPTextModel(Config(
        vocab_size=TINY.vocab, hidden_size=TINY.width, intermediate_size=4 * TINY.width, num_hidden_layers=TINY.layers,
        num_attention_heads=TINY.heads, hidden_act="gelu", bos_token_id=0, eos_token_id=499))).eval()
    theirs = {f"text_model.{name.removeprefix('text_model.')}": w for name, w in reference.state_dict().items()}
    norm, = (module for name, module in reference.named_modules() if name.endswith("final_layer_norm"))
    ids = prompts(TINY)
    expected = norm(reference(ids, output_hidden_states=True).hidden_states[-skip])
    difference = relative_error(filled(TINY, theirs, 2)(ids, skip), expected)
    parity("text encoder of SD 2, tiny, clip skip", "transformers", difference, PARITY)


@torch.no_grad()
def test_the_kind_of_gelu_matters():
    """QuickGELU is near the exact one, so the wrong one gives pictures too, which are not the model's."""
    reference, ids = open_clip_model(TINY), prompts(TINY)
    text = from_open_clip(reference, TINY)
    for layer in text.layers:
        layer.mlp.exact = False
    assert relative_error(text(ids), penultimate(reference, ids)) > 100 * PARITY


def test_prompts_are_padded_as_the_text_encoder_was_trained():
    assert Tokenizer(CLIPTextConfig().pad)("a cat")[0, 2:5].tolist() == [2368, 49407, 49407]
    assert Tokenizer(VIT_H.pad)("a cat")[0, 2:5].tolist() == [2368, 49407, 0]


def test_open_clip_text_has_the_published_number_of_parameters():
    """354,032,641 in ViT-H-14 with its last layer, its projection and its temperature."""
    layer = 12 * 1024**2 + 13 * 1024
    with torch.device("meta"):
        text = CLIPText(VIT_H)
    assert sum(p.numel() for p in text.parameters()) == 354_032_641 - layer - 1024**2 - 1
