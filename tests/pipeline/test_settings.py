"""Settings: ranges, command-line flags, JSON."""

import argparse
import json
import re
from dataclasses import asdict, fields

import pytest

from ldm import Settings
from ldm.settings import add_arguments, from_arguments

OTHER = {"negative_prompt": "blur", "steps": 7, "guidance": 2.5, "preset": "a1111", "noise": "nv", "sampler": "heun",
         "spacing": "karras", "seed": 11,
         "width": 72, "height": 136, "count": 3, "strength": 0.25, "prompt_syntax": "plain", "clip_skip": 2,
         "cache": 3, "guidance_min_sigma": 0.5, "guidance_max_sigma": 6.0, "tile": 64, "guidance_rescale": 0.7,
         "mask_blur": 1.5, "only_masked": 32}


@pytest.mark.parametrize(("name", "value", "message"), [
    ("steps", 0, "steps 0 is outside 1..999; try 1"),
    ("steps", 1000, "steps 1000 is outside 1..999; try 999"),
    ("count", 0, "count 0 is outside 1..1000000; try 1"),
    ("eta", 1.5, "eta 1.5 is outside 0..1; try 1"),
    ("seed", -1, f"seed -1 is outside 0..{2**63 - 2}; try 0"),
    ("guidance", -1.0, "guidance -1.0 is outside 0..1000; try 0"),
    ("guidance", float("nan"), "guidance nan is outside 0..1000; try 0"),
    ("width", 100_008, "width 100008 is outside 8..100000; try 100000"),
    ("strength", 0, "strength 0 is not above 0 and up to 1; try 0.75"),
    ("strength", 1.01, "strength 1.01 is not above 0 and up to 1; try 0.75"),
    ("width", 500, "width 500 is not a multiple of 8; try 504"),
    ("height", 0, "height 0 is not a multiple of 8; try 8"),
    ("height", -64, "height -64 is not a multiple of 8; try 8"),
    ("tile", 100, "tile 100 is not a multiple of 8, 32 or more; try 512"),
    ("tile", 24, "tile 24 is not a multiple of 8, 32 or more; try 512"),
    ("guidance_rescale", 1.5, "guidance_rescale 1.5 is outside 0..1; try 1"),
    ("mask_blur", -1.0, "mask_blur -1.0 is outside 0..1000; try 0"),
    ("only_masked", -1, "only_masked -1 is outside 0..100000; try 0"),
    ("only_masked", 1.5, "only_masked 1.5 is not a whole number; give an int"),
    ("clip_skip", 0, "clip_skip 0 is outside 1..999; try 1"),
    ("clip_skip", 1.5, "clip_skip 1.5 is not a whole number; give an int"),
    ("prompt_syntax", "comfy", "prompt_syntax 'comfy' is unknown; try one of a1111, plain"),
    ("cache", 0, "cache 0 is outside 1..999; try 1"),
    ("cache", 1.5, "cache 1.5 is not a whole number; give an int"),
    ("guidance_min_sigma", -0.1, "guidance_min_sigma -0.1 is outside 0..10000; try 0"),
    ("guidance_max_sigma", float("inf"), "guidance_max_sigma inf is outside 0..10000; try 10000"),
    ("guidance_max_sigma", 0.0, "guidance_max_sigma 0.0 is not above guidance_min_sigma 0.0; for no"),
])
def test_settings_refuses_values_out_of_range(name, value, message):
    with pytest.raises(ValueError) as error:
        Settings(**{name: value})
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("value", [None, "x", 3, True, 0.5, [], {}])
@pytest.mark.parametrize("f", fields(Settings), ids=lambda f: f.name)
def test_settings_refuses_values_of_another_type(f, value):
    kind = f.metadata["type"]
    if value is None and f.default is None or type(value) in ((int, float) if kind is float else (kind,)):
        return
    words = {int: "a whole number; give an int", float: "a number; give one", str: "a text; give one"}[kind]
    with pytest.raises(ValueError, match=re.escape(f"{f.name} {value!r} is not {words}")):
        Settings(**{f.name: value})


@pytest.mark.parametrize("name", ["sampler", "spacing"])
def test_settings_names_what_it_knows(name):
    choices = next(f.metadata["choices"] for f in fields(Settings) if f.name == name)
    with pytest.raises(ValueError, match=f"{name} 'nope' is unknown; try one of {', '.join(choices)}"):
        Settings(**{name: "nope"})


@pytest.mark.parametrize("edge", [{"steps": 1}, {"steps": 999}, {"eta": 1.0}, {"strength": 1}, {"strength": 1e-9},
                                  {"guidance": 0}, {"guidance": 1000}, {"width": 8}, {"seed": 2**63 - 2}])
def test_settings_takes_the_ends_of_ranges(edge):
    assert asdict(Settings(**edge)).items() >= edge.items()


def test_settings_eta_is_of_ddim_alone():
    assert Settings(sampler="ddim", eta=0.5).eta == 0.5
    with pytest.raises(ValueError, match="eta 0.5 is for sampler ddim alone, not 'euler'; leave it at 0"):
        Settings(sampler="euler", eta=0.5)


def test_settings_guidance_interval_must_hold_something():
    assert Settings(guidance_min_sigma=0.3, guidance_max_sigma=5.4).guidance_max_sigma == 5.4
    with pytest.raises(ValueError, match="guidance_max_sigma 0.2 is not above guidance_min_sigma 0.3; for no guidance"):
        Settings(guidance_min_sigma=0.3, guidance_max_sigma=0.2)


def test_settings_approximations_are_off_and_called_approximate():
    exact = {"cache": 1, "guidance_min_sigma": 0.0, "guidance_max_sigma": None, "tile": None}
    assert asdict(Settings()).items() >= exact.items()
    assert exact.keys() <= {f.name for f in fields(Settings) if f.metadata["help"].startswith("approximate: ")}


def test_settings_survive_json():
    settings = Settings(**OTHER)
    assert Settings(**json.loads(json.dumps(asdict(settings)))) == settings
    assert Settings(**json.loads(json.dumps(asdict(Settings())))) == Settings()


def parse(*words: str, without: tuple[str, ...] = ()) -> dict:
    p = argparse.ArgumentParser()
    add_arguments(p, without)
    return from_arguments(p.parse_args(words))


def test_settings_arguments_give_the_same_settings():
    words = [word for name, value in OTHER.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    assert Settings(**parse(*words)) == Settings(**OTHER)
    assert Settings(**parse()) == Settings()
    assert "strength" not in parse(without=("strength",))


def test_settings_are_all_explained():
    p = argparse.ArgumentParser()
    add_arguments(p)
    text = p.format_help()
    for f in fields(Settings):
        assert f"--{f.name.replace('_', '-')}" in text
        assert f.metadata["help"] and (f.default in (None, "") or f"(default {f.default})" in " ".join(text.split()))
