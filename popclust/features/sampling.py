"""The regular grid of sampling points inside a mask."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def grid_points(mask: NDArray[np.bool_], step: int) -> NDArray[np.int64]:
    """Voxels of the mask on a grid of the given step.

    The grid goes through the central voxel of the whole array (index n // 2 along each axis), so it depends on the
    volume alone, not on the mask or on how the work is cut into blocks.

    Parameters
    ----------
    mask : ndarray of bool
        (z, y, x).
    step : int
        Voxels between neighbouring points, at least 1.

    Returns
    -------
    ndarray of int64
        (n, 3) zyx indices in lexicographic order.
    """
    if step < 1:
        raise ValueError(f"step: must be at least 1 voxel, got {step}")
    starts = [(n // 2) % step for n in mask.shape]
    z, y, x = starts
    return np.argwhere(mask[z::step, y::step, x::step]) * step + starts
