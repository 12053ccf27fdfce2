"""Prompts in another language: known phrases become English before they are read."""

import pytest
import torch

from ldm.text import Glossary, Tokenizer, chunk
from ldm.text.inversion import InversionTokenizer

GLOSSARY = Glossary({"狐": "vixen", "狐狸": "fox", "披萨": "pizza", "蓝色": "blue", "的": "",
                     "在{}左边": "left of {}", "在{}右边": "right of {}",
                     "中浅肤色的{}": "{} with medium-light skin tone",
                     "浅肤色的{}": "{} with light skin tone", "，": ",", "挥手": "waving hand", "背景": "background"})


@pytest.mark.parametrize(("text", "english"), [
    ("狐狸", "fox"),                                                 # the longest that fits
    ("狐狸狐", "fox vixen"),
    ("蓝色的狐狸", "blue fox"),
    ("狐狸在披萨左边", "fox left of pizza"),
    ("狐狸在披萨左边，披萨在狐狸左边", "fox left of pizza , pizza left of fox"),
    ("中浅肤色的挥手，蓝色背景", "waving hand with medium-light skin tone , blue background"),
    ("狐狸在左边", "fox 在左边"),                                      # nothing lies in the slot
    ("a fox在pizza左边", "a fox left of pizza"),
    ("甲在披萨左边", "甲 left of pizza"),
    ("在蓝色背景上的狐狸在披萨左边", "在 blue background 上 fox left of pizza"),
    ("狐狸在披萨左边；披萨在狐狸右边", "fox left of pizza ； pizza right of fox"),
    ("浅肤色的挥手在披萨左边", "waving hand with light skin tone left of pizza"),
    ("中浅肤色的挥手浅肤色的狐狸！蓝色",
     "waving hand with medium-light skin tone fox with light skin tone ！ blue"),
    ("浅肤色的挥手。蓝色", "waving hand with light skin tone 。 blue"),
    ("a 披萨, small", "a pizza , small"),
    ("", ""),
    ("a  fox (left)", "a  fox (left)"),                             # what it does not know stays as it is
    ("猫", "猫"),
])
def test_known_phrases_become_english(text, english):
    assert GLOSSARY(text) == english


def test_english_is_no_template():
    assert Glossary({"乙": r"\1 {0.__class__}", "在{}上": r"\1 {} {0}"})("乙在丙上") == r"\1 {0.__class__} \1 丙 {0}"


def test_an_empty_glossary_changes_nothing():
    assert Glossary({})("狐狸，a fox") == "狐狸，a fox"


@pytest.mark.parametrize(("phrases", "said"), [
    ({"": "fox"}, "is empty"), ({" ": "fox"}, "is empty"), ({"{}": "{}"}, "begins with its slot"),
    ({"{}在": "{} at"}, "begins with its slot"), ({"在{}": "at"}, "differ in slots"),
    ({"在": "at {}"}, "differ in slots"), ({"在{}和{}": "at {} and {}"}, "differ in slots"),
    ({"狐狸": 3}, "no dict of phrases"), (None, "no dict of phrases"),
    ({"狐狸": ["fox"]}, "no dict of phrases"), (["狐狸"], "no dict of phrases")])
def test_phrases_that_make_no_sense_are_refused(phrases, said):
    with pytest.raises(ValueError, match=said):
        Glossary(phrases)


def test_the_order_of_phrases_does_not_matter():
    turned = Glossary(dict(reversed(GLOSSARY.phrases.items())))
    assert [*turned.phrases] == [*GLOSSARY.phrases]


def test_a_slot_never_holds_its_own_beginning():
    """Else a prompt of nothing but beginnings would be searched to its end from each of them."""
    (pattern, _), *_ = Glossary({"在{}左边": "left of {}"}).slotted
    assert pattern.findall("在一在二左边在三") == ["二"]


def test_tokens_are_those_of_the_english():
    ours, plain = Tokenizer(glossary=GLOSSARY), Tokenizer()
    assert torch.equal(ours("蓝色的狐狸，披萨"), plain("blue fox, pizza"))
    assert torch.equal(ours("a red fox"), plain("a red fox"))
    assert plain.encode("狐狸") != ours.encode("狐狸")


def test_weights_and_learned_words_stay_beside_it():
    tokenizer = InversionTokenizer(Tokenizer(glossary=GLOSSARY), {"my-hat": torch.zeros(2, 8)})
    found, plain = chunk(tokenizer, "(狐狸:1.5) my-hat"), chunk(Tokenizer(), "(fox:1.5)")
    assert found.tokens == [[*plain.tokens[0], 49408, 49409]]
    assert found.weights[0, 1] == 1.5 and found.weights[0, 2] == 1
