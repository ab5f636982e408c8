"""Any regular voxel grid in patient space, brought to a grid aligned with the patient's axes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from popclust.errors import VolumeError
from popclust.imaging.headers import FileHeader
from popclust.imaging.planes import distance_along_normal, normal_of
from popclust.imaging.volume import AIR_HU, Vector, Volume

_ALIGNED_MM = 0.05
"""An axis that strays less than this over the whole volume counts as parallel to the patient's."""


@dataclass(frozen=True)
class Grid:
    """A regular grid: ``position = origin + index @ steps``, all in z, y, x order."""

    origin_mm: NDArray[np.float64]
    """(3,) position of the centre of voxel [0, 0, 0]."""
    steps_mm: NDArray[np.float64]
    """(3, 3): row i is the step in space along array axis i."""


def grid_of_stack(headers: Sequence[FileHeader], max_gap_mm: float, thickness_mm: float | None) -> Grid:
    """Grid of a stack of slices that are sorted by position.

    Parameters
    ----------
    headers : sequence of FileHeader
        Slices with positions, in one orientation.
    max_gap_mm : float
        Largest departure of a slice from where a regular distance would put it.
    thickness_mm : float or None
        Stands for the distance if there is a single slice.

    Raises
    ------
    VolumeError
        `position_unknown`, `irregular_spacing` (slices missing, or of varying distance), `gantry_tilt` (each slice is
        displaced within its plane, so the voxels are sheared).
    """
    first = headers[0]
    if first.orientation is None or first.pixel_spacing_mm is None or any(one.position_mm is None for one in headers):
        raise VolumeError("position_unknown", "the headers do not tell where the slices lie")
    positions = np.array([one.position_mm for one in headers], dtype=np.float64)
    row, column = np.array(first.orientation[:3]), np.array(first.orientation[3:])
    n = len(headers)
    if n == 1:
        step = np.array(normal_of(first.orientation)) * (thickness_mm or 1.0)
    else:
        step = (positions[-1] - positions[0]) / (n - 1)
        _check_regular(headers, positions, step, max_gap_mm)
    between_rows, between_columns = first.pixel_spacing_mm
    steps = np.stack([step, column * between_rows, row * between_columns])
    return Grid(positions[0, ::-1].copy(), steps[:, ::-1].copy())


def _check_regular(
    headers: Sequence[FileHeader], positions: NDArray[np.float64], step: NDArray[np.float64], max_gap_mm: float
) -> None:
    first = headers[0]
    normal = np.array(normal_of(first.orientation or ()))
    pixel_mm = max(first.pixel_spacing_mm or (0.0,))
    n = len(headers)
    distances = np.array([distance_along_normal(one) for one in headers])
    regular = np.linspace(distances[0], distances[-1], n)
    if np.abs(distances - regular).max() > max_gap_mm:
        raise VolumeError("irregular_spacing", "the slices are not at regular distances, or some are missing")
    sideways = step - (step @ normal) * normal
    if np.linalg.norm(sideways) * (n - 1) > pixel_mm:
        raise VolumeError("gantry_tilt", "the slices are displaced against each other, as with a tilted gantry")
    stray = positions - (positions[0] + np.arange(n)[:, None] * step)
    if np.linalg.norm(stray, axis=1).max() > max(pixel_mm, max_gap_mm):
        raise VolumeError("irregular_spacing", "the slices are displaced against each other")


def align(values: NDArray, grid: Grid) -> Volume:
    """Bring voxels on any regular grid to axes z (to the head), y (to the back), x (to the left).

    Axes that are parallel to the patient's are permuted and turned round, which keeps every value and position; an
    oblique volume is interpolated linearly on an axis-aligned grid over its bounding box, air outside.

    Parameters
    ----------
    values : ndarray
        (a, b, c) voxels along the grid's axes.
    grid : Grid
        Where they lie.

    Returns
    -------
    Volume
        Of the same dtype.
    """
    order = _nearest_axes(grid.steps_mm)
    values = np.transpose(values, order)
    steps = grid.steps_mm[list(order)]
    origin = grid.origin_mm.copy()
    for axis in range(3):
        if steps[axis, axis] < 0:
            values = np.flip(values, axis)
            origin = origin + (values.shape[axis] - 1) * steps[axis]
            steps[axis] = -steps[axis]
    stray = np.abs(steps - np.diag(np.diag(steps))).sum(axis=1) * (np.array(values.shape) - 1)
    if stray.max() > _ALIGNED_MM:
        return _resample_oblique(values, Grid(origin, steps))
    return Volume(np.ascontiguousarray(values), _vector(np.diag(steps)), _vector(origin))


def aligned_spacing_mm(grid: Grid) -> Vector:
    """Spacing along z, y, x that `align` will give."""
    lengths = np.linalg.norm(grid.steps_mm, axis=1)
    return _vector(lengths[list(_nearest_axes(grid.steps_mm))])


def _nearest_axes(steps: NDArray[np.float64]) -> tuple[int, int, int]:
    """Array axes in the order of the patient's z, y, x that they are most parallel to."""
    cosines = np.abs(steps) / np.linalg.norm(steps, axis=1, keepdims=True)
    a, b, c = max(itertools.permutations(range(3)), key=lambda order: sum(cosines[n, i] for i, n in enumerate(order)))
    return a, b, c


def _resample_oblique(values: NDArray, grid: Grid) -> Volume:
    spacing = np.linalg.norm(grid.steps_mm, axis=1)
    corners = np.array(list(itertools.product(*((0, n - 1) for n in values.shape)))) @ grid.steps_mm + grid.origin_mm
    low, high = corners.min(axis=0), corners.max(axis=0)
    shape = np.floor((high - low) / spacing + 1e-6).astype(int) + 1
    # index_old = (position - origin) @ inverse(steps), with position = low + index_new * spacing
    inverse = np.linalg.inv(grid.steps_mm).T
    resampled = ndimage.affine_transform(
        values.astype(np.float32),
        inverse * spacing,
        inverse @ (low - grid.origin_mm),
        output_shape=tuple(shape),
        order=1,
        mode="constant",
        cval=AIR_HU,
    )
    return Volume(np.rint(resampled).astype(values.dtype), _vector(spacing), _vector(low))


def _vector(values: NDArray[np.float64]) -> Vector:
    z, y, x = (float(value) for value in values)
    return z, y, x
