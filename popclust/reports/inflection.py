"""The forms in which a name may stand in a report: plural, case, gender, spelling, common misspellings."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.resources import files

from popclust.reports.package_tables import read_table

_MAX_FORMS = 400
"""A name with more forms than this keeps the first ones: only made-up names come near."""


@cache
def _rules(language: str) -> dict[str, list]:
    text = files(__package__ or "popclust.reports").joinpath("inflection.toml").read_text("utf-8")
    return tomllib.loads(text)[language]


@cache
def _misspellings(language: str) -> tuple[tuple[str, str], ...]:
    rows = [row for row in read_table("misspellings.csv") if row["language"] == language]
    return tuple((row["right"], row["wrong"]) for row in rows)


def forms(name: str, language: str) -> list[str]:
    """All forms of a name, the name itself first.

    Parameters
    ----------
    name : str
        A folded name without the spaces around it, for example ``"pleural effusion"``.
    language : str
        ``"en"`` or ``"de"``.

    Examples
    --------
    >>> forms("bulla", "en")
    ['bulla', 'bullae', 'bullas']
    """
    words = name.split(" ")
    heads = {len(words) - 1}
    if language == "en" and "of" in words[1:-1]:
        heads = {words.index("of") - 1}
    phrases = [""]
    for i, word in enumerate(words):
        variants = _inflected(word, language, "head" if i in heads else "modifier")
        phrases = [f"{phrase} {variant}" for phrase in phrases for variant in variants][:_MAX_FORMS]
    found = dict.fromkeys(phrase.lstrip() for phrase in phrases)
    for phrase in list(found):
        found.update(dict.fromkeys(_spelled(phrase, language)))
    return list(found)


def _inflected(word: str, language: str, role: str) -> list[str]:
    """A word and its inflected forms. Abbreviations and short words only take a plural s as heads."""
    variants = [word]
    if len(word) < 4:
        return [word, word + "s"] if role == "head" and word.isalpha() and len(word) == 3 else variants
    for ending, replacements in _rules(language)[role]:
        if word.endswith(ending):
            stem = word[: len(word) - len(ending)]
            variants += [stem + replacement for replacement in replacements]
            if ending and role == "modifier":
                break
            if ending and language == "en":
                break
    return list(dict.fromkeys(variants))


def _spelled(phrase: str, language: str) -> Iterator[str]:
    """Other spellings of a phrase, right and wrong."""
    for right, other in _rules(language)["spelling"]:
        if right in phrase and other not in phrase:
            yield phrase.replace(right, other)
    if language == "de" and not phrase.isascii():
        yield phrase.translate({0xE4: "ae", 0xF6: "oe", 0xFC: "ue", 0xDF: "ss"})
    for right, wrong in _misspellings(language):
        if right in phrase:
            yield phrase.replace(right, wrong)
