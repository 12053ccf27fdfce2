r"""How prompts are read: the grammar of AUTOMATIC1111's web UI.

    (word)  (word:1.3)  [word]      more, so much, less of a word; brackets nest
    [from:to:when]  [a|b]           a prompt that changes on the way
    BREAK                           go on in a new chunk
    \(  \)  \[  \]  \:  \|  \\      the sign itself

Every text is a prompt: what fits no rule stands for itself, and a bracket that is never closed still counts.
Behaviour of AUTOMATIC1111/stable-diffusion-webui modules/prompt_parser.py.
"""

import re
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from typing import Literal

Syntax = Literal["a1111", "plain"]                      # plain: every sign stands for itself

EMPHASIS = 1.1                                          # of ( ), and divided by of [ ]
WEIGHT = re.compile(r"\\[()\[\]\\]?|[()\[\]]|:\s*([+-]?(?:\d+(?:\.\d*)?|\.\d+))\s*\)|[^\\()\[\]:]+|:")
BREAK = re.compile(r"\bBREAK\b")
CHANGE = re.compile(r"\\.|[()\[\]:|]|[^\\()\[\]:|]+|\\", re.DOTALL)
WHEN = re.compile(r"\s*([+-]?(?:\d+(?:\.\d*)?|\.\d+))\s*")


def parse(prompt: str, syntax: Syntax = "a1111") -> list[list[tuple[str, float]]]:
    """The sections of a prompt, which BREAK parts, each as (text, weight) pairs; neighbours of one weight are joined.

    Changes on the way are `at_steps`'s: here [from:to:when] is a text of less weight.
    """
    if syntax == "plain":
        return [[(prompt, 1.0)]]
    pieces: list[tuple[str | None, float]] = []         # None is a BREAK
    opened: dict[str, list[int]] = {"(": [], "[": []}   # where the open brackets begin among the pieces

    def close(bracket: str, factor: float) -> None:
        start = opened[bracket].pop()
        pieces[start:] = [(text, weight * factor) for text, weight in pieces[start:]]

    for match in WEIGHT.finditer(prompt):
        token, weight = match[0], match[1]
        if token in opened:
            opened[token].append(len(pieces))
        elif weight and opened["("]:
            close("(", float(weight))
        elif token == ")" and opened["("]:
            close("(", EMPHASIS)
        elif token == "]" and opened["["]:
            close("[", 1 / EMPHASIS)
        else:
            first, *rest = BREAK.split(token.removeprefix("\\"))
            pieces.append((first.rstrip() if rest else first, 1.0))
            for i, text in enumerate(rest, start=1):
                pieces += [(None, 1.0), (text.strip() if i < len(rest) else text.lstrip(), 1.0)]
    for bracket, factor in (("(", EMPHASIS), ("[", 1 / EMPHASIS)):
        while opened[bracket]:
            close(bracket, factor)
    return sections(pieces)


def sections(pieces: list[tuple[str | None, float]]) -> list[list[tuple[str, float]]]:
    """Part the pieces at each BREAK, drop the empty ones, and join neighbours of one weight."""
    parted: list[list[tuple[str, float]]] = [[]]
    for text, weight in pieces:
        if text is None:
            parted.append([])
        elif text:
            parted[-1].append((text, weight))
    return [[("".join(text for text, _ in run), weight) for weight, run in groupby(section, key=lambda p: p[1])]
            for section in parted]


@dataclass
class Open:
    """A bracket that is not closed yet."""

    bracket: str
    text: str = ""                                      # what stands in it so far
    colons: list[int] = field(default_factory=list)     # where in the text, beyond those of inner brackets
    bars: list[int] = field(default_factory=list)

    def at(self, step: int, steps: int) -> str:
        """What the closed [ ] stands for at one of the steps, which count from 1."""
        text = self.text
        when = WHEN.fullmatch(text, self.colons[-1] + 1) if self.colons else None
        if when and len(self.colons) <= 2:
            *start, end = self.colons                   # [from:to:when], or [to:when]
            last = int(float(when[1]) * steps) if "." in when[1] else int(when[1])
            if step <= last:
                return text[: start[0]] if start else ""
            return text[start[0] + 1 if start else 0 : end]
        if self.bars:
            options = [text[a + 1 : b] for a, b in pairwise([-1, *self.bars, len(text)])]
            return options[(step - 1) % len(options)]
        return f"[{text}]"


def at_step(prompt: str, step: int, steps: int) -> str:
    """The prompt at one of the steps, which count from 1: each [from:to:when] and [a|b] is decided."""
    stack = [Open("")]
    for token in CHANGE.findall(prompt):
        top = stack[-1]
        if token in ("(", "["):
            stack.append(Open(token))
        elif token + top.bracket == ")(":
            stack.pop()
            stack[-1].text += f"({top.text})"
        elif token + top.bracket == "][":
            stack.pop()
            stack[-1].text += top.at(step, steps)
        else:
            if token == ":":
                top.colons.append(len(top.text))
            if token == "|":
                top.bars.append(len(top.text))
            top.text += token
    return "".join(one.bracket + one.text for one in stack)


def at_steps(prompt: str, steps: int, syntax: Syntax = "a1111") -> list[str]:
    """The prompt at every step.  [from:to:when] is `from` for the first `when` steps, a share of all with a point;
    [a|b] takes turns."""
    if syntax == "plain" or "[" not in prompt:
        return [prompt] * steps
    return [at_step(prompt, step, steps) for step in range(1, steps + 1)]


def schedule(prompt: str, steps: int, syntax: Syntax = "a1111") -> list[tuple[int, str]]:
    """The same as (last step, text) pairs: `schedule("a [cat:dog:0.5]", 10)` is [(5, "a cat"), (10, "a dog")]."""
    numbered = enumerate(at_steps(prompt, steps, syntax), start=1)
    return [(max(step for step, _ in run), text) for text, run in groupby(numbered, key=lambda pair: pair[1])]
