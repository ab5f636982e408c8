"""Where a volume lies in a template, before anything is registered: from keypoints, and by search."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from popclust.imaging.volume import Vector, Volume, sample
from popclust.normalization.correspondence import ncc
from popclust.normalization.keypoint_alignment import fit_rigid, match_keypoints
from popclust.normalization.preparation import Prepared, corners_mm
from popclust.normalization.transform import AffineMap

TOLERANCE_MM = 20.0
"""Distance up to which a match supports a rigid map between two people."""
SURE_NCC = 0.6
"""A start that explains the volume so well is followed alone: no other led elsewhere in 112 simulated pairs."""
MIN_INLIERS = 6
"""A fit with fewer supporting locations is not offered."""
SEARCH_STEP_MM = 10.0
"""Step of the search along the body."""
REFINE_STEPS_MM = (8.0, 4.0)
"""Steps by which a start is shifted on along each axis."""
MAX_REFINEMENTS = 6
"""Times that a step is taken at most."""
MAX_SIZE_RATIO = 1.5
"""Whole lungs are scaled by no more than this along an axis, or its inverse, to begin with."""
OUTERMOST = (1.0, 99.0)
"""Percentiles between which lungs reach: a leftover of the segmentation must not decide their size."""
CUT_SHARE = 0.15
"""Lungs whose cross-section at the end of the field of view is more than this share of the largest one are cut."""
CUT_PLANES = 2
"""Planes that count as the end of the field of view: a filter may have emptied the very last."""


@dataclass(frozen=True)
class Start:
    """A start of a registration, and the evidence for it."""

    to_template: AffineMap
    """Positions in the volume -> positions in the template."""
    method: str
    """'keypoints', 'search' or 'size'."""
    score: float
    """NCC of the volume's voxels near its lungs with what the template shows there."""
    n_inliers: int
    """Keypoint locations that agree on one rigid map (whether or not this is that map)."""
    n_matches: int
    """Keypoint locations that had a match."""


@dataclass(frozen=True)
class Extent:
    """What part of a template a volume shows."""

    centre_mm: Vector
    """Centre of the volume's field of view, in the template."""
    low_mm: Vector
    """Lowest zyx of the volume's corners in the template."""
    high_mm: Vector
    """Highest zyx of the same."""


def is_cut_off(lungs: NDArray[np.bool_]) -> bool:
    """Whether a mask (z, y, x) is still wide in its first or last plane."""
    area = lungs.sum(axis=(1, 2))
    ends = max(area[:CUT_PLANES].min(), area[-CUT_PLANES:].min())
    return bool(ends > CUT_SHARE * area.max())


def find_starts(volume: Prepared, template: Prepared) -> list[Start]:
    """The starts worth following, at most two of three, the one that explains the volume better first.

    One is the best of the shifts along the body with the lungs' centroids laid over each other in the other two
    directions; another, where enough of them agree, the rigid map that most matched upright keypoints support; the
    third, where neither lungs are cut off, lays their boxes over each other, size included.
    Each is scored by the correlation of all the volume's voxels near its lungs with the template (soft tissue
    beyond its field of view), so that a small overlap earns nothing. The second is followed if the first is not sure.
    """
    searched = search_start(volume, template)
    n_inliers = n_matches = 0
    offers = [("search", searched.to_template, searched.score)]
    matches = match_keypoints(volume.keypoints, template.keypoints)
    if len(np.unique(volume.keypoints.position_mm[matches.fixed], axis=0)) >= 3:
        fit = fit_rigid(volume.keypoints, template.keypoints, matches, tolerance_mm=TOLERANCE_MM)
        n_inliers, n_matches = fit.n_inliers, fit.n_matches
        if n_inliers >= MIN_INLIERS:
            rigid = AffineMap(fit.rotation, fit.translation_mm)
            offers.append(("keypoints", *_shifted_on(volume, template, rigid)))
    if not (is_cut_off(volume.lungs.voxels) or is_cut_off(template.lungs.voxels)):
        offers.append(("size", *_shifted_on(volume, template, size_start(volume, template))))
    offers.sort(key=lambda offer: -offer[2])
    n_followed = 1 if offers[0][2] >= SURE_NCC else 2
    return [
        Start(to_template, method, score, n_inliers, n_matches) for method, to_template, score in offers[:n_followed]
    ]


