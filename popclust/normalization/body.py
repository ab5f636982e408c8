"""What the body says of the way it lies: the chest between the lungs, the spine, the windpipe and the apices."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError

from popclust.imaging.volume import Volume

BONE_HU = 200.0
"""Denser than this is bone, or blood with contrast agent."""
MIDLINE_MM = 30.0
"""Half width of what counts as the body's midline."""
WINDPIPE_HU = -700.0
"""The windpipe is emptier than this even at a coarse resolution."""
NECK_MM = 40.0
"""How far above and below an end of the lungs the windpipe is looked for."""
TIP_SHARE = 0.12
"""Share of the lungs' length that counts as their tip."""
TISSUE_HU = -300.0
"""Less dense is air, if it is no lung."""
BODY_SHARE = 0.25
"""A body holds as much of a slice's aerated lung; arms and the table hold none."""
MAX_LOOKED_AT = 24
"""Slices in which bodies are counted at most."""


def hull_by_slice(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The convex hull of a mask (z, y, x) in every slice: lungs and what lies between them, without ribs and spine."""
    hull = np.zeros_like(mask)
    grid = np.indices(mask.shape[1:]).reshape(2, -1).T
    for plane, out in zip(mask, hull, strict=True):
        try:
            sides = ConvexHull(np.argwhere(plane)).equations
        except (QhullError, ValueError):  # no area: nothing, a voxel or a line
            continue
        out[:] = (grid @ sides[:, :2].T + sides[:, 2] <= 1e-9).all(axis=1).reshape(out.shape)
    return hull


def n_bodies(image: Volume, lungs: Volume) -> int:
    """How many bodies with lungs of their own lie side by side: in the median of slices with much lung; 0 without."""
    area = lungs.voxels.sum(axis=(1, 2))
    planes = np.flatnonzero(area > 0.2 * area.max())
    if not len(planes):
        return 0
    counts = []
    for k in planes[:: -(-len(planes) // MAX_LOOKED_AT)]:
        body, n_parts = ndimage.label(ndimage.binary_opening((image.voxels[k] > TISSUE_HU) | lungs.voxels[k]))
        held = np.bincount(body[lungs.voxels[k]], minlength=n_parts + 1)[1:]
        counts.append(np.count_nonzero(held >= BODY_SHARE * area[k]))
    return int(np.median(counts))


def spine_balance(image: Volume, hull: NDArray[np.bool_]) -> float:
    """Bone at the midline behind the chest's middle minus that before it, over their sum; 0 where there is none.

    About 1 for a body that lies as it should, about -1 for one turned over. What is bright within the hull is left
    out: it may be the heart with contrast agent.
    """
    _, middle_y, middle_x = np.argwhere(hull).mean(axis=0) if hull.any() else np.zeros(3)
    y, x = (np.arange(n) for n in hull.shape[1:])
    is_behind = np.broadcast_to((y > middle_y)[:, None], hull.shape)
    levels = np.asarray(hull.any(axis=(1, 2))).reshape(-1, 1, 1)
    bone = (image.voxels > BONE_HU) & ~hull & levels & (np.abs(x - middle_x) * image.spacing_mm[2] < MIDLINE_MM)
    behind, before = (int(np.count_nonzero(bone & side)) for side in (is_behind, ~is_behind))
    return (behind - before) / max(behind + before, 1)


def head_balance(image: Volume, lungs: NDArray[np.bool_], hull: NDArray[np.bool_]) -> float:
    """How much the upper end looks like that of the neck: above 0 for a body that lies as it should.

    The lungs are narrower at their apices than at their bases, and the windpipe is seen at the upper end alone.
    """
    planes = np.flatnonzero(lungs.sum(axis=(1, 2)) > 0.05 * lungs.sum(axis=(1, 2)).max())
    if planes.size == 0:
        return 0.0
    low, high = int(planes[0]), int(planes[-1])
    tip = max(2, int(TIP_SHARE * (high - low)))
    top, base = _width(lungs[high - tip + 1 : high + 1]), _width(lungs[low : low + tip])
    x = np.arange(lungs.shape[2]) - np.argwhere(hull)[:, 2].mean() if hull.any() else np.zeros(lungs.shape[2])
    midline = np.abs(x) * image.spacing_mm[2] < MIDLINE_MM
    tube = (image.voxels < WINDPIPE_HU) & ~ndimage.binary_dilation(lungs) & midline
    reach = round(NECK_MM / image.spacing_mm[0])
    above, below = (np.count_nonzero(tube[max(end - reach, 0) : end + reach]) for end in (high, low))
    return float(np.log(base / top) + 0.5 * np.log((above + 1) / (below + 1)))


def _width(slab: NDArray[np.bool_]) -> int:
    """Distance between the outermost columns of a slab, at least one voxel."""
    columns = np.flatnonzero(slab.any(axis=(0, 1)))
    return max(int(columns[-1] - columns[0]), 1) if columns.size else 1
