"""Requests of A1111's clients as orders."""

import numpy as np
import pytest
from exchange import encoded
from PIL import Image
from pydantic import ValidationError

from ldm.metadata import SAMPLERS
from ldm.web import translate
from ldm.web.a1111 import OFF, Extras, Img2Img, Txt2Img, UnknownName, find_sampler, find_spacing
from ldm.web.options import Options, changed
from ldm.web.studio import Studio
from ldm.web.translate import Asked

RED = encoded(Image.new("RGB", (96, 64), "red"))
MASK = Image.new("L", (96, 64))
MASK.paste(255, (8, 8, 40, 40))


def asked(studio: Studio, **fields) -> Asked:
    return translate.txt2img(Txt2Img(**fields), Options("tiny"), studio)


def from_picture(studio: Studio, **fields) -> Asked:
    body = Img2Img(init_images=[RED], **{"width": 64, "height": 64, **fields})
    return translate.img2img(body, Options("tiny"), studio)


def test_defaults_are_those_of_a1111(studio: Studio):
    [order] = asked(studio).orders
    settings = order.settings
    assert order.task == "txt2img" and order.prompt == "" and order.model == "tiny"
    assert (settings["steps"], settings["guidance"], settings["width"], settings["height"]) == (50, 7.0, 512, 512)
    assert settings["sampler"] == "euler" and settings["spacing"] is None and settings["count"] == 1
    assert 0 <= settings["seed"] < 2**32


def test_random_seeds_differ(studio: Studio):
    assert len({asked(studio).orders[0].settings["seed"] for _ in range(8)}) == 8


@pytest.mark.parametrize(("ours", "theirs"), SAMPLERS.items())
def test_samplers_of_a1111_are_ours(ours: str, theirs: str):
    assert find_sampler(theirs) == find_sampler(theirs.upper()) == find_sampler(ours) == (ours, None)


def test_names_of_samplers_may_end_in_a_schedule(studio: Studio):
    assert find_sampler("DPM++ 2M Karras") == ("dpmpp_2m", "karras")
    assert find_sampler("dpm++ 2m sde exponential") == ("dpmpp_2m_sde", "exponential")
    [order] = asked(studio, sampler_name="DPM++ 2M Karras", scheduler="automatic").orders
    assert order.settings["sampler"] == "dpmpp_2m" and order.settings["spacing"] == "karras"
    [order] = asked(studio, sampler_index="Heun").orders
    assert order.settings["sampler"] == "heun"


def test_schedules_of_a1111_are_our_spacings():
    found = [find_spacing(name) for name in ("Automatic", "uniform", "Karras", "exponential", "NORMAL")]
    assert found == [None, "linspace", "karras", "exponential", "linspace"]


@pytest.mark.parametrize("fields", [{"sampler_name": "DPM fast"}, {"scheduler": "KL Optimal"},
                                    {"prompt": "<lora:absent:1>"}, {"prompt": "<lora:../models/tiny:1>"},
                                    {"override_settings": {"sd_model_checkpoint": "absent"}},
                                    {"override_settings": {"sd_model_checkpoint": "../../tiny"}},
                                    {"override_settings": {"randn_source": ["x"]}},
                                    {"enable_hr": True, "hr_upscaler": "ESRGAN_4x"}])
def test_unknown_names_are_said(studio: Studio, fields: dict):
    with pytest.raises(UnknownName):
        asked(studio, **fields)


def test_batches_follow_one_another(studio: Studio):
    orders = asked(studio, seed=5, batch_size=2, n_iter=3).orders
    assert [(order.settings["seed"], order.settings["count"]) for order in orders] == [(5, 2), (7, 2), (9, 2)]


def test_a_variation_keeps_the_seed_and_counts_the_subseeds(studio: Studio):
    orders = asked(studio, seed=5, subseed=8, subseed_strength=0.3, batch_size=2).orders
    assert [order.task for order in orders] == ["variations"] * 2
    assert [(order.settings["seed"], order.option("variation_seed")) for order in orders] == [(5, 8), (5, 9)]
    assert orders[0].option("variation_strength") == 0.3


def test_enable_hr_is_the_task_upscale(studio: Studio):
    fields = {"enable_hr": True, "hr_scale": 1.5, "denoising_strength": 0.4, "hr_upscaler": "Latent"}
    made = asked(studio, **fields)
    assert made.orders[0].task == "upscale" and made.orders[0].option("scale") == 1.5
    assert made.orders[0].settings["strength"] == 0.4
    assert made.notes == ["the picture was enlarged by Lanczos between the passes"]
    with pytest.raises(ValueError, match="hr_second_pass_steps 7 differs from steps 50"):
        asked(studio, **fields, hr_second_pass_steps=7)


def test_eta_reaches_ddim_alone(studio: Studio):
    assert asked(studio, sampler_name="DDIM", eta=0.5).orders[0].settings["eta"] == 0.5
    assert asked(studio, sampler_name="Euler a", eta=1).orders[0].settings["eta"] == 0
    with pytest.raises(ValueError, match="eta 0.5"):
        asked(studio, sampler_name="Euler a", eta=0.5)


