"""The language of a report."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from popclust.reports.lexicon import function_words

_UMLAUTS = "äöüß"


def detect_language(folded: str, tokens: Iterable[str] | None = None) -> str | None:
    """``"en"``, ``"de"``, or None where the words tell nothing (``Kardiomegalie.``).

    Parameters
    ----------
    folded : str
        Folded report.
    tokens : iterable of str, optional
        Its words in small letters, when they are known.
    """
    words = set(folded.split(" ") if tokens is None else tokens)
    english, german = len(words & _only("en")), len(words & _only("de"))
    if not folded.isascii() and any(letter in folded for letter in _UMLAUTS):
        german += 2
    if english == german:
        return None
    return "en" if english > german else "de"


@cache
def _only(language: str) -> frozenset[str]:
    """Function words of one language that are none of the other; single letters also stand in abbreviations."""
    other = "de" if language == "en" else "en"
    return frozenset(w for w in function_words(language) - function_words(other) if len(w) > 1)
