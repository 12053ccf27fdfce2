"""What scenes of emoji are called, in English and Chinese.  Of several ways to say it the first is the plainest.

The model is trained on the English; `glossary` is what reads the Chinese for it.
"""

import random
from collections.abc import Iterable, Sequence

from emoji_scenes import Scene, Thing
from emoji_sprites import TONES, Emoji
from english import plural, with_article

CHINESE = {"white": "白色", "black": "黑色", "gray": "灰色", "red": "红色", "orange": "橙色", "yellow": "黄色",
           "green": "绿色", "teal": "青色", "blue": "蓝色", "purple": "紫色", "pink": "粉色", "brown": "棕色"}
CHINESE_TONES = ("浅", "中浅", "中等", "中深", "深")
DEGRADED, CHINESE_DEGRADED = "blurry, low quality", "模糊，低质量"
STYLES = {"3d": ("3d render of {}", "{}, 3d render", "{}"), "flat": ("flat icon of {}", "{}, flat icon"),
          "cartoon": ("cartoon of {}", "{}, cartoon")}
CHINESE_STYLES = {"3d": "3D渲染的{}", "flat": "扁平图标的{}", "cartoon": "卡通的{}"}
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
CHINESE_WORDS = {
    "渲染的": "render of", "渲染": "render", "扁平图标的": "flat icon of", "扁平图标": "flat icon",
    "卡通的": "cartoon of", "卡通": "cartoon", "风格": "", "小小的": "small", "小": "small",
    "一个": "a", "一只": "a", "两个": "two", "两只": "two", "三个": "three", "三只": "three",
    "在{}左边": "left of {}", "在{}右边": "right of {}", "在{}上面": "above {}", "在{}下面": "below {}",
    "在左上角": "in the top left corner", "在右上角": "in the top right corner",
    "在左下角": "in the bottom left corner", "在右下角": "in the bottom right corner",
    "背景上的": "background,", "背景上": "background", "背景": "background", "模糊": "blurry", "低质量": "low quality",
    "在": "", "的": "", "，": ",", "、": ",", "。": ",",
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


def chinese(scene: Scene) -> str:
    """The plainest caption, in Chinese."""
    nouns = [chinese_noun(thing) for thing in scene.things]
    said = CHINESE_STYLES[scene.style].format(CHINESE_LAYOUTS[scene.layout].format(a=nouns[0], b=nouns[-1]))
    if scene.background != "white":
        said += f"，{CHINESE[scene.background]}背景"
    return f"{said}，{CHINESE_DEGRADED}" if scene.degraded else said


def chinese_noun(thing: Thing) -> str:
    noun = thing.emoji.chinese
    if thing.colour:
        return f"{CHINESE[thing.colour]}的{noun}"
    return f"{CHINESE_TONES[thing.tone - 1]}肤色的{noun}" if thing.tone else noun


def captions(scene: Scene, draw: random.Random) -> list[str]:
    """Three captions to choose from in training: the plainest, and two others.

    A degraded picture has a fourth that says no more than that, to be of use as a negative prompt.
    """
    return [english(scene), english(scene, draw), english(scene, draw), *([DEGRADED] if scene.degraded else [])]


def glossary(emoji: Iterable[Emoji]) -> dict[str, str]:
    """Phrases of Chinese captions, and some that people would use in their place, in English.

    Names in Latin letters, such as DVD, are left out: they would be found in the middle of words.
    """
    names = {said: e.label for e in emoji if not e.chinese.isascii() for said in (e.chinese, e.chinese.lower())}
    colours = {said: colour for colour, name in CHINESE.items() for said in (name, name[0])}
    tones = {f"{name}肤色的{{}}": f"{{}} with {tone} skin tone"
             for name, tone in zip(CHINESE_TONES, TONES, strict=True)}
    return CHINESE_WORDS | colours | tones | names
