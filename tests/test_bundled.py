"""The model that ships along: its size, and what it can be relied on to draw."""

from math import prod

import numpy as np
import pytest
import torch
from PIL import ImageColor

from ldm import Pipeline
from ldm.pipeline import BUNDLED
from ldm.text import Tokenizer
from ldm.weights import open_checkpoint

BACKGROUNDS = {"white": "#ffffff", "black": "#101010", "red": "#d8392f", "green": "#4caf50", "blue": "#2f6fd8",
               "yellow": "#f7d64a", "purple": "#7e4bc4", "pink": "#f49ac1"}


@pytest.fixture(scope="module")
def bundled() -> Pipeline:
    return Pipeline.load(dtype="float32")


def test_bundled_file_is_small():
    parts = open_checkpoint(BUNDLED).parts.values()
    assert BUNDLED.stat().st_size <= 40e6
    assert sum(prod(entry.stored_shape) for part in parts for entry in part.entries.values()) <= 20e6


def test_bundled_model_says_what_it_is(bundled):
    assert (bundled.size, bundled.prediction, bundled.guidance) == (128, "v", 4.0)
    assert bundled.vae.cfg.scale_factor == 0.18215
    assert not bundled.bad_weights()


def test_bundled_model_knows_its_words(bundled):
    bundled.encode_prompt(["3d render of a fox on a teal background", "a pizza, 3d render", "rocket"])    # no warning
    with pytest.warns(UserWarning, match="was trained without parliament"):
        bundled.encode_prompt(["3d render of a parliament"])


def test_bundled_model_reads_chinese(bundled):
    chinese = bundled.encode_prompt(["3D渲染的狐狸在披萨左边，蓝色背景"])            # no warning
    assert torch.equal(chinese, bundled.encode_prompt(["3d render of fox left of pizza, blue background"]))
    with pytest.warns(UserWarning, match="was trained without 天空"):
        bundled.encode_prompt(["3D渲染的天空"])


def test_bundled_model_knows_every_english_word_of_its_glossary(bundled):
    glossary, known = bundled.tokenizer.glossary, set(bundled.vocabulary.tolist())
    for phrase, english in glossary.phrases.items():
        assert "{}" in phrase or glossary(phrase) == english
        assert known.issuperset(Tokenizer().encode(english.replace("{}", "fox"))), english


def test_bundled_model_draws_the_background_that_it_is_asked_for(bundled):
    prompts = [f"3d render of a fox on a {name} background" for name in BACKGROUNDS]
    for image, colour in zip(bundled(prompts, steps=12), BACKGROUNDS.values(), strict=True):
        pixels = np.asarray(image, float)
        border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]).mean(0)
        assert np.abs(border - ImageColor.getrgb(colour)).max() < 40
        assert pixels[32:96, 32:96].std() > 15              # and something stands on it
