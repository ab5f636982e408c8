"""Counting voxel pairs so that overlapping windows share the work: the compiled part of :mod:`popclust.features.glcm`.

The pairs of a window fall into those inside its yz planes and those between two planes, and the pairs of a plane into
those inside its rows (along z) and those between two rows. So there is, for every x, a running count of the plane at x
(a row of `columns`), moved along y by the rows that enter and leave; and the window's own count is moved along x by
adding the plane that enters and subtracting the one that leaves. Each voxel pair is turned into its cell once. Counts
are integers, so what a window's neighbours were, or how the volume was cut into blocks, cannot change a bit of them.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from popclust.features.glcm_features import LANES, further_12, haralick_13

Offset = tuple[int, int, int]


def directions(distances: ArrayLike = (1,)) -> tuple[Offset, ...]:
    """The 13 directions of 3D (one of each opposite pair), times each distance in voxels: offsets (dz, dy, dx)."""
    unit = [o for o in itertools.product((-1, 0, 1), repeat=3) if (o[2], o[1], o[0]) > (0, 0, 0)]
    return tuple((z * d, y * d, x * d) for d in np.asarray(distances).ravel().tolist() for z, y, x in unit)


def n_pairs(shape: tuple[int, ...], offsets: tuple[Offset, ...]) -> int:
    """Number of voxel pairs with these offsets inside a block of this shape."""
    return sum(math.prod(max(n - abs(c), 0) for n, c in zip(shape, o, strict=True)) for o in offsets)


def stride_of(n_levels: int) -> int:
    """Cells that a row (one difference of levels) of a matrix takes: whole groups of lanes."""
    return -(-n_levels // LANES) * LANES


@lru_cache(maxsize=8)
def cells_of_pairs(n_levels: int, n_counters: int) -> NDArray:
    """(counter, n_levels + 1, n_levels + 1) cell of two levels; level n_levels stands for 'does not count'."""
    stride = stride_of(n_levels)
    a, b = np.indices((n_levels + 1, n_levels + 1))
    cell = np.abs(a - b) * stride + np.minimum(a, b)
    cell[n_levels, :] = cell[:, n_levels] = n_levels * stride - 1
    n_cells = n_levels * stride
    cells = cell + n_cells * np.arange(n_counters)[:, None, None]
    return cells.astype(np.uint16 if n_cells * n_counters <= 2**16 else np.uint32)


@dataclass(frozen=True)
class Layout:
    """Where the kernels find the pairs of each offset.

    The pairs of one distance inside rows of voxels (dy = 0) form a group, those between two rows another. A group's
    pairs lie in one run in memory: for each z all its offsets, dz = 0 first. So the pairs of a window's row are one
    stretch of the run (and `distance - 1` short ones for the last z, where only dz = 0 stays inside).
    """

    groups: NDArray[np.int64]
    """(group, 5): distance, 1 if it joins two rows, number of offsets, of offsets with dz = 0, first offset."""
    lower: NDArray[np.int64]
    """(offset, 3) zyx shift of one end of the pair from the pair's least z, y, x."""
    upper: NDArray[np.int64]
    """(offset, 3) zyx shift of the other end."""
    counters: NDArray[np.int64]
    """(offset,) counter of a plane that takes the pairs: 0 for those inside the plane x, 1 + k for those between the
    planes x and x + distances[k]."""
    distances: NDArray[np.int64]


@lru_cache(maxsize=64)
def layout_of(offsets: tuple[Offset, ...]) -> Layout:
    """Groups of the offsets, and the order in which the kernels keep them."""

    def group_of(offset: Offset) -> tuple[int, bool]:
        return max(map(abs, offset)), offset[1] != 0

    distances = sorted({max(map(abs, o)) for o in offsets})
    groups: list[list[int]] = []
    ordered: list[Offset] = []
    for (distance, joins), members in itertools.groupby(sorted(offsets, key=group_of), group_of):
        own = sorted(members, key=lambda o: o[0] != 0)
        groups.append([distance, int(joins), len(own), sum(o[0] == 0 for o in own), len(ordered)])
        ordered += own
    shift = np.array(ordered, dtype=np.int64)
    counters = [1 + distances.index(max(map(abs, o))) if o[2] else 0 for o in ordered]
    return Layout(
        np.array(groups), np.maximum(-shift, 0), np.maximum(shift, 0), np.array(counters), np.array(distances)
    )


