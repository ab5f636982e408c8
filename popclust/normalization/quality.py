"""How good one registration is, and whether it is accepted: from that volume and frozen limits alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from popclust.imaging.volume import Volume, sample
from popclust.normalization.preparation import RANGE_HU, Prepared
from popclust.normalization.proportions import stretch_of_edges
from popclust.normalization.transform import AffineMap, PointMap, jacobian_determinants
from popclust.settings import NormalizeSettings

MIN_SIZE_RATIO = 0.6
"""Adults' chests differ less than this from the atlas's, or its inverse: else the spacing is wrong."""
MAX_ANISOTROPY = 2.2
"""Chests are not stretched more than this along one direction against another: else the spacing is wrong."""
MAX_ANISOTROPY_IN_DOUBT = 1.5
"""Nor more than this, where edges in wall and lungs say so too."""
MAX_EDGE_STRETCH = 0.36
"""Logarithm of the stretch along z by which edges are in doubt."""
MIN_SIDE_BALANCE = 0.5
"""A volume that shows one lung less than half as well as the other is of one side only."""
CAGE_MM = 36.0
"""How far from its lungs the atlas's chest wall is compared."""
WALL_HU = (-200.0, 100.0)
"""The chest wall is compared as fat against muscle and bone: a metal clip weighs no more than a rib."""
MEDIASTINUM_HU = (-1000.0, 60.0)
"""What lies between the lungs is compared as airways, fat and tissue, with contrast agent or without."""
HEART_HU = (-300.0, 60.0)
"""The same with less weight for the lungs that lie there."""
AERATED_HU = -300.0
"""Denser is tissue or fluid."""
PIECE_MM, BESIDE_MM = 15.0, 5.0
"""Tissue and fluid within the lungs is not compared where it is so thick, nor what lies so near to it."""
MAX_POINTS = 40_000
"""Voxels at most over which a measure is taken: every n-th in C order."""


@dataclass(frozen=True)
class Measures:
    """What is measured on one registered volume."""

    ncc: float
    """Correlation with the atlas inside its lungs, where the volume shows them."""
    region_ncc: float
    """The same over the lungs and their surroundings (1 cm)."""
    lung_dice: float
    """Overlap of the lungs carried over from the atlas with the volume's own intensity-based ones."""
    lung_inside: float
    """Share of the volume's own intensity-based lungs within those carried over: high also where fluid fills one."""
    folding: float
    """Share of atlas lung voxels where the map atlas -> volume folds space."""
    coverage: float
    """Share of the atlas lung in the field of view."""
    side_balance: float
    """Coverage of the atlas lung's less covered side over that of the other."""
    size_ratio: float
    """Size of the volume's anatomy over the atlas's: cube root of the affine part's determinant."""
    anisotropy: float
    """Largest over smallest stretch of the affine part."""
    edge_stretch: float
    """Logarithm of the stretch along z that edges in wall and lungs tell: of slice distances, not of breath."""
    rotation_degrees: float
    """Angle of the affine part's rotation."""
    bending: float
    """Standard deviation of the logarithm of the local volume ratio in the lungs."""
    wall_ncc: float
    """Correlation of the chest wall with the atlas's: fat, muscle, ribs and spine, which no lung disease touches."""
    mediastinum_ncc: float
    """The same of what lies between the lungs."""
    sound_ncc: float
    """The same over the lungs and 1 cm around, without what of the lungs carried over is not aerated."""
    aerated: float
    """Share of the lungs carried over that the volume shows aerated."""


@dataclass(frozen=True)
class Orientation:
    """The way round in which a volume fits the atlas best."""

    best: str
    """'upright' is as it should be; 'feet_first', 'face_down' or 'mirrored'."""
    advantage: float
    """NCC of the best way round other than upright minus NCC upright, after affine registration of each."""
    body_agrees: bool = False
    """Whether spine, windpipe or heart speak for that other way round too."""


UNCHECKED = Orientation("upright", -1.0)
"""What stands for a volume whose orientation is known."""


@dataclass(frozen=True)
class Evidence:
    """What the registration itself tells about its success."""

    orientation: Orientation
    """Which way round the volume fits best."""
    template_spread_mm: float = 0.0
    """Disagreement of the templates after the affine step; 0 with one template."""
    start_method: str = ""
    """What found the start: 'keypoints' or 'search'."""
    n_inliers: int = 0
    """Keypoint locations that agree on one rigid map to the chosen template."""
    n_matches: int = 0
    """Keypoint locations that had a match in it."""


