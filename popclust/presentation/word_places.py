"""Where in the lungs visual words and topics live: parts of the atlas's lungs, and shares in plain words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from popclust.imaging.volume import Volume

PARTS = ("upper", "middle", "lower", "rim", "core", "right", "left", "front", "back")
"""Parts of the lungs: thirds by volume from head to foot, near their surface or not, the patient's sides, halves."""
RIM_MM = 15.0
"""The rim is what lies within this of the lungs' surface."""
CELL_MM = 8.0
"""Edge of the cells in which features are counted."""

_CONTRASTS = ((0, 1, 2), (3, 4), (5, 6), (7, 8))
_MIN_LIFT, _MIN_MORE = 1.25, 0.08


@dataclass(frozen=True)
class LungParts:
    """The atlas's lungs in cells, and which parts every cell belongs to."""

    cells: Volume
    """bool; cells that hold lung."""
    part_of_cell: NDArray[np.bool_]
    """(part, z, y, x) whether a cell belongs to each of :data:`PARTS`; a position outside the lungs belongs too."""

    @classmethod
    def of(cls, lungs: Volume) -> LungParts:
        """Divide the atlas's lungs.

        Parameters
        ----------
        lungs : Volume
            bool mask of both lungs.

        Raises
        ------
        ValueError
            The mask is empty.
        """
        if not lungs.voxels.any():
            raise ValueError("lungs: the mask of the atlas is empty")
        n = [max(1, int(np.ceil(extent / CELL_MM))) for extent in lungs.extent_mm]
        origin = [o - s / 2 + CELL_MM / 2 for o, s in zip(lungs.origin_mm, lungs.spacing_mm, strict=True)]
        cells = Volume(np.zeros(n, bool), (CELL_MM,) * 3, (origin[0], origin[1], origin[2]))
        depth_mm = ndimage.distance_transform_edt(lungs.voxels, lungs.spacing_mm)
        middles = cells.index_to_mm(np.indices(cells.shape).reshape(3, -1).T)
        index = np.round(lungs.mm_to_index(middles)).astype(int)
        nearest = tuple(np.clip(index, 0, np.array(lungs.shape) - 1).T)
        inside, depth = lungs.voxels[nearest], depth_mm[nearest]
        place = lungs.index_to_mm(np.argwhere(lungs.voxels))
        low, high = np.quantile(place[:, 0], [1 / 3, 2 / 3])
        z, y, x = middles.T
        middle_y, middle_x = np.median(place[:, 1]), np.median(place[:, 2])
        parts = np.stack(
            [
                *(z > high, (z >= low) & (z <= high), z < low),
                *(depth <= RIM_MM, depth > RIM_MM),
                *(x < middle_x, x >= middle_x),  # x grows to the patient's left
                *(y < middle_y, y >= middle_y),  # y grows to the back
            ]
        )
        return cls(cells.with_values(inside.reshape(cells.shape)), parts.reshape(len(PARTS), *cells.shape))

    def cell_of(self, positions_mm: NDArray[np.floating]) -> NDArray[np.intp]:
        """Flat index (n,) of the cell that holds each position, or of the nearest one."""
        index = np.round(self.cells.mm_to_index(positions_mm)).astype(int)
        return np.ravel_multi_index(tuple(np.clip(index, 0, np.array(self.cells.shape) - 1).T), self.cells.shape)

    def shares(self, weight: NDArray[np.floating]) -> NDArray[np.float64]:
        """Share (..., part) of a weight (..., cell) that lies in each part; cells are flat."""
        flat = self.part_of_cell.reshape(len(PARTS), -1)
        total = np.maximum(weight.sum(axis=-1, keepdims=True), 1e-300)
        return np.asarray(weight @ flat.T / total, dtype=np.float64)


def where_in_words(share: NDArray[np.floating], usual: NDArray[np.floating]) -> str:
    """The parts that hold clearly more of a thing than is usual, in plain words.

    Parameters
    ----------
    share, usual : (part,) array
        Share of the thing, and of everything, in each of :data:`PARTS`.

    >>> usual = np.array([0.3, 0.35, 0.35, 0.6, 0.4, 0.5, 0.5, 0.5, 0.5])
    >>> where_in_words(np.array([0.7, 0.2, 0.1, 0.9, 0.1, 0.5, 0.5, 0.5, 0.5]), usual)
    'upper, rim'
    >>> where_in_words(usual, usual)
    'everywhere'
    """
    names, lift = [], share / np.maximum(usual, 1e-9)
    for contrast in _CONTRASTS:
        best = max(contrast, key=lambda i: float(lift[i]))
        if share[best] >= _MIN_LIFT * usual[best] and share[best] - usual[best] >= _MIN_MORE:
            names.append(PARTS[best])
    return ", ".join(names) or "everywhere"
