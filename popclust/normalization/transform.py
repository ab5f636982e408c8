"""Spatial maps between volume and atlas, stored compactly and applied without elastix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from popclust.imaging.volume import Vector

PointMap = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""Positions (n, 3) zyx mm in one space -> positions (n, 3) zyx mm in another."""


@dataclass(frozen=True)
class DisplacementField:
    """A smooth map of positions: ``p -> p + displacement(p)``, linear between the nodes of a coarse grid.

    Outside the grid the displacement of the nearest border node holds.
    """

    displacement_mm: NDArray[np.float32]
    """(3, z, y, x) displacement along z, y, x at every node."""
    spacing_mm: Vector
    """Distance between nodes along z, y, x."""
    origin_mm: Vector
    """Position of node [0, 0, 0], zyx."""

    def __call__(self, points_mm: ArrayLike) -> NDArray[np.float64]:
        """Map positions (n, 3) zyx mm."""
        points = np.asarray(points_mm, dtype=np.float64)
        index = ((points - self.origin_mm) / self.spacing_mm).T
        moved = [ndimage.map_coordinates(d, index, order=1, mode="nearest") for d in self.displacement_mm]
        return points + np.stack(moved, axis=-1)

    def nodes_mm(self) -> NDArray[np.float64]:
        """Positions (n, 3) zyx mm of all nodes, C order."""
        return grid_points(self.displacement_mm.shape[1:], self.spacing_mm, self.origin_mm)

    @classmethod
    def sampled(
        cls, point_map: PointMap, shape: tuple[int, ...], spacing_mm: Vector, origin_mm: Vector
    ) -> DisplacementField:
        """Sample any map at the nodes of a grid."""
        points = grid_points(shape, spacing_mm, origin_mm)
        displacement = (point_map(points) - points).T.reshape(3, *shape).astype(np.float32)
        return cls(displacement, spacing_mm, origin_mm)


def grid_points(shape: tuple[int, ...], spacing_mm: Vector, origin_mm: Vector) -> NDArray[np.float64]:
    """Positions (n, 3) zyx mm of a grid's nodes, C order.

    >>> grid_points((1, 1, 2), (1.0, 1.0, 4.0), (0.0, 0.0, 10.0)).tolist()
    [[0.0, 0.0, 10.0], [0.0, 0.0, 14.0]]
    """
    index = np.indices(shape).reshape(3, -1).T
    return index * np.asarray(spacing_mm) + np.asarray(origin_mm)
