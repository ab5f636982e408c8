"""Which side of a chest can be trusted where the registration of all of it is in doubt.

A collapse, a filled hemithorax or a field of view that ends at the middle may spoil one side and leave the other as it
should be. Each side is judged by itself, with the measures and the limits that hold of the whole; a volume of which one
side passes is accepted in part: what is sampled, counted and shown of it is that side alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from popclust.imaging.volume import Volume
from popclust.normalization.correspondence import Likeness, middle_of, thinned
from popclust.normalization.preparation import Prepared
from popclust.normalization.quality import OF_THE_WHOLE, dice, failure_probability
from popclust.normalization.transform import PointMap
from popclust.settings import NormalizeSettings

SIDES = ("right", "left")
"""Of the person."""
MIN_COVERAGE = 0.5
"""A side of which less is seen is not trusted by itself."""
MAX_FAILURE_PROBABILITY = 0.2
"""Nor one that is in doubt itself: a side is kept for being clearly right, not by a hair."""


@dataclass(frozen=True)
class Side:
    """One side of a registered chest."""

    coverage: float
    """Share of the atlas's lung on that side in the field of view."""
    lung_dice: float
    """Overlap of the lung carried over with the volume's own intensity-based one."""
    lung_inside: float
    """Share of the intensity-based lung within that carried over."""
    failure_probability: float
    """By the same logistic function as of the whole, over that side alone."""

    def is_right(self, settings: NormalizeSettings) -> bool:
        """Whether it keeps the limits that hold of the whole."""
        return (
            self.coverage >= max(MIN_COVERAGE, settings.min_coverage)
            and self.lung_dice >= settings.min_lung_dice
            and self.lung_inside >= settings.min_lung_inside
            and self.failure_probability <= min(MAX_FAILURE_PROBABILITY, settings.max_failure_probability)
        )


def sides_of(
    reference: Prepared,
    volume: Prepared,
    to_volume: PointMap,
    is_left: Volume,
    lung: Volume,
    alike: dict[str, Likeness],
) -> dict[str, Side]:
    """Measure each side.

    Parameters
    ----------
    reference, volume : Prepared
        The atlas and the registered volume.
    to_volume : PointMap
        Positions in the atlas -> positions in the volume.
    is_left : Volume
        bool, on the volume's grid: what the map puts on the atlas's left side.
    lung : Volume
        bool, on the same grid: the atlas's lungs carried over.
    alike : mapping of str to Likeness
        By part of the chest.
    """
    points = thinned(reference.lungs.index_to_mm(np.argwhere(reference.lungs.voxels)))
    on_left, shown = points[:, 2] > middle_of(reference.lungs), volume.shows(to_volume(points))
    found = {}
    for side in SIDES:
        here = is_left.voxels == (side == "left")
        carried, own = lung.voxels & here, volume.lungs.voxels & here
        found[side] = Side(
            coverage=float(shown[on_left == (side == "left")].mean()),
            lung_dice=dice(carried, own),
            lung_inside=float((carried & own).sum()) / max(float(own.sum()), 1.0),
            failure_probability=failure_probability(alike[side]),
        )
    return found


def trusted_sides(reasons: Sequence[str], sides: Mapping[str, Side], settings: NormalizeSettings) -> list[str]:
    """The sides that are sampled: both where nothing speaks against the whole, one where it passes by itself."""
    if not reasons:
        return list(SIDES)
    if not OF_THE_WHOLE.isdisjoint(reasons):
        return []
    right = [side for side in SIDES if sides[side].is_right(settings)]
    return right if len(right) == 1 else []


def left_of(reference: Prepared, to_atlas: PointMap, grid: Volume) -> Volume:
    """What a map from a grid's space (mm) to the atlas's puts on the atlas's left side: bool on that grid."""
    points = grid.index_to_mm(np.indices(grid.shape).reshape(3, -1).T)
    return grid.with_values((to_atlas(points)[:, 2] > middle_of(reference.lungs)).reshape(grid.shape))
