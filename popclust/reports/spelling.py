"""Slips of the keyboard: words that are one edit from a long word of the lexicon, and umlauts that were lost."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

_MIN_LETTERS, _MIN_LETTERS_REPLACED = 8, 10
"""Letters of a word from which one left out, doubled or swapped is mended, and from which one replaced is."""
_MAX_KEPT = 1_000_000
_LOST = re.compile(r"[A-Za-zäöüÄÖÜß]{2,}(?:[?\ufffd][a-zäöüß]{2,})+")


@dataclass
class Speller:
    """The words of a lexicon, and what was mended to them; it grows with the words that it has seen."""

    words: frozenset[str]
    """Words as they are folded."""
    _shortened: dict[str, list[str]] = field(default_factory=dict, repr=False)
    _right: set[str] = field(default_factory=set, repr=False)
    _mended: dict[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for word in sorted(self.words):
            if len(word) >= _MIN_LETTERS and word.isalpha():
                for short in (word, *_without_one(word)):
                    self._shortened.setdefault(short, []).append(word)

    def mended(self, folded: str) -> str:
        """A folded text with the slips in long words mended, token for token."""
        words = folded.split(" ")
        if self._right.issuperset(words):
            return folded
        self._learn(set(words) - self._right - self._mended.keys())
        return " ".join([self._mended.get(word, word) for word in words])

    def with_umlauts(self, text: str) -> str:
        """A report in which a question mark in the place of an umlaut is one, character for character."""
        return _LOST.sub(self._umlaut, text) if "?" in text or "\ufffd" in text else text

    def _umlaut(self, found: re.Match[str]) -> str:
        for letter in "äöüß":
            word = re.sub(r"[?\ufffd]", letter, found[0])
            if word.lower() in self.words:
                return word
        return found[0]

    def _learn(self, new: Iterable[str]) -> None:
        if len(self._right) > _MAX_KEPT:
            self._right.clear()
        for word in new:
            is_long = len(word) >= _MIN_LETTERS - 1 and word.isalpha() and word not in self.words
            if is_long and (right := self._nearest(word)):
                self._mended[word] = right
            else:
                self._right.add(word)

    def _nearest(self, word: str) -> str | None:
        """The long word that is one slip away; of several the longest."""
        candidates = {w for short in (word, *_without_one(word)) for w in self._shortened.get(short, ())}
        near = [w for w in candidates if w[0] == word[0] and _is_slip(word, w)]
        return max(near, key=lambda w: (len(w), w), default=None)


def _without_one(word: str) -> list[str]:
    return [word[:i] + word[i + 1 :] for i in range(1, len(word) - 1)]


def _is_slip(wrong: str, right: str) -> bool:
    """Whether a letter was left out, added, swapped with the next, or, in a longer word, replaced.

    What changes the end of a word may be its inflection, and is none.
    """
    if wrong[-1] != right[-1]:
        return False
    if len(wrong) != len(right):
        return True
    differing = [i for i, (a, b) in enumerate(zip(wrong, right, strict=True)) if a != b]
    if len(differing) == 1:
        return len(right) >= _MIN_LETTERS_REPLACED
    i, j = differing[0], differing[-1]
    return len(differing) == 2 and j == i + 1 and wrong[i] == right[j] and wrong[j] == right[i]
