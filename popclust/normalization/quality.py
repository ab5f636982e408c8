"""How good one registration is, and whether it is accepted: from that volume and frozen limits alone."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from popclust.imaging.masks import opened_by_box
from popclust.imaging.volume import Volume, sample
from popclust.normalization.correspondence import Likeness, likeness_of_parts, middle_of, ncc_or_zero, thinned
from popclust.normalization.preparation import Prepared
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
MAX_EDGE_SQUEEZE = 0.46
"""Logarithm of a squeeze along z that edges tell by themselves, whatever the shape: three standard deviations. There is
no such limit to a stretch, which thick slices look like."""
MIN_SIDE_BALANCE = 0.5
"""A volume that shows one lung less than half as well as the other is of one side only."""
HEART_HU = (-300.0, 60.0)
"""The mediastinum is compared so where a way round is in question: the lungs beside it weigh less."""
AERATED_HU = -300.0
"""Denser is tissue or fluid."""
PIECE_MM, BESIDE_MM = 15.0, 5.0
"""Tissue and fluid within the lungs is not compared where it is so thick, nor what lies so near to it."""


@dataclass(frozen=True)
class Measures(Likeness):
    """What is measured on one registered volume, beside how alike it is to the atlas under the map."""

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


def dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Dice overlap of two masks, 0 where both are empty."""
    total = np.count_nonzero(a) + np.count_nonzero(b)
    return float(2.0 * np.count_nonzero(a & b) / total) if total else 0.0


