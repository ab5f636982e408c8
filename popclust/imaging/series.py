"""Files sorted into series, and each series into the one stack of slices that is read."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from popclust.imaging.headers import FileHeader

CT_CLASSES = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.2",
        "1.2.840.10008.5.1.4.1.1.2.1",
        "1.2.840.10008.5.1.4.1.1.2.2",
    }
)
"""SOP classes of CT images: plain, enhanced, and legacy converted enhanced."""

_ORIENTATION_TOLERANCE = 1e-3
_UNIT_TOLERANCE = 1e-2
_POSITION_TOLERANCE_MM = 1e-2


@dataclass(frozen=True)
class SeriesFiles:
    """The files of one series, or one volume file."""

    identity: str
    """SeriesInstanceUID, or the name of the source and the path below it where there is none."""
    study_identity: str
    """StudyInstanceUID, or the series' identity."""
    format: Literal["dicom", "volume", "none"]
    """How it is read; `none`: it cannot be."""
    headers: tuple[FileHeader, ...]
    """The images of the stack, from foot to head for axial slices: by position along the slices' normal."""
    n_set_aside: int = 0
    """Images of the series outside the stack: scouts, secondary captures, other acquisitions."""
    n_repeated: int = 0
    """Second exports of an image of the stack."""
    problems: tuple[str, ...] = ()
    """Codes of what is known to be wrong already."""


def group_series(headers: Iterable[FileHeader]) -> list[SeriesFiles]:
    """Sort headers into series, and choose in each series the stack of slices that makes the volume.

    Images with the same SOPInstanceUID are one image. Of the images that differ in orientation, size or pixel spacing,
    or are scouts or secondary captures, the largest consistent stack is kept. If positions then occur twice, the stack
    is split by temporal position, else by acquisition number, and the largest part is kept (the lowest number on
    ties), provided that this leaves no position twice; otherwise the series has the problem `duplicate_positions`.

    Parameters
    ----------
    headers : iterable of FileHeader
        In any order. Files that are no images are left out; one whose header cannot be read is a series of its own.

    Returns
    -------
    list of SeriesFiles
        Sorted by identity.
    """
    groups: dict[tuple[str, str], list[FileHeader]] = defaultdict(list)
    for header in headers:
        if header.problem != "not_an_image":
            groups[_key(header)].append(header)
    series = [_series(groups[name]) for name in sorted(groups)]
    return _with_unique_identities(series)


def _key(header: FileHeader) -> tuple[str, str]:
    if header.format != "dicom":
        return "file", header.path
    if header.series_uid:
        return "uid", header.series_uid
    # Slices without any UID belong together if they lie together.
    return "folder", str(Path(header.path).parent)


def _series(headers: list[FileHeader]) -> SeriesFiles:
    headers = sorted(headers, key=lambda header: (header.identity, header.path, header.frame or 0))
    first = headers[0]
    if first.format != "dicom":
        known = (first.problem,) if first.problem else ()
        return SeriesFiles(first.identity, first.identity, first.format, (first,), problems=known)
    unique = _without_repeats(headers)
    stack, problems = _stack(unique)
    return SeriesFiles(
        identity=identity_of(first),
        study_identity=first.study_uid or identity_of(first),
        format="dicom",
        headers=tuple(stack),
        n_set_aside=len(unique) - len(stack),
        n_repeated=len(headers) - len(unique),
        problems=problems,
    )


def identity_of(header: FileHeader) -> str:
    """The identity of the series that an image belongs to: `SeriesFiles.identity`."""
    if header.format != "dicom":
        return header.identity
    return header.series_uid or header.identity.rpartition("/")[0] or header.identity


def _with_unique_identities(series: list[SeriesFiles]) -> list[SeriesFiles]:
    """Number files of the same relative path below different sources."""
    seen: dict[str, int] = defaultdict(int)
    result = []
    for one in series:
        seen[one.identity] += 1
        if (number := seen[one.identity]) > 1:
            one = replace(one, identity=f"{one.identity}#{number}", study_identity=f"{one.study_identity}#{number}")
        result.append(one)
    return sorted(result, key=lambda one: one.identity)


