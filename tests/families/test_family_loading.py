"""What a file of each family is taken for: by its structure, by what it says, by what the caller says."""

import pytest
import torch
from randomise import randomise
from safetensors.torch import load_file, save_file

from ldm.loading import load_parts, load_vae, save_parts
from ldm.samplers import Schedule
from ldm.vae import VAE, TinyVAE, TinyVAEConfig, VAEConfig
from ldm.vae.names import rows as vae_rows
from ldm.vae.tiny_names import rows as tiny_rows
from ldm.weights import CheckpointError, open_checkpoint, openclip
from ldm.weights.saving import to_official

EXPECTED = {                                            # family: prediction, native size, scale factor, padding
    "sd1": ("eps", 512, 0.18215, 49407), "sd1_inpaint": ("eps", 512, 0.18215, 49407),
    "sd2_inpaint": ("eps", 512, 0.18215, 0), "x4": ("v", 512, 0.08333, 0),
}


def load(path, **keywords):
    return load_parts(path, "cpu", torch.float32, ema=True, kernels="plain", **keywords)


def assert_same(model, expected) -> None:
    """Bit for bit the same weights."""
    ours, theirs = model.state_dict(), expected.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_structure_tells_family_and_configuration(family, file_of, make, configs):
    path = file_of(family)
    source = open_checkpoint(path)
    assert source.family == family and not source.unknown
    parts = load(path, prediction="v")
    assert {name: parts[name].cfg for name in ("unet", "vae", "text")} == configs[family]
    assert parts["unet"].cfg.family == family
    for name, model in make(family).items():
        assert_same(parts[name], model)


@pytest.mark.parametrize("family", EXPECTED, indirect=True)
def test_rules_of_a_family_hold_where_the_file_is_silent(family, file_of):
    parts = load(file_of(family))
    cfg = parts["text"].cfg
    assert (parts["prediction"], parts["size"], parts["vae"].cfg.scale_factor, cfg.pad) == EXPECTED[family]
    upscaler = Schedule(beta_start=1e-4, beta_end=2e-2)
    assert parts["schedule"] == (upscaler if family == "x4" else Schedule())


@pytest.mark.parametrize(("prediction", "size"), [("eps", 512), ("v", 768)])
def test_stable_diffusion_2_asks_for_its_prediction(prediction, size, file_of):
    path = file_of("sd2")
    with pytest.raises(CheckpointError, match="Stable Diffusion 2 and does not say what it predicts; .*'eps' .*'v'"):
        load(path)
    assert open_checkpoint(path, expect="vae").family == "sd2"      # which the VAE alone need not know
    assert load_vae(path).cfg.scale_factor == 0.18215
    parts = load(path, prediction=prediction)
    assert (parts["prediction"], parts["size"]) == (prediction, size)


def test_metadata_says_the_prediction_and_the_caller_has_the_last_word(file_of):
    path = file_of("sd2", prediction="v")
    assert (load(path)["prediction"], load(path)["size"]) == ("v", 768)
    assert (load(path, prediction="eps")["prediction"], load(path, prediction="eps")["size"]) == ("eps", 512)
    assert load(file_of("sd2", prediction="v", size=64))["size"] == 64


@pytest.mark.parametrize(("spec", "prediction"), [("v", "v"), ("epsilon", "eps")])
def test_modelspec_says_the_prediction(spec, prediction, official, tmp_path):
    """Stability AI's ModelSpec 1.0: what trainers write into the header."""
    path = tmp_path / "m.safetensors"
    save_file(official("sd2"), path, metadata={"modelspec.prediction_type": spec})
    assert load(path)["prediction"] == prediction
    save_file(official("sd2"), path, metadata={"modelspec.prediction_type": spec, "ldm": '{"prediction": "x0"}'})
    assert load(path)["prediction"] == "x0"


def test_empty_tensors_mark_v_and_zero_terminal_snr(official, tmp_path):
    """As fine-tuned models are marked for web UIs, whose own words for it were a file beside the model."""
    path = tmp_path / "m.safetensors"
    save_file(official("sd1") | {"v_pred": torch.tensor([]), "ztsnr": torch.tensor([])}, path)
    assert sorted(open_checkpoint(path).ignored) == ["v_pred", "ztsnr"]
    parts = load(path)
    assert parts["prediction"] == "v" and parts["schedule"] == Schedule(zero_terminal_snr=True)


