"""Findings that are not named but described: an observation with its organ in one sentence."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence

from popclust.reports.matching import Hit, Pattern
from popclust.reports.parts import Composed, composed_findings

_NUMBER = re.compile(r"\d+(?:[.,]\d+)?")
_SIZE = re.compile(r"(?:\d+(?:[.,]\d+)?[x×*]?)+|x|mm|cm")
_SMALLER = frozenset("less smaller below under than exceed exceeding unter kleiner".split())
_JOINTS = frozenset({"", "and", "or", ",", "und", "oder", ", and", "/"})
_N_WORDS_OF_LIMIT = 4
"""Words before a size among which "less than" is looked for."""


def composed(
    names: Sequence[Hit], cues: Sequence[Hit], parts: Sequence[Hit], folded: str, numbers: Mapping[str, int]
) -> list[Hit]:
    """The names of a report, with what organs and observations make together.

    Parameters
    ----------
    names, cues, parts : sequence of Hit
        What was found, each in the order of the text.
    folded : str
        The folded report.
    numbers : mapping of str to int
        The number of each concept that is looked for.

    Returns
    -------
    list of Hit
        In the order of the text.
    """
    ends = [hit.start for hit in cues if hit.pattern.mark or hit.pattern.heading is not None]
    kept, made = list(names), []
    starts = [hit.start for hit in parts]
    for hit in parts:
        for observation in hit.pattern.parts:
            findings = composed_findings().get(observation)
            if not findings or _is_inside_none(hit, cues):
                continue
            at = bisect_right(ends, hit.start)
            low = ends[at - 1] if at else -1
            high = ends[at] if at < len(ends) else len(folded)
            around = [p for p in parts[bisect_left(starts, low) : bisect_left(starts, high)] if p is not hit]
            met = [f for f in findings if _meets(f, hit, around, folded)]
            if not met:
                continue
            own = {numbers.get(f.term_id) for f in findings}
            for i in range(bisect_left(names, hit.start, key=_start), len(names)):
                if names[i].start >= hit.end:
                    break
                if names[i].end <= hit.end:
                    kept[i] = _with_names(kept[i], [n for n in kept[i].pattern.names if n not in own])
            made += [_with_names(hit, [numbers[f.term_id]]) for f in met if f.term_id in numbers]
    return sorted([hit for hit in kept if hit.pattern.names] + made, key=lambda hit: (hit.start, hit.end))


def _start(hit: Hit) -> int:
    return hit.start


def _with_names(hit: Hit, names: Sequence[int]) -> Hit:
    return Hit(hit.start, hit.end, Pattern(hit.pattern.length, tuple(names), is_upper=hit.pattern.is_upper))


def _is_inside_none(hit: Hit, cues: Sequence[Hit]) -> bool:
    """Whether the observation is part of a phrase that says nothing, as in "no increase in"."""
    return any(
        cue.start <= hit.start and hit.end <= cue.end and any(t.kind == "none" for t in cue.pattern.triggers)
        for cue in cues
    )


def _meets(finding: Composed, hit: Hit, around: Sequence[Hit], folded: str) -> bool:
    """Whether the observation stands with an organ of the finding, and is large enough."""
    organs = _beside(hit, around, folded) if finding.is_nearest else around
    if not any(finding.organs.intersection(organ.pattern.parts) for organ in organs):
        return False
    return not finding.limit_mm or _shorter_mm(folded, hit) >= finding.limit_mm


def _beside(hit: Hit, around: Sequence[Hit], folded: str) -> list[Hit]:
    """The organ nearest to an observation and those joined with it: "peribronchial and septal thickening"."""
    organs = [p for p in around if not composed_findings().keys() & set(p.pattern.parts)]
    if not organs:
        return []
    nearest = min(range(len(organs)), key=lambda i: max(organs[i].start - hit.end, hit.start - organs[i].end))
    step = 1 if organs[nearest].start >= hit.end else -1
    found = [organs[nearest]]
    for organ in organs[nearest + step :: step] if step > 0 or nearest else []:
        first, second = sorted((found[-1], organ))[:2]
        if folded[first.end : second.start + 1].strip() not in _JOINTS:
            break
        found.append(organ)
    return found


def _shorter_mm(folded: str, unit: Hit) -> float:
    """The shorter of the sizes before a unit of length, in mm; 0 where it is said to be less or there is none."""
    words = folded[max(0, unit.start - 80) : unit.start].split()
    sizes: list[float] = []
    while words and _SIZE.fullmatch(words[-1]):
        sizes += [float(number.replace(",", ".")) for number in _NUMBER.findall(words.pop())]
    if not sizes or _SMALLER.intersection(words[-_N_WORDS_OF_LIMIT:]):
        return 0.0
    return min(sizes) * (10.0 if folded[unit.start + 1] == "c" or folded[unit.start + 1] == "z" else 1.0)
