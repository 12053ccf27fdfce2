"""A1111's text, written and read."""

from dataclasses import asdict

import pytest

from ldm import Settings
from ldm.metadata import OUR_SAMPLERS, SAMPLERS, Parameters, from_parameters, quote, to_parameters, unquote
from ldm.samplers import SAMPLERS as OURS

TOLD = {"prompt": "a fox, (red:1.2)", **asdict(Settings(steps=20, sampler="euler_a", spacing="karras", guidance=7.0,
                                                        seed=5)),
        "noise": "cpu", "model": "v1-5.safetensors", "dtype": "float32", "version": "0.1.0", "sha256": "ab"}
WEB_UI = """girl with an artist's beret, detailed: oil on canvas
((second line))
Negative prompt: ugly, (((deformed))), [blurry]
text: bad
Steps: 20, Sampler: Euler a, Schedule type: Karras, CFG scale: 6.5, Seed: 965400086, Size: 512x768, """ + (
    'Model hash: 45dee52b, Model: v1-5-pruned, Denoising strength: 0.6, Clip skip: 2, RNG: CPU, '
    'Lora hashes: "cat: 12, dog: \\"3\\"", Version: v1.10.1')
READ = {"preset": "a1111", "steps": 20, "sampler": "euler_a", "spacing": "karras", "guidance": 6.5, "seed": 965400086,
        "width": 512, "height": 768, "strength": 0.6, "clip_skip": 2, "noise": "cpu",
        "negative_prompt": "ugly, (((deformed))), [blurry]\ntext: bad"}
LINE = "Steps: 20, Sampler: Euler, Seed: 1"


def last_line(**changes) -> str:
    return to_parameters({**TOLD, **changes}, 64, 72).split("\n")[-1]


def test_parameters_are_what_a1111_writes():
    assert to_parameters({**TOLD, "negative_prompt": "blur"}, 512, 768) == (
        "a fox, (red:1.2)\nNegative prompt: blur\nSteps: 20, Sampler: Euler a, Schedule type: Karras, CFG scale: 7, "
        "Seed: 5, Size: 512x768, Model: v1-5, RNG: CPU, Version: ldm 0.1.0")


def test_parameters_leave_out_what_a1111_leaves_out():
    assert "Negative prompt" not in to_parameters(TOLD, 64, 72)
    assert "Clip skip: 2, " in last_line(clip_skip=2) and "Clip skip" not in last_line()
    assert "Denoising strength: 0.5, " in last_line(image_sha256="ab", strength=0.5)
    assert "Denoising" not in last_line(strength=0.5)                   # which is always there, but was not used
    assert "Eta DDIM: 0.5, " in last_line(sampler="ddim", eta=0.5) and "Eta" not in last_line()
    assert "Schedule type" not in last_line(spacing="leading")          # not a word of A1111
    assert to_parameters({"prompt": "a fox"}, 64, 72) == "a fox\nSize: 64x72, RNG: CPU"
    assert to_parameters({"steps": 3}, 64, 72).startswith("Steps: 3, ")


def test_every_sampler_has_a_name_of_its_own():
    assert SAMPLERS.keys() == OURS.keys() == set(OUR_SAMPLERS.values())


@pytest.mark.parametrize("changes", [
    {}, {"negative_prompt": "blur, (noise)"}, {"prompt": "two\nlines: of, prompt"}, {"guidance": 7.123456789},
    {"model": "v1, the: fifth.ckpt"}, {"clip_skip": 3}, {"sampler": "ddim", "spacing": "exponential", "eta": 0.25},
    {"image_sha256": "ab", "strength": 0.3}, {"seed": 2**53 + 1}, {"noise": "nv"}, {"preset": "diffusers"},
    {"prompt": ""}, {"prompt": "狐狸 🦊"},
])
def test_parameters_are_read_back(changes):
    told = {**TOLD, **changes}
    prompt, settings, rest = from_parameters(to_parameters(told, 64, 72))
    assert prompt == told["prompt"] and (settings.pop("width"), settings.pop("height")) == (64, 72)
    assert settings.pop("noise") == told["noise"] and settings.items() <= told.items()
    assert settings.keys() >= {"steps", "sampler", "spacing", "guidance", "seed", "negative_prompt", *changes} - {
        "prompt", "model", "image_sha256", "noise"}
    assert rest == {"Model": told["model"].rpartition(".")[0], "Version": "ldm 0.1.0"}


