"""Adapters and scripts/train_lora.py: what is learned and written, and that it acts here and in diffusers alike."""

import json
import re
from dataclasses import replace

import pytest
import torch
from character import PROMPT, diffusers_latents, diffusers_twin, fixed_loss, latents, losses
from PIL import Image
from randomise import randomise
from relative_error import relative_error
from safetensors import safe_open
from safetensors.torch import load_file
from unet.conftest import TINY

from ldm import Pipeline
from ldm.loading import save_parts
from ldm.plugins import LoRAs
from ldm.text import CLIPText, CLIPTextConfig
from ldm.training.data import ImageFolder, batch_indices
from ldm.training.draws import draws
from ldm.training.finetune import Examples, batch_loss
from ldm.training.lora import ENDINGS, LowRank, adapt, save_lora
from ldm.unet import UNet


@pytest.fixture
def train(run_script, tiny_model, character):
    """train(out, *flags): train_lora.py on the character."""
    return lambda out, *flags: run_script("train_lora.py", "--ckpt", tiny_model, "--data", character, "--prompt",
                                          PROMPT, "--out", out, *flags)


def test_new_adapters_change_nothing_and_alone_get_gradients(plain, character):
    examples = Examples.of(plain, ImageFolder(character, 64), [PROMPT])
    before = batch_loss(plain, examples, 3, 0, 0)
    adapters = adapt(plain.unet, plain.text, 4, 4, "all")
    assert not before.requires_grad
    loss = batch_loss(plain, examples, 3, 0, 0)
    assert torch.equal(loss, before)
    loss.backward()
    assert all(p.grad is None for network in plain.networks.values() for p in network.parameters())
    found = {name: p.grad.abs().max() for name, p in adapters.named_parameters()}
    assert all((grad > 0) == name.endswith("lora_up.weight") for name, grad in found.items())    # up is zero at first


@pytest.mark.parametrize("layers", ENDINGS)
@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_a_saved_lora_computes_what_the_adapters_do(family, layers, tmp_path):
    """In both networks; every tensor of the file is matched."""
    torch.manual_seed(0)
    unet, text = randomise(UNet(TINY[family])), CLIPText(CLIPTextConfig(vocab=96, width=64, layers=2)).eval()
    x = torch.randn(2, 4, 8, 10), torch.tensor([1, 981]), torch.randn(2, 7, 24)
    ids = torch.arange(77)[None] % 96
    with torch.no_grad():
        before = unet(*x), text(ids)
        adapters = adapt(unet, text, 4, 3, layers)
        for parameter in adapters.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        adapted = unet(*x), text(ids)
        save_lora(tmp_path / "a.safetensors", adapters, {})
        for module in (m for network in (unet, text) for m in network.modules()):
            module._forward_hooks.clear()
        assert torch.equal(unet(*x), before[0])
        lora = LoRAs().load(unet, text, tmp_path / "a.safetensors")
        assert lora.unmatched == [] and len(lora.matched) == 3 * len(adapters)
        for loaded, ours, old in zip((unet(*x), text(ids)), adapted, before, strict=True):
            assert relative_error(loaded, ours) < 5e-6 and relative_error(old, ours) > 0.1


@pytest.mark.parametrize(("layers", "count"), [("attention", 8), ("transformer", 12), ("all", 15)])
def test_layers_are_those_of_their_kind(layers, count):
    """Of one transformer with the ResBlock before it, which has no shortcut; and "all" leaves out the ends alone."""
    unet = UNet(TINY["one level"])
    names = list(adapt(unet, None, 2, 2, layers))
    attention = [name for name in names if name.startswith("lora_unet_down_blocks_0_attentions_0_")]
    res = [name for name in names if name.startswith("lora_unet_down_blocks_0_resnets_0_")]
    assert len(attention) + len(res) == count
    ours = {name for name in unet.state_dict() if name.endswith(".weight") and "norm" not in name}
    ends = {"conv_in.weight", "conv_out.weight", "time.linear1.weight", "time.linear2.weight"}
    assert layers != "all" or len(names) == len(ours - ends)


def test_packed_layers_are_refused(pipe):
    with pytest.raises(ValueError, match="packed and cannot be trained; load it with kernels 'plain'"):
        adapt(pipe.unet, pipe.text, 4, 4)


def test_adapter_of_a_convolution_has_its_kernel_and_stride():
    layer = torch.nn.Conv2d(8, 12, 3, stride=2, padding=1)
    adapter = LowRank(layer, 4, 2)
    x = torch.randn(1, 8, 7, 9)
    assert adapter(x).shape == layer(x).shape and not adapter(x).any()
    torch.nn.init.normal_(adapter.lora_up.weight)
    weight = 2 / 4 * torch.einsum("or,rikl->oikl", adapter.lora_up.weight[:, :, 0, 0], adapter.lora_down.weight)
    torch.testing.assert_close(adapter(x), torch.nn.functional.conv2d(x, weight, None, 2, 1))