def ncc(a: NDArray, b: NDArray) -> float:
    """Normalised cross correlation of two samples (n,); 0 where one is constant."""
    a, b = a.astype(np.float64) - a.mean(), b.astype(np.float64) - b.mean()
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / norm if norm > 0 else 0.0


def dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Dice overlap of two masks, 0 where both are empty."""
    total = np.count_nonzero(a) + np.count_nonzero(b)
    return float(2.0 * np.count_nonzero(a & b) / total) if total else 0.0


def thinned(points: NDArray, n_max: int = MAX_POINTS) -> NDArray:
    """Every n-th row, so that at most n_max are left."""
    return points[:: max(1, -(-len(points) // n_max))]


def measure(
    reference: Prepared, volume: Prepared, to_volume: PointMap, lung: Volume, whole: Volume | None = None
) -> Measures:
    """Compare a registered volume with the atlas.

    Parameters
    ----------
    reference : Prepared
        The atlas.
    volume : Prepared
        The registered volume.
    to_volume : PointMap
        Positions in the atlas -> positions in the volume.
    lung : Volume
        bool; the atlas's lungs carried over to the grid of the prepared volume.
    whole : Volume, optional
        The same joined with what of them is not aerated: fluid and consolidation, which are compared with nothing.
    """
    region = reference.near_lungs(10.0)
    points = thinned(region.index_to_mm(np.argwhere(region.voxels)))
    moved = to_volume(points)
    shown = volume.shows(moved)
    atlas_lung = sample(reference.lungs, points, outside=0.0) > 0.5
    atlas_hu = sample(reference.image, points)
    volume_hu = sample(volume.image, moved, outside=0.0)
    inside = atlas_lung & shown
    determinant = jacobian_determinants(to_volume, points[atlas_lung])
    affine = AffineMap.fitted(points, moved)
    positive = determinant[determinant > 0.01]
    aerated = sample(volume.lungs, moved, outside=0.0) > 0.5
    filled = _filled(volume, lung if whole is None else whole)
    sound = shown & (~atlas_lung | aerated) & ~(sample(filled, moved, outside=0.0) > 0.5)
    wall, mediastinum = _beside_lungs(reference, volume, to_volume, filled)
    return Measures(
        ncc=_ncc_or_zero(atlas_hu[inside], volume_hu[inside]),
        region_ncc=_ncc_or_zero(atlas_hu[shown], volume_hu[shown]),
        lung_dice=dice(lung.voxels, volume.lungs.voxels),
        lung_inside=float((lung.voxels & volume.lungs.voxels).sum()) / max(float(volume.lungs.voxels.sum()), 1.0),
        folding=float(np.mean(determinant <= 0)),
        coverage=float(inside.sum()) / max(float(atlas_lung.sum()), 1.0),
        side_balance=_side_balance(points[atlas_lung, 2], shown[atlas_lung]),
        size_ratio=float(np.cbrt(abs(np.linalg.det(affine.matrix)))),
        anisotropy=anisotropy(affine),
        edge_stretch=stretch_of_edges(volume),
        rotation_degrees=_angle_degrees(rotation_of(affine.matrix)),
        bending=float(np.log(positive).std()) if len(positive) > 1 else 0.0,
        wall_ncc=wall,
        mediastinum_ncc=mediastinum,
        sound_ncc=_ncc_or_zero(atlas_hu[sound], volume_hu[sound]),
        aerated=float((inside & aerated).sum()) / max(float(inside.sum()), 1.0),
    )


def _filled(volume: Prepared, lung: Volume) -> Volume:
    """bool: what of the lungs is filled with tissue or fluid in large pieces, and what touches these."""
    spacing = volume.image.spacing_mm[0]
    dense = lung.voxels & ~volume.lungs.voxels & (volume.image.voxels > AERATED_HU)
    pieces = ndimage.binary_opening(dense, np.ones((max(1, round(PIECE_MM / spacing)),) * 3))
    return lung.with_values(ndimage.binary_dilation(pieces, iterations=max(1, round(BESIDE_MM / spacing))))


def _beside_lungs(reference: Prepared, volume: Prepared, to_volume: PointMap, filled: Volume) -> tuple[float, float]:
    """Correlation of the chest wall, and of what lies between the lungs, where the volume shows them."""
    near = np.argwhere(reference.near_lungs(CAGE_MM).voxels & ~reference.lungs.voxels)
    index = thinned(near)
    points = reference.image.index_to_mm(index)
    moved = to_volume(points)
    shown = volume.shows(moved) & ~(sample(filled, moved, outside=0.0) > 0.5)
    is_between = reference.hull[tuple(index.T)]
    atlas_hu, volume_hu = reference.image.voxels[tuple(index.T)], sample(volume.image, moved, outside=RANGE_HU[0])
    wall, between = (
        _ncc_or_zero(np.clip(atlas_hu[part], *window), np.clip(volume_hu[part], *window))
        for part, window in ((shown & ~is_between, WALL_HU), (shown & is_between, MEDIASTINUM_HU))
    )
    return wall, between


INTERCEPT = 13.768
WEIGHTS = {"wall_ncc": -5.048, "mediastinum_ncc": -9.7, "sound_ncc": -7.14}
"""The logistic function of `failure_probability`."""


def failure_probability(measures: Measures) -> float:
    """Probability that a registration failed: a logistic function of what lung disease does not touch.

    Its weights were fitted by benchmarks/calibrate_quality.py; docs/registration.md says to what and how well.
    """
    total = INTERCEPT + sum(WEIGHTS[name] * value for name, value in predictors(measures).items())
    return float(1.0 / (1.0 + np.exp(-np.clip(total, -30, 30))))


def predictors(measures: Measures) -> dict[str, float]:
    """What the failure probability is computed from, in the order of its weights."""
    return {name: float(getattr(measures, name)) for name in WEIGHTS}


def anisotropy(affine: AffineMap) -> float:
    """Largest over smallest stretch."""
    stretches = np.linalg.svd(affine.matrix, compute_uv=False).tolist()
    return float(stretches[0] / max(stretches[-1], 1e-6))


def rotation_of(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rotation nearest to a (3, 3) matrix (polar decomposition, never a reflection)."""
    u, _, vt = np.linalg.svd(matrix)
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    return np.asarray((u * sign) @ vt)


