"""The text encoder, against transformers' and open_clip's on the same random weights."""

import subprocess
import sys

import pytest
import torch
from relative_error import relative_error
from torch import Tensor, nn

from ldm.text import CLIPText, CLIPTextConfig
from ldm.text.names import rows

TINY = CLIPTextConfig(vocab=500, width=128, layers=3)
PARITY = 1e-5                                           # of the largest absolute value, float32
OPEN_CLIP = {"norm1": "ln_1", "attn.out": "attn.out_proj",              # ours -> open_clip's
             "norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}


@torch.no_grad()
def randomize(model: nn.Module) -> None:
    """Random values for every parameter: none left at zero or one, activations of order one."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            parameter.normal_(0, parameter.shape[1] ** -0.5, generator=generator)
        else:
            parameter.normal_(1.0 if name.endswith("weight") else 0.0, 0.3, generator=generator)


def prompts(cfg: CLIPTextConfig) -> Tensor:
    """Two prompts of random ids."""
    return torch.randint(cfg.vocab, (2, cfg.length), generator=torch.Generator().manual_seed(1))


def transformers_model(cfg: CLIPTextConfig) -> nn.Module:
    from transformers import CLIPTextConfig as Config
    from transformers import CLIPTextModel

    last = cfg.vocab - 1
    return CLIPTextModel(Config(vocab_size=cfg.vocab, hidden_size=cfg.width, intermediate_size=4 * cfg.width,
                                num_hidden_layers=cfg.layers, num_attention_heads=cfg.heads, hidden_act="quick_gelu",
                                bos_token_id=last - 1, eos_token_id=last, pad_token_id=last)).eval()


def transformers_state(model: nn.Module) -> dict[str, Tensor]:
    """Its weights by the names of transformers 5, which dropped `text_model.` and the buffer of positions."""
    state = {name.removeprefix("text_model."): tensor for name, tensor in model.state_dict().items()}
    return {name: tensor for name, tensor in state.items() if not name.endswith("position_ids")}


def from_transformers(model: nn.Module, cfg: CLIPTextConfig) -> CLIPText:
    theirs = transformers_state(model)
    modules = {ours: compvis for ours, compvis, _ in rows(cfg)}
    with torch.device("meta"):
        text = CLIPText(cfg)
    state = {}
    for name in text.state_dict():
        module, _, parameter = name.rpartition(".")
        state[name] = theirs[f"{modules[module]}.{parameter}"]
    text.load_state_dict(state, assign=True)
    return text


def from_open_clip(model: nn.Module, cfg: CLIPTextConfig) -> CLIPText:
    """Ours with the weights of an open_clip model, whose q, k and v are one matrix."""
    theirs = model.state_dict()
    state = {"token_embedding.weight": theirs["token_embedding.weight"],
             "position_embedding.weight": theirs["positional_embedding"],
             "final_norm.weight": theirs["ln_final.weight"], "final_norm.bias": theirs["ln_final.bias"]}
    for i in range(cfg.layers):
        block = f"transformer.resblocks.{i}"
        for kind in ("weight", "bias"):
            state |= {f"layers.{i}.{a}.{kind}": theirs[f"{block}.{b}.{kind}"] for a, b in OPEN_CLIP.items()}
            for name, part in zip("qkv", theirs[f"{block}.attn.in_proj_{kind}"].chunk(3), strict=True):
                state[f"layers.{i}.attn.{name}.{kind}"] = part
    with torch.device("meta"):
        text = CLIPText(cfg)
    text.load_state_dict(state, assign=True)
    return text


def open_clip_tokens(model: nn.Module, encode, ids: Tensor) -> Tensor:
    """What comes out of open_clip's final norm, before it picks one token and projects it."""
    tokens = []
    with model.ln_final.register_forward_hook(lambda module, inputs, out: tokens.append(out)):
        encode(ids)
    return tokens[0]


@torch.no_grad()
def difference_from_transformers(cfg: CLIPTextConfig) -> float:
    reference = transformers_model(cfg)
    randomize(reference)
    ids = prompts(cfg)
    return relative_error(from_transformers(reference, cfg)(ids), reference(ids).last_hidden_state)


def test_clip_text_equals_transformers(parity):
    parity("text encoder, tiny", "transformers", difference_from_transformers(TINY), PARITY)


@torch.no_grad()
@pytest.mark.parametrize("skip", [1, 2, 3])
def test_clip_skip_equals_transformers(skip: int, parity):
    """As web UIs do it: hidden_states[-skip], then the final norm."""
    reference = transformers_model(TINY)
    randomize(reference)
    ids = prompts(TINY)
    hidden = reference(ids, output_hidden_states=True).hidden_states[-skip]
    norm, = (module for name, module in reference.named_modules() if name.endswith("final_layer_norm"))
    ours = from_transformers(reference, TINY)
    parity("text encoder, tiny, clip skip", "transformers", relative_error(ours(ids, skip), norm(hidden)), PARITY)
    assert torch.equal(ours(ids, skip), ours(ids)) == (skip == 1)


@pytest.mark.parametrize("skip", [0, -1, 4])
def test_clip_skip_must_leave_a_layer(skip: int):
    with pytest.raises(ValueError, match=rf"clip skip {skip} is outside 1\.\.3; 1 uses every layer"):
        CLIPText(TINY)(prompts(TINY), skip)


@pytest.mark.slow
def test_clip_text_equals_transformers_at_full_size(parity):
    difference = difference_from_transformers(CLIPTextConfig())
    parity("text encoder, full size, ViT-L-14", "transformers", difference, PARITY)


@torch.no_grad()
def test_clip_text_equals_open_clip(parity):
    from open_clip.transformer import QuickGELU, TextTransformer

    reference = TextTransformer(vocab_size=TINY.vocab, width=TINY.width, heads=TINY.heads, layers=TINY.layers,
                                output_dim=TINY.width, act_layer=QuickGELU).eval()
    randomize(reference)
    ids = prompts(TINY)
    difference = relative_error(from_open_clip(reference, TINY)(ids), open_clip_tokens(reference, reference, ids))
    parity("text encoder, tiny", "open_clip_torch", difference, PARITY)


@pytest.mark.slow
@torch.no_grad()
def test_clip_text_equals_open_clip_vit_l_14(parity):
    import open_clip

    reference = open_clip.create_model("ViT-L-14", pretrained=None, force_quick_gelu=True).eval()
    del reference.visual
    randomize(reference)
    cfg = CLIPTextConfig()
    ids = prompts(cfg)
    theirs = open_clip_tokens(reference, reference.encode_text, ids)
    difference = relative_error(from_open_clip(reference, cfg)(ids), theirs)
    parity("text encoder, full size, ViT-L-14", "open_clip_torch", difference, PARITY)


def test_clip_text_has_the_official_number_of_parameters():
    with torch.device("meta"):
        text = CLIPText()
    assert sum(p.numel() for p in text.parameters()) == 123_060_480


@torch.no_grad()
@pytest.mark.parametrize("j", [1, 40, 76])
def test_clip_text_is_causal(j: int):
    text = CLIPText(TINY)
    ids = prompts(TINY)
    before = text(ids)
    ids[:, j] = (ids[:, j] + 1) % TINY.vocab
    change = (text(ids) - before).abs().amax(dim=(0, 2))
    assert (change[:j] <= 1e-6).all()
    assert (change[j:] > 1e-3).all()


@torch.no_grad()
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-5), (torch.bfloat16, 5e-2)])
def test_clip_text_computes_in_the_dtype_of_its_weights(dtype: torch.dtype, tolerance: float):
    text = CLIPText(TINY)
    ids = prompts(TINY)
    exact = text(ids)
    context = text.to(dtype)(ids)
    assert context.dtype == dtype
    assert (context.float() - exact).norm() <= tolerance * exact.norm()


