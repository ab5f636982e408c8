"""The plain rival of words and topics: histograms of density in six zones of the lungs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from popclust.imaging.volume import Volume, resample, sample

EDGES_HU = np.r_[-1100.0, np.arange(-1000.0, 101.0, 50.0), 400.0]
"""Edges of the bins; what lies beyond counts in the first and the last."""
ZONES = ("upper rim", "upper core", "lower rim", "lower core", "back", "front")
"""Where the histograms are taken; upper and lower, back and front are halves about the lungs' centroid."""
SPACING_MM = 3.5
"""Densities are read at this resolution, after a Gaussian of the same width: noise of any scanner is gone."""
RIM_MM = 12.0
"""Depth of the rim."""
_TRUNCATE = 4
"""Where the Gaussian ends, in voxels."""


def zone_histograms(volume: Volume, lung: Volume) -> NDArray[np.uint32]:
    """Voxels of the lungs by zone and density.

    Parameters
    ----------
    volume : Volume
        (z, y, x) HU, z to the head, y to the back.
    lung : Volume
        bool, on any grid in the same space.

    Returns
    -------
    (zone, bin) array of uint32
        Counts in `ZONES` and between `EDGES_HU`.
    """
    index = np.argwhere(lung.voxels)
    if not len(index):
        return np.zeros((len(ZONES), len(EDGES_HU) - 1), np.uint32)
    depth = _depth_mm(lung, index)
    points = lung.index_to_mm(index)
    reach = (_TRUNCATE + 1) * SPACING_MM
    image = resample(volume, SPACING_MM, within_mm=[points.min(axis=0) - reach, points.max(axis=0) + reach])
    smooth = image.with_values(ndimage.gaussian_filter(image.voxels, 1.0, truncate=_TRUNCATE))
    hu = np.clip(sample(smooth, points), EDGES_HU[0], EDGES_HU[-1])
    upper, back = (points[:, axis] > points[:, axis].mean() for axis in (0, 1))
    is_rim = depth < RIM_MM
    zones = (upper & is_rim, upper & ~is_rim, ~upper & is_rim, ~upper & ~is_rim, back, ~back)
    return np.stack([np.histogram(hu[zone], EDGES_HU)[0] for zone in zones]).astype(np.uint32)


def _depth_mm(lung: Volume, index: NDArray[np.int64]) -> NDArray[np.float64]:
    """(n,) distance of the lung's voxels (n, 3) to what is no lung: none is nearer than the box around the lung."""
    first = np.maximum(index.min(axis=0) - 1, 0)
    box = tuple(slice(a, b + 2) for a, b in zip(first, index.max(axis=0), strict=True))
    depth = ndimage.distance_transform_edt(lung.voxels[box], sampling=lung.spacing_mm)
    return np.asarray(depth[tuple((index - first).T)])
