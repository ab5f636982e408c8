"""Findings that are not named but described: an observation with its organ in one sentence."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence

from popclust.reports.matching import Hit, Pattern
from popclust.reports.parts import Composed

_NUMBER = re.compile(r"\d+(?:[.,]\d+)?")
_SIZE = re.compile(r"\d[\d.,x×*]*|x|mm|cm")
_SMALLER = frozenset(["less", "smaller", "below", "under", "than", "exceed", "exceeding", "unter", "kleiner"])
_N_AROUND = 60
"""Parts on each side of an observation that are looked at."""
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
    observations = [i for i, hit in enumerate(parts) if hit.pattern.makes]
    if not observations:
        return list(names)
    ends = [hit.start for hit in cues if hit.pattern.mark or hit.pattern.heading is not None]
    starts = [hit.start for hit in parts]
    kept, made = list(names), []
    silent = [cue for cue in cues if "none" in cue.pattern.kinds]
    low = high = 0
    present: set[str] = set()
    for i in observations:
        hit = parts[i]
        if i >= high:
            at = bisect_right(ends, hit.start)
            low = bisect_left(starts, ends[at - 1]) if at else 0
            high = bisect_left(starts, ends[at]) if at < len(ends) else len(parts)
            present = _called(parts[low:high])
        if hit.pattern.organs.isdisjoint(present):
            continue
        if any(cue.start <= hit.start and hit.end <= cue.end for cue in silent):
            # Within a phrase that says nothing, as "no increase in".
            continue
        # A part that is an organ too ("LAD") is not its own.
        organs = present if len(hit.pattern.parts) == 1 else _called([*parts[low:i], *parts[i + 1 : high]])
        nearest = _called(_beside(parts, i, low, high, folded))
        for findings in hit.pattern.makes:
            met = [f for f in findings if _meets(f, hit, nearest if f.is_nearest else organs, folded)]
            if met:
                _take_from(kept, hit, {numbers.get(f.term_id) for f in findings})
                made += [_with_names(hit, [numbers[f.term_id]]) for f in met if f.term_id in numbers]
    return sorted([hit for hit in kept if hit.pattern.names] + made, key=_place)


def _called(parts: Sequence[Hit]) -> set[str]:
    return {part for hit in parts for part in hit.pattern.parts}


def _take_from(names: list[Hit], hit: Hit, numbers: set[int | None]) -> None:
    """Take from the names inside an observation what it may mean."""
    for i in range(bisect_left(names, hit.start, key=_start), len(names)):
        if names[i].start >= hit.end:
            break
        if names[i].end <= hit.end:
            names[i] = _with_names(names[i], [n for n in names[i].pattern.names if n not in numbers])


def _place(hit: Hit) -> tuple[int, int]:
    return hit.start, hit.end


def _start(hit: Hit) -> int:
    return hit.start


def _with_names(hit: Hit, names: Sequence[int]) -> Hit:
    return Hit(hit.start, hit.end, Pattern(hit.pattern.length, tuple(names), is_upper=hit.pattern.is_upper))


def _meets(finding: Composed, hit: Hit, organs: set[str], folded: str) -> bool:
    """Whether the observation stands with an organ of the finding, and is large enough."""
    if finding.organs.isdisjoint(organs):
        return False
    return not finding.limit_mm or _shorter_mm(folded, hit) >= finding.limit_mm


def _beside(parts: Sequence[Hit], i: int, low: int, high: int, folded: str) -> list[Hit]:
    """The organ nearest to an observation and those joined with it: "peribronchial and septal thickening"."""
    before = _organs(parts, range(i - 1, max(low, i - _N_AROUND) - 1, -1))
    after = _organs(parts, range(i + 1, min(high, i + _N_AROUND)))
    left, right = next(before, None), next(after, None)
    if left is None and right is None:
        return []
    is_left = right is None or (left is not None and parts[i].start - left.end <= right.start - parts[i].end)
    nearest, further = (left, before) if is_left else (right, after)
    found = [nearest] if nearest is not None else []
    for organ in further:
        first, second = (organ, found[-1]) if is_left else (found[-1], organ)
        if folded[first.end : second.start].strip() not in _JOINTS:
            break
        found.append(organ)
    return found


def _organs(parts: Sequence[Hit], places: range) -> Iterator[Hit]:
    return (parts[i] for i in places if not parts[i].pattern.makes)


def _shorter_mm(folded: str, unit: Hit) -> float:
    """The shorter of the sizes before a unit of length, in mm; 0 where it is said to be less or there is none."""
    words = folded[max(0, unit.start - 80) : unit.start].split()
    sizes: list[float] = []
    while words and _SIZE.fullmatch(words[-1]):
        sizes += [float(number.replace(",", ".")) for number in _NUMBER.findall(words.pop())]
    if not sizes or _SMALLER.intersection(words[-_N_WORDS_OF_LIMIT:]):
        return 0.0
    is_cm = folded[unit.start + 1] in "cz"
    return min(sizes) * (10.0 if is_cm else 1.0)