def _without_repeats(headers: Sequence[FileHeader]) -> list[FileHeader]:
    seen: set[tuple[str, int | None]] = set()
    unique = []
    for header in headers:
        name = (header.sop_uid or header.path, header.frame)
        if name not in seen:
            seen.add(name)
            unique.append(header)
    return unique


def _stack(headers: Sequence[FileHeader]) -> tuple[list[FileHeader], tuple[str, ...]]:
    slices = [header for header in headers if not header.is_localizer]
    if not slices:
        return list(headers), ("localizer",)
    images = [header for header in slices if header.sop_class in CT_CLASSES]
    if not any(header.modality == "CT" for header in slices):
        return slices, ("not_ct",)
    # A few archives lose the SOP class; then the modality has to do.
    consistent = _largest(images or slices, _same_plane)
    if not all(_is_placed(header) for header in consistent):
        return consistent, ("position_unknown",)
    consistent.sort(key=lambda header: (distance_along_normal(header), header.identity, header.frame or 0))
    if not _has_repeated_positions(consistent):
        return consistent, ()
    for number in (lambda h: h.temporal_position, lambda h: h.acquisition):
        parts = _split(consistent, number)
        if len(parts) > 1 and not any(_has_repeated_positions(part) for part in parts):
            return max(parts, key=len), ()
    return consistent, ("duplicate_positions",)


def _largest(headers: Sequence[FileHeader], same: Callable[[FileHeader, FileHeader], bool]) -> list[FileHeader]:
    groups: list[list[FileHeader]] = []
    for header in headers:
        for group in groups:
            if same(group[0], header):
                group.append(header)
                break
        else:
            groups.append([header])
    return max(groups, key=len)


def _same_plane(a: FileHeader, b: FileHeader) -> bool:
    if (a.rows, a.columns, a.frame is None) != (b.rows, b.columns, b.frame is None):
        return False
    return _close(a.orientation, b.orientation) and _close(a.pixel_spacing_mm, b.pixel_spacing_mm)


def _close(a: tuple[float, ...] | None, b: tuple[float, ...] | None) -> bool:
    if a is None or b is None:
        return a is b
    return all(abs(p - q) <= _ORIENTATION_TOLERANCE for p, q in zip(a, b, strict=True))


def _split(headers: Sequence[FileHeader], number: Callable[[FileHeader], int | None]) -> list[list[FileHeader]]:
    parts: dict[int, list[FileHeader]] = defaultdict(list)
    for header in headers:
        parts[-1 if (value := number(header)) is None else value].append(header)
    return [parts[value] for value in sorted(parts)]


def _has_repeated_positions(headers: Sequence[FileHeader]) -> bool:
    distances = sorted(distance_along_normal(header) for header in headers)
    return any(after - before < _POSITION_TOLERANCE_MM for before, after in itertools.pairwise(distances))


def _is_placed(header: FileHeader) -> bool:
    """Whether the header tells a position, and directions of unit length at right angles."""
    if header.position_mm is None or header.orientation is None or header.pixel_spacing_mm is None:
        return False
    row, column = header.orientation[:3], header.orientation[3:]
    return (
        abs(math.hypot(*row) - 1) < _UNIT_TOLERANCE
        and abs(math.hypot(*column) - 1) < _UNIT_TOLERANCE
        and abs(sum(r * c for r, c in zip(row, column, strict=True))) < _ORIENTATION_TOLERANCE
    )


def normal_of(orientation: Sequence[float]) -> tuple[float, float, float]:
    """Unit normal (x, y, z) of slices with the given ImageOrientationPatient."""
    (a, b, c), (d, e, f) = orientation[:3], orientation[3:]
    normal = (b * f - c * e, c * d - a * f, a * e - b * d)
    length = math.hypot(*normal)
    x, y, z = (component / length for component in normal)
    return x, y, z


def distance_along_normal(header: FileHeader) -> float:
    """Where a slice lies along its own normal, in mm."""
    if header.position_mm is None or header.orientation is None:
        raise ValueError("header: has no position, so no place along the normal")
    return sum(n * p for n, p in zip(normal_of(header.orientation), header.position_mm, strict=True))
