"""What a file is, from its tensors' names and shapes."""

import pytest
import torch
from safetensors.torch import save_file

from ldm.weights import CheckpointError, open_checkpoint
from ldm.weights.checkpoint import survey

UNET = "model.diffusion_model."
FAMILIES = {
    "lora": ["lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight"],
    "controlnet": ["control_model.input_hint_block.0.weight"],
    "sd3": [f"{UNET}joint_blocks.0.x_block.attn.qkv.weight"],
    "flux": ["double_blocks.0.img_attn.qkv.weight", "single_blocks.0.linear1.weight"],
    "sdxl": [f"{UNET}label_emb.0.0.weight", "conditioner.embedders.0.transformer.text_model.final_layer_norm.weight"],
    "parts": ["cond_stage_model.transformer.text_model.embeddings.token_embedding.weight", "betas"],
    "tiny": ["encoder.layers.0.weight", "encoder.layers.1.conv.0.weight"],
    "unknown": ["layers.0.weight", "layers.1.weight"],
}


@pytest.mark.parametrize("family", FAMILIES)
def test_other_families_are_named_and_refused(family, tmp_path):
    path = tmp_path / "m.safetensors"
    save_file({name: torch.zeros(2, 2) for name in FAMILIES[family]}, path)
    kind = survey(path).kind
    assert kind.family == family
    with pytest.raises(CheckpointError) as error:
        open_checkpoint(path)
    assert kind.what in str(error.value)
    assert any(name in str(error.value) for name in FAMILIES[family])


@pytest.mark.parametrize("content", [{"string_to_param": {"*": torch.zeros(2, 768)}, "name": "cat"},
                                     {"<cat>": torch.zeros(768)}, {"emb_params": torch.zeros(2, 768)}])
def test_textual_inversions_are_named(content, tmp_path):
    torch.save(content, tmp_path / "cat.pt")
    with pytest.raises(CheckpointError, match="is a textual inversion, which is not supported here"):
        open_checkpoint(tmp_path / "cat.pt")


def test_linear_proj_in_is_stable_diffusion_2(official, tmp_path):
    linear = {k: v.flatten(1) if ".proj_" in k and v.ndim == 4 else v for k, v in official.items()}
    save_file(linear, tmp_path / "m.safetensors")
    assert survey(tmp_path / "m.safetensors").family == "sd2"


@pytest.mark.parametrize("name", [f"{UNET}label_emb.weight", "cond_stage_model.model.ln_final.weight"])
def test_parts_of_other_families_are_no_models(name, tmp_path):
    """What tells a family in a whole model tells nothing of a part of one."""
    save_file({name: torch.zeros(2), f"{UNET}input_blocks.1.1.proj_in.weight": torch.zeros(2, 2)},
              tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match="is a UNet alone, .*give a full Stable Diffusion 1 or 2 model"):
        open_checkpoint(tmp_path / "m.safetensors")


@pytest.mark.parametrize("linear", [False, True])
def test_nine_input_channels_are_for_inpainting(linear, official, tmp_path):
    conv_in = f"{UNET}input_blocks.0.0.weight"
    tensors = official | {conv_in: torch.zeros(official[conv_in].shape[0], 9, 3, 3)}
    if linear:
        tensors = {k: v.flatten(1) if ".proj_" in k and v.ndim == 4 else v for k, v in tensors.items()}
    save_file(tensors, tmp_path / "m.safetensors")
    kind = open_checkpoint(tmp_path / "m.safetensors").kind
    assert kind.family == ("sd2_inpaint" if linear else "sd1_inpaint")
    assert kind.what.endswith("for inpainting") and kind.because.endswith(f"and {conv_in} takes 9 channels")


def test_class_labels_tell_the_upscaler(official, tmp_path):
    save_file(official | {f"{UNET}label_emb.weight": torch.zeros(10, 128)}, tmp_path / "m.safetensors")
    assert open_checkpoint(tmp_path / "m.safetensors").family == "x4"


@pytest.mark.parametrize(("channels", "what"), [(5, "a depth model"), (8, "an InstructPix2Pix model")])
def test_models_with_conditioned_inputs_are_named_and_refused(channels, what, official, tmp_path):
    conv_in = f"{UNET}input_blocks.0.0.weight"
    wide = official | {conv_in: torch.zeros(official[conv_in].shape[0], channels, 3, 3)}
    save_file(wide, tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match=f"{what}, which is not supported here: .* takes {channels} channels"):
        open_checkpoint(tmp_path / "m.safetensors")


def test_a_name_that_only_resembles_a_lora_is_none(official, tmp_path):
    save_file(official, tmp_path / "lora_up.safetensors")
    assert survey(tmp_path / "lora_up.safetensors").family == "sd1"
