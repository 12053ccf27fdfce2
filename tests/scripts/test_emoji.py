"""Pictures of the bundled model: pixels are those of the scene, and nothing held out is trained on."""

import json
import random
from collections import Counter

import numpy as np
import pytest
from emoji_captions import CHINESE, chinese, english
from emoji_scenes import (
    BACKGROUNDS,
    LAYOUTS,
    Scene,
    Thing,
    compose,
    held_out_colour,
    held_out_pair,
    held_out_style,
    training_scenes,
)
from emoji_sprites import HUES, STYLES, Emoji, Sprites, dominant_hue, nearest_hue, recolour
from PIL import Image, ImageColor
from toy_emoji import OBJECTS

from ldm.training.data import ImageFolder


@pytest.fixture(scope="module")
def emoji(sprites: Sprites) -> dict[str, Emoji]:
    return {e.label: e for e in [*sprites.objects, *sprites.people]}


def centre(picture: Image.Image, colour: str) -> tuple[float, float, int]:
    """Mean place of the pixels of about a colour, from the left and the top over the side, and their number."""
    near = np.abs(np.asarray(picture, int) - ImageColor.getrgb(colour)).max(2) < 40
    y, x = np.nonzero(near)
    return x.mean() / picture.width, y.mean() / picture.height, len(x)


def test_sprites_are_objects_of_all_styles_and_people_with_skin_tones(sprites):
    assert [e.label for e in sprites.objects] == [label for label, *_ in OBJECTS]
    assert [(e.label, len(e.tones), e.kind) for e in sprites.people] == [("waving hand", 5, "kind 16")]
    assert sprites.objects[0].chinese == "物甲" and sprites.objects[0].kind == "kind 34"
    for style in STYLES:
        assert {sprites.read(e.key, style).size for e in sprites.objects} == {(256, 256)}


def test_synonyms_are_tags_that_mean_one_object_alone(emoji):
    assert emoji["fox"].synonyms == ("vixen",) and emoji["kite"].synonyms == ("string",)
    assert emoji["tiger"].synonyms == () and emoji["bell"].synonyms == ("sound",)


def test_colours_are_others_than_the_own_of_what_has_one_hue(emoji):
    assert set(HUES) - set(emoji["fox"].colours) == {"orange"} and set(HUES) - set(emoji["kite"].colours) == {"blue"}
    assert [e.label for e in emoji.values() if not e.colours] == ["red apple", "grinning face", "bell", "waving hand"]


@pytest.mark.parametrize("style", STYLES)
def test_recolour_moves_the_dominant_hue(sprites, emoji, style):
    for label in ("fox", "kite", "tent", "pencil"):
        for colour in HUES:
            sprite = sprites.read(emoji[label].key, style)
            turned = recolour(sprite, colour)
            difference = (dominant_hue(turned)[0] - HUES[colour] + 180) % 360 - 180
            assert abs(difference) < 3 and nearest_hue(dominant_hue(turned)[0]) == colour       # two hues of 256
            assert turned.getchannel("A").tobytes() == sprite.getchannel("A").tobytes()


def test_recolour_leaves_gray_alone(sprites, emoji):
    gray = sprites.read(emoji["bell"].key, "flat")
    assert np.array_equal(np.asarray(recolour(gray, "red"))[128, 128], np.asarray(gray)[128, 128])


@pytest.mark.parametrize("style", STYLES)
def test_skin_tones_fall_from_light_to_dark(sprites, emoji, style):
    shades = [np.asarray(sprites.read(key, style))[128, 128, :3].sum() for key in emoji["waving hand"].tones]
    assert shades == sorted(shades, reverse=True) and len(set(shades)) == 5


@pytest.mark.parametrize(("layout", "x", "y"), [
    ("alone", 0.5, 0.5), ("small", 0.5, 0.5), ("top left", 0.26, 0.26), ("top right", 0.74, 0.26),
    ("bottom left", 0.26, 0.74), ("bottom right", 0.74, 0.74)])
def test_compose_puts_one_thing_where_its_layout_says(sprites, emoji, layout, x, y):
    for seed in range(5):
        picture = compose(sprites, Scene((Thing(emoji["fox"]),), layout=layout), 128, random.Random(seed))
        found = centre(picture, "#e87010")
        assert found[:2] == pytest.approx((x, y), abs=0.03)         # 1/64 by chance, and a pixel
        side = np.sqrt(found[2] / np.pi) * 2 / 26 * 32 / 128        # a disc of 26 in 32, over the picture's side
        low, high = LAYOUTS[layout].scale
        assert low - 0.03 < side < high + 0.03


@pytest.mark.parametrize(("layout", "axis"), [("left of", 0), ("above", 1)])
@pytest.mark.parametrize("style", STYLES)
def test_compose_puts_the_first_thing_left_of_or_above_the_second(sprites, emoji, layout, axis, style):
    for seed in range(5):
        scene = Scene((Thing(emoji["fox"]), Thing(emoji["kite"])), style, layout, "gray")
        picture = compose(sprites, scene, 128, random.Random(seed))
        first, second = centre(picture, "#e87010"), centre(picture, "#2060e0")
        assert second[axis] - first[axis] == pytest.approx(0.48, abs=0.05)
        assert first[1 - axis] == pytest.approx(second[1 - axis], abs=0.05)


