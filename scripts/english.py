"""As much English grammar as captions need."""

import re

JOINED = re.compile(r" (?:and|at|behind|blowing|but|holding|in|of|on|over|showing|to|with|without) ")
VOWEL = re.compile(r"(?!euro|ewe|one|uni)[aeiou]|hour|x-ray")       # how a word sounds at its beginning
IRREGULAR = {"mouse": "mice", "goose": "geese", "ox": "oxen", "wolf": "wolves", "leaf": "leaves", "knife": "knives",
             "scarf": "scarves", "fish": "fish", "deer": "deer", "moose": "moose", "bison": "bison", "foot": "feet",
             "man": "men", "woman": "women", "person": "people", "child": "children"}


def is_plural(noun: str) -> bool:
    """Whether a noun, with what may follow it, names several: "grapes", "houses with gardens", not "bus"."""
    head = JOINED.split(noun)[0]
    return head.endswith("s") and not head.endswith(("ss", "us", "is", "os"))


def with_article(noun: str) -> str:
    """'fox' -> 'a fox', 'apple' -> 'an apple', 'grapes' -> 'grapes'."""
    return noun if is_plural(noun) else f"{'an' if VOWEL.match(noun) else 'a'} {noun}"


def plural(noun: str) -> str | None:
    """'red fox' -> 'red foxes'; None for what is plural already, and for more than one noun."""
    if is_plural(noun) or JOINED.search(noun):
        return None
    *adjectives, last = noun.split(" ")
    return " ".join([*adjectives, plural_word(last)])


def plural_word(word: str) -> str:
    if word in IRREGULAR:
        return IRREGULAR[word]
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return word + "es"
    return word[:-1] + "ies" if re.search(r"[^aeiou]y$", word) else word + "s"
