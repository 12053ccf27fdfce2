"""Inpainting through the pipeline: what is kept bit for bit, what the network is shown, with 4 channels and with 9."""

import json
import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from random_pictures import noise, random_mask, rectangle, sizes
from torch import Tensor

from ldm import Pipeline, Settings
from ldm.images import to_tensor
from ldm.masks import extend
from ldm.samplers import SAMPLERS
from ldm.unet import UNet

FAST = {"steps": 4}
IMAGE, MASK = noise(64, 48), rectangle(64, 48, (16, 8, 48, 32))
KEPT = torch.ones(1, 1, 6, 8)
KEPT[:, :, 1:4, 2:6] = 0                                # latents of IMAGE that MASK keeps


def unet_inputs(pipe: Pipeline) -> list[tuple[Tensor, Tensor, Tensor]]:
    """A list that fills with the (x, t, context) of every evaluation."""
    seen: list = []
    pipe.unet.register_forward_pre_hook(lambda module, inputs: seen.append(inputs))
    return seen


def latents(pipe: Pipeline, *args, **settings) -> Tensor:
    *_, last = pipe.steps(*args, **{**FAST, **settings})
    return last.z


def settings_of(told: dict) -> dict:
    return {f.name: told[f.name] for f in fields(Settings)}


@pytest.fixture
def inpainter(pipe: Pipeline) -> Pipeline:
    """The tiny model with the 9 channels of one that was trained to inpaint."""
    torch.manual_seed(1)
    pipe.unet = UNet(replace(pipe.unet.cfg, in_channels=9))
    return pipe


@pytest.mark.parametrize("model", ["pipe", "inpainter"])
def test_pixels_outside_the_mask_stay_bit_for_bit(model, request):
    """Over random sizes, masks and settings.  A blurred mask reaches three deviations far."""
    pipe, rng, changed = request.getfixturevalue(model), np.random.default_rng(0), 0
    for seed in range(15):
        size = sizes(rng)
        image, mask, blur = noise(*size, seed), random_mask(rng, *size), float(rng.choice([0, 0, 0.7, 2]))
        settings = {"mask_blur": blur, "only_masked": None if rng.random() < 0.5 else int(rng.integers(0, 20)),
                    "strength": float(rng.choice([0.3, 0.75, 1])), "sampler": str(rng.choice(list(SAMPLERS)))}
        try:
            pipe.plan("a cat", image, mask, **settings)
        except ValueError as error:
            assert "leaves nothing" in str(error) and blur
            continue
        after, = pipe("a cat", image=image, mask=mask, seed=seed, **FAST, **settings)
        reached = np.array(mask.filter(ImageFilter.MaxFilter(2 * math.ceil(3 * blur) + 1)) if blur else mask)
        same = (np.array(after) == np.array(image)).all(-1)
        assert after.size == size and same[reached == 0].all(), (seed, settings)
        changed += not same[np.array(mask) == 255].all()
    assert changed > 8


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_known_region_is_kept_at_every_step_of_every_sampler(pipe, sampler):
    """As the network sees it and as the steps tell it: with the same noise throughout, and clean at the end."""
    seen, known = unet_inputs(pipe), pipe.encode_image(IMAGE) * KEPT
    unit = torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(5)) * KEPT
    steps = list(pipe.steps("a cat", image=IMAGE, mask=MASK, sampler=sampler, spacing="leading", seed=5, steps=6))
    for x, t, _ in seen:
        sigma = pipe.schedule.sigma(t[0].item())
        expected = (known + sigma * unit) / math.hypot(1, sigma)
        torch.testing.assert_close(x * KEPT, expected, rtol=0, atol=1e-4)
    for step in steps[:-1]:
        torch.testing.assert_close(step.x * KEPT, known + step.sigma * unit, rtol=0, atol=1e-5)
    assert steps[-1].sigma > 0
    torch.testing.assert_close(steps[-1].z * KEPT, known, rtol=0, atol=1e-6)


@pytest.mark.parametrize("model", ["pipe", "inpainter"])
def test_strength_1_starts_from_noise_where_is_repainted(model, request):
    pipe = request.getfixturevalue(model)
    seen = unet_inputs(pipe)
    next(pipe.steps("a cat", image=IMAGE, mask=MASK, strength=1, seed=5))
    unit = torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(seen[0][0][:, :4] * (1 - KEPT), unit * (1 - KEPT), rtol=0, atol=1e-5)


