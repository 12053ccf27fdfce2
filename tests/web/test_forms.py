"""From the form to an order, and from pictures back to the form."""

import shutil
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ldm.images import save_image
from ldm.web.forms import DEFAULTS, OF_TASK, SETTINGS, brushed, order, parts_of, read_settings, seed
from ldm.web.orders import OPTIONS

FORM = {"task": "txt2img", "prompt": "a fox", "model": "tiny", "vae": "", "prediction": "", "image": None,
        "editor": None, **dict.fromkeys(SETTINGS), **{name: value for options in OPTIONS.values()
                                                      for name, value in options.items()}, "seed": "7"}


def form(**values):
    return {**FORM, **values}


@pytest.fixture
def picture(tmp_path: Path) -> str:
    path = tmp_path / "input.png"
    Image.new("RGB", (64, 48), "orange").save(path)
    return str(path)


def test_empty_fields_take_the_defaults():
    made = order(form())
    assert made.settings == {"seed": 7}
    assert (made.prompt, made.task, made.model, made.previews) == ("a fox", "txt2img", "tiny", True)


def test_fields_arrive_in_their_types():
    made = order(form(steps=8.0, guidance="4.5", width="64", height="72", clip_skip=2.0, eta=0.5, count=3))
    assert made.settings == {"steps": 8, "guidance": 4.5, "width": 64, "height": 72, "clip_skip": 2, "eta": 0.5,
                             "count": 3, "seed": 7}
    assert {type(made.settings[name]) for name in ("steps", "width", "clip_skip")} == {int}


