"""The one stack of slices in a series that makes a volume: one patient, acquisition, phase, kernel and grid.

All headers are compared, never the first alone. Where what differs parts the images cleanly, the largest part is the
volume and the rest is set aside, each image with a code; where it does not, the series has a problem.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from popclust.imaging.facts import comparable_id
from popclust.imaging.headers import FileHeader
from popclust.imaging.kinds import CT_CLASSES, flaw_of, kind_of
from popclust.imaging.parting import Parts, facets, overlapping_runs
from popclust.imaging.planes import (
    SAME_PLACE_MM,
    distances_of,
    has_repeated_places,
    is_nearly_axial,
    is_parallel,
    is_placed,
    is_regular,
    is_same_grid,
    tilt_of,
    with_one_orientation,
)
from popclust.imaging.selection import is_sharp
from popclust.settings import IngestSettings

_MIN_TILT_DEG = 0.5
"""Smaller angles of the gantry are rounding."""


@dataclass
class Choice:
    """A stack, and what became of the other images of its series."""

    headers: list[FileHeader]
    """Its images, sorted by position where that is known."""
    problems: tuple[str, ...] = ()
    """Codes of why it cannot be a volume."""
    set_aside: Counter[str] = field(default_factory=Counter)
    """How many images are not part of it, by code."""
    twins: tuple[tuple[int, FileHeader], ...] = ()
    """Other images at the place of the stack's image of that index: copies, if their voxels agree."""
    is_shortened: bool = False
    """Slices beyond its ends are among those set aside."""


def choose_stack(headers: Sequence[FileHeader], rules: IngestSettings) -> Choice:
    """Choose the stack of a series.

    Parameters
    ----------
    headers : sequence of FileHeader
        All images of one series.
    rules : IngestSettings
        What is let in, and what decides between parts of which either could be the volume.
    """
    problems = _not_one(headers)
    if problems:
        return Choice(list(headers), problems)
    choosing = _Choosing(rules)
    stack = choosing.of_kind(headers)
    if not choosing.problems:
        stack = choosing.without_flaws(stack)
    if not choosing.problems:
        stack = choosing.of_one_grid(stack)
    if not choosing.problems:
        stack = choosing.of_one_acquisition(stack)
    if not choosing.problems:
        choosing.check_tilt(stack)
    return Choice(
        stack,
        tuple(choosing.problems),
        Counter(code for code, _ in choosing.aside),
        tuple(choosing.twins),
        not choosing.problems and _is_shortened(stack, [one for code, one in choosing.aside if code in choosing.cut]),
    )


def _not_one(headers: Sequence[FileHeader]) -> tuple[str, ...]:
    """Codes of what no header can settle: whose images they are."""
    people = {one.person or comparable_id(one.patient_id) for one in headers}
    born = {one.facts.born for one in headers}
    studies = {one.study_uid for one in headers}
    found = []
    if max(len(people - {""}), len(born - {""})) > 1:
        found.append("several_patients")
    elif len(studies - {""}) > 1:
        found.append("several_studies")
    return tuple(found)


