"""LoRAs that diffusers and PEFT wrote act here as there, and files in kohya's layout act there as here."""

import json
import warnings
from types import SimpleNamespace

import pytest
import torch
from clip_reference import transformers_text
from lora_files import layers, write_lora
from randomise import randomise
from relative_error import relative_error
from safetensors.torch import load_file, save_file
from torch import Tensor
from unet.conftest import TINY, inputs, reference

from ldm.plugins import LoRAs
from ldm.text import CLIPText, CLIPTextConfig
from ldm.unet import UNet

TEXT = CLIPTextConfig(vocab=96, width=64, layers=2)
IDS = torch.arange(77)[None] % 96


@pytest.fixture(params=["sd1", "sd2"])
def models(request: pytest.FixtureRequest) -> SimpleNamespace:
    """Our networks with random weights, and the peers' with copies of these."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                 # of third-party modules at import
        import diffusers
        import peft
    torch.manual_seed(0)
    unet, text = randomise(UNet(TINY[request.param])), CLIPText(TEXT).eval().requires_grad_(False)
    theirs = reference(randomise(UNet(TINY[request.param])))
    return SimpleNamespace(name=request.param, unet=unet, text=text, their_unet=theirs,
                           their_text=transformers_text(text), diffusers=diffusers, peft=peft)


def run(models: SimpleNamespace) -> tuple[Tensor, Tensor]:
    """Ours and theirs, after the LoRA."""
    x = inputs(models.unet.cfg, 8, 10)
    return models.unet(*x), models.their_unet(*x).sample


def test_lora_that_diffusers_wrote_equals_diffusers(models, tmp_path, parity):
    """Linear layers and convolutions, with an alpha that is not the rank, which its header says."""
    before, _ = run(models)
    config = models.peft.LoraConfig(r=3, lora_alpha=5, init_lora_weights=False, target_modules=[
        "to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out", "conv1", "conv2",
        "conv_shortcut", "time_emb_proj", "conv"])
    models.their_unet.add_adapter(config)
    models.their_unet.save_lora_adapter(tmp_path / "style")
    lora = LoRAs().load(models.unet, models.text, tmp_path / "style")
    ours, theirs = run(models)
    assert not lora.unmatched and len(lora.matched) > 200 and (ours - before).abs().max() > 0.1 * before.abs().max()
    parity(f"LoRA, diffusers layout, {models.name}", "diffusers", relative_error(ours, theirs), 1e-5)


def test_lora_in_kohyas_layout_equals_diffusers(models, tmp_path, parity):
    """Both networks, with an alpha; diffusers converts the names in its own way, and knows no such convolutions."""
    chosen = [layer for layer in layers(models.unet, models.text)
              if layer.part == "text" or ".blocks." in layer.ours or layer.ours.endswith(("proj_in", "proj_out"))]
    file = write_lora(tmp_path / "fox.safetensors", chosen, rank=4, alpha=3)
    loader = models.diffusers.StableDiffusionPipeline
    state, alphas = loader.lora_state_dict(file.path)
    loader.load_lora_into_unet(state, alphas, models.their_unet)
    loader.load_lora_into_text_encoder(state, alphas, models.their_text)
    assert not LoRAs().load(models.unet, models.text, file.path).unmatched
    ours, theirs = run(models)
    parity(f"LoRA, kohya layout, {models.name}", "diffusers", relative_error(ours, theirs), 1e-5)
    difference = relative_error(models.text(IDS), models.their_text(IDS)[0])
    parity("LoRA, kohya layout, text encoder", "diffusers", difference, 1e-5)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")     # PEFT asks it
def test_adapter_folder_of_peft_equals_peft(models, tmp_path, parity):
    config = models.peft.LoraConfig(r=4, lora_alpha=6, use_rslora=True, init_lora_weights=False,
                                    alpha_pattern={"layers.0.*q_proj": 1}, target_modules=["q_proj", "v_proj", "fc1"])
    adapted = models.peft.get_peft_model(models.their_text, config)
    adapted.save_pretrained(tmp_path / "style")
    assert json.loads((tmp_path / "style" / "adapter_config.json").read_text())["use_rslora"]
    lora = LoRAs().load(models.unet, models.text, tmp_path / "style")
    assert not lora.unmatched and len(lora.changes) == 6
    difference = relative_error(models.text(IDS), models.their_text(IDS)[0])
    parity("LoRA, PEFT folder, text encoder", "peft", difference, 1e-5)


def test_files_that_diffusers_converted_mean_the_same(models, tmp_path):
    """From PEFT's names to its own and to kohya's."""
    from diffusers.utils import convert_state_dict_to_diffusers, convert_state_dict_to_kohya

    text = [layer for layer in layers(models.unet, models.text) if layer.part == "text"]
    write_lora(tmp_path / "peft.safetensors", text, "peft")
    new = load_file(tmp_path / "peft.safetensors")
    save_file(convert_state_dict_to_diffusers(new), tmp_path / "diffusers.safetensors")
    save_file(convert_state_dict_to_kohya(new), tmp_path / "kohya.safetensors")
    found = []
    for name in ("peft", "diffusers", "kohya"):
        loras = LoRAs()
        assert not loras.load(models.unet, models.text, tmp_path / f"{name}.safetensors").unmatched
        found.append(models.text(IDS))
        loras.unload()
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