@pytest.mark.parametrize("values, message", [
    ({"width": "500"}, "width 500 is not a multiple of 8; try 504"),
    ({"width": "wide"}, "width 'wide' is not a whole number; give one"),
    ({"steps": 1.5}, "steps 1.5 is not a whole number; give one"),
    ({"guidance": "much"}, "guidance 'much' is not a number; give one"),
    ({"seed": "abc"}, "seed 'abc' is not a whole number; give one"),
    ({"task": "img2img"}, "img2img needs a picture; give one"),
    ({"count": 17}, "17 pictures of 512x512 pixels are more than the 4,194,304 pixels drawn at once"),
    ({"width": "4096", "height": "4096"}, "1 pictures of 4096x4096 pixels are more than"),
    ({"task": "grid", "x": "width=64,80000", "y": "height=800"}, "80000x800 pixels are more than"),
    ({"task": "upscale", "scale": 16.0}, "a picture of 8192x8192 pixels is above 16,777,216 in all"),
    ({"task": "grid", "x": "steps=" + ",".join(map(str, range(1, 31))), "y": "guidance=1,2,3,4,5,6,7,8,9"},
     "a grid of 270 cells is above 256; take fewer values"),
    ({"task": "grid", "x": "steps=4,5,6,7,8", "y": "guidance=1,2,3,4", "width": "2048", "height": "2048"},
     "a grid of 83,886,080 pixels is above 67,108,864; take fewer or smaller cells"),
    ({"prompt": "fox" * 7000}, "a prompt of 21,000 characters is above 20,000; make it shorter"),
    ({"task": "grid", "x": "step=1"}, "axis 'step=1' is not NAME=VALUE"),
])
def test_mistakes_say_their_rule(values, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        order(form(**values))


def test_minus_one_is_any_seed_and_large_ones_are_exact():
    assert len({seed("-1") for _ in range(4)}) == 4
    assert all(0 <= seed(value) < 2**32 for value in ("-1", "", None, -1))
    assert seed(str(2**60 + 1)) == 2**60 + 1


def test_what_a_task_does_not_show_does_not_count(picture):
    hidden = form(strength=5.0, mask_blur=3.0, left=8, image=picture, width="64")
    assert order(hidden).settings == {"seed": 7, "width": 64}
    assert order(hidden).image is None
    outpaint = order({**hidden, "task": "outpaint", "strength": 0.5})
    assert outpaint.settings == {"seed": 7, "strength": 0.5, "mask_blur": 3.0}
    assert outpaint.options["left"] == 8
    assert outpaint.image.size == (64, 48)


def test_every_task_shows_what_its_order_takes():
    assert OF_TASK.keys() == OPTIONS.keys()
    assert all(OPTIONS[task].keys() <= parts_of(task) for task in OF_TASK)


def test_strokes_of_all_layers_are_the_mask():
    background = Image.new("RGB", (8, 8), "white")
    layers = [Image.new("RGBA", (8, 8)), Image.new("RGBA", (8, 8))]
    layers[0].putpixel((1, 2), (255, 0, 110, 153))
    layers[1].putpixel((6, 5), (255, 0, 110, 1))
    image, mask = brushed({"background": background, "layers": layers, "composite": background})
    assert image is background and mask.mode == "L"
    assert {(x, y) for x in range(8) for y in range(8) if mask.getpixel((x, y))} == {(1, 2), (6, 5)}
    made = order(form(task="inpaint", editor={"background": background, "layers": layers, "composite": None}))
    assert made.mask.tobytes() == mask.tobytes()


@pytest.mark.parametrize("layers", [[], [Image.new("RGBA", (8, 8))]])
def test_inpainting_without_a_stroke_is_refused(layers):
    editor = {"background": Image.new("RGB", (8, 8)), "layers": layers, "composite": None}
    with pytest.raises(ValueError, match="inpaint needs a mask"):
        order(form(task="inpaint", editor=editor))


def filled(path, models) -> dict:
    """The form after the settings of a file were put into it."""
    return {**FORM, **read_settings(path, models).values}


def test_settings_of_our_picture_come_back(pipe, tmp_path, tiny_model):
    [drawn] = pipe("a (red:1.2) fox", steps=4, seed=2**60, sampler="dpmpp_2m", width=64, negative_prompt="grey",
                   clip_skip=1, guidance=2.5)
    found = read_settings(save_image(drawn, tmp_path / "fox.png"), {"tiny": tiny_model})
    assert found.notes == []
    made = order({**FORM, **found.values})
    assert (made.prompt, made.task, made.model) == ("a (red:1.2) fox", "txt2img", "tiny")
    assert made.settings | {"steps": 4, "seed": 2**60, "sampler": "dpmpp_2m", "guidance": 2.5} == made.settings
    [again] = pipe(made.prompt, **made.settings)
    assert again.tobytes() == drawn.tobytes()


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_other_formats_carry_them_too(pipe, tmp_path, tiny_model, suffix):
    [drawn] = pipe("a fox", steps=1, spacing="trailing", seed=5)
    path = save_image(drawn, tmp_path / f"fox.{suffix}")
    assert filled(path, {"tiny": tiny_model})["seed"] == 5


def test_a_model_that_is_not_here_is_told(pipe, tmp_path):
    [drawn] = pipe("a fox", steps=1, spacing="trailing")
    found = read_settings(save_image(drawn, tmp_path), {})
    assert found.notes == [("note.model", {"model": "tiny.safetensors"})]
    assert "model" not in found.values


def test_another_model_of_that_name_is_told_too(pipe, tmp_path, tiny_model, other_vae):
    [drawn] = pipe("a fox", steps=1, spacing="trailing")
    path = save_image(drawn, tmp_path)
    other = tmp_path / tiny_model.name
    shutil.copy(other_vae, other)
    assert read_settings(path, {"other": other, "tiny": tiny_model}).values["model"] == "tiny"
    assert ("note.model", {"model": tiny_model.name}) in read_settings(path, {"other": other}).notes


def test_settings_of_a_task_bring_it_back(pipe, tmp_path, tiny_model):
    from ldm.tasks import Enlarger, Outpainter, Varied

    [drawn] = Varied(pipe, 11, 0.25)("a fox", steps=1, spacing="trailing")
    values = filled(save_image(drawn, tmp_path), {"tiny": tiny_model})
    assert (values["task"], values["variation_seed"], values["variation_strength"]) == ("variations", 11, 0.25)
    [large] = Enlarger(pipe, 1.5)("a fox", image=drawn, steps=8, strength=0.5)
    found = read_settings(save_image(large, tmp_path), {"tiny": tiny_model})
    assert (found.values["task"], found.values["scale"]) == ("upscale", 1.5)
    assert ("note.inputs", {}) in found.notes
    [wide] = Outpainter(pipe, left=16, fill="symmetric")("a fox", image=drawn, steps=1, spacing="trailing")
    values = filled(save_image(wide, tmp_path), {"tiny": tiny_model})
    assert [values[name] for name in ("task", "left", "right", "fill")] == ["outpaint", 16, 0, "symmetric"]


def test_axes_of_a_grid_come_back(tmp_path):
    from ldm.images import with_metadata

    told = {"task": "grid", "prompt": "a fox", "x": ["prompt", ["a fox", "a cat, red"]], "y": ["steps", [4, 8]]}
    values = filled(save_image(with_metadata(Image.new("RGB", (8, 8)), told), tmp_path), {})
    made = order({**values, "model": ""})
    assert [axis.values for axis in made.axes()] == [["a fox", "a cat, red"], [4, 8]]


def test_text_of_a1111_is_read(tmp_path):
    info = PngInfo()
    info.add_text("parameters", "a fox\nNegative prompt: blue\nSteps: 12, Sampler: Euler a, CFG scale: 6, Seed: 3, "
                                "Size: 64x64, Hires upscaler: Latent")
    path = tmp_path / "theirs.png"
    Image.new("RGB", (8, 8)).save(path, pnginfo=info)
    found = read_settings(path, {})
    made = order({**FORM, **found.values})
    assert made.settings == {**defaults_set(), "steps": 12, "sampler": "euler_a", "guidance": 6.0, "seed": 3,
                             "width": 64, "height": 64, "negative_prompt": "blue", "preset": "a1111", "noise": "nv"}
    assert found.notes == [("note.unused", {"what": "Hires upscaler: Latent"})]


def defaults_set() -> dict:
    """The defaults of what text to image shows, without what is empty."""
    hidden = {"strength", "mask_blur", "only_masked"}
    return {name: value for name, value in DEFAULTS.items() if value not in (None, "") and name not in hidden}


def test_a_picture_without_settings_is_refused(picture):
    with pytest.raises(ValueError, match="carries no parameters"):
        read_settings(picture, {})
