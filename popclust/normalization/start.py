"""Where a volume lies in a template, before anything is registered: from keypoints, or by search."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from popclust.features.sift3d import Keypoints, detect_keypoints
from popclust.imaging.volume import Vector, Volume, sample
from popclust.normalization.keypoint_alignment import fit_rigid, match_keypoints
from popclust.normalization.preparation import Prepared, corners_mm
from popclust.normalization.quality import ncc, thinned
from popclust.normalization.transform import AffineMap
from popclust.settings import SiftSettings

KEYPOINT_SPACING_MM = 2.5
"""Keypoints are found no finer than this."""
TOLERANCE_MM = 20.0
"""Distance up to which a match supports a rigid map between two people."""
MIN_INLIERS = 6
"""A fit with fewer supporting locations is not offered."""
SEARCH_STEP_MM = 10.0
"""Step of the search along the body."""
CUT_SHARE = 0.15
"""Lungs whose cross-section at the end of the field of view is more than this share of the largest one are cut."""
CUT_PLANES = 2
"""Planes that count as the end of the field of view: a filter may have emptied the very last."""


@dataclass(frozen=True)
class Start:
    """The rigid start of a registration, and the evidence for it."""

    to_moving: AffineMap
    """Positions in the fixed volume -> positions in the moving one."""
    method: str
    """'keypoints' or 'search'."""
    score: float
    """NCC of the moving volume's own voxels near its lungs with the fixed volume under this start."""
    n_inliers: int
    """Keypoint locations that agree on one rigid map (whether or not that map was taken)."""
    n_matches: int
    """Keypoint locations that had a match."""


@dataclass(frozen=True)
class Extent:
    """What part of the fixed volume a fragment shows."""

    centre_mm: Vector
    """Centre of the fragment's field of view, in the fixed volume."""
    low_mm: Vector
    """Lowest zyx of the fragment's corners in the fixed volume."""
    high_mm: Vector
    """Highest zyx of the same."""


def is_cut(volume: Prepared) -> bool:
    """Whether the field of view ends within the lungs, above or below: more than a tip is missing."""
    spacing, origin = volume.lungs.spacing_mm[0], volume.lungs.origin_mm[0]
    first, last = (corner[0] for corner in volume.field_of_view_mm)
    below, above = round((origin - first) / spacing), round((last - origin) / spacing) + 1 - volume.lungs.shape[0]
    return is_cut_off(np.pad(volume.lungs.hu, ((max(below, 0), max(above, 0)), (0, 0), (0, 0))))


def is_cut_off(lungs: NDArray[np.bool_]) -> bool:
    """Whether a mask (z, y, x) is still wide in its first or last plane."""
    area = lungs.sum(axis=(1, 2))
    ends = max(area[:CUT_PLANES].min(), area[-CUT_PLANES:].min())
    return bool(ends > CUT_SHARE * area.max())


def find_start(fixed: Prepared, moving: Prepared, *, with_keypoints: bool) -> Start:
    """The start that explains the moving volume best.

    Offered are shifts along the body with the lungs' centroids laid over each other in the other two directions,
    and, if asked for, the rigid map that most matched keypoints agree on. Scored is each by the correlation of all
    the moving volume's voxels near its lungs with the fixed volume (soft tissue beyond its field of view), so that
    a small overlap earns nothing.
    """
    offers = [("search", shift) for shift in _shifts(fixed, moving)]
    n_inliers = n_matches = 0
    if with_keypoints:
        a, b = (keypoints_of(p) for p in (fixed, moving))
        matches = match_keypoints(a, b)
        if len(np.unique(a.position_mm[matches.fixed], axis=0)) >= 3:
            fit = fit_rigid(a, b, matches, tolerance_mm=TOLERANCE_MM)
            n_inliers, n_matches = fit.n_inliers, fit.n_matches
            if n_inliers >= MIN_INLIERS:
                offers.append(("keypoints", AffineMap(fit.rotation, fit.translation_mm)))
    scores = explained(fixed, moving, [offer for _, offer in offers])
    best = int(np.argmax(scores))
    method, to_moving = offers[best]
    return Start(to_moving, method, float(scores[best]), n_inliers, n_matches)


def explained(fixed: Prepared, moving: Prepared, to_moving: list[AffineMap]) -> NDArray[np.float64]:
    """(n,) NCC of the moving volume's voxels near its lungs with what the fixed volume shows there."""
    near = moving.near_lungs(20.0)
    points = thinned(near.index_to_mm(np.argwhere(near.hu)), 6000)
    wanted = sample(moving.image, points)
    return np.array([ncc(wanted, sample(fixed.image, m.inverse()(points), outside=0.0)) for m in to_moving])


def extent_in(fixed_to_moving: AffineMap, moving: Prepared) -> Extent:
    """Position and extent of a volume's field of view in the fixed volume."""
    low, high = (np.asarray(corner) for corner in moving.field_of_view_mm)
    corners = np.array([np.where(pick, high, low) for pick in np.ndindex(2, 2, 2)])
    there = fixed_to_moving.inverse()(corners)
    return Extent(_vector(there.mean(axis=0)), _vector(there.min(axis=0)), _vector(there.max(axis=0)))


def keypoints_of(volume: Prepared) -> Keypoints:
    """Keypoints of the cropped image."""
    spacing = max(KEYPOINT_SPACING_MM, volume.image.spacing_mm[0])
    return detect_keypoints(volume.image, SiftSettings(spacing_mm=spacing))


def _shifts(fixed: Prepared, moving: Prepared) -> list[AffineMap]:
    """Shifts that lay the moving lungs over the fixed ones, from top to top to bottom to bottom and a little on."""
    (from_low, from_high, from_centre), (to_low, to_high, to_centre) = (_reach(p.lungs) for p in (fixed, moving))
    ends = sorted([to_low - from_low, to_high - from_high])
    shifts = np.arange(ends[0] - 30.0, ends[1] + 30.0 + SEARCH_STEP_MM, SEARCH_STEP_MM)
    across = to_centre - from_centre
    return [AffineMap.translation((z, *across[1:])) for z in (across[0], *shifts)]


def _reach(lungs: Volume) -> tuple[float, float, NDArray[np.float64]]:
    """Lowest and highest z of the lungs, and their centroid."""
    index = np.argwhere(lungs.hu)
    low, _ = corners_mm(lungs)
    spacing = lungs.spacing_mm[0]
    return low[0] + spacing * index[:, 0].min(), low[0] + spacing * index[:, 0].max(), lungs.index_to_mm(index).mean(0)


def _vector(values: NDArray[np.float64]) -> Vector:
    z, y, x = values.tolist()
    return z, y, x
