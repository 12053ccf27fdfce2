"""What scenes of emoji are called, in English and Chinese.  Of several ways to say it the first is the plainest."""

import random
from collections.abc import Sequence

from emoji_scenes import Scene, Thing
from emoji_sprites import TONES
from english import plural, with_article

CHINESE = {"white": "白色", "black": "黑色", "gray": "灰色", "red": "红色", "orange": "橙色", "yellow": "黄色",
           "green": "绿色", "teal": "青色", "blue": "蓝色", "purple": "紫色", "pink": "粉色", "brown": "棕色"}
CHINESE_TONES = ("浅", "中浅", "中等", "中深", "深")
DEGRADED, CHINESE_DEGRADED = "blurry, low quality", "模糊，低质量"
STYLES = {"3d": ("3d render of {}", "{}, 3d render", "{}"), "flat": ("flat icon of {}", "{}, flat icon"),
          "cartoon": ("cartoon of {}", "{}, cartoon")}
CHINESE_STYLES = {"3d": ("3D渲染的{}", "{}，3D渲染"), "flat": ("扁平图标的{}", "{}，扁平图标"),
                  "cartoon": ("卡通的{}", "{}，卡通")}
LAYOUTS = {                             # {a} "a red fox", {b} another thing, {small} "a small red fox", {many} "foxes"
    "alone": ("{a}",),
    "small": ("{small}",),
    "top left": ("{a} in the top left corner",),
    "top right": ("{a} in the top right corner",),
    "bottom left": ("{a} in the bottom left corner",),
    "bottom right": ("{a} in the bottom right corner",),
    "left of": ("{a} left of {b}", "{b} right of {a}"),
    "above": ("{a} above {b}", "{b} below {a}"),
    "two": ("two {many}",),
    "three": ("three {many}",),
}
CHINESE_LAYOUTS = {
    "alone": "{a}", "small": "小小的{a}", "left of": "{a}在{b}左边", "above": "{a}在{b}上面", "two": "两个{a}",
    "three": "三个{a}", "top left": "{a}在左上角", "top right": "{a}在右上角", "bottom left": "{a}在左下角",
    "bottom right": "{a}在右下角",
}


def pick(ways: Sequence[str], draw: random.Random | None) -> str:
    """The plainest way, or with `draw` any."""
    return draw.choice(ways) if draw else ways[0]


def english(scene: Scene, draw: random.Random | None = None) -> str:
    """A caption: the plainest, which says no white background, or with `draw` any."""
    nouns = [english_noun(thing, draw if scene.layout == "alone" else None) for thing in scene.things]
    first, last = nouns[0], nouns[-1]
    said = pick(LAYOUTS[scene.layout], draw).format(a=with_article(first), b=with_article(last), many=plural(first),
                                                    small=with_article(f"small {first}"))
    said = pick(STYLES[scene.style], draw).format(said)
    if draw and scene.layout == "alone" and draw.random() < 0.25:
        said += f", {scene.things[0].emoji.kind}"
    if scene.background != "white" or (draw and draw.random() < 0.5):
        named = with_article(f"{scene.background} background")
        said += pick((f" on {named}", f", {scene.background} background"), draw)
    return f"{said}, {DEGRADED}" if scene.degraded else said


def english_noun(thing: Thing, draw: random.Random | None) -> str:
    """The name of a thing with its colour or skin tone; with `draw`, a synonym at times where it has neither."""
    noun = thing.emoji.label
    if thing.colour:
        return f"{thing.colour} {noun}"
    if thing.tone:
        return f"{noun} with {TONES[thing.tone - 1]} skin tone"
    return draw.choice(thing.emoji.synonyms) if draw and thing.emoji.synonyms and draw.random() < 0.25 else noun


def chinese(scene: Scene, draw: random.Random | None = None) -> str:
    """A caption in Chinese."""
    nouns = [chinese_noun(thing) for thing in scene.things]
    said = CHINESE_LAYOUTS[scene.layout].format(a=nouns[0], b=nouns[-1])
    said = pick(CHINESE_STYLES[scene.style], draw).format(said)
    if scene.background != "white" or (draw and draw.random() < 0.5):
        said += f"，{CHINESE[scene.background]}背景"
    return f"{said}，{CHINESE_DEGRADED}" if scene.degraded else said


def chinese_noun(thing: Thing) -> str:
    noun = thing.emoji.chinese
    if thing.colour:
        return f"{CHINESE[thing.colour]}的{noun}"
    return f"{CHINESE_TONES[thing.tone - 1]}肤色的{noun}" if thing.tone else noun


def captions(scene: Scene, draw: random.Random) -> list[str]:
    """Three captions to choose from in training: the plainest, another, and a third that is Chinese half of the time.

    A degraded picture has a fourth that says no more than that, to be of use as a negative prompt.
    """
    third = chinese if draw.random() < 0.5 else english
    bare = [draw.choice((DEGRADED, CHINESE_DEGRADED))] if scene.degraded else []
    return [english(scene), english(scene, draw), third(scene, draw), *bare]
