"""Show how a prompt is read: its chunks, tokens and weights, step by step where it changes.

    python -m ldm.text "a (red:1.3) fox, [snow:rain:0.5]" --steps 20
"""

import argparse
from collections.abc import Iterator
from typing import get_args

from ldm.text import Syntax, Tokenizer, at_steps, chunk, told_of_cuts


def describe(tokenizer: Tokenizer, prompt: str, steps: int, syntax: Syntax) -> Iterator[str]:
    """Lines: for each text that the prompt is on the way its steps, chunks and tokens, and what was cut."""
    texts = at_steps(prompt, steps, syntax)
    for text in dict.fromkeys(texts):
        if text != prompt:
            yield f"steps {ranges([i for i, t in enumerate(texts, start=1) if t == text])} of {steps}: {text}"
        chunks = chunk(tokenizer, text, syntax)
        for i, (tokens, weights) in enumerate(zip(chunks.tokens, chunks.weights.tolist(), strict=True), start=1):
            yield f"chunk {i} of {len(chunks.tokens)}: {len(tokens)} of 75 tokens"
            for token, weight, piece in zip(tokens, weights[1:], tokenizer.pieces(tokens), strict=False):
                yield f"{token:7} {weight:6.3g}  {piece!r}"
        yield from told_of_cuts(tokenizer, chunks.tokens)


def ranges(numbers: list[int]) -> str:
    """Rising whole numbers in short: [1, 2, 3, 5] -> "1-3, 5"."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][-1] + 1:
            runs[-1].append(n)
        else:
            runs.append([n])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def main() -> None:
    p = argparse.ArgumentParser(prog="python -m ldm.text", description=__doc__,
                                usage=argparse.SUPPRESS,        # it would come before the line of each mistake
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("prompt")
    p.add_argument("--steps", type=int, default=30, help="sampling steps (default %(default)s)")
    p.add_argument("--prompt-syntax", choices=get_args(Syntax), default="a1111", help="(default %(default)s)")
    args = p.parse_args()
    if args.steps < 1:
        p.error(f"steps {args.steps} is below 1; try 30")
    for line in describe(Tokenizer(), args.prompt, args.steps, args.prompt_syntax):
        print(line)


if __name__ == "__main__":
    main()
