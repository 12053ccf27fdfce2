"""The pipeline on a tiny random model: what it promises of steps, seeds, sizes and settings."""

import json
import math
import warnings
from dataclasses import fields

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import ldm
from ldm import Pipeline, Settings
from ldm.images import read_metadata, save_image, to_tensor
from ldm.loading import save_parts

FAST = {"steps": 4}


def photo(width: int = 64, height: int = 64, seed: int = 0) -> Image.Image:
    """A smooth picture."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def unet_inputs(pipe: Pipeline) -> list[tuple[Tensor, Tensor, Tensor]]:
    """A list that fills with the (x, t, context) of every evaluation."""
    seen: list = []
    pipe.unet.register_forward_pre_hook(lambda module, inputs: seen.append(inputs))
    return seen


def latents(pipe: Pipeline, *args, **settings) -> Tensor:
    *_, last = pipe.steps(*args, **settings)
    return last.x


def test_pipeline_draws_pictures_of_the_native_size(pipe):
    images = pipe("a cat", **FAST)
    assert [type(image) for image in images] == [Image.Image] and images[0].size == (64, 64)
    assert np.array(images[0]).std() > 1


def test_pipeline_save_gives_the_same_model(pipe, tmp_path):
    pipe.save(tmp_path / "again.safetensors")
    again = Pipeline.load(tmp_path / "again.safetensors", "cpu", "float32")
    for name in ("vae", "unet", "text"):
        ours, theirs = getattr(pipe, name).state_dict(), getattr(again, name).state_dict()
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
        assert getattr(pipe, name).cfg == getattr(again, name).cfg
    assert (again.size, again.guidance, again.prediction) == (64, 3.0, "eps")
    assert pipe("a cat", **FAST)[0].tobytes() == again("a cat", **FAST)[0].tobytes()


def test_pipeline_load_takes_dtypes_and_devices(tiny_model):
    half = Pipeline.load(str(tiny_model), device="auto", dtype="bfloat16")
    assert {p.dtype for m in (half.unet, half.vae, half.text) for p in m.parameters()} == {torch.bfloat16}
    assert Pipeline.load(tiny_model, dtype=torch.float16).dtype == torch.float16
    assert Pipeline.load(tiny_model, dtype="auto").dtype in (torch.float32, torch.bfloat16)
    with pytest.raises(ValueError, match="dtype 'int8' is unknown; try auto, float32, bfloat16, float16"):
        Pipeline.load(tiny_model, dtype="int8")
    with pytest.raises(ValueError, match="device 'toaster' cannot be used here; try auto or cpu"):
        Pipeline.load(tiny_model, device="toaster")


def test_pipeline_load_says_what_is_wrong(tmp_path):
    with pytest.raises(ldm.CheckpointError, match="nowhere.safetensors"):
        Pipeline.load(tmp_path / "nowhere.safetensors")


@pytest.mark.parametrize(("sampler", "evaluations"), [("ddim", 7), ("ddpm", 7), ("euler", 7), ("euler_a", 7),
                                                      ("heun", 13), ("dpmpp_2m", 7)])
def test_steps_counts(pipe, sampler, evaluations):
    seen = unet_inputs(pipe)
    steps = list(pipe.steps("a cat", steps=7, sampler=sampler))
    assert [step.i for step in steps] == list(range(7))
    assert len(seen) == evaluations
    assert all(step.x.shape == step.x0.shape == (1, 4, 8, 8) for step in steps)


def test_steps_can_be_left_and_previewed(pipe):
    seen = unet_inputs(pipe)
    for step in pipe.steps("a cat", steps=7):
        assert pipe.decode_latents(step.x0).shape == (1, 3, 64, 64)
        if step.i == 1:
            break
    assert len(seen) == 2


@pytest.mark.parametrize(("steps", "strength"), [(10, 0.75), (10, 0.05), (10, 0.01), (7, 0.5), (7, 1.0), (5, 0.3)])
def test_img2img_evaluations(pipe, steps, strength):
    seen = unet_inputs(pipe)
    pipe("a cat", image=photo(), steps=steps, strength=strength)
    assert len(seen) == max(1, math.floor(steps * strength + 0.5))


def test_img2img_starts_from_the_noised_picture(pipe):
    seen = unet_inputs(pipe)
    plan = pipe.plan("a cat", photo(), steps=10, strength=0.3, seed=5)
    next(pipe.sample(plan))
    sigma = plan.sigmas[0]
    assert sigma == pipe.schedule.sigmas(10, "leading")[7]
    noise = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(5))
    expected = (pipe.encode_image(photo()) + sigma * noise) / math.hypot(1, sigma)
    torch.testing.assert_close(seen[0][0], expected, rtol=0, atol=1e-6)


def test_img2img_keeps_more_of_the_picture_at_lower_strength(pipe):
    z = pipe.encode_image(photo())
    far = [(latents(pipe, "a cat", image=photo(), steps=20, strength=s) - z).norm() for s in (0.05, 0.4, 1.0)]
    assert far[0] < far[1] < far[2]


@pytest.mark.parametrize("strength", [0, -0.1, 1.01])
def test_img2img_strength_out_of_range(pipe, strength):
    with pytest.raises(ValueError, match=rf"strength {strength} is not above 0 and up to 1"):
        pipe("a cat", image=photo(), strength=strength)


def test_img2img_takes_any_size_and_mode(pipe):
    for mode, size in (("RGB", (61, 43)), ("RGBA", (9, 70)), ("L", (64, 8)), ("P", (17, 16))):
        image = photo(*size).convert(mode)
        assert pipe("a cat", image=image, **FAST)[0].size == size
    assert pipe("a cat", image=photo(100, 90), width=72, height=64, **FAST)[0].size == (72, 64)


def test_encode_image_pads_edges_and_scales(pipe):
    x = to_tensor(photo(61, 43))
    padded = torch.cat([x, x[..., -1:].expand(-1, -1, -1, 3)], 3)
    padded = torch.cat([padded, padded[:, :, -1:].expand(-1, -1, 5, -1)], 2)
    z = pipe.encode_image(photo(61, 43))
    assert z.shape == (1, 4, 6, 8) and not z.requires_grad
    assert torch.equal(z, pipe.encode_image(x))
    with torch.no_grad():
        assert torch.equal(z, pipe.vae.encode(padded).mean * 0.18215)


def test_decode_latents_undoes_the_scale(pipe):
    z = torch.randn(3, 4, 4, 6)
    image = pipe.decode_latents(z)
    assert image.shape == (3, 3, 32, 48) and not image.requires_grad
    torch.testing.assert_close(image, pipe.vae.decode(z / 0.18215).detach(), rtol=0, atol=1e-5)


def test_tiles_reach_the_vae(pipe, monkeypatch):
    """By argument and by setting, in both directions; and the picture says so."""
    x, z = to_tensor(photo(96, 80)), torch.randn(1, 4, 10, 12)
    with torch.no_grad():
        assert torch.equal(pipe.encode_image(x, tile=64), pipe.vae.encode(x, tile=64).mean * 0.18215)
        assert torch.equal(pipe.decode_latents(z, tile=64), pipe.vae.decode(z / 0.18215, tile=64))
    tiles: list[int | None] = []
    for name in ("encode", "decode"):
        plain = getattr(pipe.vae, name)
        monkeypatch.setattr(pipe.vae, name, lambda x, tile=None, plain=plain: (tiles.append(tile), plain(x, tile))[1])
    [image] = pipe("a cat", image=photo(96, 80), tile=64, **FAST)
    assert tiles == [64, 64] and image.size == (96, 80)
    assert json.loads(image.info["ldm"])["tile"] == 64


def test_modules_keep_gradients(pipe):
    pipe.vae.decode(torch.zeros(1, 4, 2, 2)).sum().backward()
    assert pipe.vae.decoder.conv_in.weight.grad is not None


def test_width_names_a_remedy(pipe):
    with pytest.raises(ValueError) as error:
        pipe("a cat", width=500)
    assert str(error.value) == "width 500 is not a multiple of 8; try 504"


@pytest.mark.parametrize("wrong", [{"width": 500}, {"steps": 0}, {"sampler": "nope"}, {"guidance": -1}, {"count": 0},
                                   {"sampler": "heun", "eta": 0.5}, {"spacing": "even"}, {"prompt": []}])
def test_wrong_settings_are_said_before_any_work(pipe, monkeypatch, wrong):
    def forbidden(*_):
        raise AssertionError("a network was called")

    for module in (pipe.unet, pipe.vae.encoder, pipe.text):
        monkeypatch.setattr(module, "forward", forbidden)
    arguments = {"prompt": "a cat", "image": photo(), **wrong}
    for call in (pipe, pipe.steps, pipe.plan):          # steps: at the call, not at the first step
        with pytest.raises(ValueError):
            call(**arguments)


def test_unknown_settings_are_refused(pipe):
    with pytest.raises(TypeError, match="stepz"):
        pipe("a cat", stepz=3)


def test_plan_says_what_will_be_drawn(pipe):
    plan = pipe.plan(["a cat", "a dog"], count=2, seed=10, width=128, sampler="euler")
    assert list(plan.seeds) == [10, 11, 12, 13] and (plan.width, plan.height) == (128, 64)
    assert (plan.settings.guidance, plan.settings.spacing) == (3.0, "linspace")
    assert plan.sigmas == pipe.schedule.sigmas(30, "linspace")


def test_prompts_and_counts_run_seeds_on(pipe):
    images = pipe(["a cat", "a dog"], count=2, seed=10, **FAST)
    told = [json.loads(image.info["ldm"]) for image in images]
    assert [(t["prompt"], t["seed"], t["count"]) for t in told] == [
        ("a cat", 10, 1), ("a cat", 11, 1), ("a dog", 12, 1), ("a dog", 13, 1)]
    alone = latents(pipe, "a dog", seed=13, **FAST)
    batch = latents(pipe, ["a cat", "a dog"], count=2, seed=10, **FAST)
    torch.testing.assert_close(batch[3:], alone, rtol=0, atol=1e-4)
    assert (batch[2] - batch[3]).abs().max() > 0.1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_noise_is_the_same_bits_alone_and_in_a_batch(tiny_model, dtype):
    pipe = Pipeline.load(tiny_model, "cpu", dtype)
    seen = unet_inputs(pipe)
    for seed, count in ((5, 3), (5, 1), (6, 1), (7, 1)):
        next(pipe.steps("a cat", seed=seed, count=count, **FAST))
    batch, *alone = [x for x, _, _ in seen]
    assert batch.dtype == torch.float32 and torch.equal(batch, torch.cat(alone))
    for i, seed in enumerate((5, 6, 7)):                # and that is the seed's own, unit variance
        own = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(batch[i], own, rtol=0, atol=1e-6)


@pytest.mark.parametrize("sampler", ["ddim", "euler_a", "dpmpp_2m"])
def test_latents_alone_agree_with_a_batch(tiny_model, sampler):
    settings = {"sampler": sampler, "steps": 10}
    finals = {}
    for dtype in ("float32", "bfloat16"):
        pipe = Pipeline.load(tiny_model, "cpu", dtype)
        batch = latents(pipe, "a cat", seed=5, count=3, **settings)
        alone = torch.cat([latents(pipe, "a cat", seed=seed, **settings) for seed in (5, 6, 7)])
        finals[dtype] = batch, alone
    torch.testing.assert_close(*finals["float32"], rtol=0, atol=1e-4)
    batch, alone = finals["bfloat16"]
    exact = finals["float32"][0]
    for half in (batch, alone):
        assert (half - exact).square().mean().sqrt() < 0.05 * exact.square().mean().sqrt()


def test_guidance_1_is_the_conditional_alone(pipe):
    seen = unet_inputs(pipe)
    one = latents(pipe, "a cat", guidance=1, negative_prompt="a dog", **FAST)
    assert {len(context) for _, _, context in seen} == {1}
    assert torch.equal(one, latents(pipe, "a cat", guidance=1, **FAST))
    seen.clear()
    assert (latents(pipe, "a cat", guidance=2, **FAST) - one).abs().max() > 1e-3
    assert {len(context) for _, _, context in seen} == {2}


def test_guidance_none_is_the_files(pipe):
    told = latents(pipe, "a cat", **FAST)
    assert torch.equal(told, latents(pipe, "a cat", guidance=3, **FAST))
    assert not torch.equal(told, latents(pipe, "a cat", guidance=7.5, **FAST))


def test_negative_prompt_matters(pipe):
    assert not torch.equal(latents(pipe, "a cat", **FAST), latents(pipe, "a cat", negative_prompt="a dog", **FAST))


def test_eta_adds_the_seeds_noise(pipe):
    plain, noisy = latents(pipe, "a cat", **FAST), latents(pipe, "a cat", eta=1.0, **FAST)
    assert not torch.equal(plain, noisy) and torch.equal(noisy, latents(pipe, "a cat", eta=1.0, **FAST))


def settings_of(told: dict) -> dict:
    return {f.name: told[f.name] for f in fields(Settings)}


def test_metadata_remakes_a_picture(pipe, tmp_path):
    batch = pipe(["a cat", "a dog 狗"], count=2, seed=3, width=72, sampler="euler_a", **FAST)
    told = read_metadata(save_image(batch[3], tmp_path / "dog.png"))
    assert (told["prompt"], told["seed"], told["model"], told["dtype"]) == (
        "a dog 狗", 6, "tiny.safetensors", "float32")
    again, = pipe(told["prompt"], **settings_of(told))
    assert json.loads(again.info["ldm"]) == {name: told[name] for name in told if name != "sha256"}
    alone, = pipe("a dog 狗", seed=6, width=72, sampler="euler_a", **FAST)
    assert again.tobytes() == alone.tobytes()           # and of a batch up to the last bits of float32
    assert np.abs(np.array(again, int) - np.array(batch[3], int)).max() <= 1


def test_metadata_remakes_a_redrawn_picture(pipe):
    image = photo(61, 43)
    first, = pipe("a cat", image=image, strength=0.5, seed=3, **FAST)
    told = json.loads(first.info["ldm"])
    again, = pipe(told["prompt"], image=image, **settings_of(told))
    assert again.tobytes() == first.tobytes() and json.loads(again.info["ldm"]) == told
    other, = pipe("a cat", image=photo(61, 43, seed=1), strength=0.5, seed=3, **FAST)
    assert json.loads(other.info["ldm"])["image_sha256"] != told["image_sha256"]


def test_unseen_words_are_reported(pipe, tiny_model, tmp_path):
    pipe.vocabulary = pipe.tokenizer(["a red cat", "strawberry"]).unique()
    save_parts(tmp_path / "small.safetensors", pipe.vae, pipe.unet, pipe.text, {"size": 64, "guidance": 3.0},
               pipe.vocabulary)
    small = Pipeline.load(tmp_path / "small.safetensors", "cpu", "float32")
    assert torch.equal(small.vocabulary, pipe.vocabulary)
    expected = "small.safetensors was trained without blue, dog; these words will not show"
    with pytest.warns(UserWarning, match=expected):
        small("a blue dog a red cat", **FAST)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        context = small.encode_prompt(["a red strawberry cat"])
    assert torch.equal(context, Pipeline.load(tiny_model, "cpu", "float32").encode_prompt(["a red strawberry cat"]))
    small.save(tmp_path / "dense.safetensors")          # as other programs expect it: with a row for every token
    assert Pipeline.load(tmp_path / "dense.safetensors", "cpu", "float32").vocabulary is None