def test_lower_strength_starts_from_the_noised_picture(pipe):
    seen, plan = unet_inputs(pipe), pipe.plan("a cat", IMAGE, MASK, strength=0.5, seed=5)
    next(pipe.sample(plan))
    unit, sigma = torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(5)), plan.sigmas[0]
    expected = (pipe.encode_image(IMAGE) + sigma * unit) / math.hypot(1, sigma)
    torch.testing.assert_close(seen[0][0], expected, rtol=0, atol=1e-6)


def test_a_white_mask_at_strength_1_draws_as_without_a_picture(pipe):
    white = Image.new("L", IMAGE.size, "white")
    masked = latents(pipe, "a cat", image=IMAGE, mask=white, strength=1)
    assert torch.equal(masked, latents(pipe, "a cat", width=64, height=48))
    half = latents(pipe, "a cat", image=IMAGE, mask=white, strength=0.5)
    assert torch.equal(half, latents(pipe, "a cat", image=IMAGE, strength=0.5))


def test_masks_compose_with_batches_tiles_cache_and_guidance(pipe):
    settings = {"cache": 2, "guidance_max_sigma": 8.0, "guidance_rescale": 0.7, "tile": 32, "sampler": "dpmpp_2m"}
    images = pipe(["a cat", "a dog [sun:moon:0.5]"], image=IMAGE, mask=MASK, count=2, seed=3, **FAST, **settings)
    black = np.array(MASK) == 0
    assert all((np.array(image)[black] == np.array(IMAGE)[black]).all() for image in images)
    alone, = pipe("a dog [sun:moon:0.5]", image=IMAGE, mask=MASK, seed=6, **FAST, **settings)
    assert np.abs(np.array(alone, int) - np.array(images[3], int)).max() <= 1
    assert images[0].tobytes() != images[1].tobytes()


def test_guidance_rescale_reaches_the_guidance(pipe):
    plain, rescaled = (latents(pipe, "a cat", guidance=7.5, guidance_rescale=phi) for phi in (0.0, 0.7))
    assert not torch.equal(plain, rescaled)
    conditional = latents(pipe, "a cat", guidance=1)
    assert torch.equal(conditional, latents(pipe, "a cat", guidance=1, guidance_rescale=0.7))


def test_only_masked_paints_the_surroundings_at_the_native_size(pipe):
    seen, image, mask = unet_inputs(pipe), noise(300, 200), rectangle(300, 200, (200, 100, 210, 130))
    plan = pipe.plan("a cat", image, mask, only_masked=5)
    assert plan.canvas.box == (185, 95, 225, 135) and (plan.width, plan.height) == (64, 64)
    after, = pipe("a cat", image=image, mask=mask, only_masked=5, **FAST)
    assert seen[0][0].shape == (1, 4, 8, 8) and after.size == (300, 200)
    different = (np.array(after) != np.array(image)).any(-1)
    assert different[100:130, 200:210].mean() > 0.9 and not different[np.array(mask) == 0].any()
    assert pipe.plan("a cat", image, mask, only_masked=5, width=96, height=96).latents == (1, 4, 12, 12)
    assert pipe.plan("a cat", image, mask, only_masked=1000).latents == (1, 4, 7, 10)       # 300 x 200, as 80 x 56


@pytest.mark.parametrize("wrong, message", [
    ({"mask": Image.new("L", (64, 64), "white")}, "the mask has 64x64 pixels, but its picture 64x48; scale it to 64x"),
    ({"mask": Image.new("L", (64, 48))}, "the mask is black everywhere, so nothing is to be repainted"),
    ({"mask": MASK, "image": None}, "there is a mask but no picture that it belongs to"),
    ({"mask_blur": 4}, "mask_blur and only_masked are for a mask"),
    ({"mask": MASK, "mask_blur": -1}, "mask_blur -1 is outside 0..1000; try 0"),
    ({"mask": MASK, "strength": 0}, "strength 0 is not above 0 and up to 1"),
])
def test_wrong_masks_are_said_before_any_work(pipe, monkeypatch, wrong, message):
    def forbidden(*_):
        raise AssertionError("a network was called")

    for module in (pipe.unet, pipe.vae.encoder, pipe.text):
        monkeypatch.setattr(module, "forward", forbidden)
    for call in (pipe, pipe.steps, pipe.plan):
        with pytest.raises(ValueError, match=message):
            call("a cat", **{"image": IMAGE, **wrong})