class _Choosing:
    """A choice on its way: each step takes images and gives those that stay."""

    def __init__(self, rules: IngestSettings) -> None:
        self.rules = rules
        self.problems: list[str] = []
        self.aside: list[tuple[str, FileHeader]] = []
        self.cut: set[str] = set()
        """Codes of slices that might have been part of the stack."""
        self.twins: list[tuple[int, FileHeader]] = []

    def _keep(self, stay: list[FileHeader], go: Iterable[tuple[str, FileHeader]], is_cut: bool) -> list[FileHeader]:
        go = list(go)
        self.aside += go
        if is_cut:
            self.cut |= {code for code, _ in go}
        return stay

    def of_kind(self, headers: Sequence[FileHeader]) -> list[FileHeader]:
        """Slices as they were reconstructed; without any, the largest kind that is let in."""
        kinds = _by(headers, kind_of)
        allowed = {code: kinds[code] for code in ("", *self.rules.let_in) if code in kinds}
        if not allowed:
            self.problems += sorted(kinds)
            return list(headers)
        chosen = "" if "" in allowed else max(allowed, key=lambda code: len(allowed[code]))
        stay = self._keep(allowed[chosen], [(c, one) for c in kinds if c != chosen for one in kinds[c]], False)
        # A few archives lose the SOP class; then the modality has to do.
        classed = [one for one in stay if one.sop_class in CT_CLASSES]
        strange = [("not_ct", one) for one in stay if one.sop_class and one.sop_class not in CT_CLASSES]
        if not classed or not strange:
            return stay
        return self._keep([one for one in stay if not one.sop_class or one.sop_class in CT_CLASSES], strange, False)

    def without_flaws(self, headers: Sequence[FileHeader]) -> list[FileHeader]:
        """Images whose grey levels are HU, as far as headers say."""
        flaws = _by(headers, lambda one: "" if (code := flaw_of(one.facts)) in self.rules.let_in else code)
        sound = flaws.pop("", [])
        if 2 * len(sound) < len(headers):
            self.problems += sorted(flaws)
            return list(headers)
        return self._keep(sound, [(code, one) for code in flaws for one in flaws[code]], True)

    def of_one_grid(self, headers: Sequence[FileHeader]) -> list[FileHeader]:
        """Images of one size, spacing and direction: axial ones if there are, else the largest group."""
        groups: list[list[FileHeader]] = []
        for one in headers:
            for group in groups:
                if is_same_grid(group[0], one):
                    group.append(one)
                    break
            else:
                groups.append([one])
        stay = max(groups, key=lambda group: (len(group) >= 3 and is_nearly_axial(group[0]), len(group)))
        others = [("other_grid", one) for group in groups if group is not stay for one in group]
        stay = self._keep(stay, others, True)
        if not all(is_placed(one) for one in stay):
            self.problems.append("position_unknown")
        return stay

    def of_one_acquisition(self, headers: Sequence[FileHeader]) -> list[FileHeader]:
        """Slices of one acquisition, phase and kernel, each place once, sorted by position."""
        stack = _sorted(with_one_orientation(headers))
        for code, parted in facets(stack):
            parts = parted(stack)
            if len(parts) > 1:
                best = self._best(parts)
                go = [(code, one) for part in parts if part is not best for one in part]
                stack = self._keep(best, go, True)
        if is_regular(stack, self.rules.max_gap_mm) and len(stack) > 1:
            return stack
        if codes := self._codes_in_gaps(stack):
            self.problems += codes
            return stack
        return self._at_one_place_each(stack)

    def _at_one_place_each(self, stack: list[FileHeader]) -> list[FileHeader]:
        for parts in overlapping_runs(stack):
            best = self._best(parts)
            if len(best) > 1 and is_regular(best, self.rules.max_gap_mm):
                go = [("other_run", one) for part in parts if part is not best for one in part]
                return self._keep(best, go, True)
        if has_repeated_places(stack):
            return self._without_twins(stack)
        return stack

    def _without_twins(self, stack: list[FileHeader]) -> list[FileHeader]:
        stay: list[FileHeader] = []
        last = -float("inf")
        for one, distance in zip(stack, distances_of(stack), strict=True):
            if distance - last >= SAME_PLACE_MM:
                stay.append(one)
                last = distance
            elif _is_displaced(stay[-1], one):
                self.problems.append("duplicate_positions")
                return stack
            else:
                self.twins.append((len(stay) - 1, one))
        if len(stay) == 1:
            self.problems.append("duplicate_positions")
        return stay

    def _best(self, parts: Parts) -> list[FileHeader]:
        """The largest part; of others half as large or more, one that the rules would include."""
        largest = max(map(len, parts))
        return max(parts, key=lambda part: (2 * len(part) >= largest and self._qualifies(part[0]), len(part)))

    def _qualifies(self, header: FileHeader) -> bool:
        kernel, thickness = header.facts.kernel.partition("\\")[0], header.facts.thickness_mm or 0.0
        return thickness <= self.rules.max_slice_thickness_mm and is_sharp(kernel, self.rules.kernel_pattern)

    def _codes_in_gaps(self, stack: list[FileHeader]) -> list[str]:
        """Codes of slices that were set aside from between those of the stack, where it has none itself."""
        if len(stack) < 2:
            return sorted(self.cut) if self.cut else []
        there = distances_of(stack)
        others = [(code, one) for code, one in self.aside if code in self.cut and is_parallel(one, stack[0])]
        others += [(code, one) for code, one in self.aside if code not in self.cut and is_same_grid(one, stack[0])]
        found = set()
        for code, one in others:
            (distance,) = distances_of([one], stack[0])
            if there[0] < distance < there[-1] and min(abs(distance - d) for d in there) >= SAME_PLACE_MM:
                found.add(code)
        return sorted(found)

    def check_tilt(self, stack: list[FileHeader]) -> None:
        """The gantry's angle must show in the directions of the slices, or nobody knows how they lie."""
        told = max(abs(one.facts.tilt_deg) for one in stack)
        if told >= _MIN_TILT_DEG and abs(tilt_of(stack[0]) - told) > max(_MIN_TILT_DEG, 0.2 * told):
            self.problems.append("gantry_tilt")


def _by(headers: Iterable[FileHeader], key: Callable[[FileHeader], str]) -> dict[str, list[FileHeader]]:
    groups: dict[str, list[FileHeader]] = defaultdict(list)
    for one in headers:
        groups[key(one)].append(one)
    return dict(groups)


def _sorted(headers: Sequence[FileHeader]) -> list[FileHeader]:
    places = zip(distances_of(headers), headers, strict=True)
    return [one for _, one in sorted(places, key=lambda pair: (pair[0], pair[1].sop_uid, pair[1].identity))]


def _is_displaced(a: FileHeader, b: FileHeader) -> bool:
    return any(abs(p - q) >= SAME_PLACE_MM for p, q in zip(a.position_mm or (), b.position_mm or (), strict=True))


def _is_shortened(stack: Sequence[FileHeader], others: Iterable[FileHeader]) -> bool:
    if len(stack) < 2:
        return False
    there = distances_of(stack)
    margin = (there[-1] - there[0]) / (len(there) - 1) / 2
    beside = [one for one in others if one.position_mm is not None and is_parallel(one, stack[0])]
    return any(not there[0] - margin < d < there[-1] + margin for d in distances_of(beside, stack[0]))