def test_training_lowers_the_loss_and_the_file_says_how(train, plain, character, tmp_path):
    before = fixed_loss(plain, character)
    out = tmp_path / "zorbl"
    assert train(out, "--steps", 60, "--every", 30, "--lr", 0.01, "--rank", 4, "--alpha", 2, "--samples",
                 2).returncode == 0
    assert {path.name for path in out.iterdir()} == {"zorbl.safetensors", "state.pt", "losses.csv", "losses.png",
                                                     "samples.png"}
    assert plain.load_lora(out / "zorbl.safetensors").unmatched == []
    assert fixed_loss(plain, character) < 0.8 * before
    first, last = losses(out)
    assert last < first
    with Image.open(out / "samples.png") as image:
        assert image.size == (2 * 66 + 2, 66 + 2)
    with safe_open(out / "zorbl.safetensors", "pt") as file:
        told = file.metadata()
    assert {"ss_network_module": "networks.lora", "ss_network_dim": "4", "ss_network_alpha": "2.0", "ss_v2": "False",
            "ss_base_model_version": "sd_v1", "ss_output_name": "zorbl", "ss_sd_model_name": "tiny.safetensors",
            "ss_resolution": "(64, 64)", "ss_num_train_images": "4", "ss_steps": "60"}.items() <= told.items()
    assert json.loads(told["ss_tag_frequency"]) == {character.name: {PROMPT: 4}}


def test_training_resumes_bit_for_bit(train, interrupt, tmp_path):
    flags = ["--steps", 5, "--every", 2, "--text", "--layers", "all", "--min-snr", 5, "--class-prompt", "a disc",
             "--class-count", 1, "--samples", 1]
    whole, broken = tmp_path / "whole" / "zorbl", tmp_path / "broken" / "zorbl"
    assert train(whole, *flags).returncode == 0
    interrupt(4)                                        # after the checkpoint of step 2, before that of step 4
    assert train(broken, *flags).returncode == 130
    assert torch.load(broken / "state.pt", weights_only=True)["step"] == 2 and len(losses(broken)) == 1
    assert train(broken, *flags).returncode == 0
    expected, resumed = (load_file(out / "zorbl.safetensors") for out in (whole, broken))
    assert expected.keys() == resumed.keys() and all(torch.equal(expected[name], resumed[name]) for name in expected)
    for name in ("losses.csv", "samples.png"):
        assert (whole / name).read_bytes() == (broken / name).read_bytes()
    done = train(broken, *flags, "--rank", 4)
    assert done.returncode == 2 and "does not fit the weights: it is of a run with other settings" in done.stderr


def test_class_pictures_are_drawn_until_there_are_enough(train, plain, tmp_path):
    flags = ["--steps", 1, "--samples", 0, "--class-prompt", "a disc", "a bar", "--class-count", 3]
    assert train(tmp_path / "zorbl", *flags).returncode == 0
    folder = tmp_path / "zorbl" / "class"
    drawn = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert sorted(drawn) == [f"drawn-000{i}.{suffix}" for i in range(3) for suffix in ("png", "txt")]
    assert [drawn[f"drawn-000{i}.txt"] for i in range(3)] == [b"a disc", b"a bar", b"a disc"]
    [picture] = plain("a bar", seed=1)
    with Image.open(folder / "drawn-0001.png") as image:
        assert image.tobytes() == picture.tobytes()
    (folder / "drawn-0001.png").unlink()
    (folder / "drawn-0000.png").write_bytes(drawn["drawn-0002.png"])        # those that are there are kept
    assert train(tmp_path / "zorbl", *flags).returncode == 0
    assert (folder / "drawn-0001.png").read_bytes() == drawn["drawn-0001.png"]
    assert (folder / "drawn-0000.png").read_bytes() == drawn["drawn-0002.png"]


def test_loss_is_that_of_the_character_plus_that_of_its_class(train, plain, shapes, character, tmp_path):
    """Ruiz et al. 2023, eq. 2; the class has other timesteps and noise."""
    prior = ["--class-data", shapes, "--class-prompt", "a disc", "--class-count", 24, "--prior-weight", 0.5]
    assert train(tmp_path / "zorbl", "--steps", 1, "--samples", 0, "--seed", 3, *prior).returncode == 0
    own, kind = (Examples.of(plain, ImageFolder(folder, 64), [PROMPT]) for folder in (character, shapes))
    loss = batch_loss(plain, own, 4, 3, 0) + 0.5 * batch_loss(plain, kind, 4, 4, 0)
    assert losses(tmp_path / "zorbl") == [pytest.approx(loss.item(), rel=1e-5)]


