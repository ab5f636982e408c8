"""Whether a volume is stretched because its slice distance is wrong, or because its owner breathes so.

A wrong slice distance stretches everything: the lungs' shape, and every vessel, rib and layer of fat. Breath and
disease change the shape alone. So how steep edges are along z, against within slices, tells the one from the other.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from popclust.normalization.preparation import Prepared

TISSUE_HU, TISSUE_SMOOTHING_MM = (-200.0, 300.0), 5.0
"""The chest wall: fat, muscle, ribs."""
VESSELS_HU, VESSELS_SMOOTHING_MM = (-1000.0, -400.0), 3.0
"""Vessels and airways in aerated lung."""
WALL_MM = (6.0, 36.0)
"""How far from the lungs the wall is looked at."""
DEPTH_MM = 8.0
"""How deep in the lungs vessels are."""
USUAL = -0.5
"""Sum of both logarithms of steepness along z over that within slices: adults have this, with a standard deviation of
.19 (13 real people -.59, 18 bent ones -.46)."""
PER_STRETCH = 1.28
"""How much the sum falls for each unit of the logarithm of a stretch along z (planted: .5, .6, 1.6, 2.0)."""


def stretch_of_edges(volume: Prepared) -> float:
    """Logarithm of how much longer along z the volume is than its edges within slices say; 0 where none is seen.

    Its standard deviation among real and bent people is .15, for these are not alike in proportion either.
    """
    spacing = volume.image.spacing_mm
    rows = np.flatnonzero(volume.lungs.voxels.any(axis=(1, 2)))
    if not len(rows):
        return 0.0
    beside = np.zeros(volume.image.shape, bool)
    beside[rows[0] : rows[-1] + 1] = True
    deep = ndimage.distance_transform_edt(volume.lungs.voxels, sampling=spacing) > DEPTH_MM
    wall = volume.near_lungs(WALL_MM[1]).voxels & ~volume.near_lungs(WALL_MM[0]).voxels & beside
    if min(np.count_nonzero(deep), np.count_nonzero(wall)) == 0:
        return 0.0
    found = _steepness(volume, wall, TISSUE_HU, TISSUE_SMOOTHING_MM)
    found += _steepness(volume, deep, VESSELS_HU, VESSELS_SMOOTHING_MM)
    return (USUAL - found) / PER_STRETCH if np.isfinite(found) else 0.0


def _steepness(volume: Prepared, where: NDArray[np.bool_], window: tuple[float, float], smoothing_mm: float) -> float:
    """Logarithm of the mean slope along z over that within slices; not finite where there is no slope."""
    spacing = volume.image.spacing_mm
    hu = np.clip(volume.image.voxels, *window)
    smooth = ndimage.gaussian_filter(hu, [smoothing_mm / s for s in spacing])
    z, y, x = (float(np.abs(np.gradient(smooth, s, axis=a)[where]).mean()) for a, s in enumerate(spacing))
    within = np.sqrt((y**2 + x**2) / 2)
    return float(np.log(z / within)) if z > 0 and within > 0 else np.inf
