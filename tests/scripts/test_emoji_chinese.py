"""scripts/emoji_chinese.py: Chinese captions come to say to the UNet what English ones say, which stay as they were."""

from pathlib import Path

import pytest
import torch
from emoji_captions import chinese, english
from emoji_chinese import Reader
from emoji_scenes import Scene, Thing, compose
from emoji_sprites import Sprites
from torch import Tensor
from torch.testing import assert_close

from ldm import Pipeline
from ldm.images import to_tensor


@pytest.fixture
def scenes(sprites: Sprites) -> list[Scene]:
    return [Scene((Thing(emoji),), background=name) for emoji in sprites.objects for name in ("white", "blue")]


def contexts(pipe: Pipeline, scenes: list[Scene]) -> tuple[Tensor, Tensor]:
    """Of captions in English and in Chinese."""
    return pipe.encode_prompt([*map(english, scenes)]), pipe.encode_prompt([*map(chinese, scenes)])


def test_chinese_comes_to_say_what_english_says_and_english_stays(run_script, tiny_model, source, sprites, scenes,
                                                                  tmp_path: Path):
    out = tmp_path / "taught.safetensors"
    done = run_script("emoji_chinese.py", "--ckpt", tiny_model, "--source", source, "--out", out, "--steps", 120,
                      "--batch", 16, "--lr", 0.003)
    assert done.returncode == 0, done.stderr
    before, after = (Pipeline.load(file, "cpu", "float32", kernels="plain") for file in (tiny_model, out))
    reader = Reader(before)
    reader.listen(before, torch.cat([to_tensor(compose(sprites, s, 64)) for s in scenes]), [*map(english, scenes)])
    (old, foreign), (new, learned) = contexts(before, scenes), contexts(after, scenes)
    queries = reader.queries()
    with torch.no_grad():
        wanted = reader(old, queries)
        away = [reader.distance(reader(context, queries), wanted).item() for context in (foreign, new, learned)]
    assert away[1] < 0.1 and away[2] < 0.3 * away[0]
    for part in ("unet", "vae"):
        assert_close(getattr(after, part).state_dict(), getattr(before, part).state_dict(), rtol=0, atol=0)


@torch.no_grad()
def test_answers_to_unlike_prompts_are_a_distance_of_one_apart(pipe, sprites, scenes):
    reader = Reader(pipe)
    prompts = [*map(english, scenes)]
    reader.listen(pipe, torch.cat([to_tensor(compose(sprites, s, 64)) for s in scenes]), prompts)
    queries, context = reader.queries(), pipe.encode_prompt(prompts)
    told = reader(context, queries)
    assert [answer.shape[:2] for answer in told] == [(len(scenes), 16)] * len(reader.layers)
    assert reader.distance(told, told) == 0
    assert reader.distance(told, [answer.roll(1, 0) for answer in told]).item() == pytest.approx(1, rel=0.3)
