"""One pass over a report that finds names, triggers, headings and the ends of sentences together.

All patterns of a language stand in one Aho-Corasick automaton (Aho and Corasick, CACM 18, 1975), so the time for a
report does not grow with the lexicon. Patterns are padded with spaces and so match whole words of a folded text only;
the head of a German compound is padded on the right alone and takes the whole word with it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import ahocorasick

from popclust.reports.cleaning import LINE_BREAK, PARAGRAPH_BREAK
from popclust.reports.concepts import Name
from popclust.reports.inflection import forms
from popclust.reports.lexicon import Lexicon
from popclust.reports.parts import Composed, composed_findings
from popclust.reports.parts import part_names as parts_of_findings
from popclust.reports.spelling import Speller
from popclust.reports.text import fold_phrase
from popclust.reports.triggers import Heading, Trigger, headings, triggers

SENTENCE_ENDS = (".", "?", "!", ";", LINE_BREAK, PARAGRAPH_BREAK)
_STOPS = (Trigger("stop", True, True, 0),)
_CUE, _NAME, _PART, _HEAD, _STEM = 1, 2, 4, 8, 16
"""What a pattern may be."""
_COMPOUND_ENDS = {"verdächtig": "uncertain", "suspekt": "uncertain", "frei": "negated"}
"""What the rest of a German compound says of the finding that it begins with."""
_HIT = tuple.__new__
_MIN_HEAD = 6
"""Letters of a German name that may be the head of a compound."""
_MAX_ABBREVIATION = 6
"""Letters of a name in capitals that is taken for an abbreviation."""


class Pattern(NamedTuple):
    """What one folded phrase means."""

    length: int
    """Characters, with the spaces around it."""
    names: tuple[int, ...] = ()
    """Concepts by number; -1: a phrase that is no finding."""
    triggers: tuple[Trigger, ...] = ()
    """What it says about findings near it."""
    kinds: frozenset[str] = frozenset()
    """The kinds of these triggers."""
    heading: Heading | None = None
    """The section that it heads."""
    mark: str = ""
    """The mark that ends a sentence."""
    is_upper: bool = False
    """An abbreviation that only counts in capitals."""
    is_head: bool = False
    """The head of a compound, without the space before it."""
    said: str = ""
    """The status that the rest of a compound gives: "rundherdverdächtig"."""
    parts: tuple[str, ...] = ()
    """Organs and observations that make findings together."""
    makes: tuple[tuple[Composed, ...], ...] = ()
    """What each of the observations among them may make."""
    organs: frozenset[str] = frozenset()
    """The organs that this takes."""


class Hit(NamedTuple):
    """One pattern found in a folded text, between the spaces at `start` and `end`."""

    start: int
    end: int
    pattern: Pattern


class Hits(NamedTuple):
    """What was found in one report, in the order of the text."""

    names: list[Hit]
    cues: list[Hit]
    parts: list[Hit]


@dataclass(frozen=True)
class Matcher:
    """The automaton of one lexicon in one language."""

    automaton: ahocorasick.Automaton = field(repr=False)
    speller: Speller = field(repr=False)

    def find(self, folded: str) -> Hits:
        """Names, and the triggers, headings and marks around them.

        The longest name wins over those inside it; names that only overlap are all kept, and so are several concepts
        of one name. Cues never overlap: the first wins, of those that begin together the longest. A cue inside a name
        is part of it.
        """
        names: list[Hit] = []
        cues: list[Hit] = []
        parts: list[Hit] = []
        for end, (length, role, pattern) in self.automaton.iter(folded):
            start = end - length + 1
            if role == _CUE:
                cues.append(_HIT(Hit, (start, end, pattern)))
                continue
            if role == _PART:
                parts.append(_HIT(Hit, (start, end, pattern)))
                continue
            if role & _CUE:
                cues.append(_HIT(Hit, (start, end, pattern)))
            if role & _HEAD:
                start = folded.rfind(" ", 0, start + 1)
            if role & _STEM:
                end = folded.find(" ", end)
            hit = _HIT(Hit, (start, end, pattern))
            if role & _NAME:
                names.append(hit)
            if role & _PART:
                parts.append(hit)
        if not names and not parts:
            return Hits([], [], [])
        names = _longest(names)
        found = [hit for hit in names if hit.pattern.names[0] >= 0]
        return Hits(found, _apart(cues, names), _outside(_longest(parts), names))


def cues_around(matcher: Matcher, folded: str, name: Hit) -> list[Hit]:
    """The cues of a folded text around a name that is already known."""
    found = matcher.automaton.iter(folded)
    cues = [Hit(end - length + 1, end, pattern) for end, (length, role, pattern) in found if role & _CUE]
    return _apart(cues, [name])


def _longest(hits: list[Hit]) -> list[Hit]:
    """Without those inside longer ones.

    The automaton gives hits by their end, and of one end the longest first: a whole word before the head of a compound.
    """
    kept: list[Hit] = []
    for hit in hits:
        start = hit[0]
        if kept and kept[-1][1] == hit[1] and kept[-1][0] <= start:
            continue
        while kept and kept[-1][0] >= start:
            kept.pop()
        kept.append(hit)
    return kept


def _outside(parts: list[Hit], names: list[Hit]) -> list[Hit]:
    """Without the organs and observations inside a longer name."""
    kept, i = [], 0
    for part in parts:
        while i < len(names) and names[i].end < part.end:
            i += 1
        if i == len(names) or names[i].start > part.start or names[i][:2] == part[:2]:
            kept.append(part)
    return kept


def _apart(cues: list[Hit], names: list[Hit]) -> list[Hit]:
    """Without those that overlap an earlier or longer one, or lie inside a name."""
    cues.sort(key=lambda hit: (hit.start, -hit.end))
    kept: list[Hit] = []
    reach, i, n_names = 0, 0, len(names)
    for cue in cues:
        if cue.start < reach:
            continue
        while i < n_names and names[i].end < cue.end:
            i += 1
        if i == n_names or names[i].start > cue.start:
            kept.append(cue)
            reach = cue.end
    return kept


@cache
def matcher(lexicon: Lexicon, language: str) -> Matcher:
    """The matcher of a lexicon in one language, built once in each process."""
    patterns: dict[str, Pattern] = {}
    for number, concept in enumerate(lexicon.concepts):
        for name in concept.names:
            if name.language == language:
                _add_name(patterns, name, names=(number,))
    for name in lexicon.decoys:
        if name.language == language:
            _add_name(patterns, name, names=(-1,))
    if lexicon.has_composed:
        for part, names in parts_of_findings().items():
            for name in names:
                if name.language == language:
                    _add_name(patterns, name, parts=(part,))
    for phrase, found in triggers(language).items():
        last = phrase[-2]
        is_end = last in SENTENCE_ENDS and phrase.startswith(" : ")
        _add(patterns, phrase, triggers=found, mark=last if is_end else "")
    for phrase, heading in headings(language).items():
        for mark in (": ", f"{LINE_BREAK} ", f"{PARAGRAPH_BREAK} "):
            _add(patterns, phrase + mark, heading=heading)
    for mark in SENTENCE_ENDS:
        _add(patterns, f" {mark} ", mark=mark)
    for mark in (":", "(", ")"):
        _add(patterns, f" {mark} ", triggers=_STOPS)
    automaton = ahocorasick.Automaton()
    for phrase, pattern in patterns.items():
        makes = tuple(composed_findings()[part] for part in pattern.parts if part in composed_findings())
        organs = frozenset(organ for findings in makes for finding in findings for organ in finding.organs)
        kinds = frozenset(t.kind for t in pattern.triggers)
        automaton.add_word(
            phrase, (pattern.length, _role(pattern), pattern._replace(makes=makes, organs=organs, kinds=kinds))
        )
    automaton.make_automaton()
    words = {word for phrase, pattern in patterns.items() if not pattern.said for word in phrase.split()}
    return Matcher(automaton, Speller(frozenset(words)))


def _role(pattern: Pattern) -> int:
    is_cue = bool(pattern.triggers or pattern.mark or pattern.heading)
    is_name, is_part, is_stem = bool(pattern.names), bool(pattern.parts), bool(pattern.said)
    return _CUE * is_cue + _NAME * is_name + _PART * is_part + _HEAD * pattern.is_head + _STEM * is_stem


def _add_name(patterns: dict[str, Pattern], name: Name, **meaning: tuple[Any, ...]) -> None:
    text = name.text.lstrip("~=")
    phrase = fold_phrase(text).strip()
    if not phrase:
        return
    is_upper = "names" in meaning and len(text) <= _MAX_ABBREVIATION and text.isupper() and len(text) > 1
    is_single = " " not in phrase
    is_head = name.text[0] == "~" or (name.language == "de" and is_single and len(phrase) >= _MIN_HEAD and not is_upper)
    for form in [phrase] if name.text[0] == "=" else forms(phrase, name.language):
        _add(patterns, f" {form} ", **meaning, is_upper=is_upper)
        if is_head and name.text[0] != "=":
            _add(patterns, f"{form} ", **meaning, is_head=True)
            if "names" in meaning:
                for rest, status in _COMPOUND_ENDS.items():
                    _add(patterns, f" {form}{rest}", **meaning, said=status)


def _add(patterns: dict[str, Pattern], phrase: str, **meaning: Any) -> None:
    """Add a meaning to a phrase; a name in small letters wins over an abbreviation of the same letters."""
    known = patterns.get(phrase, Pattern(len(phrase)))
    if "names" in meaning:
        if known.names:
            meaning["is_upper"] = known.is_upper and meaning.get("is_upper", False)
        meaning["names"] = tuple(dict.fromkeys(known.names + meaning["names"]))
    if "parts" in meaning:
        meaning["parts"] = tuple(dict.fromkeys(known.parts + meaning["parts"]))
        meaning["is_upper"] = known.is_upper
    patterns[phrase] = known._replace(**meaning)
