"""Prompts in Chinese, or another language without spaces, for a model that was trained on English alone."""

import re
import unicodedata
from collections.abc import Iterable, Mapping

SLOT = "{}"
STOPS = ",，;；。、!！?？\n"                              # no slot goes beyond these


class Glossary:
    """Text -> text, in which each phrase that it knows is English; the rest stays.

    >>> Glossary({"狐狸": "fox", "披萨": "pizza", "在{}左边": "left of {}"})("狐狸在披萨左边")
    'fox left of pizza'

    Of several phrases that fit, the longest is meant.  Those with a slot {} are read first: it takes the text up to
    what follows in the phrase, or to the next of these phrases, comma or stop, and is put where the English has its
    own.
    Raises ValueError for what is not a dict of texts, an empty phrase, one that begins with its slot, and one whose
    English has not as many.
    """

    def __init__(self, phrases: Mapping[str, str]):
        if not isinstance(phrases, Mapping) or not all(isinstance(s, str) for pair in phrases.items() for s in pair):
            raise ValueError("it is no dict of phrases and their English; give {'狐狸': 'fox'}")
        for phrase, english in phrases.items():
            if not phrase.strip() or phrase.startswith(SLOT):
                raise ValueError(f"phrase {phrase!r} is empty or begins with its slot; give it some text before")
            if not phrase.count(SLOT) == english.count(SLOT) <= 1:
                raise ValueError(f"phrase {phrase!r} and its English {english!r} differ in slots {SLOT}; give both "
                                 "one, or none")
        self.phrases = dict(sorted(phrases.items(), key=lambda item: (-len(item[0]), item[0])))
        slotted = [phrase for phrase in self.phrases if SLOT in phrase]
        self.slotted = [(pattern_of(phrase, slotted), self.phrases[phrase]) for phrase in slotted]
        self.words = re.compile("|".join(re.escape(phrase) for phrase in self.phrases if SLOT not in phrase) or "(?!)")

    def __call__(self, text: str) -> str:
        told = unicodedata.normalize("NFC", text)
        for pattern, english in self.slotted:
            told = pattern.sub(lambda found, english=english: f" {english} ".replace(SLOT, f" {found[1]} "), told)
        told = self.words.sub(lambda found: f" {self.phrases[found[0]]} ", told)
        return text if told == text else " ".join(told.split())


def pattern_of(phrase: str, others: Iterable[str]) -> re.Pattern[str]:
    """What finds a phrase with a slot, in time that grows as the text does: the slot never holds its beginning.

    A slot at the end holds no beginning of the others either.
    """
    before, after = map(re.escape, phrase.split(SLOT))
    never = before if after else "|".join(re.escape(other.split(SLOT)[0]) for other in others)
    return re.compile(f"{before}((?:(?!{never})[^{STOPS}])+{'?' if after else ''}){after}")
