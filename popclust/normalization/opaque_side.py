"""Where lung should be on a side of the chest that shows no air: the mirror image of the other side's.

A lung that fluid or consolidation fills altogether, or that was taken out, leaves no edge to crop by or to begin from.
What the other side's lung is like, turned over at the spine, says about where the chest goes on; how it is filled is
left to the registration.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from popclust.imaging.volume import Volume
from popclust.normalization.body import BONE_HU, TISSUE_HU

MAX_AIR = 0.25
"""Less aerated lung on one side than this share of the other's is no lung that is only smaller."""
MIN_SHOWN = 0.6
"""So much of the mirror image lies in the field of view, else the side may be beyond it."""
MIN_TISSUE = 0.6
"""So much of it is tissue: what holds air, and is no lung, is bowel or the room."""
MIN_BONE_ML = 10.0
"""With less bone behind the lungs the spine is not seen, and nobody knows the middle."""


def with_opaque_side(lungs: Volume, image: Volume) -> Volume:
    """Aerated lungs, joined with the mirror image of one side's where the other holds next to no air.

    Parameters
    ----------
    lungs : Volume
        bool, (z, y, x).
    image : Volume
        HU on the same grid.

    Returns
    -------
    Volume
        `lungs` itself where both sides are aerated, where the spine is not seen, and where the other side lies beyond
        the field of view or shows air.
    """
    middle = _spine_x(lungs, image)
    if middle is None:
        return lungs
    is_left = np.arange(lungs.shape[2]) > middle
    less, more = sorted(np.count_nonzero(lungs.voxels[..., side]) for side in (is_left, ~is_left))
    if less >= MAX_AIR * more:
        return lungs
    index = np.argwhere(lungs.voxels)
    index[:, 2] = np.rint(2 * middle - index[:, 2])
    seen = index[(index[:, 2] >= 0) & (index[:, 2] < lungs.shape[2])]
    mirrored = np.zeros(lungs.shape, bool)
    mirrored[tuple(seen.T)] = True
    is_tissue = image.voxels[mirrored] > TISSUE_HU
    if len(seen) < MIN_SHOWN * len(index) or is_tissue.mean() < MIN_TISSUE:
        return lungs
    return lungs.with_values(lungs.voxels | ndimage.binary_closing(mirrored))


def _spine_x(lungs: Volume, image: Volume) -> float | None:
    """Column of the spine: the median of the bone behind the middle of the lungs, at their height."""
    z, y, _ = np.nonzero(lungs.voxels)
    if len(z) == 0:
        return None
    behind: NDArray[np.bool_] = image.voxels[z.min() : z.max() + 1, round(float(y.mean())) :] > BONE_HU
    columns = behind.sum(axis=(0, 1)).cumsum()
    if columns[-1] * np.prod(image.spacing_mm) < 1000 * MIN_BONE_ML:
        return None
    return float(np.searchsorted(columns, columns[-1] / 2))
