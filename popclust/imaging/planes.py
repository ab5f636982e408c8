"""Where slices lie: their normal, their places along it, and what a small jitter of directions leaves of them."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from popclust.imaging.headers import FileHeader

JITTER_DEG = 0.5
"""Directions that differ by less belong to one stack: what rounding and vendors' arithmetic leave."""
SAME_PLACE_MM = 1e-2
"""Slices nearer to each other lie at one place."""
_UNIT_TOLERANCE = 1e-2
_RIGHT_ANGLE_TOLERANCE = 1e-3
_SPACING_TOLERANCE = 1e-3


def is_placed(header: FileHeader) -> bool:
    """Whether the header tells a position, and directions of unit length at right angles."""
    if header.position_mm is None or header.orientation is None or header.pixel_spacing_mm is None:
        return False
    row, column = header.orientation[:3], header.orientation[3:]
    return (
        abs(math.hypot(*row) - 1) < _UNIT_TOLERANCE
        and abs(math.hypot(*column) - 1) < _UNIT_TOLERANCE
        and abs(sum(r * c for r, c in zip(row, column, strict=True))) < _RIGHT_ANGLE_TOLERANCE
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


def distances_of(headers: Sequence[FileHeader], like: FileHeader | None = None) -> list[float]:
    """Where slices of one orientation lie along their normal, or along that of another, in mm."""
    normal = normal_of((like or headers[0]).orientation or ())
    return [sum(n * p for n, p in zip(normal, one.position_mm or (), strict=True)) for one in headers]


def is_same_grid(a: FileHeader, b: FileHeader) -> bool:
    """Whether two slices have equal size, spacing and, but for a jitter, directions."""
    if (a.rows, a.columns, a.frame is None) != (b.rows, b.columns, b.frame is None):
        return False
    if a.pixel_spacing_mm is None or b.pixel_spacing_mm is None or a.orientation is None or b.orientation is None:
        return (a.pixel_spacing_mm, a.orientation) == (b.pixel_spacing_mm, b.orientation)
    if any(abs(p - q) > _SPACING_TOLERANCE for p, q in zip(a.pixel_spacing_mm, b.pixel_spacing_mm, strict=True)):
        return False
    return a.orientation == b.orientation or _angle_deg(a.orientation, b.orientation) < JITTER_DEG


def is_parallel(a: FileHeader, b: FileHeader) -> bool:
    """Whether two slices have, but for a jitter, the same directions."""
    return (
        a.orientation is not None
        and b.orientation is not None
        and _angle_deg(a.orientation, b.orientation) < JITTER_DEG
    )


def _angle_deg(a: Sequence[float], b: Sequence[float]) -> float:
    """By how much the directions of rows, or of columns, differ: the larger angle."""
    halves = ((a[:3], b[:3]), (a[3:], b[3:]))
    chords = (math.dist(p, q) for p, q in halves)
    return max(math.degrees(2 * math.asin(min(chord / 2, 1.0))) for chord in chords)


def with_one_orientation(headers: Sequence[FileHeader]) -> list[FileHeader]:
    """Slices of one stack, with the directions they share.

    Where directions jitter, the mean of them all counts; if the nearest axes of the patient lie within what they
    differ by, it is those that were meant.
    """
    seen = Counter(one.orientation for one in headers)
    if len(seen) == 1:
        return list(headers)
    values = np.array([orientation for orientation in seen if orientation is not None])
    weights = np.array([n for orientation, n in seen.items() if orientation is not None])
    mean = (values * weights[:, None]).sum(axis=0) / weights.sum()
    spread = max(_angle_deg(tuple(one), tuple(mean)) for one in values)
    straight = np.rint(mean)
    if (np.abs(straight).reshape(2, 3).sum(axis=1) == 1).all() and _angle_deg(straight, mean) <= spread * 1.01 + 1e-3:
        mean = straight
    else:
        row = mean[:3] / np.linalg.norm(mean[:3])
        column = mean[3:] - (mean[3:] @ row) * row
        mean = np.concatenate([row, column / np.linalg.norm(column)])
    common = tuple(float(value) for value in mean)
    return [replace(one, orientation=common) for one in headers]


def has_repeated_places(headers: Sequence[FileHeader]) -> bool:
    """Whether two slices lie at one place."""
    distances = sorted(distances_of(headers))
    return any(after - before < SAME_PLACE_MM for before, after in itertools.pairwise(distances))


def is_regular(headers: Sequence[FileHeader], max_gap_mm: float) -> bool:
    """Whether slices lie at regular distances, with none missing and none twice."""
    distances = np.sort(distances_of(headers))
    if len(distances) < 2:
        return True
    regular = np.linspace(distances[0], distances[-1], len(distances))
    apart = (distances[-1] - distances[0]) / (len(distances) - 1)
    return bool(np.abs(distances - regular).max() <= max_gap_mm and apart >= SAME_PLACE_MM)


def tilt_of(header: FileHeader) -> float:
    """Angle between a slice's normal and the patient's nearest axis, in degrees."""
    normal = normal_of(header.orientation or ())
    return math.degrees(math.acos(min(1.0, max(abs(component) for component in normal))))


def is_nearly_axial(header: FileHeader) -> bool:
    """Whether a slice lies across the body: less than 45 degrees off the axial plane."""
    return header.orientation is not None and is_placed(header) and abs(normal_of(header.orientation)[2]) > 0.707
