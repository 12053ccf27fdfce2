"""scripts/emoji_chinese.py: Chinese captions come to say to the UNet what English ones say, which stay as they were."""

from pathlib import Path

import pytest
import torch
from emoji_captions import CHINESE_DEGRADED, DEGRADED, chinese, english
from emoji_chinese import CrossAttentions
from emoji_scenes import Scene, Thing, compose
from emoji_sprites import Sprites
from torch import Tensor
from torch.testing import assert_close

from ldm import Pipeline
from ldm.images import to_tensor
from ldm.training.data import ImageFolder, vocabulary_of


@pytest.fixture
def scenes(sprites: Sprites) -> list[Scene]:
    return [Scene((Thing(emoji),), background=name) for emoji in sprites.objects for name in ("white", "blue")]


@pytest.fixture
def knowing_english(pipe: Pipeline, emoji_pictures: Path, tmp_path: Path) -> Path:
    """The tiny model with the words of first and second captions alone."""
    texts = [texts[:2] for texts in ImageFolder(emoji_pictures, 64).texts]
    pipe.save(tmp_path / "english.safetensors", vocabulary_of([*texts, [DEGRADED]], pipe.tokenizer))
    return tmp_path / "english.safetensors"


def pictures(sprites: Sprites, scenes: list[Scene]) -> Tensor:
    return torch.cat([to_tensor(compose(sprites, scene, 64)) for scene in scenes])


def test_chinese_comes_to_say_what_english_says_and_english_stays(run_script, knowing_english, emoji_pictures, source,
                                                                  sprites, scenes, tmp_path: Path):
    out = tmp_path / "new" / "taught.safetensors"
    done = run_script("emoji_chinese.py", "--ckpt", knowing_english, "--data", emoji_pictures, "--source", source,
                      "--out", out, "--steps", 150, "--batch", 16, "--lr", 0.003)
    assert done.returncode == 0, done.stderr
    before, after = (Pipeline.load(file, "cpu", "float32", kernels="plain") for file in (knowing_english, out))
    known = [*map(english, scenes), "", DEGRADED]
    new = [*map(chinese, scenes), CHINESE_DEGRADED]
    torch.manual_seed(0)
    attentions = CrossAttentions(before, pictures(sprites, scenes), known[: len(scenes)])
    queries = attentions.queries()
    with torch.no_grad():
        wanted, of_english = (attentions(model.encode_prompt(known), queries) for model in (before, after))
        with pytest.warns(UserWarning, match="was trained without"):
            unlearned = attentions(before.encode_prompt(new), queries)
        learned = attentions(after.encode_prompt(new), queries)     # without a warning
    taught = [torch.cat([answers[: len(scenes)], answers[-1:]]) for answers in wanted]
    assert attentions.distance(of_english, wanted) < 0.1
    assert attentions.distance([answers[-2:] for answers in of_english], [answers[-2:] for answers in wanted]) < 0.1
    assert attentions.distance(learned, taught) < 0.3 * attentions.distance(unlearned, taught)
    for part in ("unet", "vae"):
        assert_close(getattr(after, part).state_dict(), getattr(before, part).state_dict(), rtol=0, atol=0)


@torch.no_grad()
def test_answers_to_unlike_prompts_are_a_distance_of_one_apart(pipe, sprites, scenes):
    torch.manual_seed(0)
    prompts = [*map(english, scenes)]
    attentions = CrossAttentions(pipe, pictures(sprites, scenes), prompts)
    queries, context = attentions.queries(), pipe.encode_prompt(prompts)
    answers = attentions(context, queries)
    assert [answer.shape[:2] for answer in answers] == [(len(scenes), 16)] * len(attentions.layers)
    assert attentions.distance(answers, answers) == 0
    assert attentions.distance(answers, [answer.roll(1, 0) for answer in answers]).item() == pytest.approx(1, rel=0.3)
