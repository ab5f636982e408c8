"""Report text as the matcher sees it: cleaned, cut into tokens and folded, with the way back to the original.

The folded text is ``" token token token "``: every token stands between single spaces, so a pattern padded with
spaces can only match whole words, and a position in it leads back to the original through the number of spaces.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

LINE_BREAK, PARAGRAPH_BREAK = "\x0b", "\x0c"
"""Tokens of a line break that ends a sentence, and of a blank line."""

_INVISIBLE = "\u00ad\u200b\u200c\u200d\u2060\ufeff"
_TOKEN = re.compile(rf"\d+(?:[.,x×*]\d+)+|[\w\u0300-\u036f{_INVISIBLE}]+|[.,;:?!()/+=\x0b\x0c]")
_FOLD = {ord(c): None for c in _INVISIBLE} | {0xFB00: "ff", 0xFB01: "fi", 0xFB02: "fl", 0xFB03: "ffi", 0xFB04: "ffl"}
_TAG = re.compile(
    r"<(?P<end>/?)(?P<name>p|br|div|span|b|i|u|em|strong|li|ul|ol|table|tbody|thead|tr|td|th|h[1-6]|font|html|body|head"
    r"|title|pre|a|hr|sup|sub)\b[^<>]{0,500}>",
    re.IGNORECASE,
)
_PARAGRAPH_TAGS = frozenset(
    {"p", "div", "li", "ul", "ol", "table", "tr", "hr", "title", *(f"h{i}" for i in range(1, 7))}
)
_CHARACTER = re.compile(r"&(?:#\d{1,7}|#x[0-9a-fA-F]{1,6}|[a-zA-Z]{2,10});")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_BULLET = re.compile(r"(?:[-*•·–]|\d{1,2}[.)])\s")
_ODD = re.compile(r"[\x00-\x08\x0b-\x0c\x0e-\x1f\x7f]|\r(?!\n)")


@dataclass(frozen=True)
class FoldedText:
    """A report as tokens, and their folded form."""

    cleaned: str
    """The report with markup and control characters blanked out, of the report's own length."""
    tokens: list[str] = field(repr=False)
    """Words and punctuation marks in order."""
    folded: str = field(repr=False)
    """Lower-case tokens between single spaces, one before the first and one after the last."""

    @cached_property
    def _spans(self) -> list[tuple[int, int]]:
        return [m.span() for m in _TOKEN.finditer(self.cleaned)]

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
            found.append((self._spans[token][0], self._spans[token + self.folded.count(" ", start + 1, end)][1]))
        return found


def fold(text: str) -> FoldedText:
    """Clean a report, cut it into tokens and fold them."""
    cleaned = _clean(text)
    tokens = _TOKEN.findall(cleaned)
    return FoldedText(cleaned, tokens, _folded(tokens))


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


def _clean(text: str) -> str:
    """Blank out markup and control characters and mark breaks, character for character."""
    if "<" in text:
        text = _TAG.sub(_blank_tag, text)
    if "&" in text:
        text = _CHARACTER.sub(_character, text)
    if _ODD.search(text):
        text = _CONTROL.sub(lambda m: "\n" if m[0] == "\r" else " ", text.replace("\r\n", " \n"))
    return _mark_breaks(text) if "\n" in text else text


def _blank_tag(tag: re.Match[str]) -> str:
    name, width = tag["name"].lower(), len(tag[0])
    if name in _PARAGRAPH_TAGS:
        return "\n\n" + " " * (width - 2)
    return "\n".ljust(width) if name == "br" else " " * width


def _character(reference: re.Match[str]) -> str:
    """One character and soft hyphens, which folding drops, in the place of its reference."""
    character = html.unescape(reference[0])
    if len(character) != 1 or character in "\x00\n":
        return reference[0]
    filler = _INVISIBLE[0] if character.isalnum() else " "
    return character.ljust(len(reference[0]), filler)


def _mark_breaks(text: str) -> str:
    """Tell the line breaks that end a sentence from those where a line was full.

    A break is soft when the first word of the next line would not have fitted into the longest line.
    """
    lines = text.split("\n")
    width = max(map(len, lines))
    parts = [lines[0]]
    for before, line in pairwise(lines):
        stripped = line.strip()
        if not stripped or not before.strip():
            mark = PARAGRAPH_BREAK
        elif _BULLET.match(stripped) or len(before.rstrip()) + 1 + len(stripped.split(None, 1)[0]) <= width:
            mark = LINE_BREAK
        else:
            mark = " "
        parts += [mark, line]
    return "".join(parts)
