"""The examples of README.md run, and README.zh-CN.md says the same."""

import argparse
import re
import runpy
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
README, CHINESE = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh-CN.md"))
COMMANDS = re.findall(r"^python scripts/.*$", README, re.M)


def blocks(text: str, language: str) -> list[str]:
    """Fenced code blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


def test_readme_python_examples_run(tmp_path, monkeypatch):
    """In order, in one namespace, on the bundled model."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    examples = blocks(README, "python")
    assert len(examples) > 5
    for example in examples:
        exec(compile(example, "README.md", "exec"), names)
    assert (tmp_path / "fox.png").stat().st_size > 0
    assert names["tiger"].size == names["fox"].size


class Parsed(Exception):
    """The command line was understood."""


@pytest.mark.parametrize("command", COMMANDS)
def test_readme_command_lines_are_understood(command, monkeypatch):
    """By the parser of the script itself, which then stops."""
    script, *args = shlex.split(command, comments=True)[1:]
    parse_args = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser, *rest):
        parse_args(parser, *rest)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    monkeypatch.setattr(sys, "argv", [script, *args])
    monkeypatch.syspath_prepend(ROOT / "scripts")
    with pytest.raises(Parsed):
        runpy.run_path(str(ROOT / script), run_name="__main__")


def test_readme_shows_every_program():
    """All scripts that are programs, but those that train_bundled.py alone runs."""
    programs = {p.name for p in (ROOT / "scripts").glob("*.py") if "__main__" in p.read_text()}
    programs -= {"emoji.py", "emoji_resample.py"}
    assert programs == {shlex.split(command)[1].removeprefix("scripts/") for command in COMMANDS}


def test_readme_make_targets_exist():
    wanted = set(re.findall(r"\bmake ([a-z-]+)", "".join(blocks(README, "sh"))))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert {"demo", "test"} <= wanted <= targets


def test_chinese_readme_has_the_same_code():
    for language in ("python", "sh"):
        assert blocks(CHINESE, language) == blocks(README, language)


SHARED = {"headings": r"^(#+) ", "links": r"\]\(((?!README)[^)]+)\)", "tests": r"tests/[\w/]+\.py(?:::\w+)?",
          "figures": r"\d[\d.]*e-\d|0\.\d+|\d\.\d{3}|\d+,[\d,]+", "table rows": r"^(\|)", "items": r"^(- )"}


@pytest.mark.parametrize("pattern", SHARED.values(), ids=SHARED)
def test_chinese_readme_is_complete(pattern):
    assert re.search(pattern, README, re.M)
    assert re.findall(pattern, CHINESE, re.M) == re.findall(pattern, README, re.M)
