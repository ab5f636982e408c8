"""Spatial maps between volume and atlas, stored compactly and applied without elastix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from popclust.imaging.volume import Vector
from popclust.normalization import interpolation

PointMap = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""Positions (n, 3) zyx mm in one space -> positions (n, 3) zyx mm in another."""


@dataclass(frozen=True)
class AffineMap:
    """``p -> matrix @ p + offset_mm``."""

    matrix: NDArray[np.float64]
    """(3, 3) zyx."""
    offset_mm: NDArray[np.float64]
    """(3,) zyx."""

    def __call__(self, points_mm: ArrayLike) -> NDArray[np.float64]:
        """Map positions (n, 3) zyx mm."""
        return np.asarray(points_mm, dtype=np.float64) @ self.matrix.T + self.offset_mm

    def inverse(self) -> AffineMap:
        """The map back.

        Raises
        ------
        numpy.linalg.LinAlgError
            The matrix is singular.
        """
        inverse = np.asarray(np.linalg.inv(self.matrix), dtype=np.float64)
        return AffineMap(inverse, -inverse @ self.offset_mm)

    def with_stretch(self, power: float, centre_mm: ArrayLike) -> AffineMap:
        """The map with its stretches raised to a power (0: only its rotation is left), unchanged at (3,) zyx mm."""
        u, stretches, vt = np.linalg.svd(self.matrix)
        matrix = (u * stretches**power) @ vt
        return AffineMap(matrix, self(centre_mm) - matrix @ centre_mm)

    @classmethod
    def translation(cls, offset_mm: ArrayLike) -> AffineMap:
        """A shift by (3,) zyx mm."""
        return cls(np.eye(3), np.asarray(offset_mm, dtype=np.float64))

    @classmethod
    def fitted(cls, source_mm: NDArray[np.float64], target_mm: NDArray[np.float64]) -> AffineMap:
        """Least-squares affine map of points (n, 3) zyx mm onto points (n, 3) zyx mm, n >= 4."""
        centre = source_mm.mean(0)
        design = np.column_stack([source_mm - centre, np.ones(len(source_mm))])
        solution = np.linalg.lstsq(design, target_mm, rcond=None)[0]
        matrix = solution[:3].T
        return cls(matrix, solution[3] - matrix @ centre)


@dataclass(frozen=True)
class BSplineMap:
    """``p -> p + sum_k c_k beta3((p - origin) / spacing - k)``: a free-form deformation by cubic B-splines.

    Beyond the region where all 64 control points exist the displacement of its nearest border point holds
    (elastix has a jump to zero there; no voxel of the fixed image lies so far out).
    """

    coefficients_mm: NDArray[np.float64]
    """(3, z, y, x) displacement coefficients along z, y, x."""
    spacing_mm: Vector
    """Distance between control points along z, y, x."""
    origin_mm: Vector
    """Position of control point [0, 0, 0], zyx."""

    def __call__(self, points_mm: ArrayLike) -> NDArray[np.float64]:
        """Map positions (n, 3) zyx mm."""
        points = np.asarray(points_mm, dtype=np.float64)
        return points + interpolation.cubic(self.coefficients_mm, (points - self.origin_mm) / self.spacing_mm)


@dataclass(frozen=True)
class ChainMap:
    """Maps applied one after the other, the first first."""

    maps: tuple[PointMap, ...]
    """The maps; none is the identity."""

    def __call__(self, points_mm: ArrayLike) -> NDArray[np.float64]:
        """Map positions (n, 3) zyx mm."""
        points = np.asarray(points_mm, dtype=np.float64)
        for point_map in self.maps:
            points = point_map(points)
        return points


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
        return points + interpolation.linear(self.displacement_mm, (points - self.origin_mm) / self.spacing_mm)

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

    @classmethod
    def over_box(cls, point_map: PointMap, corners_mm: ArrayLike, spacing_mm: float) -> DisplacementField:
        """Sample any map at nodes `spacing_mm` apart that span the box between two corners, (2, 3) zyx mm.

        The box grows evenly on both sides to a whole number of intervals.
        """
        low, high = np.asarray(corners_mm, dtype=np.float64)
        n_intervals = np.maximum(np.ceil((high - low) / spacing_mm), 1).astype(int)
        z, y, x = ((low + high - n_intervals * spacing_mm) / 2).tolist()
        shape = tuple((n_intervals + 1).tolist())
        return cls.sampled(point_map, shape, (spacing_mm,) * 3, (z, y, x))


def inverted(
    point_map: PointMap, points_mm: NDArray[np.float64], start: AffineMap, n_iterations: int = 30
) -> NDArray[np.float64]:
    """Positions q (n, 3) with ``point_map(q) = points_mm``, by fixed-point iteration.

    Parameters
    ----------
    point_map : PointMap
        The map to invert.
    points_mm : ndarray
        (n, 3) zyx mm in the space that `point_map` leads to.
    start : AffineMap
        The map back, roughly: the iteration ``q <- q - S (point_map(q) - p)`` uses its matrix S (Chen et al.,
        Med Phys 35:81, 2008, after an affine preconditioning) and converges wherever S times the Jacobian is
        within one of the identity. Where space is folded there is no inverse; the last iterate stands.

    Returns
    -------
    ndarray
        (n, 3) zyx mm.
    """
    found = start(points_mm)
    step = np.ones((len(points_mm), 1))
    previous = np.full(len(points_mm), np.inf)
    for _ in range(n_iterations):
        residual = point_map(found) - points_mm
        size = np.linalg.norm(residual, axis=1)
        if size.size == 0 or size.max() < 1e-3:
            break
        # Half steps where the map is so stretched that full ones overshoot.
        step[size > 0.9 * previous] *= 0.7
        previous = size
        found = found - step * (residual @ start.matrix.T)
    return found


def inverse_field(field: DisplacementField, corners_mm: ArrayLike, spacing_mm: float) -> DisplacementField:
    """The map back of a field, at nodes `spacing_mm` apart that span the box between two corners, (2, 3) zyx mm."""
    nodes = field.nodes_mm()
    back = AffineMap.fitted(field(nodes), nodes)
    return DisplacementField.over_box(lambda points: inverted(field, points, back), corners_mm, spacing_mm)


def jacobian_determinants(
    point_map: PointMap, points_mm: NDArray[np.float64], step_mm: float = 1.0
) -> NDArray[np.float64]:
    """Local volume ratio (n,) of a map at positions (n, 3) zyx mm, by central differences; <= 0 where it folds."""
    columns = []
    for axis in range(3):
        shift = np.zeros(3)
        shift[axis] = step_mm
        columns.append((point_map(points_mm + shift) - point_map(points_mm - shift)) / (2 * step_mm))
    return np.asarray(np.linalg.det(np.stack(columns, axis=-1)))


def grid_points(shape: tuple[int, ...], spacing_mm: Vector, origin_mm: Vector) -> NDArray[np.float64]:
    """Positions (n, 3) zyx mm of a grid's nodes, C order.

    >>> grid_points((1, 1, 2), (1.0, 1.0, 4.0), (0.0, 0.0, 10.0)).tolist()
    [[0.0, 0.0, 10.0], [0.0, 0.0, 14.0]]
    """
    index = np.indices(shape).reshape(3, -1).T
    return index * np.asarray(spacing_mm) + np.asarray(origin_mm)
