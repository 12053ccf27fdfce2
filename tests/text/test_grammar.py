"""The prompt grammar, against the results that AUTOMATIC1111 documents in modules/prompt_parser.py, and more."""

from itertools import groupby

import pytest

from ldm.text import at_steps, parse, schedule


def one(prompt: str) -> list[tuple[str, float]]:
    """The pairs of a prompt without BREAK."""
    section, = parse(prompt)
    return section


@pytest.mark.parametrize(("prompt", "expected"), [
    # documented by AUTOMATIC1111
    ("normal text", [("normal text", 1.0)]),
    ("an (important) word", [("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
    ("(unbalanced", [("unbalanced", 1.1)]),
    (r"\(literal\]", [("(literal]", 1.0)]),
    ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
    ("a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
     [("a ", 1.0), ("house", 1.3 * 1.1 * 1.1), (" ", 1.1), ("on", 1.0), (" a ", 1.1), ("hill", 0.5 * 1.1),
      (", sun, ", 1.1), ("sky", 1.1**4), (".", 1.1)]),
    # brackets
    ("(((((((a)))))))", [("a", 1.1**7)]),
    ("[[[a]]]", [("a", 1.1**-3)]),
    ("[a] b", [("a", 1 / 1.1), (" b", 1.0)]),
    ("[a", [("a", 1 / 1.1)]),
    ("a) ] b", [("a) ] b", 1.0)]),
    ("()a[]", [("a", 1.0)]),
    ("", []),
    # weights
    ("(a:.5)(b:2.) (c:+3) (d:-1)", [("a", 0.5), ("b", 2.0), (" ", 1.0), ("c", 3.0), (" ", 1.0), ("d", -1.0)]),
    ("(a: 1.3 )", [("a", 1.3)]),
    ("(a:1.2.3) b:1.3)", [("a:1.2.3", 1.1), (" b:1.3)", 1.0)]),
    ("(a:1,3)", [("a:1,3", 1.1)]),
    ("12:30, (9:16:1.2)", [("12:30, ", 1.0), ("9:16", 1.2)]),
    # escapes
    (r"\\ \( \) \[ \] \: \|", [(r"\ ( ) [ ] : |", 1.0)]),
    (r"(\(a\):2)", [("(a)", 2.0)]),
    (r"a\b", [("ab", 1.0)]),
])
def test_parse_gives_the_documented_weights(prompt, expected):
    texts, weights = [text for text, _ in expected], [weight for _, weight in expected]
    assert [text for text, _ in one(prompt)] == texts
    assert [weight for _, weight in one(prompt)] == pytest.approx(weights, rel=1e-12)


@pytest.mark.parametrize(("prompt", "expected"), [
    ("a BREAK b", [["a"], ["b"]]),
    ("a\nBREAK\n b", [["a"], ["b"]]),
    ("BREAK a BREAK BREAK b BREAK", [[], ["a"], [], ["b"], []]),
    ("BREAKFAST, break", [["BREAKFAST, break"]]),
])
def test_parse_parts_at_break(prompt, expected):
    assert [[text for text, _ in section] for section in parse(prompt)] == expected


def test_parse_keeps_weights_across_break():
    """AUTOMATIC1111 takes such a BREAK for a word, since it weighs it too."""
    assert parse("(a BREAK b:2) c") == [[("a", 2.0)], [("b", 2.0), (" c", 1.0)]]


@pytest.mark.parametrize("prompt", ["(a:1.3) [b:c:0.5] BREAK", "", r"\(", ":)"])
def test_plain_syntax_takes_every_sign_as_itself(prompt):
    assert parse(prompt, "plain") == [[(prompt, 1.0)]]
    assert at_steps(prompt, 3, "plain") == [prompt] * 3


@pytest.mark.parametrize(("prompt", "expected"), [
    # documented by AUTOMATIC1111
    ("test", [(10, "test")]),
    ("a [b:3]", [(3, "a "), (10, "a b")]),
    ("a [b: 3]", [(3, "a "), (10, "a b")]),
    ("a [[[b]]:2]", [(2, "a "), (10, "a [[b]]")]),
    ("[(a:2):3]", [(3, ""), (10, "(a:2)")]),
    ("a [b : c : 1] d", [(1, "a b  d"), (10, "a  c  d")]),
    ("a[b:[c:d:2]:1]e", [(1, "abe"), (2, "ace"), (10, "ade")]),
    ("a [unbalanced", [(10, "a [unbalanced")]),
    ("a [b:.5] c", [(5, "a  c"), (10, "a b c")]),
    ("a [{b|d{:.5] c", [(5, "a  c"), (10, "a {b|d{ c")]),
    ("((a][:b:c [d:3]", [(3, "((a][:b:c "), (10, "((a][:b:c d")]),
    # from, to and when
    ("[a::0.6]b", [(6, "ab"), (10, "b")]),
    ("[a:b:0]", [(10, "b")]),
    ("[a:b:-1]", [(10, "b")]),
    ("[a:b:10]", [(10, "a")]),
    ("[a:b:99]", [(10, "a")]),
    ("[a:b:1.0]", [(10, "a")]),                         # a point makes it a share
    ("[a:b:0.19]", [(1, "a"), (10, "b")]),
    ("(a [b:c:3] d:1.2)", [(3, "(a b d:1.2)"), (10, "(a c d:1.2)")]),
    ("[a:b:c:3]", [(10, "[a:b:c:3]")]),                 # too many: a text of less weight
    ("[a:b]", [(10, "[a:b]")]),
    # escapes
    (r"\[a:b:3\]", [(10, r"\[a:b:3\]")]),
    (r"[a\:b:c:3]", [(3, r"a\:b"), (10, "c")]),
    ("a | b", [(10, "a | b")]),
])
def test_schedule_gives_the_documented_phases(prompt, expected):
    assert schedule(prompt, 10) == expected


@pytest.mark.parametrize(("prompt", "expected"), [
    ("[a|(b:1.1)]", ["a", "(b:1.1)"] * 5),
    ("[fe|]male", ["female", "male"] * 5),
    ("[fe|||]male", (["female", "male", "male", "male"] * 3)[:10]),
    ("[a|b|c]", (["a", "b", "c"] * 4)[:10]),
    (r"[a\|b|c]", [r"a\|b", "c"] * 5),
    ("[[a|b]:c:4]", ["a", "b", "a", "b"] + ["c"] * 6),
    ("[[x:y:2]|z]", ["x", "z", "y", "z", "y", "z", "y", "z", "y", "z"]),
])
def test_at_steps_takes_turns(prompt, expected):
    assert at_steps(prompt, 10) == expected
    assert [text for _, text in schedule(prompt, 10)] == [text for text, _ in groupby(expected)]


def test_deeply_nested_brackets_are_read():
    """No recursion: a prompt of brackets is slow at worst."""
    assert one("(" * 2000 + "a" + ")" * 2000)[0][0] == "a"
    assert schedule("[" * 2000 + "a" + "]" * 2000, 1) == [(1, "[" * 2000 + "a" + "]" * 2000)]


@pytest.mark.parametrize("prompt", [f"[a:{'1' * 300_000}x]", f"(a:{'1' * 300_000}x)", " " * 300_000 + "x"])
def test_hostile_prompts_are_read_at_once(prompt):
    """Where the time grows with the square of the length, this takes an hour."""
    assert parse(prompt) and set(at_steps(prompt, 30)) == {prompt}


def test_break_takes_the_blanks_around_it_alone():
    assert parse("a  BREAK  b c BREAK  d ") == [[("a", 1)], [("b c", 1)], [("d ", 1)]]