def test_unknown_fields_are_noted(studio: Studio):
    assert asked(studio, nonsense=1, other=2).notes == [
        f"field '{name}' is unknown and was ignored" for name in ("nonsense", "other")]


@pytest.mark.parametrize("name", OFF)
def test_an_unsupported_field_is_refused_only_where_it_differs(studio: Studio, name: str):
    for value in OFF[name]:
        assert not asked(studio, **{name: value}).notes
    with pytest.raises(ValueError, match=f"{name} is not supported"):
        asked(studio, **{name: ["something", 7]})


@pytest.mark.parametrize("fields", [{"width": 2048, "height": 2048, "batch_size": 2}, {"preset": "none"},
                                    {"enable_hr": True, "hr_scale": 4, "width": 1024, "height": 1024},
                                    {"preset": "a1111", "sampler_name": "UniPC"}, {"prompt": "<lora:a:1:2>"},
                                    {"enable_hr": True, "subseed_strength": 0.5}])
def test_what_cannot_be_is_refused(studio: Studio, fields: dict):
    with pytest.raises(ValueError, match="."):
        asked(studio, **fields)


@pytest.mark.parametrize("fields", [{"steps": 0}, {"steps": 151}, {"width": 500}, {"height": 4096}, {"seed": -2},
                                    {"cfg_scale": float("nan")}, {"batch_size": 17}, {"prompt": "a" * 20_001}])
def test_values_out_of_range_do_not_pass(fields: dict):
    with pytest.raises(ValidationError):
        Txt2Img(**fields)


def test_a_picture_is_fitted_to_the_size(studio: Studio):
    [order] = from_picture(studio, denoising_strength=0.5, resize_mode=1).orders
    assert order.task == "img2img" and order.image and order.image.size == (64, 64)
    assert order.settings["strength"] == 0.5


def test_a_mask_makes_it_inpaint(studio: Studio):
    [order] = from_picture(studio, mask=encoded(MASK), inpaint_full_res_padding=16).orders
    assert order.task == "inpaint" and order.image and order.mask and order.image.size == (96, 64)
    assert order.settings["only_masked"] == 16 and order.settings["mask_blur"] == 4
    assert np.asarray(order.mask).tolist() == np.asarray(MASK).tolist()
    [whole] = from_picture(studio, mask=encoded(MASK), inpaint_full_res=False, mask_blur=0).orders
    assert whole.image and whole.mask and whole.image.size == whole.mask.size == (64, 64)
    assert "only_masked" not in whole.settings and whole.settings["mask_blur"] == 0


def test_a_mask_may_be_inverted(studio: Studio):
    [order] = from_picture(studio, mask=encoded(MASK), inpainting_mask_invert=1).orders
    assert order.mask and (np.asarray(order.mask) == 255 - np.asarray(MASK)).all()


def test_filling_1_starts_from_the_picture_itself(studio: Studio):
    noise = Image.effect_noise((96, 64), 80).convert("RGB")
    for filling, same in ((1, True), (0, False)):
        body = Img2Img(init_images=[encoded(noise)], mask=encoded(MASK), inpainting_fill=filling, width=64, height=64)
        [order] = translate.img2img(body, Options("tiny"), studio).orders
        assert order.image and (order.image.tobytes() == noise.tobytes()) == same


def test_options_change_and_say_what_has_no_effect(studio: Studio):
    options, notes = changed(Options("tiny"), {"sd_model_checkpoint": "Other.safetensors [abc]", "eta_noise": 3,
                                               "CLIP_stop_at_last_layers": 2, "sd_vae": "None",
                                               "randn_source": "GPU", "live_previews_enable": False}, studio)
    assert options == Options("other", "Automatic", 2, "GPU", False)
    assert notes == ["option 'eta_noise' has no effect here and was ignored"]


def test_override_settings_reach_the_order(studio: Studio):
    [order] = asked(studio, override_settings={"sd_model_checkpoint": "other", "CLIP_stop_at_last_layers": 2,
                                               "randn_source": "NV", "sd_vae": "tiny"}).orders
    assert (order.model, order.vae) == ("other", "tiny")
    assert (order.settings["clip_skip"], order.settings["noise"]) == (2, "nv")


@pytest.mark.parametrize("options", [{"CLIP_stop_at_last_layers": True}, {"CLIP_stop_at_last_layers": 13},
                                     {"live_previews_enable": "no"}])
def test_options_of_another_kind_are_refused(studio: Studio, options: dict):
    with pytest.raises(ValueError, match="."):
        changed(Options("tiny"), options, studio)


@pytest.mark.parametrize(("fields", "size"), [
    ({"upscaler_1": "Lanczos"}, (192, 128)), ({"upscaler_1": "Nearest", "upscaling_resize": 3}, (288, 192)),
    ({"upscaler_1": "None"}, (96, 64)), ({"upscaler_1": "Lanczos", "resize_mode": 1}, (512, 512)),
    ({"upscaler_1": "Lanczos", "resize_mode": 1, "upscaling_crop": False}, (512, 341))])
def test_extras_enlarge(fields: dict, size: tuple[int, int]):
    assert translate.enlarged(Extras(image=RED, **fields))[0].size == size