def test_text_of_the_web_ui_is_read():
    assert from_parameters(WEB_UI) == Parameters(
        "girl with an artist's beret, detailed: oil on canvas\n((second line))", READ,
        {"Model hash": "45dee52b", "Model": "v1-5-pruned", "Lora hashes": 'cat: 12, dog: "3"', "Version": "v1.10.1"})


def test_text_without_settings_is_all_prompt():
    for text in ("", "a fox", "a fox\nin two lines", "style: oil, size: large"):       # fewer than 3 pairs
        prompt, settings, rest = from_parameters(text)
        assert (prompt, rest) == (text, {}) and settings.keys() <= {"negative_prompt", "preset", "noise"}


def test_text_of_a_negative_prompt_alone_is_read():
    prompt, settings, _ = from_parameters(f"Negative prompt: blur\n{LINE}")
    assert (prompt, settings["negative_prompt"]) == ("", "blur")


@pytest.mark.parametrize(("pair", "read"), [
    ("Sampler: DPM++ 2M Karras", {"sampler": "dpmpp_2m", "spacing": "karras"}),        # before A1111 1.9
    ("Sampler: DPM++ 2M SDE Exponential", {"sampler": "dpmpp_2m_sde", "spacing": "exponential"}),
    ("Sampler: Euler a", {"sampler": "euler_a"}),
    ("Schedule type: Automatic", {"spacing": None}),
    ("Schedule type: Normal", {"spacing": "linspace"}),
    ("RNG: NV", {"noise": "nv"}),
])
def test_pair_is_read(pair, read):
    _, settings, rest = from_parameters(f"a fox\nSteps: 20, Seed: 1, {pair}")
    assert settings == {"negative_prompt": "", "preset": "a1111", "noise": "nv", "steps": 20, "seed": 1, **read}
    assert rest == {}


@pytest.mark.parametrize(("key", "value"), [
    ("Sampler", "DPM adaptive"), ("Sampler", "Restart Karras"), ("Schedule type", "Beta"), ("Size", "large"),
    ("Size", "1x2x3"), ("Steps", "many"), ("Hires upscale", "2"), ("ENSD", "31337"), ("RNG", "Dice"),
])
def test_pair_that_is_not_known_is_kept_aside(key, value):
    _, settings, rest = from_parameters(f"a fox\nCFG scale: 7, Clip skip: 2, {key}: {value}")
    assert rest == {key: value}
    assert settings == {"negative_prompt": "", "preset": "a1111", "noise": "nv", "guidance": 7.0, "clip_skip": 2}


@pytest.mark.parametrize(("value", "text"), [
    (7.0, "7"), (7.25, "7.25"), (20, "20"), ("Euler a", "Euler a"), ("v1.0", "v1.0"), ("a, b", '"a, b"'),
    ("a: b", '"a: b"'), ('a "b", c', '"a \\"b\\", c"'), ("two\nlines", '"two\\nlines"'), ("狐, 狸", '"狐, 狸"'),
])
def test_quote_is_undone(value, text):
    assert quote(value) == text
    assert unquote(text) == (value if isinstance(value, str) else text)


def test_unquote_keeps_what_only_looks_quoted():
    assert [unquote(text) for text in ('"', '"a', '"a" b')] == ['"', '"a', '"a" b']


@pytest.mark.parametrize("text", ["a" * 300_000, "x\n" + "\n" * 300_000 + "y", "a, " * 100_000, 'a: "b\\" ' * 50_000])
def test_hostile_texts_are_read_at_once(text):
    """Where the time grows with the square of the length, this takes a quarter of an hour."""
    assert from_parameters(text).settings["negative_prompt"] == ""


def test_parameters_name_loras_and_whole_models():
    told = {**TOLD, "loras": [{"name": "fox", "weight": 0.8, "sha256": "ab"}, {"name": "snow", "weight": 1.0}]}
    assert to_parameters(told, 64, 72).startswith("a fox, (red:1.2) <lora:fox:0.8> <lora:snow:1>\nSteps")
    assert "Model: v1.5, " in last_line(model="v1.5") and "Model: v1.5, " in last_line(model="v1.5.CKPT")
