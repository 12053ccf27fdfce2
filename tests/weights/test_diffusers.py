"""diffusers folders open here, and files saved here open in diffusers, without a network."""

import json
import shutil
import socket
import warnings
from pathlib import Path

import pytest
import torch
from relative_error import relative_error
from safetensors.torch import load_file, save_file

from ldm import Pipeline
from ldm.samplers import Schedule
from ldm.weights import CheckpointError, open_checkpoint, save_checkpoint


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory):
    """diffusers' own pipeline of the sizes of `models`, with random weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")             # of third-party modules at import
        from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
        from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "vocab.json").write_text(json.dumps({"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    torch.manual_seed(1)
    unet = UNet2DConditionModel(block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=64,
                                attention_head_dim=8, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                                up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"))
    vae = AutoencoderKL(block_out_channels=(32, 64), layers_per_block=1, latent_channels=4,
                        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2)
    text = CLIPTextModel(CLIPTextConfig(vocab_size=96, hidden_size=64, intermediate_size=256, num_hidden_layers=2,
                                        num_attention_heads=1, bos_token_id=0, eos_token_id=1))
    scheduler = DDIMScheduler(beta_start=0.001, beta_end=0.01, beta_schedule="scaled_linear", clip_sample=False,
                              steps_offset=1, prediction_type="v_prediction", rescale_betas_zero_snr=True)
    return StableDiffusionPipeline(vae, text, CLIPTokenizer.from_pretrained(folder), unet, scheduler,
                                   safety_checker=None, feature_extractor=None, requires_safety_checker=False)


@pytest.fixture(scope="module")
def folder(pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("diffusers")
    pipeline.save_pretrained(folder)
    return folder


def assert_equal(pipeline, models, in_diffusers_names) -> None:
    """Every weight of the pipeline equals ours, by name; 1x1 convolutions may be linear."""
    for part, model in {"unet": pipeline.unet, "vae": pipeline.vae, "text": pipeline.text_encoder}.items():
        ours = in_diffusers_names(part, models[part])
        theirs = {name.removeprefix("text_model."): tensor for name, tensor in model.state_dict().items()}
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name].squeeze(), theirs[name].squeeze()) for name in ours)


def test_folder_fills_the_models_with_diffusers_weights(folder, pipeline, models, load, in_diffusers_names):
    source = open_checkpoint(folder)
    assert (source.family, source.layout) == ("sd1", "diffusers")
    assert source.metadata == {"heads": 8, "groups": 32, "vae_groups": 32, "prediction": "v", "scale_factor": 0.18215,
                               "open_clip": False,
                               "beta_start": 0.001, "beta_end": 0.01, "beta_schedule": "scaled_linear",
                               "timesteps": 1000, "zero_terminal_snr": True}
    loaded = load(source)
    assert {part: model.cfg for part, model in loaded.items()} == {part: model.cfg for part, model in models.items()}
    assert_equal(pipeline, loaded, in_diffusers_names)


def test_folder_gives_the_same_pictures_and_noise_as_diffusers(folder, pipeline, load, parity):
    models = load(open_checkpoint(folder))
    z, ids = torch.randn(1, 4, 8, 8), torch.arange(77)[None] % 96
    with torch.no_grad():
        context = models["text"](ids)
        noise = models["unet"](z, torch.tensor([500]), context)
        errors = {"text": relative_error(context, pipeline.text_encoder(ids)[0]),
                  "unet": relative_error(noise, pipeline.unet(z, 500, context)[0]),
                  "vae": relative_error(models["vae"].decode(z), pipeline.vae.decode(z)[0])}
    for part, error in errors.items():
        parity(f"diffusers folder, {part}", "diffusers", error, 2e-5)


def test_folder_gives_the_schedule_of_diffusers(folder, pipeline, tmp_path):
    loaded = Pipeline.load(folder, "cpu", "float32")
    theirs = pipeline.scheduler.alphas_cumprod.double()
    torch.testing.assert_close(loaded.schedule.alphas_cumprod[:-1], theirs[:-1], rtol=1e-4, atol=1e-7)     # float32's
    assert loaded.prediction == "v" and loaded.schedule != Schedule()
    loaded.save(tmp_path / "m.safetensors")
    assert Pipeline.load(tmp_path / "m.safetensors").schedule == loaded.schedule


@pytest.mark.parametrize("changed", [{"beta_schedule": "linear"}, {"trained_betas": [0.1, 0.2]}])
def test_folder_with_a_schedule_that_is_not_supported_is_refused(folder, changed, tmp_path):
    shutil.copytree(folder, tmp_path / "model")
    config = tmp_path / "model" / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changed))
    with pytest.raises(CheckpointError, match=f"a noise schedule of {next(iter(changed))} .*; only .* is supported"):
        Pipeline.load(tmp_path / "model")


def test_vae_folder_opens_as_a_vae(folder, load, assert_same):
    whole = load(open_checkpoint(folder))["vae"]
    assert_same(load(open_checkpoint(folder / "vae", expect="vae"))["vae"], whole)
    with pytest.raises(CheckpointError, match="is a VAE alone"):
        open_checkpoint(folder / "vae")


def test_old_names_of_the_vae_attention_and_bin_files_load(folder, tmp_path, load, assert_same):
    """diffusers before 0.18 wrote query, key, value and proj_attn: so does the published SD 1.5 folder."""
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")
    for new, name in old.items():
        tensors = {k.replace(f".{new}.", f".{name}."): v for k, v in tensors.items()}
    assert "encoder.mid_block.attentions.0.query.weight" in tensors
    torch.save(tensors, tmp_path / "diffusion_pytorch_model.bin")
    loaded = load(open_checkpoint(tmp_path, expect="vae"))["vae"]
    assert_same(loaded, load(open_checkpoint(folder))["vae"])


def test_ema_false_prefers_non_ema_files(folder, tmp_path):
    tensors = load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")
    for variant in ("", ".fp16", ".non_ema"):
        save_file(tensors, tmp_path / f"diffusion_pytorch_model{variant}.safetensors")
    def name(ema):
        return open_checkpoint(tmp_path, ema=ema, expect="vae").parts["vae"].entries["quant_conv.bias"].path.name
    assert name(True) == "diffusion_pytorch_model.safetensors"
    assert name(False) == "diffusion_pytorch_model.non_ema.safetensors"


def test_saved_file_opens_in_diffusers_offline(folder, states, models, tmp_path, monkeypatch, in_diffusers_names):
    """diffusers' single-file loader takes what save_checkpoint writes, every weight of it."""
    from diffusers import StableDiffusionPipeline
    save_checkpoint(tmp_path / "m.safetensors", states, {"heads": 8})
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("the network was used"))
    loaded = StableDiffusionPipeline.from_single_file(str(tmp_path / "m.safetensors"), config=str(folder),
                                                      local_files_only=True, safety_checker=None)
    assert_equal(loaded, models, in_diffusers_names)
