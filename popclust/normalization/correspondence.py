"""Whether what a map lays over each other belongs together: by what lung disease does not touch, and as a peak.

A correlation says how alike two people are as well as whether the map is right. So the same correlations are taken once
more under maps that are surely wrong: shifted, turned, stretched. Disease, noise and another build lower both; the
difference stays. A registration that went astray rests on a slope or a ridge, where some wrong map is as good.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from popclust.imaging.volume import Volume, sample
from popclust.normalization.preparation import RANGE_HU, Prepared
from popclust.normalization.transform import AffineMap, ChainMap, PointMap

CAGE_MM = 36.0
"""How far from its lungs the atlas's chest wall is compared."""
BESIDE_MM = 10.0
"""How far from its lungs what is sound is compared."""
WALL_HU = (-200.0, 100.0)
"""The chest wall is compared as fat against muscle and bone: a metal clip weighs no more than a rib."""
MEDIASTINUM_HU = (-1000.0, 60.0)
"""What lies between the lungs is compared as airways, fat and tissue, with contrast agent or without."""
MAX_POINTS = 40_000
"""Voxels at most over which a measure is taken: every n-th in C order."""
PROBES = 10_000
"""The same where a wrong map is tried."""
SHIFT_MM, TURN_DEGREES, STRETCH = 20.0, 12.0, 1.15
"""By how much the wrong maps are wrong, either way along or about each axis."""


def ncc(a: NDArray, b: NDArray) -> float:
    """Normalised cross correlation of two samples (n,); 0 where one is constant."""
    a, b = a.astype(np.float64) - a.mean(), b.astype(np.float64) - b.mean()
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / norm if norm > 0 else 0.0


def ncc_or_zero(a: NDArray, b: NDArray) -> float:
    """The same, and 0 of fewer than two."""
    return ncc(a, b) if len(a) > 1 else 0.0