def test_unknown_prediction_is_refused_before_any_file_is_opened(tmp_path):
    with pytest.raises(ValueError, match="prediction 'velocity' is not known; try one of eps, v, x0"):
        load(tmp_path / "none.safetensors", prediction="velocity")


def test_last_layer_of_open_clip_is_left_out_only_where_it_is_there(official, make, tmp_path):
    whole = official("sd2")
    unused = {name for name in whole if ".resblocks.2." in name or name.endswith("text_projection")}
    assert len(unused) == 13
    path = tmp_path / "m.safetensors"
    save_file(whole, path)
    assert set(open_checkpoint(path).ignored) == unused | {"cond_stage_model.model.logit_scale"}
    save_file({name: tensor for name, tensor in whole.items() if name not in unused}, path)     # as made from a folder
    assert not set(open_checkpoint(path).ignored) & unused
    assert_same(load(path, prediction="v")["text"], make("sd2")["text"])


def test_as_many_layers_as_vit_h_are_a_whole_open_clip():
    """Some merges drop the projection."""
    names = [f"transformer.resblocks.{i}.ln_1.weight" for i in range(24)]
    assert openclip.unused(names) == {names[23]} and openclip.unused(names[:23]) == set()
    assert openclip.unused([*names[:23], "text_projection"]) == {names[22], "text_projection"}


def test_damaged_fused_weights_are_named(official, tmp_path):
    name = "cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight"
    save_file(official("sd2") | {name: torch.zeros(191, 64)}, tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match=r"3 missing \(.*attn.q_proj.weight.*1 unexpected \(.*in_proj_weight\)"):
        load(tmp_path / "m.safetensors", prediction="v")


def test_names_of_clip_in_an_official_file_mean_quick_gelu(official, make, tmp_path):
    """An official file tells OpenCLIP by its names, whatever the UNet is."""
    tensors = {name: w for name, w in official("sd2").items() if not name.startswith("cond_stage_model.")}
    tensors |= {name: w for name, w in official("sd1").items() if name.startswith("cond_stage_model.")}
    save_file(tensors, tmp_path / "m.safetensors")
    assert load(tmp_path / "m.safetensors", prediction="v")["text"].cfg == make("sd1")["text"].cfg


def test_saving_and_loading_keeps_a_family(family, file_of, tmp_path):
    parts = load(file_of(family, prediction="v", size=64))
    save_parts(tmp_path / "again.safetensors", parts["vae"], parts["unet"], parts["text"],
               {"prediction": "v", "size": 64, "beta_start": parts["schedule"].beta_start,
                "beta_end": parts["schedule"].beta_end})
    again = load(tmp_path / "again.safetensors")
    assert open_checkpoint(tmp_path / "again.safetensors").family == family
    for name, value in parts.items():
        if isinstance(value, torch.nn.Module):
            assert again[name].cfg == value.cfg
            assert_same(again[name], value)
        else:
            assert again[name] == value, name


def test_row_sparse_vocabulary_of_open_clip(file_of, tmp_path):
    parts = load(file_of("sd2", prediction="v"))
    vocabulary = torch.tensor([0, 7, 95])
    save_parts(tmp_path / "m.safetensors", parts["vae"], parts["unet"], parts["text"], {"prediction": "v"}, vocabulary)
    again = load(tmp_path / "m.safetensors")
    assert torch.equal(again["vocabulary"], vocabulary)
    embedding, expected = again["text"].token_embedding.weight, parts["text"].token_embedding.weight
    assert embedding.shape == (49408, 64) and torch.equal(embedding[vocabulary], expected[vocabulary])


@pytest.fixture
def other_vae(tmp_path) -> VAE:
    """A VAE of other widths, in a file vae.safetensors."""
    vae = randomise(VAE(VAEConfig(channels=32, multipliers=(1, 1, 1, 2), res_blocks=1)))
    save_file(to_official(vae.state_dict(), vae_rows(vae.cfg)), tmp_path / "vae.safetensors")
    return vae


