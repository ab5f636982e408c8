"""Focal densities: small round spots that are denser than the lung around them whichever way one goes, as nodules are.

Texture within a window does not tell a nodule from a vessel, and of dense shape descriptors few meet one. What parts
them is the least curved direction: along a vessel the density hardly changes, in a nodule it falls off everywhere.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from popclust.imaging.volume import Volume, box_between, crop, resample, sample

SIGMA_MM = 3.0
"""Gaussian under which spots are sought, and the grid: nothing of a scanner's noise is left of their size."""
DENSEST_HU = 100.0
"""Denser is bone, calcium or contrast agent: no more of a spot than tissue is."""
MIN_HU = 100.0
"""Least curvature along every direction, times the Gaussian's variance: a third of the contrast of a spot that the
Gaussian fits."""
DEPTH_MM = 6.0
"""What is nearer to the lung's edge may be the wall."""
NEAR_MM = 10.0
"""Lung within this of a spot is near it."""

_STEPS = np.array([(z, y, x) for z in (-1, 0, 1) for y in (-1, 0, 1) for x in (-1, 0, 1)])
_ASIDE = _STEPS[_STEPS.any(axis=1)]
_AROUND = _ASIDE / np.linalg.norm(_ASIDE, axis=1, keepdims=True)


def focal_densities(volume: Volume, lung: Volume) -> NDArray[np.float64]:
    """Centres of the focal densities within the lungs.

    Local maxima of the smoothed volume at which the Hessian's least curvature, times the Gaussian's variance, is
    `MIN_HU` or more (Lindeberg 1998 for the scale's norm; Sato et al. 2000 for curvatures as shapes).

    Parameters
    ----------
    volume : Volume
        (z, y, x) HU.
    lung : Volume
        bool, on any grid in the same space.

    Returns
    -------
    (n, 3) array of float
        Positions zyx, mm, in the order of the grid.
    """
    if not lung.voxels.any():
        return np.zeros((0, 3))
    grid = resample(_around_lungs(volume, lung), SIGMA_MM)
    values = np.clip(grid.voxels, -1000.0, DENSEST_HU).astype(np.float32)
    smooth = ndimage.gaussian_filter(values, [SIGMA_MM / s for s in grid.spacing_mm], mode="nearest")
    is_top = smooth == ndimage.maximum_filter(smooth, 3, mode="nearest")
    for axis in range(3):  # at the border no curvature is known
        np.moveaxis(is_top, axis, 0)[[0, -1]] = False
    index = np.argwhere(is_top)
    points = grid.index_to_mm(index)
    index = index[sample(lung, points, outside=0.0) > 0.5]
    index = index[_least_curvature_hu(smooth, index) >= MIN_HU]
    points = grid.index_to_mm(index)
    around = (points[:, None] + DEPTH_MM * _AROUND).reshape(-1, 3)
    is_deep = (sample(lung, around, outside=0.0).reshape(-1, len(_AROUND)) > 0.5).all(axis=1)
    return np.asarray(points[is_deep], np.float64)


def distances_mm(positions_mm: NDArray[np.floating], densities_mm: NDArray[np.float64]) -> NDArray[np.float32]:
    """(n,) distance from positions (n, 3) to the nearest focal density (m, 3); infinite where there is none."""
    if not len(densities_mm):
        return np.full(len(positions_mm), np.inf, np.float32)
    return np.asarray(cKDTree(densities_mm).query(positions_mm)[0], np.float32)


def _least_curvature_hu(smooth: NDArray[np.float32], index: NDArray[np.int64]) -> NDArray[np.float64]:
    """(n,) how much the density falls off along the direction in which it does so least, in HU per voxel squared."""
    value = np.empty((27, len(index)))
    for row, step in zip(value, _STEPS, strict=True):
        row[:] = smooth[tuple((index + step).T)]
    hessian, at = np.zeros((len(index), 3, 3)), {tuple(s): v for s, v in zip(_STEPS.tolist(), value, strict=True)}
    for a in range(3):
        e = np.eye(3, dtype=int)[a]
        hessian[:, a, a] = at[tuple(e)] + at[tuple(-e)] - 2 * at[(0, 0, 0)]
        for b in range(a):
            f = np.eye(3, dtype=int)[b]
            mixed = at[tuple(e + f)] + at[tuple(-e - f)] - at[tuple(e - f)] - at[tuple(f - e)]
            hessian[:, a, b] = hessian[:, b, a] = mixed / 4
    return np.asarray(-np.linalg.eigvalsh(hessian)[:, 2], np.float64)


def _around_lungs(volume: Volume, lung: Volume) -> Volume:
    """The part of a volume that holds the lungs and what the Gaussian reaches besides."""
    box = np.argwhere(lung.voxels)
    corners = lung.index_to_mm(np.stack([box.min(axis=0), box.max(axis=0)])) + 4 * SIGMA_MM * np.array([[-1], [1]])
    return crop(volume, box_between(volume, corners))