def test_metadata_remakes_an_inpainted_picture(pipe):
    settings = {"mask_blur": 1.5, "only_masked": 4, "strength": 1, "sampler": "euler_a"}
    first, = pipe("a cat", image=IMAGE, mask=MASK, seed=3, **FAST, **settings)
    told = json.loads(first.info["ldm"])
    assert told.items() >= settings.items()
    again, = pipe(told["prompt"], image=IMAGE, mask=MASK, **settings_of(told))
    assert again.tobytes() == first.tobytes() and json.loads(again.info["ldm"]) == told
    other, = pipe("a cat", image=IMAGE, mask=rectangle(64, 48, (16, 8, 48, 33)), **FAST)
    assert json.loads(other.info["ldm"])["image_sha256"] == told["image_sha256"]
    assert json.loads(other.info["ldm"])["mask_sha256"] != told["mask_sha256"]


def test_pictures_that_a_camera_turned_are_upright(pipe):
    turned = noise(40, 24)
    turned.getexif()[0x0112] = 6                        # orientation: to be turned by 90 degrees
    upright = turned.transpose(Image.Transpose.ROTATE_270)
    mask = rectangle(24, 40, (0, 0, 8, 8))
    after, = pipe("a cat", image=turned, mask=mask, **FAST)
    assert after.size == (24, 40)
    assert after.crop((8, 0, 24, 40)).tobytes() == upright.crop((8, 0, 24, 40)).tobytes()


def test_inpainting_models_are_told_the_mask_and_what_is_seen(inpainter):
    """z, mask, and the latents of the picture that is grey where the mask is 1."""
    seen, mask = unet_inputs(inpainter), rectangle(61, 43, (14, 7, 42, 32))
    image = noise(61, 43)
    pixels = torch.from_numpy(np.array(mask))[None, None] / 255
    hidden = inpainter.encode_image(torch.where(pixels == 1, 0.0, to_tensor(image)))
    list(inpainter.steps("a cat", image=image, mask=mask, count=2, **FAST))
    assert len(seen) == 3                               # of 4 at strength 0.75
    for x, _, _ in seen:
        assert x.shape == (2, 9, 6, 8)
        torch.testing.assert_close(x[:, 5:], hidden.expand(2, -1, -1, -1), rtol=0, atol=1e-5)
        expected = torch.zeros(6, 8)
        expected[1:4, 2:6] = 1                          # pixels 8, 16, 24 and 16, 24, 32, 40
        assert torch.equal(x[:, 4], expected.expand(2, 6, 8))


def test_inpainting_models_without_a_mask_paint_everything(inpainter):
    seen = unet_inputs(inpainter)
    for image, evaluations in ((None, 4), (IMAGE, 3)):
        picture, = inpainter("a cat", image=image, height=48, width=64, **FAST)
        assert picture.size == (64, 48) and len(seen) == evaluations
        for x, _, _ in seen:
            assert (x[:, 4] == 1).all()
            torch.testing.assert_close(x[:, 5:], inpainter.encode_image(torch.zeros(1, 3, 48, 64)), rtol=0, atol=1e-6)
        seen.clear()


def test_inpainting_models_keep_nothing_in_the_latents_themselves(inpainter):
    """As they were trained: what they make of the known region is replaced in the picture alone."""
    *_, last = inpainter.steps("a cat", image=IMAGE, mask=MASK, **FAST)
    assert ((last.z - inpainter.encode_image(IMAGE)) * KEPT).abs().max() > 0.1


@pytest.mark.parametrize("model", ["pipe", "inpainter"])
def test_outpainting_keeps_the_picture_bit_for_bit(model, request):
    pipe, rng = request.getfixturevalue(model), np.random.default_rng(1)
    for seed in range(8):
        width, height = sizes(rng, 70)
        image = noise(width, height, seed)
        left, top, right, bottom = map(int, rng.integers(0, 25, 4))
        wide, mask = extend(image, left, top, right, bottom, str(rng.choice(["edge", "symmetric"])))
        after, = pipe("a cat", image=wide, mask=mask, seed=seed, strength=float(rng.choice([0.75, 1])), **FAST)
        assert after.size == (left + width + right, top + height + bottom)
        assert after.crop((left, top, left + width, top + height)).tobytes() == image.tobytes()
