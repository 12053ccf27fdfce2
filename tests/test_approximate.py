"""The step cache and the guidance interval: exact where they are off, and what they save where they are on."""

import json
import math
from dataclasses import fields

import pytest
import torch
from PIL import Image
from randomise import randomise
from torch import Tensor
from torch.testing import assert_close

from ldm import Pipeline, Settings
from ldm.approximate import GuidanceInterval, StepCache
from ldm.samplers import CFG, SAMPLERS, Denoiser, seeded_noise
from ldm.unet import UNet, UNetConfig

TINY = dict(channels=32, multipliers=(1, 2), attn_levels=(True, False), cross_only=(False, False), context_width=24,
            groups=8)
ONE_LEVEL = dict(channels=32, multipliers=(1,), attn_levels=(True,), cross_only=(False,), context_width=24, groups=8)
SIGMAS = [8.0, 4.0, 2.0, 1.0]


def unet(shape: dict = TINY, **more) -> UNet:
    return randomise(UNet(UNetConfig(**shape, **more)))


def inputs(seed: int = 0, contexts: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """x [2 4 9 13], t [1], context [2 contexts, 7, 24]."""
    g = torch.Generator().manual_seed(seed)
    x, context = torch.randn(2, 4, 9, 13, generator=g), torch.randn(2 * contexts, 7, 24, generator=g)
    return x, torch.tensor([900 - 100 * seed]), context


def calls(module: torch.nn.Module) -> list[int]:
    """A list that fills with the batch size of every call of a module."""
    seen: list[int] = []
    module.register_forward_hook(lambda module, args, out: seen.append(len(out)))
    return seen


def latents(pipe: Pipeline, **settings) -> Tensor:
    *_, last = pipe.steps("a cat", **{"steps": 7, **settings})
    return last.x


@pytest.mark.parametrize("shape", [TINY, ONE_LEVEL], ids=["two levels", "one level"])
def test_step_cache_of_every_step_equals_the_unet(shape):
    model = unet(shape)
    cached = StepCache(model, 1)
    for seed in range(3):
        assert torch.equal(cached(*inputs(seed)), model(*inputs(seed)))


def test_step_cache_takes_class_labels():
    model, labels = unet(classes=5), torch.tensor([1, 4])
    assert torch.equal(StepCache(model, 2)(*inputs(), labels), model(*inputs(), labels))


def test_step_cache_keeps_dtypes_as_the_unet():
    model = unet().bfloat16()
    cached = StepCache(model, 2)
    assert torch.equal(cached(*inputs(0)), model(*inputs(0)))
    assert cached(*inputs(1)).dtype == torch.float32


@pytest.mark.parametrize("every", [1, 2, 3, 7, 8])
def test_step_cache_evaluates_the_deep_part_every_nth_time(every):
    model = unet()
    deep, shallow, cached = calls(model.mid), calls(model.conv_in), StepCache(model, every)
    for seed in range(7):
        cached(*inputs(seed))
    assert len(deep) == math.ceil(7 / every) and len(shallow) == 7


def test_step_cache_gives_the_last_block_old_features_and_a_new_skip():
    """Against the plain UNet, whose last block is handed the features of the evaluation before."""
    model = unet()
    last, kept = model.up[-1].res[-1], []
    cached = StepCache(model, 2)
    first, second = cached(*inputs(0)), cached(*inputs(1))

    def swap(module, args):
        h, emb = args
        kept.append(h[:, :32])                                      # of the 64 channels; the others are the skip
        return torch.cat([kept[0], h[:, 32:]], dim=1), emb

    last.register_forward_pre_hook(swap)
    assert_close(model(*inputs(0)), first, rtol=0, atol=1e-5)
    assert_close(model(*inputs(1)), second, rtol=0, atol=1e-5)
    assert not torch.allclose(kept[0], kept[1], atol=0.1)           # the swap did matter


def test_step_cache_begins_anew_where_the_batch_changes():
    model = unet()
    rows, cached, contexts = calls(model.mid), StepCache(model, 3), (2, 2, 1, 1, 1, 1)
    found = [cached(*inputs(0, n)) for n in contexts]
    assert rows == [4, 2, 2]                                        # at the first, the third and the last evaluation
    for out, n in zip(found, contexts, strict=True):
        assert_close(out, model(*inputs(0, n)), rtol=0, atol=1e-5)  # x and t stay the same, so nothing is lost


def test_step_cache_says_what_is_wrong():
    with pytest.raises(ValueError, match="every 0 is below 1; 1 is exact"):
        StepCache(unet(), 0)
    x, t, context = inputs()
    with pytest.raises(ValueError, match=r"this UNet takes \[B 4 h w\]"):
        StepCache(unet(), 2)(x[:, :3], t, context)


def linear_cfg(scale: float = 3.0) -> tuple[CFG, list[int]]:
    """Guidance over a denoiser that adds its context to x, and the rows of each of its calls."""
    seen: list[int] = []

    def denoiser(x: Tensor, sigma: float, context: Tensor) -> Tensor:
        seen.append(len(context))
        return torch.cat([x] * (len(context) // len(x))) / sigma + context[:, 0, 0, None, None, None]

    return CFG(denoiser, torch.full((1, 1, 1), 2.0), torch.zeros(1, 1, 1), scale), seen


def test_guidance_interval_halves_the_batch_outside():
    """Its ends: low is outside, high is inside."""
    cfg, rows = linear_cfg()
    denoise = GuidanceInterval(cfg, 1.0, 4.0)
    x = torch.ones(2, 1, 1, 1)
    found = [denoise(x, sigma) for sigma in SIGMAS]
    assert rows == [2, 4, 4, 2]
    for x0, sigma, guided in zip(found, SIGMAS, (2, 6, 6, 2), strict=True):     # 2: the condition; 6: three times it
        assert_close(x0, x / sigma + guided, rtol=0, atol=1e-6)


@pytest.mark.parametrize("interval", [(), (0.0, 8.0), (0.5,)])
def test_guidance_interval_over_everything_is_plain_guidance(interval):
    cfg, rows = linear_cfg(scale=2.7)
    x = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(0))
    for sigma in SIGMAS:
        assert torch.equal(GuidanceInterval(cfg, *interval)(x, sigma), cfg(x, sigma))
    assert set(rows) == {4}


def test_pipeline_is_exact_by_default(pipe):
    """Bit for bit the samplers over the UNet itself, with nothing between."""
    cond, uncond = pipe.encode_prompt(["a cat"]), pipe.encode_prompt([""])
    denoise = CFG(Denoiser(pipe.unet, pipe.schedule, pipe.prediction), cond, uncond, pipe.guidance)
    sigmas, noise = pipe.schedule.sigmas(7, "leading"), seeded_noise([0])
    *_, last = SAMPLERS["ddim"](denoise, math.hypot(1, sigmas[0]) * noise(torch.empty(1, 4, 8, 8)), sigmas, noise)
    assert torch.equal(latents(pipe), last.x)
    assert torch.equal(latents(pipe, guidance_max_sigma=sigmas[0]), last.x)
    assert not torch.equal(latents(pipe, cache=2), last.x)
    assert not torch.equal(latents(pipe, guidance_max_sigma=sigmas[3]), last.x)


@pytest.mark.parametrize("settings", [
    {"cache": 3},
    {"cache": 2, "count": 2, "width": 72, "height": 136, "sampler": "dpmpp_2m"},
    {"cache": 2, "image": Image.new("RGB", (72, 56), "teal"), "strength": 1.0},
    {"cache": 2, "guidance": 1.0},
    {"cache": 4, "sampler": "ddpm"},
], ids=["plain", "batch at odd size", "img2img", "no guidance", "ddpm"])
def test_pipeline_caches_afresh_in_every_run(pipe, settings):
    deep = calls(pipe.unet.mid)
    first = latents(pipe, **settings)
    assert len(deep) == math.ceil(7 / settings["cache"])
    latents(pipe, steps=4, cache=5)                                 # another run, left in the middle of a period
    assert torch.equal(latents(pipe, **settings), first)


def test_pipeline_guides_inside_the_interval_only(pipe):
    sigmas = pipe.plan("a cat", steps=7).sigmas
    rows = calls(pipe.unet)
    latents(pipe, guidance_min_sigma=sigmas[5], guidance_max_sigma=sigmas[2])
    assert rows == [1, 1, 2, 2, 2, 1, 1]


def test_pipeline_combines_cache_and_interval(pipe):
    sigmas = pipe.plan("a cat", steps=7).sigmas
    deep = calls(pipe.unet.mid)
    latents(pipe, cache=2, guidance_min_sigma=sigmas[5], guidance_max_sigma=sigmas[2])
    assert deep == [1, 2, 2, 1]                                     # anew at each end, and every second time


def test_pictures_say_how_they_were_approximated(pipe):
    settings = {"steps": 4, "cache": 2, "guidance_min_sigma": 0.3, "guidance_max_sigma": 5.4}
    picture, = pipe("a cat", **settings)
    told = json.loads(picture.info["ldm"])
    assert told.items() >= settings.items()
    again, = pipe(told["prompt"], **{name: told[name] for name in (f.name for f in fields(Settings))})
    assert again.tobytes() == picture.tobytes()