def test_clip_text_keeps_gradients():
    text = CLIPText(TINY)
    text(prompts(TINY)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in text.parameters())


@pytest.mark.parametrize("ids, message", [
    (torch.zeros(77, dtype=torch.long), r"shape \[77\], not \[B 77\]; make them with Tokenizer"),
    (torch.zeros(1, 76, dtype=torch.long), r"shape \[1, 76\]"),
    (torch.zeros(1, 77), "float32, not torch.int64"),
    (torch.full((1, 77), 500), r"token id 500 is outside the vocabulary; use 0\.\.499"),
    (torch.full((1, 77), -1), "token id -1"),
])
def test_clip_text_refuses_bad_ids(ids: Tensor, message: str):
    with pytest.raises(ValueError, match=message):
        CLIPText(TINY)(ids)


def test_clip_text_takes_an_empty_batch():
    assert CLIPText(TINY)(torch.zeros(0, 77, dtype=torch.long)).shape == (0, 77, 128)


@pytest.mark.parametrize("width, near", [(100, 128), (0, 64), (-64, 64)])
def test_clip_text_config_refuses_a_width_that_heads_do_not_divide(width: int, near: int):
    with pytest.raises(ValueError, match=f"width {width} is not a positive multiple of 64; try {near}"):
        CLIPTextConfig(width=width)


def test_text_imports_alone():
    code = ("import sys, ldm.text; ldm.text.Tokenizer()('a cat'); "
            "print(*{'.'.join(m.split('.')[:2]) if m.startswith('ldm.') else m.split('.')[0] for m in sys.modules})")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(run.stdout.split())
    leaves = {"ldm.attention", "ldm.native", "ldm.files", "ldm.naming"}
    assert {m for m in modules if m.startswith("ldm.")} <= {"ldm.text"} | leaves
    assert not modules & {"open_clip", "torchvision", "transformers", "diffusers", "ftfy", "PIL", "safetensors"}
