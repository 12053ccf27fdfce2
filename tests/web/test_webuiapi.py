"""The independent client webuiapi, unchanged."""

import threading
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import numpy as np
import pytest
import webuiapi
from exchange import TINY
from PIL import Image

from ldm.web.studio import Studio

NOISE = Image.effect_noise((64, 64), 60).convert("RGB")


@pytest.fixture
def api(address: str) -> Iterator[webuiapi.WebUIApi]:
    url = urlsplit(address)
    api = webuiapi.WebUIApi(host=url.hostname, port=url.port, steps=2)
    yield api
    api.session.close()


def test_webuiapi_draws(api: webuiapi.WebUIApi):
    result = api.txt2img(prompt="a fox", negative_prompt="a cat", **TINY, n_iter=2, cfg_scale=4)
    assert [image.size for image in result.images] == [(64, 64)] * 2
    assert result.info["all_seeds"] == [1, 2] and result.info["notes"] == []
    assert result.info["sampler_name"] == "Euler a" and result.parameters["cfg_scale"] == 4
    assert result.image.info["parameters"].startswith("a fox\nNegative prompt: a cat\nSteps: 2, Sampler: Euler a")


def test_webuiapi_draws_in_two_passes(api: webuiapi.WebUIApi):
    result = api.txt2img(prompt="a fox", **TINY, enable_hr=True, hr_scale=1.5)
    assert result.image.size == (96, 96)


def test_webuiapi_redraws(api: webuiapi.WebUIApi):
    result = api.img2img(images=[NOISE], prompt="a fox", **TINY, denoising_strength=0.5)
    assert result.image.size == (64, 64) and result.info["denoising_strength"] == 0.5 and result.info["notes"] == []
    assert (np.asarray(result.image.convert("RGB")) != np.asarray(NOISE)).any()


@pytest.mark.parametrize("inpaint_full_res", [False, True])
def test_webuiapi_inpaints(api: webuiapi.WebUIApi, inpaint_full_res: bool):
    mask = Image.new("L", (64, 64))
    mask.paste(255, (8, 8, 32, 32))
    result = api.img2img(images=[NOISE], mask_image=mask, mask_blur=0, inpainting_fill=1, denoising_strength=1.0,
                         inpaint_full_res=inpaint_full_res, **TINY)
    drawn, given, kept = np.asarray(result.image.convert("RGB")), np.asarray(NOISE), np.asarray(mask) == 0
    assert (drawn[kept] == given[kept]).all() and (drawn[~kept] != given[~kept]).any()


def test_webuiapi_reads_png_info(api: webuiapi.WebUIApi):
    picture = api.txt2img(prompt="a fox", **TINY).image
    assert api.png_info(picture).info == picture.info["parameters"]


def test_webuiapi_enlarges(api: webuiapi.WebUIApi):
    result = api.extra_single_image(NOISE, upscaler_1=webuiapi.Upscaler.Lanczos, upscaling_resize=2)
    assert result.image.size == (128, 128)


def test_webuiapi_switches_the_model(api: webuiapi.WebUIApi, capsys: pytest.CaptureFixture):
    assert api.util_get_model_names() == ["bundled", "other", "tiny"]
    try:
        api.util_set_model("othr")
        assert api.util_get_current_model() == "other" and api.get_options()["sd_model_checkpoint"] == "other"
        assert api.txt2img(**TINY).info["sd_model_name"] == "other"
    finally:
        api.set_options({"sd_model_checkpoint": "tiny"})


def test_webuiapi_lists(api: webuiapi.WebUIApi, studio: Studio):
    assert {"DDIM", "Euler a", "DPM++ 2M"} <= set(api.util_get_sampler_names())
    assert "karras" in api.util_get_scheduler_names()
    assert api.get_loras()[0]["name"] == "strong" and "swirl" in api.get_embeddings()["loaded"]
    assert api.get_upscalers()[1]["name"] == "Lanczos" and api.refresh_checkpoints() is None
    assert api.get_memory()["ram"]["total"] and api.get_sd_vae() and api.get_scripts()


def test_webuiapi_follows_and_interrupts(api: webuiapi.WebUIApi, address: str):
    results: list[webuiapi.WebUIApiResult] = []
    thread = threading.Thread(target=lambda: results.append(api.txt2img(**{**TINY, "steps": 20}, n_iter=60)))
    thread.start()
    url = urlsplit(address)
    other = webuiapi.WebUIApi(host=url.hostname, port=url.port)
    while (told := other.get_progress())["state"]["job_no"] < 1:
        time.sleep(0.05)
    assert 0 < told["progress"] < 1
    other.interrupt()
    thread.join(60)
    other.util_wait_for_ready(check_interval=0.05)
    other.session.close()
    assert results[0].info["interrupted"] and 1 <= len(results[0].images) < 60


def test_webuiapi_is_told_what_is_refused(api: webuiapi.WebUIApi):
    with pytest.raises(RuntimeError, match="styles is not supported"):
        api.txt2img(styles=["old"], **TINY)
