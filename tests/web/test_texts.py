"""The page's words: complete in both languages."""

import re
from pathlib import Path
from string import Formatter

import pytest

from ldm.web.forms import SETTINGS
from ldm.web.texts import CHINESE_HELP, WORDS, language_of, say, words

SOURCES = sorted((Path(__file__).parents[2] / "ldm" / "web").glob("page*.py"))


def gaps(text: str) -> set[str | None]:
    return {name for _, name, _, _ in Formatter().parse(text)} - {None}


def test_both_languages_say_the_same_things_with_the_same_gaps():
    assert words("en").keys() == words("zh").keys()
    for key, (english, chinese) in WORDS.items():
        assert english.strip() and chinese.strip()
        assert gaps(english) == gaps(chinese), key


def test_chinese_is_chinese():
    same = {key for key, (english, chinese) in WORDS.items() if english == chinese}
    assert same == {"label.vae", "label.eta"}
    assert all(re.search(r"[\u4e00-\u9fff（]", text) for key, text in words("zh").items() if key not in same)


def test_every_setting_has_a_label_and_help_in_both_languages():
    assert CHINESE_HELP.keys() == SETTINGS.keys()
    for name, field in SETTINGS.items():
        assert f"label.{name}" in WORDS
        if name != "seed":                              # the form has a better word for it: -1
            assert words("en")[f"help.{name}"] == field.metadata["help"]


def test_every_text_that_the_page_asks_for_is_there():
    asked = {key for path in SOURCES for key in re.findall(r'(?:\bt\(|say\([^"()]*(?:\(request\), )?)"([\w.]+)"',
                                                           path.read_text(encoding="utf-8"))}
    assert len(asked) > 40
    assert asked <= words("en").keys()


def test_no_text_is_there_for_nothing():
    """Those of the form and the tasks are asked for by name."""
    source = "".join(path.read_text(encoding="utf-8") for path in SOURCES)
    named = {f"label.{name}" for name in (*SETTINGS, "model")} | {f"explain.{name}" for name in
                                                                   ("token", "id", "weight")}
    unused = {key for key in WORDS if f'"{key}"' not in source} - named
    assert {key.split(".")[0] for key in unused} <= {"task", "about", "label", "help", "note"}


@pytest.mark.parametrize("header, language", [("zh-CN,zh;q=0.9,en;q=0.8", "zh"), ("en-US,zh;q=0.9", "en"),
                                              ("de", "en"), ("", "en"), ("zh-TW;q=1", "zh"),
                                              ("zh", "en")])
def test_language_is_that_of_the_browsers_first_choice(header, language):
    assert language_of(header) == language


def test_say_fills_the_gaps():
    assert say("en", "state.running", step=3, steps=8) == "Step 3 of 8"
    assert say("zh", "state.running", step=3, steps=8) == "第 3 步，共 8 步"