@njit(cache=True, nogil=True)
def fill_cells(
    cells: NDArray,
    levels: NDArray,
    wanted: NDArray,
    lut: NDArray,
    groups: NDArray,
    lower: NDArray,
    upper: NDArray,
    counters: NDArray,
) -> None:
    """cells[y, x, n_z * (first offset of group) + z * (offsets of group) + offset]: the cell of each pair of voxels."""
    n_z = cells.shape[2] // lower.shape[0]
    n_filled = min(n_z, levels.shape[2] - max(lower.max(), upper.max()))
    for y in range(wanted.shape[0]):
        for x in range(wanted.shape[1]):
            if not wanted[y, x]:
                continue
            for g in range(groups.shape[0]):
                n_own, first = groups[g, 2], groups[g, 4]
                for o in range(first, first + n_own):
                    y_a, x_a, z_a = y + lower[o, 1], x + lower[o, 2], np.uint64(lower[o, 0])
                    y_b, x_b, z_b = y + upper[o, 1], x + upper[o, 2], np.uint64(upper[o, 0])
                    counter = counters[o]
                    at, every = np.uint64(n_z * first + o - first), np.uint64(n_own)
                    for z in range(np.uint64(n_filled)):
                        cells[y, x, at + z * every] = lut[counter, levels[y_a, x_a, z_a + z], levels[y_b, x_b, z_b + z]]


@njit(cache=True, nogil=True, forceinline=True)
def _count_row(
    columns: NDArray, x: int, cells: NDArray, row: int, n_z: int, z: int, window: int, groups: NDArray, g: int
) -> None:
    """Count all pairs of group g that start in one row of voxels and lie in the window's z range.

    `row` is where the cells of that row of voxels begin.
    """
    distance, n_own, n_level = groups[g, 0], groups[g, 2], groups[g, 3]
    start = np.uint64(row + n_z * groups[g, 4] + z * n_own)
    for i in range((window - distance) * n_own):
        columns[x, cells[start + np.uint64(i)]] += 1
    for t in range(window - distance, window):
        for i in range(t * n_own, t * n_own + n_level):
            columns[x, cells[start + np.uint64(i)]] += 1


