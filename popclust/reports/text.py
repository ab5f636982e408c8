"""Report text as the matcher sees it: cleaned, cut into tokens and folded, with the way back to the original.

The folded text is ``" token token token "``: every token stands between single spaces, so a pattern padded with
spaces can only match whole words, and a position in it leads back to the original through the number of spaces.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from operator import itemgetter

from popclust.reports.cleaning import INVISIBLE, cleaned

_TOKEN = re.compile(rf"\d+(?:[.,x×*]\d+)+|[\w\u0300-\u036f{INVISIBLE}]+|[.,;:?!()/+=⊖⊕☐☑\x0b\x0c]")
_FOLD = {ord(c): None for c in INVISIBLE} | {0xFB00: "ff", 0xFB01: "fi", 0xFB02: "fl", 0xFB03: "ffi", 0xFB04: "ffl"}


@dataclass(frozen=True)
class FoldedText:
    """A report as tokens, and their folded form."""

    cleaned: str
    """The report with markup and control characters blanked out, of the report's own length."""
    tokens: list[str] = field(repr=False)
    """Words and punctuation marks in order."""
    folded: str = field(repr=False)
    """Lower-case tokens between single spaces, one before the first and one after the last."""
    matches: list[re.Match[str]] = field(repr=False)
    """Where each token stands in the cleaned report."""

    def spans(self, places: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        """Characters of the report that folded characters between two spaces stand for.

        Parameters
        ----------
        places : iterable of (int, int)
            The spaces around each place, in the order of the first.

        Returns
        -------
        list of (int, int)
            First character of each place, and the one after its last.
        """
        found = []
        token = position = 0
        for start, end in places:
            token += self.folded.count(" ", position, start)
            position = start
            last = token + self.folded.count(" ", start + 1, end)
            found.append((self.matches[token].start(), self.matches[last].end()))
        return found


def fold(text: str) -> FoldedText:
    """Clean a report, cut it into tokens and fold them."""
    clean = cleaned(text)
    matches = list(_TOKEN.finditer(clean))
    tokens = list(map(itemgetter(0), matches))
    return FoldedText(clean, tokens, _folded(tokens), matches)


def fold_phrase(phrase: str) -> str:
    """A phrase of a table in the same form as a folded report; ``" "`` when nothing is left of it."""
    tokens = _TOKEN.findall(phrase)
    return _folded(tokens) if tokens else " "


def alternatives(phrase: str) -> Iterator[str]:
    """All phrases that one with alternatives in braces stands for.

    Examples
    --------
    >>> list(alternatives("{heart|cardiac {silhouette|size}} {is|} enlarged"))  # doctest: +NORMALIZE_WHITESPACE
    ['heart is enlarged', 'heart enlarged', 'cardiac silhouette is enlarged', 'cardiac silhouette enlarged',
     'cardiac size is enlarged', 'cardiac size enlarged']
    """
    opening = phrase.find("{")
    if opening < 0:
        yield " ".join(phrase.split())
        return
    depth, start, options = 0, opening + 1, []
    for i in range(opening, len(phrase)):
        depth += {"{": 1, "}": -1}.get(phrase[i], 0)
        if (phrase[i] == "|" and depth == 1) or depth == 0:
            options.append(phrase[start:i])
            start = i + 1
        if depth == 0:
            break
    else:
        raise ValueError(f"a brace is not closed in {phrase!r}")
    for option in options:
        yield from alternatives(phrase[:opening] + option + phrase[start:])


def _folded(tokens: list[str]) -> str:
    joined = " ".join(tokens).lower()
    if not joined.isascii():
        joined = unicodedata.normalize("NFC", joined.translate(_FOLD)).lower()
    return f" {joined} "
