"""Files of LoRAs: what of them fits, how strong PEFT says they are, and what is refused."""

import json
import os

import pytest
import torch
from lora_files import LAYOUTS, layers, same, weights, write_lora
from safetensors.torch import load_file, save_file

from ldm import CheckpointError
from ldm.plugins import LoRAs
from ldm.text import CLIPText, CLIPTextConfig
from ldm.unet import UNet, UNetConfig

CROSS_K = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"


def test_report_names_what_fits_and_what_does_not(load, fox):
    foreign = {"lora_unet_nothing.lora_down.weight": torch.ones(4, 3), "lora_te_text_projection.alpha": torch.ones(()),
               "lora_unet_conv_norm_out.diff": torch.ones(32), "note": torch.ones(1)}
    save_file(load_file(fox.path) | foreign, fox.path)
    lora = load(fox.path)
    assert sorted(lora.matched) == sorted(fox.keys) and sorted(lora.unmatched) == sorted(foreign)
    assert (lora.name, lora.weight, lora.merged) == ("fox", 1.0, True)


def test_torch_files_load(load, fox, tmp_path):
    torch.save(load_file(fox.path), tmp_path / "fox.bin")
    assert sorted(load(tmp_path / "fox.bin").matched) == sorted(fox.keys)


CONFIGS = {
    "r": ({"r": 4, "lora_alpha": 4}, 1), "alpha": ({"r": 4, "lora_alpha": 8}, 2), "no alpha": ({}, 1),
    "root": ({"r": 4, "lora_alpha": 8, "use_rslora": True}, 4),
    "pattern": ({"lora_alpha": 8, "alpha_pattern": {"attn1.to_q": 2, r"mid_block.*to_[kv]": 12, "to": 99}}, None)}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("where", ["adapter_config.json", "header"])
def test_peft_settings_scale(name, where, load, everywhere, tmp_path):
    """Beside the file, as PEFT writes them, or in its header, as diffusers does."""
    config, scale = CONFIGS[name]
    folder = tmp_path / "style"
    folder.mkdir()
    chosen = [layer for layer in everywhere if layer.part == "unet"]
    layout, file = ("peft adapter", "adapter_model") if where != "header" else ("peft", "pytorch_lora_weights")
    written = write_lora(folder / f"{file}.safetensors", chosen, layout, rank=4)
    if where == "header":
        metadata = json.dumps({f"unet.{key}": value for key, value in config.items()} | {"text_encoder.lora_alpha": 99})
        save_file(load_file(written.path), written.path, metadata={"lora_adapter_metadata": metadata})
    else:
        (folder / where).write_text(json.dumps(config))
    lora = load(folder)
    assert lora.name == "style" and len(lora.changes) == len(chosen)
    for layer in chosen:
        by_name = 0.5 if layer.diffusers.endswith("attn1.to_q") else \
            3 if layer.diffusers.startswith("mid_block") and layer.diffusers.endswith(("to_k", "to_v")) else 2
        assert lora.changes[layer.module].scale == (by_name if scale is None else scale), layer.diffusers


@pytest.mark.parametrize(("text", "message"), [
    ("{", "settings of .* are damaged"), ("[1]", "settings of .* are damaged"),
    ('{"alpha_pattern": {"(": 1}}', "says .* alpha_pattern"), ('{"alpha_pattern": {".*.*.*.*x": 1}}', "alpha_pattern"),
    (json.dumps({"alpha_pattern": {"(" * 3000 + ")" * 3000: 1}}), "repeat a group or more than 3 things"),
    ('{"alpha_pattern": {"a{99999999999}": 1}}', "alpha_pattern"),
    ('{"alpha_pattern": {"([a-z.]+)+!": 1}}', "alpha_pattern"), ('{"lora_alpha": "x"}', "says lora_alpha 'x'"),
    ('{"alpha_pattern": [1]}', r"alpha_pattern \[1\]")])
def test_senseless_peft_settings_are_refused(text, message, load, everywhere, tmp_path):
    write_lora(tmp_path / "adapter_model.safetensors", everywhere, "peft adapter")
    (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path)


def flux(tensors: dict) -> dict:
    return {f"lora_unet_double_blocks_{i}_img_attn_qkv.lora_down.weight": torch.ones(2, 2) for i in range(9)}


def xl(tensors: dict) -> dict:
    return {f"lora_te2_text_model_encoder_layers_{i}_mlp_fc1.lora_up.weight": torch.ones(2, 2) for i in range(9)}


