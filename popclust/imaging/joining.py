"""Series of one slice each that are one: some archives give every image a SeriesInstanceUID of its own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import TypeVar

from popclust.imaging.headers import FileHeader
from popclust.imaging.kinds import kind_of
from popclust.imaging.planes import is_placed

Name = TypeVar("Name")

MIN_SLICES = 3
"""Fewer may be single pictures, as for the timing of a contrast agent."""


def joint_of(header: FileHeader) -> str:
    """What slices of one series have in common beside its UID; empty for what is no slice of a volume.

    It is a digest over study, frame of reference, number and description of the series, kernel, thickness and grid.
    """
    facts = header.facts
    if not header.series_uid or not header.study_uid or header.frame is not None or not facts.frame_of_reference:
        return ""
    if kind_of(header) or not is_placed(header):
        return ""
    directions = tuple(round(value, 2) + 0.0 for value in header.orientation or ())
    grid = (header.rows, header.columns, header.pixel_spacing_mm, directions)
    series = (facts.series_number, facts.described, facts.kernel, facts.thickness_mm, header.acquisition)
    told = (header.study_uid, facts.frame_of_reference, *series, *grid)
    return f"joined/{blake2b(repr(told).encode(errors='replace'), digest_size=16).hexdigest()}"


def joined(joints: Iterable[tuple[Name, str]]) -> Mapping[str, list[Name]]:
    """Series of one slice that belong together.

    Parameters
    ----------
    joints : iterable of (name, str)
        Of each series of one image its name, and what `joint_of` gives for it.

    Returns
    -------
    mapping of str to list
        The names of those that make one series of `MIN_SLICES` or more, by what they have in common.
    """
    groups: dict[str, list[Name]] = defaultdict(list)
    for name, joint in joints:
        if joint:
            groups[joint].append(name)
    return {joint: names for joint, names in sorted(groups.items()) if len(names) >= MIN_SLICES}
