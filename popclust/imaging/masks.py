"""What is done to masks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


def opened_by_box(mask: NDArray[np.bool_], edge_mm: float, spacing_mm: Sequence[float]) -> NDArray[np.bool_]:
    """Binary opening with a box: what of a mask is no thinner than the box along any axis.

    A box is separable, so running minima and maxima along each axis do what `scipy.ndimage.binary_opening` does, in a
    twentieth of the time for one of eight voxels.

    Parameters
    ----------
    mask : (z, y, x) array of bool
        Nothing is true beyond it.
    edge_mm : float
        Edge of the box, rounded to whole voxels, at least one.
    spacing_mm : sequence of float
        Of the mask, zyx.
    """
    size = [max(1, round(edge_mm / s)) for s in spacing_mm]
    kept = ndimage.minimum_filter(mask.view(np.uint8), size, mode="constant", cval=0)
    # a box of an even number of voxels reaches one further down; the second filter mirrors it
    mirrored = [-1 if n % 2 == 0 else 0 for n in size]
    return ndimage.maximum_filter(kept, size, mode="constant", cval=0, origin=mirrored).view(bool)
