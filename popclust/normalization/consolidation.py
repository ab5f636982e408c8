"""Airless lung followed to the wall: what lies beside a large consolidated piece, by the chest wall's map and by grey.

A registration follows the aerated lung and ends a centimetre short where the lung holds no air; consolidated lung has
the grey of muscle and liver, so its own grey does not lead to its end as that of fluid does. But where the lungs as
drawn hold a large piece of it, its neighbourhood is likelier lung than another person's chest wall: there the wall's
map is believed to the voxel, and one step further goes whatever is not fat.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from popclust.imaging.masks import opened_by_box
from popclust.imaging.volume import Volume
from popclust.normalization.effusion import FLUID_HU, smoothed_within
from popclust.normalization.preparation import Prepared

AIRLESS_HU = (-100.0, 150.0)
"""Neither aerated nor bone nor a vessel with contrast agent."""
OPENING_MM = 15.0
"""What is thinner is a vessel or the disagreement of two persons at the lung's edge."""
MIN_ML = 20.0
"""A smaller piece is no evidence."""
REACH_MM = 25.0
"""So near to a piece the chest wall's map is believed."""
STEP_MM = 5.0
"""So far, a voxel of the coarse registration, both maps together fall short."""
SMOOTHING_MM = 4.0
"""Half width of the Gaussian by which fat, below 0 HU in the mean, is told in noise."""


def with_consolidation(lung: Volume, within_wall: Volume, volume: Prepared, between: Volume) -> Volume:
    """Lungs joined with what continues their large airless pieces.

    Parameters
    ----------
    lung : Volume
        bool, (z, y, x): lungs as the maps draw them.
    within_wall : Volume
        bool, on the same grid: the atlas's lungs carried over by the chest wall (`cage.lungs_within_wall`).
    volume : Prepared
        HU and aerated lungs on the same grid.
    between : Volume
        bool, on the same grid: where nothing is joined (`effusion.between_lungs` of the atlas, carried over).

    Returns
    -------
    Volume
        `lung` itself where it holds no such piece. Pieces of the grey of fluid are not followed here:
        `effusion.with_fluid` does that better.
    """
    hu, spacing = volume.image.voxels, np.asarray(lung.spacing_mm)
    tissue = ~volume.lungs.voxels & (hu < AIRLESS_HU[1])
    solid = _solid_pieces(lung.voxels & tissue & (hu > AIRLESS_HU[0]), hu, spacing)
    if not solid.any():
        return lung
    dense = tissue & ~between.voxels
    beside = ndimage.distance_transform_edt(~solid, sampling=spacing) <= REACH_MM
    joined = lung.voxels | (within_wall.voxels & dense & beside)
    next_to = ndimage.distance_transform_edt(~(joined & beside), sampling=spacing) <= STEP_MM
    joined |= next_to & beside & dense & (smoothed_within(dense, hu, SMOOTHING_MM / spacing) > 0)
    return lung.with_values(joined)


def _solid_pieces(
    mask: NDArray[np.bool_], hu: NDArray[np.float32], spacing_mm: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """The large pieces of a mask that are denser than fluid in the median."""
    label, n_pieces = ndimage.label(opened_by_box(mask, OPENING_MM, spacing_mm.tolist()))
    numbers = np.arange(n_pieces + 1)
    ml = np.bincount(label.ravel(), minlength=n_pieces + 1) * float(np.prod(spacing_mm)) / 1000
    is_solid = (ml >= MIN_ML) & (numbers > 0)
    is_solid[is_solid] = np.asarray(ndimage.median(hu, label, numbers[is_solid])) > FLUID_HU[1]
    return np.asarray(is_solid[label])
