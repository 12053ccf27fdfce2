"""Captions of the bundled model's pictures say what the scene shows, in English and Chinese."""

import random
import re

import numpy as np
import pytest
from emoji_captions import DEGRADED, captions, chinese, english, glossary
from emoji_scenes import Scene, Thing, training_scenes
from emoji_sprites import Emoji
from english import plural, with_article

from ldm.text import Glossary


@pytest.mark.parametrize(("scene", "said", "chinesely"), [
    (Scene((Thing(Emoji("fox", "狐狸", "")),)), "3d render of a fox", "3D渲染的狐狸"),
    (Scene((Thing(Emoji("owl", "猫头鹰", ""), "red"),), "flat"), "flat icon of a red owl", "扁平图标的红色的猫头鹰"),
    (Scene((Thing(Emoji("owl", "猫头鹰", "")),), "cartoon", "small"), "cartoon of a small owl", "卡通的小小的猫头鹰"),
    (Scene((Thing(Emoji("hand", "手", ""), tone=4),)), "3d render of a hand with medium-dark skin tone",
     "3D渲染的中深肤色的手"),
    (Scene((Thing(Emoji("fox", "狐狸", "")), Thing(Emoji("owl", "猫头鹰", ""))), layout="above", background="red"),
     "3d render of a fox above an owl on a red background", "3D渲染的狐狸在猫头鹰上面，红色背景"),
    (Scene((Thing(Emoji("fox", "狐狸", "")),), layout="two", degraded=True),
     "3d render of two foxes, blurry, low quality", "3D渲染的两个狐狸，模糊，低质量"),
    (Scene((Thing(Emoji("fox", "狐狸", "")),), layout="bottom right"),
     "3d render of a fox in the bottom right corner", "3D渲染的狐狸在右下角"),
])
def test_captions_in_their_plainest_words(scene, said, chinesely):
    assert (english(scene), chinese(scene)) == (said, chinesely)


def test_captions_agree_with_the_scene(sprites):
    draw = random.Random(0)
    for scene in training_scenes(sprites):
        first, second = scene.things[0].emoji, scene.things[-1].emoji
        for text in captions(scene, draw)[:3]:
            if scene.background != "white":
                assert f"{scene.background} background" in text
            if scene.layout in ("left of", "above"):
                turned = " right of " in text or " below " in text
                assert (text.index(first.label) < text.index(second.label)) != turned
            assert (DEGRADED in text) == scene.degraded
            assert any(name in text for name in (plural(first.label) or first.label, first.label, *first.synonyms))


def test_captions_of_degraded_pictures_serve_as_negative_prompts(sprites):
    scene = Scene((Thing(sprites.objects[0]),), degraded=True)
    assert captions(scene, random.Random(0))[3:] == [DEGRADED]
    assert len(captions(Scene(scene.things), random.Random(0))) == 3


def test_captions_name_white_now_and_then(sprites):
    scene, draw = Scene((Thing(sprites.objects[0]),)), random.Random(0)
    said = [captions(scene, draw) for _ in range(400)]
    assert {first for first, _, _ in said} == {"3d render of a fox"}
    assert 0.4 < np.mean(["white" in second for _, second, _ in said]) < 0.6         # half, within 4 deviations
    assert {"a vixen", "fox", "kind 34"} == {word for word in ("a vixen", "fox", "kind 34")
                                             if any(word in third for _, _, third in said)}


def test_glossary_reads_every_chinese_caption_as_english(sprites):
    """Word by word in its order; articles, plurals and one "on" apart."""
    read = Glossary(glossary([*sprites.objects, *sprites.people]))
    for scene in training_scenes(sprites):
        one, several = scene.things[0].emoji.label, plural(scene.things[0].emoji.label)
        singular = english(scene).replace(several, one) if several else english(scene)
        words, expected = (re.findall(r"[\w-]+", text.lower()) for text in (read(chinese(scene)), singular))
        assert words == [word for word in expected if word not in ("a", "an", "on")], chinese(scene)


@pytest.mark.parametrize(("text", "said"), [
    ("一只在蓝色背景上的狐狸", "a blue background, fox"), ("红狐狸，卡通", "red fox , cartoon"),
    ("3d渲染的狐狸在右下角", "3d render of fox in the bottom right corner"), ("t恤", "t-shirt"),
    ("狐狸在小丑脸下面", "fox below clown face"), ("红色的黑色的鸟", "red black bird"), ("两只小狐狸", "two small fox"),
    ("A RED BOOK", "A RED BOOK"),
])
def test_glossary_knows_what_people_would_say(text, said):
    names = {"狐狸": "fox", "小丑脸": "clown face", "黑色的鸟": "black bird", "T恤": "t-shirt", "OK": "ok hand"}
    assert Glossary(glossary(Emoji(label, chinese, "") for chinese, label in names.items()))(text) == said


@pytest.mark.parametrize(("noun", "article", "several"), [
    ("fox", "a fox", "foxes"), ("owl", "an owl", "owls"), ("grapes", "grapes", None), ("bus", "a bus", "buses"),
    ("red apple", "a red apple", "red apples"), ("cherry", "a cherry", "cherries"), ("boy", "a boy", "boys"),
    ("house with garden", "a house with garden", None), ("fork and knife", "a fork and knife", None),
    ("hands with dark skin tone", "hands with dark skin tone", None), ("mouse", "a mouse", "mice"),
    ("unicorn", "a unicorn", "unicorns"), ("x-ray", "an x-ray", "x-rays"),
    ("dress", "a dress", "dresses"), ("octopus", "an octopus", "octopuses")])
def test_english_nouns(noun, article, several):
    assert (with_article(noun), plural(noun)) == (article, several)