def test_a_trained_lora_gives_diffusers_the_same_latents(train, plain, tiny_model, tmp_path, parity):
    """Ten steps of DDIM, with guidance; all layers of both networks, through diffusers' own loader."""
    out = tmp_path / "zorbl"
    assert train(out, "--steps", 30, "--lr", 0.01, "--layers", "all", "--text", "--rank", 4, "--alpha", 3, "--samples",
                 0).returncode == 0
    before, theirs = latents(plain, PROMPT), diffusers_twin(Pipeline.load(tiny_model, "cpu", "float32",
                                                                          kernels="plain"), tmp_path)
    assert relative_error(before, diffusers_latents(theirs, PROMPT)) < 1e-4
    theirs.load_lora_weights(str(out), weight_name="zorbl.safetensors")
    assert plain.load_lora(out / "zorbl.safetensors").unmatched == []
    ours = latents(plain, PROMPT)
    assert relative_error(before, ours) > 0.05
    parity("LoRA trained here, latents after 10 steps", "diffusers",
           relative_error(ours, diffusers_latents(theirs, PROMPT)), 1e-3)


def test_captions_of_pictures_win_over_the_prompt(plain, shapes):
    own = Examples.of(plain, ImageFolder(shapes, 64), [PROMPT])
    assert own.prompts[0] == ["a red disc", "disc in red"] and own.latents.shape == (24, 4, 8, 8)


def test_the_loss_is_of_the_prediction_of_the_model(plain, character):
    """By hand, for each prediction, with min-SNR and without; it depends on seed and step alone."""
    own = Examples.of(plain, ImageFolder(character, 64), [PROMPT])
    t, noise, _ = draws(7, 3, range(4), 4, (4, 8, 8), 1000)
    x0, context = own.latents[batch_indices(4, 4, 7, 3)], plain.encode_prompt([PROMPT] * 4)
    a = plain.schedule.alphas_cumprod[t].float()[:, None, None, None]
    out = plain.unet(a.sqrt() * x0 + (1 - a).sqrt() * noise, t, context)
    snr = a / (1 - a)
    of_x0 = {"eps": (out - noise) ** 2 / snr, "v": (out - a.sqrt() * noise + (1 - a).sqrt() * x0) ** 2 / (snr + 1)}
    for prediction, error in of_x0.items():
        plain.prediction = prediction
        alike = (error * {"eps": snr, "v": snr + 1}[prediction]).mean()
        torch.testing.assert_close(batch_loss(plain, own, 4, 7, 3), alike)
        torch.testing.assert_close(batch_loss(plain, own, 4, 7, 3, min_snr=5), (error * snr.clamp(max=5)).mean())
    assert batch_loss(plain, own, 4, 8, 3) != alike != batch_loss(plain, own, 4, 7, 4)


@pytest.mark.parametrize(("arguments", "message"), [
    (["--data", "nowhere"], "nowhere is no folder; give a folder of pictures"),
    (["--size", 60], "--size 60 is not a multiple of 8; try 64"),
    (["--alpha", 0], "alpha 0.0 is not above 0; try the rank, 8"),
    (["--rank", 0], "argument --rank: 0 is not 1 or more"),
    (["--embedding", "none"], "there is no none here"),
])
def test_mistakes_are_one_line_and_leave_nothing(train, tmp_path, arguments, message):
    done = train(tmp_path / "zorbl", *arguments, "--class-prompt", "a disc")
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr.splitlines()[-1] and not (tmp_path / "zorbl").exists()


def test_models_that_inpaint_are_refused(train, plain, tmp_path):
    unet = UNet(replace(plain.unet.cfg, in_channels=9))
    save_parts(tmp_path / "inpaint.safetensors", plain.vae, unet, plain.text, {"prediction": "eps"})
    done = train(tmp_path / "zorbl", "--ckpt", tmp_path / "inpaint.safetensors")
    assert done.returncode == 2
    assert re.search(r"inpaint.safetensors takes 9 channels, more than the 4 of latents; train on a", done.stderr)


def test_a_folder_of_another_character_is_refused(train, shapes, tmp_path):
    out, short = tmp_path / "zorbl", ["--steps", 1, "--samples", 0]
    assert train(out, *short).returncode == 0
    before = (out / "zorbl.safetensors").read_bytes()
    done = train(out, *short, "--data", shapes)
    assert done.returncode == 2 and "is of a run that differs in captions and pictures" in done.stderr
    assert (out / "zorbl.safetensors").read_bytes() == before
    done = train(shapes / "zorbl", *short, "--data", shapes)
    assert done.returncode == 2 and "where its samples would be learned" in done.stderr
