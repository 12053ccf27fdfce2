"""python -m ldm.text: what it shows of a prompt."""

import subprocess
import sys

import pytest

from ldm.text import Tokenizer
from ldm.text.__main__ import describe, main, ranges

TOKENIZER = Tokenizer()
PIECES = [*zip(TOKENIZER.encode("zyxglorp"), TOKENIZER.pieces(TOKENIZER.encode("zyxglorp")), strict=True)]


def show(monkeypatch, capsys, *words: str) -> list[str]:
    monkeypatch.setattr(sys, "argv", ["ldm.text", *words])
    main()
    return capsys.readouterr().out.splitlines()


def test_main_shows_tokens_chunks_and_weights(monkeypatch, capsys):
    assert show(monkeypatch, capsys, "a (red:1.3) fox BREAK zyxglorp") == [
        "chunk 1 of 2: 3 of 75 tokens",
        "    320      1  'a '",
        "    736    1.3  'red '",
        "   3240      1  'fox '",
        f"chunk 2 of 2: {len(PIECES)} of 75 tokens",
        *(f"{i:7}      1  {piece!r}" for i, piece in PIECES),
        "cut in two by the end of a chunk: nothing",
    ]


def test_main_shows_each_text_once_with_its_steps(monkeypatch, capsys):
    lines = show(monkeypatch, capsys, "[a|b] fox", "--steps", "5")
    assert [line for line in lines if line.startswith("steps")] == [
        "steps 1, 3, 5 of 5: a fox", "steps 2, 4 of 5: b fox"]
    lines = show(monkeypatch, capsys, "[a:b:0.5] fox")
    assert [line for line in lines if line.startswith("steps")] == [
        "steps 1-15 of 30: a fox", "steps 16-30 of 30: b fox"]


def test_main_shows_what_is_cut():
    *_, halves, rest = describe(TOKENIZER, "a " * 74 + "zyxglorp, red", 30, "a1111")
    assert len(PIECES) > 1 and not PIECES[0][1].endswith(" ")
    assert halves == "cut in two by the end of a chunk: zyxglorp"
    assert rest == f"programs without chunks would cut: {''.join(piece for _, piece in PIECES[1:])}, red"


def test_main_reads_plain_prompts(monkeypatch, capsys):
    lines = show(monkeypatch, capsys, "(a:1.3)", "--prompt-syntax", "plain")
    assert [line.split("'")[1] for line in lines[1:-1]] == ["( ", "a ", ": ", "1 ", ". ", "3 ", ") "]


def test_ranges():
    assert ranges([1, 2, 3, 5, 7, 8]) == "1-3, 5, 7-8"


@pytest.mark.parametrize(("arguments", "message"), [
    (["a", "--steps", "0"], "steps 0 is below 1; try 30"), (["a", "--steps", "x"], "invalid int value: 'x'"),
    ([], "required: prompt"), (["a", "--prompt-syntax", "b"], "invalid choice: 'b'")])
def test_main_says_mistakes_in_one_line(monkeypatch, capsys, arguments, message):
    with pytest.raises(SystemExit) as error:
        show(monkeypatch, capsys, *arguments)
    told = capsys.readouterr().err
    assert error.value.code == 2 and message in told and told.count("\n") == 1


def test_main_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "ldm.text", "a 狗"], capture_output=True, timeout=100)
    assert done.returncode == 0 and done.stdout.startswith(b"chunk 1 of 1: "), done.stderr
