"""The x4 upscaler: against diffusers' schedulers, and what it promises of sizes, seeds, tiles and replay."""

import json

import numpy as np
import pytest
import torch
from relative_error import relative_error
from scripts.conftest import run_script
from torch import Tensor
from torch.testing import assert_close

from ldm import Pipeline
from ldm.images import digest, on_white, read_metadata, to_tensor
from ldm.plugins import Control, ControlNet
from ldm.samplers import Schedule, seeded_noise
from ldm.tasks import X4Upscaler, is_x4, tiled
from ldm.text import CLIPText, CLIPTextConfig
from ldm.unet import UNet, UNetConfig
from ldm.vae import VAE, VAEConfig

__all__ = ["run_script"]

FAST = {"steps": 4}


def last_latents(pipe: Pipeline, *args, **settings) -> Tensor:
    *_, last = pipe.steps(*args, **settings)
    return last.z


@pytest.fixture
def x4() -> Pipeline:
    """A tiny model of the x4 upscaler's family."""
    torch.manual_seed(0)
    unet = UNet(UNetConfig(in_channels=7, channels=32, multipliers=(1, 2), attn_levels=(False, True), res_blocks=1,
                           cross_only=(False, True), context_width=64, linear_proj=True, classes=1000))
    vae = VAE(VAEConfig(channels=32, multipliers=(1, 1, 2), res_blocks=1, groups=8, scale_factor=0.08333))
    text = CLIPText(CLIPTextConfig(width=64, layers=1))
    return Pipeline(vae.eval(), unet.eval(), text.eval(), prediction="v", size=64, guidance=3.0,
                    schedule=Schedule(1e-4, 0.02))


def test_x4_upscaler_equals_diffusers_schedulers(x4, photo, parity):
    """The noise on the small picture, the label, the channels and DDIM, on the same UNet."""
    from diffusers import DDIMScheduler, DDPMScheduler

    image = photo(12, 10)
    ours = last_latents(X4Upscaler(x4, image, noise_level=30), "a cat", steps=5, guidance=3.0, seed=4)

    x, noise = (torch.randn(1, channels, 10, 12, generator=torch.Generator().manual_seed(seed))
                for channels, seed in ((4, 4), (3, 4 ^ 2**31)))
    betas = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "scaled_linear"}
    small = DDPMScheduler(**betas).add_noise(to_tensor(image), noise, torch.tensor([30]))
    scheduler = DDIMScheduler(**betas, prediction_type="v_prediction", steps_offset=1, set_alpha_to_one=False,
                              clip_sample=False)
    scheduler.set_timesteps(5)
    context = x4.encode_prompt(["", "a cat"])
    with torch.no_grad():
        for t in scheduler.timesteps:
            both = torch.cat([torch.cat([x, small], dim=1)] * 2)
            uncond, cond = x4.unet(both, t[None], context, torch.tensor([30])).chunk(2)
            x = scheduler.step(uncond + 3.0 * (cond - uncond), t, x).prev_sample
    parity("x4 upscaler, tiny, whole trajectory", "diffusers", relative_error(ours, x), 1e-4)


def test_x4_upscaler_draws_four_times_the_size(x4, photo):
    assert is_x4(x4)
    image = photo(19, 13).convert("RGBA")
    first, second = X4Upscaler(x4, image)("a cat", steps=4, count=2)
    assert first.size == second.size == (76, 52) and first.tobytes() != second.tobytes()
    told = json.loads(second.info["ldm"])
    assert (told["task"], told["noise_level"], told["seed"]) == ("upscale", 20, 1)
    assert told["image_sha256"] == digest(on_white(image)) and (told["width"], told["height"]) == (76, 52)


def test_x4_upscaler_depends_on_picture_noise_level_and_seed(x4, photo):
    drawn = {X4Upscaler(x4, photo(8, 8, i), level)("a cat", steps=4, seed=seed)[0].tobytes()
             for i, level, seed in ((0, 20, 0), (1, 20, 0), (0, 200, 0), (0, 20, 1))}
    assert len(drawn) == 4


