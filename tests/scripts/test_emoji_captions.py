"""Captions of the bundled model's pictures say what the scene shows, in English and Chinese."""

import random

import numpy as np
import pytest
from emoji_captions import CHINESE, DEGRADED, captions, chinese, english
from emoji_scenes import BACKGROUNDS, Scene, Thing, training_scenes
from emoji_sprites import Emoji
from english import plural, with_article


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
            language, names = (1, CHINESE) if any(ord(c) > 0x3000 for c in text) else (0, {b: b for b in BACKGROUNDS})
            if scene.background != "white":
                assert f"{names[scene.background]}{'背景' if language else ' background'}" in text
            if scene.layout in ("left of", "above"):
                turned = " right of " in text or " below " in text
                a, b = (text.index((e.label, e.chinese)[language]) for e in (first, second))
                assert (a < b) != turned
            assert ((DEGRADED, "模糊，低质量")[language] in text) == scene.degraded
            assert any(name in text for name in (first.chinese, plural(first.label) or first.label, first.label,
                                                 *first.synonyms))


def test_captions_of_degraded_pictures_serve_as_negative_prompts(sprites):
    scene, draw = Scene((Thing(sprites.objects[0]),), degraded=True), random.Random(0)
    assert {captions(scene, draw)[3] for _ in range(20)} == {DEGRADED, "模糊，低质量"}


def test_captions_name_white_and_speak_chinese_now_and_then(sprites):
    scene, draw = Scene((Thing(sprites.objects[0]),)), random.Random(0)
    said = [captions(scene, draw) for _ in range(400)]
    assert {first for first, _, _ in said} == {"3d render of a fox"}
    assert 0.4 < np.mean(["white" in second for _, second, _ in said]) < 0.6         # half, within 4 deviations
    assert 0.4 < np.mean([any(ord(c) > 0x3000 for c in third) for _, _, third in said]) < 0.6
    assert {"a vixen", "fox", "kind 34"} == {word for word in ("a vixen", "fox", "kind 34")
                                             if any(word in second for _, second, _ in said)}


@pytest.mark.parametrize(("noun", "article", "several"), [
    ("fox", "a fox", "foxes"), ("owl", "an owl", "owls"), ("grapes", "grapes", None), ("bus", "a bus", "buses"),
    ("red apple", "a red apple", "red apples"), ("cherry", "a cherry", "cherries"), ("boy", "a boy", "boys"),
    ("house with garden", "a house with garden", None), ("fork and knife", "a fork and knife", None),
    ("hands with dark skin tone", "hands with dark skin tone", None), ("mouse", "a mouse", "mice"),
    ("unicorn", "a unicorn", "unicorns"), ("x-ray", "an x-ray", "x-rays"),
    ("dress", "a dress", "dresses"), ("octopus", "an octopus", "octopuses")])
def test_english_nouns(noun, article, several):
    assert (with_article(noun), plural(noun)) == (article, several)