@pytest.mark.parametrize(("layout", "count"), [("two", 2), ("three", 3)])
def test_compose_repeats_one_thing(sprites, emoji, layout, count):
    scene = Scene((Thing(emoji["tiger"]),), "flat", layout)
    one, all_ = (centre(compose(sprites, scene, 128, only=only), "#e87010")[2] for only in (0, None))
    assert all_ == pytest.approx(count * one, rel=0.02)


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_compose_paints_the_background_that_is_named(sprites, emoji, background):
    scene = Scene((Thing(emoji["fox"]),), background=background)
    assert compose(sprites, scene, 64).getpixel((0, 0)) == ImageColor.getrgb(BACKGROUNDS[background])
    assert english(scene).endswith(f"a {background} background" if background not in ("white", "orange") else
                                   "an orange background" if background == "orange" else "a fox")
    assert (f"，{CHINESE[background]}背景" in chinese(scene)) == (background != "white")


def test_compose_shows_colour_tone_and_degradation(sprites, emoji):
    red = compose(sprites, Scene((Thing(emoji["kite"], "red"),)), 128)
    assert nearest_hue(dominant_hue(red)[0]) == "red"
    dark = compose(sprites, Scene((Thing(emoji["waving hand"], tone=5),)), 128)
    assert np.abs(np.asarray(dark, int)[64, 64] - ImageColor.getrgb("#503010")).max() < 3
    plain, degraded = (compose(sprites, Scene((Thing(emoji["tiger"]),), degraded=d), 128) for d in (False, True))
    steepest = [np.abs(np.diff(np.asarray(p.convert("L"), int), axis=1)).max() for p in (plain, degraded)]
    assert degraded.size == plain.size and steepest[1] < steepest[0] / 2


def test_training_scenes_depend_on_the_seed_alone(sprites):
    first = list(training_scenes(sprites, seed=3))
    assert list(training_scenes(sprites, seed=3)) == first != list(training_scenes(sprites, seed=4))
    kinds = Counter(scene.layout for scene in first)
    assert set(kinds) == set(LAYOUTS)
    assert {scene.background for scene in first} == set(BACKGROUNDS)
    assert {thing.tone for scene in first for thing in scene.things} == set(range(6))


def test_training_scenes_show_nothing_that_is_held_out(sprites):
    scenes = list(training_scenes(sprites))
    objects = [(s.style, t.emoji) for s in scenes for t in s.things if t.emoji in sprites.objects]
    assert [emoji for style, emoji in objects if held_out_style(emoji) == style] == []
    assert [s for s in scenes for t in s.things if t.colour and held_out_colour(t.emoji, t.colour)] == []
    assert [s for s in scenes if len(s.things) == 2 and held_out_pair(*(t.emoji for t in s.things))] == []
    seen = {(t.emoji, s.style) for s in scenes for t in s.things}
    pairs = {(t.emoji, t.colour) for s in scenes for t in s.things if t.colour}
    for e in sprites.objects:                                       # and all the rest
        assert {style for style in STYLES if (e, style) in seen} == set(STYLES) - {held_out_style(e)}
        assert {c for c in e.colours if (e, c) in pairs} == {c for c in e.colours if not held_out_colour(e, c)}


def test_held_out_is_a_tenth_of_the_pairs():
    things = [Emoji(f"thing {i}", "", "") for i in range(3000)]
    styles = Counter(map(held_out_style, things))
    for style in STYLES:
        assert styles[style] / 3000 == pytest.approx(0.1, abs=0.02)                 # 3.6 deviations
    assert np.mean([held_out_colour(e, "red") for e in things]) == pytest.approx(0.1, abs=0.02)
    assert np.mean([held_out_pair(things[0], e) for e in things]) == pytest.approx(0.1, abs=0.02)
    assert held_out_pair(things[0], things[1]) != held_out_pair(things[1], things[0]) or not held_out_pair(*things[:2])


def test_emoji_script_writes_a_folder_and_goes_on_where_it_was(run_script, source, tmp_path):
    arguments = ["--source", source, "--size", 32, "--few"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for out in (whole, broken):
        assert run_script("emoji.py", "--out", out, *arguments).returncode == 0
    before = (broken / "000003.png").stat().st_mtime_ns
    (broken / "metadata.jsonl").unlink()
    for name in ("000001.png", "000007.png"):
        (broken / name).unlink()
    assert run_script("emoji.py", "--out", broken, *arguments).returncode == 0
    assert (broken / "000003.png").stat().st_mtime_ns == before
    assert {p.name: p.read_bytes() for p in whole.iterdir()} == {p.name: p.read_bytes() for p in broken.iterdir()}
    folder = ImageFolder(whole, 32)
    assert len(folder) == len(list(whole.glob("*.png"))) > 50
    assert folder.texts[0][0] == "3d render of a fox"


def test_emoji_script_refuses_a_folder_of_other_settings(run_script, source, tmp_path):
    arguments = ["--source", source, "--out", tmp_path / "out", "--few"]
    assert run_script("emoji.py", *arguments, "--size", 16).returncode == 0
    done = run_script("emoji.py", *arguments, "--size", 24)
    assert done.returncode == 2 and "was begun with" in done.stderr and "another --out" in done.stderr
    assert json.loads((tmp_path / "out" / "settings.json").read_text())["size"] == 16


def test_emoji_script_begins_with_few(run_script, source, tmp_path):
    assert run_script("emoji.py", "--source", source, "--out", tmp_path, "--few", "--size", 16).returncode == 0
    texts = [several[0] for several in ImageFolder(tmp_path, 16).texts]
    assert texts and all(text.startswith("3d render of a") for text in texts)
    shown = {label for label, *_ in OBJECTS if any(label in text for text in texts)}
    assert shown <= {"fox", "taco", "pencil", "grinning face"}