def measure(
    reference: Prepared, volume: Prepared, to_volume: PointMap, lung: Volume, alike: Likeness | None = None
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
    alike : Likeness, optional
        How alike the two are under the map; without it that is measured here, fluid and consolidation within `lung`
        compared with nothing.
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
    alike = alike or likeness_of_parts(reference, volume, to_volume, filled_of(volume, lung))["both"]
    return Measures(
        ncc=ncc_or_zero(atlas_hu[inside], volume_hu[inside]),
        region_ncc=ncc_or_zero(atlas_hu[shown], volume_hu[shown]),
        lung_dice=dice(lung.voxels, volume.lungs.voxels),
        lung_inside=float((lung.voxels & volume.lungs.voxels).sum()) / max(float(volume.lungs.voxels.sum()), 1.0),
        folding=float(np.mean(determinant <= 0)),
        coverage=float(inside.sum()) / max(float(atlas_lung.sum()), 1.0),
        side_balance=_side_balance(points[atlas_lung, 2] > middle_of(reference.lungs), shown[atlas_lung]),
        size_ratio=float(np.cbrt(abs(np.linalg.det(affine.matrix)))),
        anisotropy=anisotropy(affine),
        edge_stretch=stretch_of_edges(volume),
        rotation_degrees=_angle_degrees(rotation_of(affine.matrix)),
        bending=float(np.log(positive).std()) if len(positive) > 1 else 0.0,
        **{field.name: getattr(alike, field.name) for field in dataclasses.fields(Likeness)},
        aerated=float((inside & aerated).sum()) / max(float(inside.sum()), 1.0),
    )


def filled_of(volume: Prepared, lung: Volume) -> Volume:
    """bool: what of the lungs is filled with tissue or fluid in large pieces, and what touches these.

    It is compared with nothing.
    """
    spacing = volume.image.spacing_mm[0]
    dense = lung.voxels & ~volume.lungs.voxels & (volume.image.voxels > AERATED_HU)
    pieces = opened_by_box(dense, PIECE_MM, (spacing,) * 3)
    return lung.with_values(ndimage.binary_dilation(pieces, iterations=max(1, round(BESIDE_MM / spacing))))


INTERCEPT = 9.507
WEIGHTS = {
    "wall_ncc": -6.027, "mediastinum_ncc": -4.962, "sound_ncc": -4.133,
    "shift_drop": -2.754, "turn_drop": -2.737, "stretch_drop": -5.753,
}  # fmt: skip
"""The logistic function of `failure_probability`."""
TYPICAL = {
    "wall_ncc": 0.73, "mediastinum_ncc": 0.69, "sound_ncc": 0.94,
    "shift_drop": 0.69, "turn_drop": 0.63, "stretch_drop": 0.24,
}  # fmt: skip
"""Medians of the good registrations that it was fitted to."""
WORDS = {
    "wall_ncc": "chest wall like the atlas's",
    "mediastinum_ncc": "between the lungs like the atlas's",
    "sound_ncc": "aerated lung and rim like the atlas's",
    "shift_drop": "better than shifted by 20 mm",
    "turn_drop": "better than turned by 12 degrees",
    "stretch_drop": "better than stretched by 1.15",
}
"""What each measure says."""
N_TELLING = 3
"""So many measures are said in words."""


def failure_probability(measures: Likeness) -> float:
    """Probability that a registration failed: a logistic function of what lung disease does not touch.

    Its weights were fitted by benchmarks/calibrate_quality.py; docs/registration.md says to what and how well.
    """
    total = INTERCEPT + sum(WEIGHTS[name] * value for name, value in predictors(measures).items())
    return float(1.0 / (1.0 + np.exp(-np.clip(total, -30, 30))))


def predictors(measures: Likeness) -> dict[str, float]:
    """What the failure probability is computed from, in the order of its weights."""
    return {name: float(getattr(measures, name)) for name in WEIGHTS}


def telling(measures: Likeness) -> list[str]:
    """The measures that moved the failure probability most from that of a usual registration, in words."""
    values = predictors(measures)
    moved = {name: WEIGHTS[name] * (value - TYPICAL[name]) for name, value in values.items()}
    most = sorted(moved, key=lambda name: (-abs(moved[name]), name))[:N_TELLING]
    return [f"{WORDS[name]}: {values[name]:.2f}, usual {TYPICAL[name]:.2f}" for name in most]


def anisotropy(affine: AffineMap) -> float:
    """Largest over smallest stretch."""
    stretches = np.linalg.svd(affine.matrix, compute_uv=False).tolist()
    return float(stretches[0] / max(stretches[-1], 1e-6))


def rotation_of(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rotation nearest to a (3, 3) matrix (polar decomposition, never a reflection)."""
    u, _, vt = np.linalg.svd(matrix)
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    return np.asarray((u * sign) @ vt)


OF_THE_WHOLE = frozenset(
    {"folding", "mirrored", "feet_first", "face_down", "wrong_size", "wrong_proportions"},
)
"""Codes that no side of the chest can be spared from; the others may hold of one side alone."""


def reject_reasons(
    measures: Measures, evidence: Evidence, failure_probability: float, settings: NormalizeSettings
) -> list[str]:
    """Codes of why a volume is not accepted; none if it is."""
    is_one_sided = measures.side_balance < MIN_SIDE_BALANCE
    way_round = evidence.orientation
    # of one side alone nobody can tell whether it is mirrored: the heart lies where the field of view ends
    can_tell = way_round.body_agrees and not (way_round.best == "mirrored" and is_one_sided)
    limits = {
        "low_ncc": measures.ncc < settings.min_ncc,
        "low_lung_dice": measures.lung_dice < settings.min_lung_dice,
        "lung_outside": measures.lung_inside < settings.min_lung_inside,
        "low_coverage": measures.coverage < settings.min_coverage,
        "one_sided": is_one_sided,
        "folding": measures.folding > settings.max_folding,
        way_round.best: can_tell and way_round.advantage > settings.max_flip_advantage,
        "wrong_size": not MIN_SIZE_RATIO < measures.size_ratio < 1 / MIN_SIZE_RATIO,
        "wrong_proportions": measures.anisotropy > MAX_ANISOTROPY
        or measures.edge_stretch < -MAX_EDGE_SQUEEZE
        or (measures.anisotropy > MAX_ANISOTROPY_IN_DOUBT and abs(measures.edge_stretch) > MAX_EDGE_STRETCH),
        "likely_failed": failure_probability > settings.max_failure_probability,
    }
    return [code for code, is_broken in limits.items() if is_broken]


def _side_balance(is_left: NDArray[np.bool_], shown: NDArray[np.bool_]) -> float:
    """Coverage of the worse side over the better."""
    sides = sorted(float(shown[side].mean()) for side in (is_left, ~is_left) if side.any())
    return sides[0] / sides[-1] if sides[-1] > 0 else 0.0


def _angle_degrees(rotation: NDArray[np.float64]) -> float:
    return float(np.degrees(np.arccos(np.clip((np.trace(rotation) - 1) / 2, -1, 1))))