REFUSED = {
    "Flux": (flux, r"none of the 9 tensors of .*fox.safetensors is of a layer .*made for a Flux-like transformer"),
    "XL": (xl, "none of the 9 tensors .*made for Stable Diffusion XL"),
    "SD 2": (lambda tensors: tensors | {f"{CROSS_K}.lora_down.weight": torch.ones(4, 1024)},
             r"does not fit the model: mid_block.*attn2.to_k has down \[4, 1024\], up \[64, 4\], which do not make the "
             r"layer's \[64, 64\]; it was made for "),
    "DoRA": (lambda tensors: tensors | {f"{CROSS_K}.dora_scale": torch.ones(64, 1)}, "is a DoRA, which is not supp"),
    "PEFT's DoRA": (lambda tensors: tensors | {"unet.x.lora_magnitude_vector": torch.ones(64)}, "is a DoRA"),
    "half": (lambda tensors: {k: v for k, v in tensors.items() if k != f"{CROSS_K}.lora_up.weight"},
             r"attn2.to_k has down \[4, 64\], but lacks 'up'"),
    "alpha alone": (lambda tensors: {f"{CROSS_K}.alpha": torch.ones(())} | {k: v for k, v in tensors.items()
                                                                           if CROSS_K not in k},
                    "has no factors, but lacks 'up'"),
    "alpha of three": (lambda tensors: tensors | {f"{CROSS_K}.alpha": torch.ones(3)}, r"has alpha \[3\], which"),
    "vectors": (lambda tensors: tensors | {f"{CROSS_K}.lora_down.weight": torch.ones(64)}, r"has down \[64\], which"),
    "not finite": (lambda tensors: tensors | {f"{CROSS_K}.lora_down.weight": torch.full((4, 64), torch.nan)},
                   f"holds numbers in {CROSS_K}.lora_down.weight that are not finite"),
    "two adapters": (lambda tensors: {f"unet.mid_block.attentions.0.proj_in.lora_A.{name}.weight": torch.ones(4, 64)
                                      for name in ("default", "other")}, "are for one layer; give a file of one LoRA"),
    "textual inversion": (lambda tensors: {"emb_params": torch.ones(1, 64)}, "is a textual inversion, not a LoRA: "),
}


@pytest.mark.parametrize("name", REFUSED)
def test_files_that_do_not_fit_are_refused_and_change_nothing(name, pipe, fox):
    change, message = REFUSED[name]
    save_file(change(load_file(fox.path)), fox.path)
    exact, loras = weights(pipe), LoRAs()
    with pytest.raises(CheckpointError, match=message) as error:
        loras.load(pipe.unet, pipe.text, fox.path)
    assert "\n" not in str(error.value)
    assert same(weights(pipe), exact) and not loras.loaded


def test_a_lora_of_stable_diffusion_2_is_named(tmp_path):
    """By the width of the context, in each layout."""
    def networks(width: int) -> tuple[UNet, CLIPText]:
        torch.manual_seed(0)
        unet = UNetConfig(channels=32, multipliers=(1,), attn_levels=(True,), cross_only=(False,), context_width=width)
        return UNet(unet), CLIPText(CLIPTextConfig(vocab=96, width=64, layers=1))

    other, model = networks(1024), networks(768)
    for layout in LAYOUTS:
        file = write_lora(tmp_path / "fox.safetensors", layers(*other), layout)
        with pytest.raises(CheckpointError, match=r"attn2.to_k .*; it was made for Stable Diffusion 2$"):
            LoRAs().load(*model, file.path)


def test_other_files_are_refused(load, tiny_model, fox, tmp_path):
    with pytest.raises(CheckpointError, match="tiny.safetensors is Stable Diffusion 1, not a LoRA: "):
        load(tiny_model)
    with pytest.raises(CheckpointError, match="there is no file .*; near it: fox.safetensors"):
        load(tmp_path / "foxx.safetensors")
    with pytest.raises(CheckpointError, match="holds no pytorch_lora_weights.safetensors, .*; give the file of a LoRA"):
        load(tmp_path)
    fox.path.write_bytes(fox.path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="truncated"):
        load(fox.path)


def test_a_hostile_pickle_is_not_executed(load, tmp_path):
    class Call:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'proof'}",)

    torch.save({"lora_unet_conv_in.lora_down.weight": Call()}, tmp_path / "fox.pt")
    with pytest.raises(CheckpointError):
        load(tmp_path / "fox.pt")
    assert not (tmp_path / "proof").exists()