def test_x4_upscaler_of_one_picture_agrees_with_its_batch(x4, photo):
    batch = last_latents(X4Upscaler(x4, photo(8, 8)), "a cat", steps=4, count=2)
    alone = last_latents(X4Upscaler(x4, photo(8, 8)), "a cat", steps=4, seed=1)
    assert_close(batch[1:], alone, rtol=0, atol=1e-4)


def test_x4_upscaler_works_in_tiles(x4, photo):
    [picture] = X4Upscaler(tiled(x4, 32), photo(21, 11))("a cat", steps=4, tile=32)
    assert picture.size == (84, 44) and np.asarray(picture).std() > 0
    pipe = X4Upscaler(tiled(x4, 32), photo(8, 8))       # one tile
    assert_close(last_latents(pipe, "a cat", **FAST), last_latents(X4Upscaler(x4, photo(8, 8)), "a cat", **FAST),
                 rtol=0, atol=1e-4)


def test_tiles_say_that_a_controlnet_does_not_go_with_them(pipe, photo):
    pipe.controls.append(Control(ControlNet(pipe.unet.cfg), photo()))
    with pytest.raises(ValueError, match="nor with a ControlNet, .*; set cache to 1 and remove the ControlNets, or"):
        tiled(pipe, 32)("a cat", **FAST)


@pytest.mark.parametrize("tiles", [[], ["--tile", 32]])
def test_x4_upscaler_is_replayed(x4, photo, run_script, tmp_path, tiles):
    image, model, big = (tmp_path / name for name in ("photo.png", "x4.safetensors", "big.png"))
    photo(19, 13).save(image)
    x4.save(model)
    done = run_script("upscale.py", "a cat", "--image", image, "--noise-level", 30, *tiles, "--steps", 4, "--seed", 5,
                      "--ckpt", model, "--out", big)
    assert (done.returncode, done.stdout) == (0, f"{big}\n"), done.stderr
    again = run_script("replay.py", big, "--image", image, "--ckpt", model)
    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout == f"bit-exact: SHA-256 {read_metadata(big)['sha256']}\n"


def test_x4_upscaler_takes_a_cache(x4, photo):
    task = X4Upscaler(x4, photo(8, 8))
    exact, cached = (last_latents(task, "a cat", steps=6, cache=cache) for cache in (1, 2))
    assert exact.shape == cached.shape and not torch.equal(exact, cached)


def test_x4_upscaler_refuses_what_it_cannot_do(pipe, x4, photo):
    with pytest.raises(ValueError, match="a UNet of 4 input channels is no x4 upscaler, which has 7"):
        X4Upscaler(pipe, photo())
    for level in (-1, 351):
        with pytest.raises(ValueError, match=f"noise_level {level} is outside 0..350"):
            X4Upscaler(x4, photo(), level)
    for wrong in ({"image": photo()}, {"width": 64}):
        with pytest.raises(ValueError, match="already has its picture"):
            X4Upscaler(x4, photo())("a cat", **wrong)


@pytest.mark.parametrize("source", ["cpu", "nv"])
def test_noise_of_the_small_picture_does_not_come_again_in_sampling(x4, photo, monkeypatch, source):
    drawn: list[Tensor] = []

    def recorded(seeds, source):
        noise = seeded_noise(seeds, source)
        return lambda x: drawn.append(noise(x)) or drawn[-1]

    monkeypatch.setattr("ldm.tasks.upscale.seeded_noise", recorded)
    monkeypatch.setattr("ldm.plan.seeded_noise", recorded)
    X4Upscaler(x4, photo(12, 10))("a cat", steps=3, sampler="euler_a", seed=5, noise=source)
    [small] = (noise for noise in drawn if noise.shape[1] == 3)
    others = [noise[:, :3] for noise in drawn if noise.shape[1] == 4]
    assert len(others) >= 3
    for other in others:
        assert abs(torch.corrcoef(torch.stack([small.flatten(), other.flatten()]))[0, 1]) < 0.3


def test_the_plain_pipeline_refuses_the_x4_model_before_any_work(x4):
    with pytest.raises(ValueError, match="whose UNet takes 7 channels, enlarges pictures; use scripts/upscale.py"):
        x4.plan("a cat")