@njit(cache=True, nogil=True, forceinline=True)
def _exchange_row(
    changes: NDArray,
    cells: NDArray,
    entering: int,
    leaving: int,
    n_z: int,
    z: int,
    window: int,
    groups: NDArray,
    g: int,
) -> None:
    """As :func:`_count_row`, for a row that enters (changes 0 and 1) and one that leaves (2 and 3) at once.

    Neighbouring pairs mostly fall into the same few cells, and adding twice to one place in memory waits for the
    first to finish: four counts in turn do not.
    """
    distance, n_own, n_level = groups[g, 0], groups[g, 2], groups[g, 3]
    start = n_z * groups[g, 4] + z * n_own
    plus, minus = np.uint64(entering + start), np.uint64(leaving + start)
    n = (window - distance) * n_own + n_level
    half = np.uint64(n // 2)
    for i in range(half):
        changes[0, cells[plus + i]] += 1
        changes[2, cells[minus + i]] += 1
        changes[1, cells[plus + half + i]] += 1
        changes[3, cells[minus + half + i]] += 1
    if n % 2:
        changes[0, cells[plus + np.uint64(n - 1)]] += 1
        changes[2, cells[minus + np.uint64(n - 1)]] += 1
    for t in range(window - distance + 1, window):
        for i in range(np.uint64(t * n_own), np.uint64(t * n_own + n_level)):
            changes[0, cells[plus + i]] += 1
            changes[2, cells[minus + i]] += 1


@njit(cache=True, nogil=True, forceinline=True)
def _apply(columns: NDArray, x: int, changes: NDArray) -> None:
    """Add the changes to the counters of plane x and clear them."""
    for i in range(columns.shape[1]):
        columns[x, i] += changes[0, i] + changes[1, i] - changes[2, i] - changes[3, i]
        changes[0, i] = 0
        changes[1, i] = 0
        changes[2, i] = 0
        changes[3, i] = 0


@njit(cache=True, nogil=True)
def _move_column(
    columns: NDArray,
    changes: NDArray,
    cells: NDArray,
    shape: tuple[int, int, int],
    x: int,
    y_old: int,
    y: int,
    z: int,
    window: int,
    groups: NDArray,
) -> None:
    """Bring the counters of plane x from window row y_old (-1: from nothing) to y.

    `shape` is the number of planes x, of voxels z, and of cells in one row of voxels.
    """
    n_x, n_z, n_row = shape
    fresh = y_old < 0 or 2 * (y - y_old) >= window
    if fresh:
        columns[x] = 0
    for g in range(groups.shape[0]):
        reach = groups[g, 0] * groups[g, 1]
        if fresh:
            for row in range(y, y + window - reach):
                _count_row(columns, x, cells, (row * n_x + x) * n_row, n_z, z, window, groups, g)
        else:
            for row in range(y_old, y):
                leaving = (row * n_x + x) * n_row
                entering = leaving + (window - reach) * n_x * n_row
                _exchange_row(changes, cells, entering, leaving, n_z, z, window, groups, g)
    if not fresh:
        _apply(columns, x, changes)


@njit(cache=True, nogil=True)
def _move_window(counts: NDArray, columns: NDArray, x_old: int, x: int, window: int, distances: NDArray) -> None:
    """Bring the counts of the window from plane x_old (-1: from nothing) to x."""
    n_cells = counts.shape[0]
    fresh = x_old < 0 or 2 * (x - x_old) >= window
    if fresh:
        counts[:] = 0
    for c in range(distances.shape[0] + 1):
        start = c * n_cells
        reach = 0 if c == 0 else distances[c - 1]
        if fresh:
            for t in range(x, x + window - reach):
                for i in range(n_cells):
                    counts[i] += columns[t, start + i]
        else:
            for t in range(x_old, x):
                for i in range(n_cells):
                    counts[i] += columns[t + window - reach, start + i] - columns[t, start + i]


@njit(cache=True, nogil=True)
def scan(
    points: NDArray,
    cells: NDArray,
    shape: tuple[int, int, int],
    columns: NDArray,
    counts: NDArray,
    groups: NDArray,
    distances: NDArray,
    window: int,
    n_levels: int,
    table: NDArray,
    unit: float,
    pairs_of: NDArray,
    out: NDArray,
) -> None:
    """Features at each window corner (z, y, x) of `points`, which are in lexicographic order."""
    stride = counts.shape[0] // n_levels
    column_y = np.full(columns.shape[0], -1)
    sums = np.zeros(4 * stride, dtype=counts.dtype)
    changes = np.zeros((4, columns.shape[1]), dtype=counts.dtype)
    z_now, y_now, x_now = -1, -1, -1
    for p in range(points.shape[0]):
        z, y, x = points[p, 0], points[p, 1], points[p, 2]
        if z != z_now:
            column_y[:] = -1
        if z != z_now or y != y_now:
            x_now = -1
        for t in range(x if x_now < 0 else max(x, x_now + window), x + window):
            if column_y[t] != y:
                _move_column(columns, changes, cells, shape, t, column_y[t], y, z, window, groups)
                column_y[t] = y
        _move_window(counts, columns, x_now, x, window, distances)
        z_now, y_now, x_now = z, y, x
        counts[-1] = 0  # the cell of pairs that do not count, which no pair of levels has
        n = haralick_13(counts, n_levels, stride, table, unit, sums, out, p)
        if n > 0 and out.shape[1] > 13:
            further_12(counts, n_levels, stride, n, sums, out, p)
        pairs_of[p] = n