def thinned(points: NDArray, n_max: int = MAX_POINTS) -> NDArray:
    """Every n-th row, so that at most n_max are left."""
    return points[:: max(1, -(-len(points) // n_max))]


@dataclass(frozen=True)
class Correspondence:
    """What belongs together under one map."""

    wall_ncc: float
    """Correlation of the chest wall with the atlas's: fat, muscle, ribs and spine, which no lung disease touches."""
    mediastinum_ncc: float
    """The same of what lies between the lungs."""
    sound_ncc: float
    """The same over the lungs and 1 cm around, without what of the lungs carried over is not aerated."""

    @property
    def total(self) -> float:
        """Sum of the three."""
        return self.wall_ncc + self.mediastinum_ncc + self.sound_ncc


@dataclass(frozen=True)
class Drops:
    """By how much `Correspondence.total` is better under a map than under the best of the wrong ones near it."""

    shift: float
    turn: float
    stretch: float


@dataclass(frozen=True)
class Likeness(Correspondence):
    """What belongs together under one map, and what is lost under wrong ones."""

    shift_drop: float
    """By how much the sum of the three correlations is lower under the best of maps that are shifted by 20 mm."""
    turn_drop: float
    """The same of maps that are turned by 12 degrees."""
    stretch_drop: float
    """The same of maps that are stretched or squeezed by 1.15."""


PARTS = ("both", "right", "left")
"""What of a chest is compared: all of it, and what lies on either side of the middle of the atlas's lungs."""


@dataclass(frozen=True)
class Sites:
    """Where an atlas is compared: its chest wall and mediastinum, and its lungs with 1 cm around."""

    beside_mm: NDArray[np.float64]
    """(n, 3) positions beside the lungs."""
    beside_hu: NDArray[np.float32]
    """(n,) what the atlas shows there."""
    is_between: NDArray[np.bool_]
    """(n,) whether that is between the lungs."""
    near_mm: NDArray[np.float64]
    """(m, 3) positions in the lungs and 1 cm around."""
    near_hu: NDArray[np.float32]
    """(m,) what the atlas shows there."""
    is_lung: NDArray[np.bool_]
    """(m,) whether that is lung."""
    middle_mm: float
    """The sides of the chest part here along x; beyond is left."""

    @classmethod
    def of(cls, reference: Prepared, n_points: int = MAX_POINTS) -> Sites:
        """At most n_points of each kind."""
        image, lungs = reference.image, reference.lungs.voxels
        beside = thinned(np.argwhere(reference.near_lungs(CAGE_MM).voxels & ~lungs), n_points)
        near = thinned(np.argwhere(reference.near_lungs(BESIDE_MM).voxels), n_points)
        at_beside, at_near = tuple(beside.T), tuple(near.T)
        return cls(
            image.index_to_mm(beside), image.voxels[at_beside], reference.hull[at_beside],
            image.index_to_mm(near), image.voxels[at_near], lungs[at_near], middle_of(reference.lungs),
        )  # fmt: skip

    def of_part(self, part: str) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which of the positions beside the lungs, and of those in and near them, belong to a part."""
        beside, near = (points[:, 2] > self.middle_mm for points in (self.beside_mm, self.near_mm))
        if part == "both":
            return np.ones_like(beside), np.ones_like(near)
        return (beside, near) if part == "left" else (~beside, ~near)


def middle_of(lungs: Volume) -> float:
    """Where the sides of the chest part along x, in mm: the middle of the lungs' box."""
    x = lungs.index_to_mm(np.argwhere(lungs.voxels))[:, 2]
    return float(x.min() + x.max()) / 2


def correspondence(sites: Sites, volume: Prepared, to_volume: PointMap, filled: Volume) -> dict[str, Correspondence]:
    """Compare a volume with the atlas under a map, in each of `PARTS`.

    Parameters
    ----------
    sites : Sites
        Of the atlas.
    volume : Prepared
        The volume.
    to_volume : PointMap
        Positions in the atlas -> positions in the volume.
    filled : Volume
        bool, on the volume's grid: what is compared with nothing.
    """
    moved = to_volume(sites.beside_mm)
    shown = volume.shows(moved) & ~_within(filled, moved)
    beside_hu = sample(volume.image, moved, outside=RANGE_HU[0])
    moved = to_volume(sites.near_mm)
    sound = volume.shows(moved) & (~sites.is_lung | _within(volume.lungs, moved)) & ~_within(filled, moved)
    near_hu = sample(volume.image, moved, outside=0.0)

    def of(part: str) -> Correspondence:
        beside, near = sites.of_part(part)
        wall, between = (
            ncc_or_zero(np.clip(sites.beside_hu[chosen], *window), np.clip(beside_hu[chosen], *window))
            for chosen, window in (
                (beside & shown & ~sites.is_between, WALL_HU),
                (beside & shown & sites.is_between, MEDIASTINUM_HU),
            )
        )
        return Correspondence(wall, between, ncc_or_zero(sites.near_hu[near & sound], near_hu[near & sound]))

    return {part: of(part) for part in PARTS}


def drops(reference: Prepared, volume: Prepared, to_volume: PointMap, filled: Volume) -> dict[str, Drops]:
    """How much worse a volume corresponds with the atlas under maps that are wrong; parameters and parts as above."""
    sites = Sites.of(reference, PROBES)

    def total(wrong: AffineMap) -> NDArray[np.float64]:
        found = correspondence(sites, volume, ChainMap((wrong, to_volume)), filled)
        return np.array([found[part].total for part in PARTS])

    right = total(AffineMap.translation((0.0, 0.0, 0.0)))
    by_kind = np.stack([right - np.max([total(wrong) for wrong in kind], axis=0) for kind in _wrong_maps(reference)])
    return {part: Drops(*by_kind[:, i].tolist()) for i, part in enumerate(PARTS)}


def likeness_of_parts(
    reference: Prepared, volume: Prepared, to_volume: PointMap, filled: Volume
) -> dict[str, Likeness]:
    """All six measures in each of `PARTS`; parameters as above."""
    found = correspondence(Sites.of(reference), volume, to_volume, filled)
    worse = drops(reference, volume, to_volume, filled)
    return {
        part: Likeness(**asdict(found[part]), **{f"{kind}_drop": d for kind, d in asdict(worse[part]).items()})
        for part in PARTS
    }


def _wrong_maps(reference: Prepared) -> Sequence[Sequence[AffineMap]]:
    """Shifts, turns and stretches of the atlas's lungs about their middle, two about or along each axis."""
    centre = reference.lungs.index_to_mm(np.argwhere(reference.lungs.voxels)).mean(axis=0)
    axes, signs = np.eye(3), (-1.0, 1.0)
    shifts = [AffineMap.translation(sign * SHIFT_MM * axis) for axis in axes for sign in signs]
    turns = [_turn(axis, np.radians(sign * TURN_DEGREES)) for axis in axes for sign in signs]
    stretches = [np.diag(STRETCH ** (sign * axis)) for axis in axes for sign in signs]
    about = [[AffineMap(matrix, centre - matrix @ centre) for matrix in kind] for kind in (turns, stretches)]
    return (shifts, *about)


def _turn(axis: NDArray[np.float64], angle: float) -> NDArray[np.float64]:
    """(3, 3) rotation about an axis (Rodrigues' formula)."""
    cross = np.cross(np.eye(3), axis)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def _within(mask: Volume, points: NDArray[np.float64]) -> NDArray[np.bool_]:
    return sample(mask, points, outside=0.0) > 0.5