def search_start(volume: Prepared, template: Prepared) -> Start:
    """The best of the shifts along the body."""
    shifts = _shifts(volume, template)
    scores = explained(volume, template, shifts)
    best, score = _shifted_on(volume, template, shifts[int(np.argmax(scores))])
    return Start(best, "search", score, 0, 0)


def size_start(volume: Prepared, template: Prepared) -> AffineMap:
    """The map that lays the box of a volume's lungs over that of a template's."""
    (low, high), (to_low, to_high) = (
        np.percentile(p.chest.index_to_mm(np.argwhere(p.chest.voxels)), OUTERMOST, axis=0) for p in (volume, template)
    )
    ratio = np.clip((to_high - to_low) / np.maximum(high - low, 1.0), 1 / MAX_SIZE_RATIO, MAX_SIZE_RATIO)
    return AffineMap(np.diag(ratio), (to_low + to_high) / 2 - ratio * (low + high) / 2)


def _shifted_on(volume: Prepared, template: Prepared, start: AffineMap) -> tuple[AffineMap, float]:
    """A start shifted on, step by step, for as long as it explains the volume better; and its score."""
    score = float(explained(volume, template, [start])[0])
    for step in REFINE_STEPS_MM:
        for _ in range(MAX_REFINEMENTS):
            offsets = step * np.concatenate([np.eye(3), -np.eye(3)])
            tried = [AffineMap(start.matrix, start.offset_mm + offset) for offset in offsets]
            scores = explained(volume, template, tried)
            if scores.max() <= score:
                break
            start, score = tried[int(np.argmax(scores))], float(scores.max())
    return start, score


def explained(volume: Prepared, template: Prepared, to_template: list[AffineMap]) -> NDArray[np.float64]:
    """(n,) NCC of the volume's voxels near its lungs with what the template shows there, for each of n maps."""
    points, wanted = volume.probes
    return np.array([ncc(wanted, sample(template.image, m(points), outside=0.0)) for m in to_template])


def extent_in(to_template: AffineMap, volume: Prepared) -> Extent:
    """Position and extent of a volume's field of view in a template."""
    low, high = (np.asarray(corner) for corner in volume.field_of_view_mm)
    corners = np.array([np.where(pick, high, low) for pick in np.ndindex(2, 2, 2)])
    there = to_template(corners)
    return Extent(_vector(there.mean(axis=0)), _vector(there.min(axis=0)), _vector(there.max(axis=0)))


def _shifts(volume: Prepared, template: Prepared) -> list[AffineMap]:
    """Shifts that lay the volume's lungs over the template's, from top to top to bottom to bottom and a little on."""
    (from_low, from_high, from_centre), (to_low, to_high, to_centre) = (_reach(p.chest) for p in (volume, template))
    ends = sorted([to_low - from_low, to_high - from_high])
    shifts = np.arange(ends[0] - 30.0, ends[1] + 30.0 + SEARCH_STEP_MM, SEARCH_STEP_MM)
    across = to_centre - from_centre
    return [AffineMap.translation((z, *across[1:])) for z in (across[0], *shifts)]


def _reach(lungs: Volume) -> tuple[float, float, NDArray[np.float64]]:
    """Lowest and highest z of the lungs, and their centroid."""
    index = np.argwhere(lungs.voxels)
    low, _ = corners_mm(lungs)
    spacing = lungs.spacing_mm[0]
    return low[0] + spacing * index[:, 0].min(), low[0] + spacing * index[:, 0].max(), lungs.index_to_mm(index).mean(0)


def _vector(values: NDArray[np.float64]) -> Vector:
    z, y, x = values.tolist()
    return z, y, x