def test_a_vae_of_its_own_file_takes_the_place_of_the_models(file_of, make, other_vae, tmp_path):
    parts = load(file_of("sd1", scale_factor=0.2), vae=tmp_path / "vae.safetensors")
    assert_same(parts["vae"], other_vae)
    assert parts["vae"].cfg.scale_factor == 0.2         # the model's, for the file does not say
    assert_same(parts["unet"], make("sd1")["unet"])
    path = file_of("sd2", prediction="v")
    assert_same(load(file_of("sd1"), vae=path)["vae"], make("sd2")["vae"])


def test_a_vae_folder_says_its_own_scale_factor(file_of, other_vae, tmp_path):
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae.safetensors").rename(tmp_path / "vae" / "diffusion_pytorch_model.safetensors")
    (tmp_path / "vae" / "config.json").write_text('{"scaling_factor": 0.13, "norm_num_groups": 32}')
    assert load(file_of("sd1"), vae=tmp_path / "vae")["vae"].cfg.scale_factor == 0.13


def test_a_vae_of_another_family_is_refused(file_of, other_vae, tmp_path):
    message = "has latents of 4 channels for 8 pixels a side, the model of 4 for 4; give a VAE of the model's family"
    with pytest.raises(CheckpointError, match=message):
        load(file_of("x4"), vae=tmp_path / "vae.safetensors")
    with pytest.raises(CheckpointError, match="there is no file"):
        load(file_of("sd1"), vae=tmp_path / "none.safetensors")


TAESD = {"both halves": ("encoder", "decoder"), "decoder": ("decoder",)}


def write_taesd(folder, halves) -> TinyVAE:
    """The official files, one for each half, whose names are places in a sequence."""
    vae = randomise(TinyVAE(TinyVAEConfig(channels=8, encodes="encoder" in halves)))
    tensors = to_official(vae.state_dict(), tiny_rows(vae.cfg))
    for half in halves:
        numbered = {name.removeprefix(f"{half}."): w for name, w in tensors.items() if name.startswith(f"{half}.")}
        save_file(numbered, folder / f"taesd_{half}.safetensors")
    return vae


@pytest.mark.parametrize("halves", TAESD.values(), ids=TAESD)
def test_taesd_takes_the_place_of_the_vae(halves, file_of, tmp_path):
    expected = write_taesd(tmp_path, halves)
    assert "0.weight" not in load_file(tmp_path / "taesd_decoder.safetensors")
    paths = [tmp_path] if len(halves) == 2 else [tmp_path, tmp_path / "taesd_decoder.safetensors"]
    for path in paths:
        parts = load(file_of("sd1"), vae=path)
        assert_same(parts["vae"], expected)
        assert_same(load_vae(path), expected)
        assert (parts["vae"].cfg, parts["vae"].cfg.scale_factor) == (expected.cfg, 1.0)
        assert open_checkpoint(path, expect="vae").family == "tiny"
    with pytest.raises(ValueError, match="a tiny autoencoder has no place in an official file"):
        save_parts(tmp_path / "out.safetensors", parts["vae"], parts["unet"], parts["text"], {})
    with pytest.raises(CheckpointError, match="is a tiny autoencoder, which is not supported here: .*give a full"):
        open_checkpoint(tmp_path)


def test_taesd_loads_from_a_diffusers_folder(tmp_path):
    from diffusers import AutoencoderTiny

    theirs = randomise(AutoencoderTiny(encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4))
    theirs.save_pretrained(tmp_path)
    for path in (tmp_path, tmp_path / "diffusion_pytorch_model.safetensors"):
        vae, z = load_vae(path), torch.randn(1, 4, 3, 5)
        torch.testing.assert_close(vae.decode(z), theirs.decode(z).sample, rtol=1e-4, atol=1e-4)


def test_taesd_without_a_decoder_is_refused(tmp_path):
    write_taesd(tmp_path, ("encoder", "decoder"))
    with pytest.raises(CheckpointError, match="lacks decoder.1.weight of the vae"):
        load_vae(tmp_path / "taesd_encoder.safetensors")


def test_taesd_is_refused_for_latents_of_another_kind(file_of, tmp_path):
    write_taesd(tmp_path, ("decoder",))
    with pytest.raises(CheckpointError, match="latents of 4 channels for 8 pixels a side, the model of 4 for 4"):
        load(file_of("x4"), vae=tmp_path)