def reject_reasons(
    measures: Measures, evidence: Evidence, failure_probability: float, settings: NormalizeSettings
) -> list[str]:
    """Codes of why a volume is not accepted; none if it is."""
    limits = {
        "low_ncc": measures.ncc < settings.min_ncc,
        "low_lung_dice": measures.lung_dice < settings.min_lung_dice,
        "lung_outside": measures.lung_inside < settings.min_lung_inside,
        "low_coverage": measures.coverage < settings.min_coverage,
        "one_sided": measures.side_balance < MIN_SIDE_BALANCE,
        "folding": measures.folding > settings.max_folding,
        evidence.orientation.best: evidence.orientation.body_agrees
        and evidence.orientation.advantage > settings.max_flip_advantage,
        "wrong_size": not MIN_SIZE_RATIO < measures.size_ratio < 1 / MIN_SIZE_RATIO,
        "wrong_proportions": measures.anisotropy > MAX_ANISOTROPY
        or (measures.anisotropy > MAX_ANISOTROPY_IN_DOUBT and abs(measures.edge_stretch) > MAX_EDGE_STRETCH),
        "likely_failed": failure_probability > settings.max_failure_probability,
    }
    return [code for code, is_broken in limits.items() if is_broken]


def _side_balance(x_mm: NDArray[np.float64], shown: NDArray[np.bool_]) -> float:
    """Coverage of the worse side over the better; the atlas's sides part at the middle of its lungs' box."""
    is_left = x_mm > (x_mm.min() + x_mm.max()) / 2
    sides = sorted(float(shown[side].mean()) for side in (is_left, ~is_left) if side.any())
    return sides[0] / sides[-1] if sides[-1] > 0 else 0.0


def _ncc_or_zero(a: NDArray, b: NDArray) -> float:
    return ncc(a, b) if len(a) > 1 else 0.0


def _angle_degrees(rotation: NDArray[np.float64]) -> float:
    return float(np.degrees(np.arccos(np.clip((np.trace(rotation) - 1) / 2, -1, 1))))
