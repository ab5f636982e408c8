"""By what the images of one series may differ, and how each parts them."""

from __future__ import annotations

import itertools
import statistics
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence

from popclust.imaging.headers import FileHeader
from popclust.imaging.planes import SAME_PLACE_MM, distances_of

Parts = list[list[FileHeader]]

_PAUSE_S = 10.0
"""A longer pause in the times of neighbouring slices is one between two acquisitions."""
_DAY_S = 86_400.0
_MAX_NAMED = 4
"""A text or a pause that parts a series into more is another one for each image, and says nothing."""
_MIN_STEPS = 5


def facets(stack: Sequence[FileHeader]) -> Iterator[tuple[str, Callable[[list[FileHeader]], Parts]]]:
    """What one volume has one of, with the code for several."""
    yield "several_frames_of_reference", _parted(lambda one: one.facts.frame_of_reference)
    yield "several_series", _parted(lambda one: one.facts.series_number)
    yield "several_kernels", _parted(lambda one: one.facts.kernel)
    yield "several_thicknesses", _parted(lambda one: _rounded(one.facts.thickness_mm, 2), is_missing_any=True)
    yield "several_phases", _parted(lambda one: one.temporal_position)
    yield "several_phases", _parted(lambda one: _rounded(one.facts.cardiac_percent, 1))
    yield "several_phases", _parted(lambda one: one.facts.contrast)
    yield "several_acquisitions", _parted(lambda one: _rounded(one.facts.kvp, 0), is_missing_any=True)
    yield "several_acquisitions", _acquisitions
    yield "several_acquisitions", _times
    yield "several_series", _descriptions


def overlapping_runs(stack: list[FileHeader]) -> Iterator[Parts]:
    """Ways to part slices of which some lie at one place, or between each other, by what tells them apart.

    Parts that lie one behind the other are none: what is irregular is so for another reason.
    """
    for parted in (_parted(lambda one: one.acquisition), _time_clusters, _numbered_runs):
        parts = parted(stack)
        if 1 < len(parts) < len(stack) and any(_overlap(a, b) for a, b in itertools.combinations(parts[:50], 2)):
            yield parts


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def _parted(
    value: Callable[[FileHeader], Hashable], is_missing_any: bool = False
) -> Callable[[list[FileHeader]], Parts]:
    """A function that parts headers by a value, in its order; one that lacks it is a part, or goes with the largest."""

    def parts(headers: list[FileHeader]) -> Parts:
        groups: dict[Hashable, list[FileHeader]] = defaultdict(list)
        for one in headers:
            groups[value(one)].append(one)
        if is_missing_any and len(groups) > 1 and None in groups:
            known = max((key for key in groups if key is not None), key=lambda key: len(groups[key]))
            joined = groups.pop(None)
            chosen = {id(one) for one in (*joined, *groups[known])}
            groups[known] = [one for one in headers if id(one) in chosen]
        return [groups[key] for key in sorted(groups, key=lambda key: (key is not None, key))]

    return parts


def _acquisitions(headers: list[FileHeader]) -> Parts:
    """By AcquisitionNumber, unless each step of a sequential scan has its own."""
    parts = _parted(lambda one: one.acquisition)(headers)
    sizes = [len(part) for part in parts]
    steps = len(parts) >= _MIN_STEPS and max(sizes) <= 2 * statistics.median(sizes)
    return [headers] if steps or max(sizes) <= 2 else parts


def _descriptions(headers: list[FileHeader]) -> Parts:
    parts = _parted(lambda one: one.facts.described)(headers)
    return parts if len(parts) <= _MAX_NAMED else [headers]


def _times(headers: list[FileHeader]) -> Parts:
    parts = _time_clusters(headers)
    # A sequential scan pauses again and again.
    return parts if len(parts) <= _MAX_NAMED else [headers]


def _time_clusters(headers: list[FileHeader]) -> Parts:
    """By pauses in the times of acquisition."""
    times = [one.acquired_at_s for one in headers]
    known = [time for time in times if time is not None]
    if len(known) < len(times) or len(known) < 2:
        return [headers]
    late = _DAY_S / 2 < max(known) - min(known) < _DAY_S  # it began before midnight, and no date says so
    turned = [time + _DAY_S * (late and time < min(known) + _DAY_S / 2) for time in known]
    order = sorted(range(len(headers)), key=lambda index: turned[index])
    gaps = [turned[b] - turned[a] for a, b in itertools.pairwise(order)]
    usual = statistics.median(gaps)
    parts, part_of = 0, {order[0]: 0}
    for gap, index in zip(gaps, order[1:], strict=True):
        parts += gap > max(_PAUSE_S, 5 * usual)
        part_of[index] = parts
    found: Parts = [[] for _ in range(parts + 1)]
    for index, one in enumerate(headers):
        found[part_of[index]].append(one)
    return found


def _numbered_runs(headers: list[FileHeader]) -> Parts:
    """By runs of InstanceNumber in which the position goes one way."""
    numbers = [one.instance for one in headers if one.instance is not None]
    if len(set(numbers)) < len(headers):
        return [headers]
    places = {id(one): place for one, place in zip(headers, distances_of(headers), strict=True)}
    order = sorted(headers, key=lambda one: one.instance or 0)
    runs: Parts = [[order[0]]]
    way = 0
    for before, one in itertools.pairwise(order):
        step = places[id(one)] - places[id(before)]
        now = (step >= SAME_PLACE_MM) - (step <= -SAME_PLACE_MM)
        if now == 0 or (way and now != way):
            runs.append([])
            now = 0
        runs[-1].append(one)
        way = now
    if 4 * min(map(len, runs)) < max(map(len, runs)):  # a slice or two that came later
        return [headers]
    return [sorted(run, key=lambda one: places[id(one)]) for run in runs]


def _overlap(a: Sequence[FileHeader], b: Sequence[FileHeader]) -> bool:
    """Whether slices of one part lie at or between those of another."""
    there, here = distances_of(a), distances_of(b)
    return max(there[0], here[0]) <= min(there[-1], here[-1]) + SAME_PLACE_MM
