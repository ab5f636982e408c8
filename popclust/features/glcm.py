"""Dense grey-level co-occurrence features: exact integer counts that overlapping windows share.

The pairs of a window fall into those inside its yz planes and those between two planes, and the pairs of a plane into
those inside its rows (along z) and those between two rows. So there is, for every x, a running count of the plane at x
(*column*), moved along y by the rows that enter and leave; and the window's own count is moved along x by adding the
plane that enters and subtracting the one that leaves. Each voxel pair is turned into its cell once. Counts are
integers, so what a window's neighbours were, or how the volume was cut into blocks, cannot change a bit of the result.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from popclust.features.glcm_features import (
    HARALICK_13,
    IBSI_25,
    LANES,
    entropy_bits,
    entropy_table,
    further_12,
    haralick_13,
)

Offset = tuple[int, int, int]

_SLAB_BYTES = 48 << 20
"""Size of the buffer of pair cells that a slab of the volume is worked through with."""


def directions(distances: ArrayLike = (1,)) -> tuple[Offset, ...]:
    """The 13 directions of 3D (one of each opposite pair), times each distance in voxels: offsets (dz, dy, dx)."""
    unit = [o for o in itertools.product((-1, 0, 1), repeat=3) if (o[2], o[1], o[0]) > (0, 0, 0)]
    return tuple((z * d, y * d, x * d) for d in np.asarray(distances).ravel().tolist() for z, y, x in unit)


def n_pairs(window: int, offsets: tuple[Offset, ...]) -> int:
    """Number of voxel pairs with these offsets inside a full cubic window."""
    return sum(int(np.prod([max(window - abs(c), 0) for c in o])) for o in offsets)


@dataclass(frozen=True)
class _Layout:
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
def _layout(offsets: tuple[Offset, ...]) -> _Layout:
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
    return _Layout(
        np.array(groups), np.maximum(-shift, 0), np.maximum(shift, 0), np.array(counters), np.array(distances)
    )


@njit(cache=True, nogil=True)
def _fill_cells(
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
                for o in range(n_own):
                    a, b = lower[first + o], upper[first + o]
                    one = levels[y + a[1], x + a[2], a[0] : a[0] + n_filled]
                    other = levels[y + b[1], x + b[2], b[0] : b[0] + n_filled]
                    _fill_run(cells[y, x, n_z * first + o :], n_own, one, other, lut[counters[first + o]])


@njit(cache=True, nogil=True)
def _fill_run(out: NDArray, every: int, one: NDArray, other: NDArray, lut: NDArray) -> None:
    at = np.uint64(0)
    for z in range(one.shape[0]):
        out[at] = lut[one[z], other[z]]
        at += np.uint64(every)


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
def _scan(
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
        for t in range(x, x + window):
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


def glcm_features(
    levels: NDArray[np.integer],
    points: ArrayLike,
    *,
    window: int,
    n_levels: int,
    distances: tuple[int, ...] = (1,),
    mask: NDArray[np.bool_] | None = None,
    aggregation: Literal["merged", "averaged"] = "merged",
    features: Literal["haralick13", "ibsi25"] = "haralick13",
) -> NDArray[np.float64]:
    """Co-occurrence features of cubic windows around voxels.

    Parameters
    ----------
    levels : ndarray of int
        (z, y, x) grey levels 0 .. n_levels - 1; the features number them 1 .. n_levels, as IBSI does.
    points : array_like of int
        (n, 3) zyx indices of the windows' centres, in any order.
    window : int
        Edge of the window in voxels, odd. A pair counts if both its voxels lie inside the window and the volume.
    n_levels : int
        Grey levels N_g, 2 .. 256.
    distances : tuple of int
        Each of the 13 directions is taken at each of these distances in voxels, smaller than the window.
    mask : ndarray of bool, optional
        (z, y, x); only pairs with both voxels inside count.
    aggregation : {"merged", "averaged"}
        One matrix summed over all offsets, or features averaged over the offsets (those without a pair left out):
        IBSI's 3D merged and 3D averaged.
    features : {"haralick13", "ibsi25"}
        Haralick's 13 features or all 25 of IBSI.

    Returns
    -------
    ndarray of float64
        (n, 13) or (n, 25), columns as :data:`HARALICK_13` or :data:`IBSI_25`. A window of one single level, or
        without any pair (which counts as one of its centre's level), has correlation 1, both information
        correlations 0, and what the formulas give for the others: never a NaN.

    Raises
    ------
    ValueError
        Levels, points, window or distances that do not fit.

    References
    ----------
    Haralick, Shanmugam, Dinstein, IEEE Trans. SMC 3(6), 1973; Zwanenburg et al., IBSI reference manual, section 3.6.
    """
    centres = _checked_points(points, levels)
    _check(levels, window, n_levels, distances, mask)
    if mask is not None:
        levels = np.where(mask, levels, n_levels)
    offsets = directions(distances)
    names = HARALICK_13 if features == "haralick13" else IBSI_25
    if aggregation == "merged":
        out, n = _window_features(levels, centres, window, n_levels, offsets, len(names))
        total, used = out, (n > 0).astype(np.int64)
    else:
        total, used = np.zeros((len(centres), len(names))), np.zeros(len(centres), dtype=np.int64)
        for offset in offsets:
            out, n = _window_features(levels, centres, window, n_levels, (offset,), len(names))
            total += np.where(n[:, None] > 0, out, 0.0)
            used += n > 0
        total /= np.maximum(used, 1)[:, None]
    alone = used == 0
    if alone.any():
        level = levels[tuple(centres[alone].T)]
        total[alone] = constant_features(n_levels, len(names))[np.minimum(level, n_levels - 1)]
    return total


def constant_features(n_levels: int, n_features: int) -> NDArray[np.float64]:
    """(n_levels, n_features) features of windows of one single level."""
    stride = _stride(n_levels)
    table, sums = entropy_table(2, 50), np.zeros(4 * stride, dtype=np.uint32)
    out = np.zeros((n_levels, n_features))
    for level in range(n_levels):
        counts = np.zeros(n_levels * stride, dtype=np.uint32)
        counts[level] = 1
        haralick_13(counts, n_levels, stride, table, 2.0**-50, sums, out, level)
        if n_features > 13:
            further_12(counts, n_levels, stride, 1, sums, out, level)
    return out


def _checked_points(points: ArrayLike, levels: NDArray) -> NDArray[np.int64]:
    centres = np.asarray(points)
    if centres.ndim != 2 or centres.shape[1] != 3 or (centres.size and not np.issubdtype(centres.dtype, np.integer)):
        raise ValueError(f"points: must be (n, 3) integers, got {centres.dtype} of shape {centres.shape}")
    if levels.ndim != 3:
        raise ValueError(f"levels: must have 3 axes (z, y, x), got shape {levels.shape}")
    if centres.size and not (centres.min() >= 0 and (centres.max(axis=0) < levels.shape).all()):
        raise ValueError(f"points: must be indices into the volume of shape {levels.shape}")
    return centres.astype(np.int64)


def _check(
    levels: NDArray, window: int, n_levels: int, distances: tuple[int, ...], mask: NDArray[np.bool_] | None
) -> None:
    if not np.issubdtype(levels.dtype, np.integer):
        raise ValueError(f"levels: must be integers, got {levels.dtype}")
    if not 2 <= n_levels <= 256:
        raise ValueError(f"n_levels: must be 2 .. 256, got {n_levels}")
    if levels.size and not (levels.min() >= 0 and levels.max() < n_levels):
        raise ValueError(f"levels: must be 0 .. n_levels - 1 = {n_levels - 1}, got {levels.min()} .. {levels.max()}")
    if window < 3 or window % 2 == 0:
        raise ValueError(f"window: must be odd and at least 3 voxels, got {window}")
    if not distances or len(set(distances)) < len(distances) or not all(1 <= d < window for d in distances):
        raise ValueError(f"distances: must be different and 1 .. window - 1 = {window - 1} voxels, got {distances}")
    if mask is not None and (mask.shape != levels.shape or mask.dtype != bool):
        raise ValueError(f"mask: must be bool of shape {levels.shape}, got {mask.dtype} of shape {mask.shape}")
    if (2 * n_pairs(window, directions(distances)) * n_levels) ** 2 >= 2**62:
        raise ValueError(f"window: {window} voxels with {n_levels} levels overflow 64 bit sums")


def _stride(n_levels: int) -> int:
    return -(-n_levels // LANES) * LANES


@lru_cache(maxsize=8)
def _cells_of_pairs(n_levels: int, n_counters: int) -> NDArray:
    """(counter, n_levels + 1, n_levels + 1) cell of two levels; level n_levels stands for 'does not count'."""
    stride = _stride(n_levels)
    a, b = np.indices((n_levels + 1, n_levels + 1))
    cell = np.abs(a - b) * stride + np.minimum(a, b)
    cell[n_levels, :] = cell[:, n_levels] = n_levels * stride - 1
    n_cells = n_levels * stride
    cells = cell + n_cells * np.arange(n_counters)[:, None, None]
    return cells.astype(np.uint16 if n_cells * n_counters <= 2**16 else np.uint32)


@lru_cache(maxsize=8)
def _entropies(n_max: int) -> tuple[NDArray[np.int64], float]:
    n_bits = entropy_bits(n_max)
    return entropy_table(n_max, n_bits), 2.0**-n_bits


def _window_features(
    levels: NDArray,
    centres: NDArray[np.int64],
    window: int,
    n_levels: int,
    offsets: tuple[Offset, ...],
    n_features: int,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Features and number of pairs of each window, with the counts merged over the offsets."""
    out, pairs_of = np.zeros((len(centres), n_features)), np.zeros(len(centres), dtype=np.int64)
    if len(centres) == 0:
        return out, pairs_of
    layout = _layout(offsets)
    lut = _cells_of_pairs(n_levels, 1 + len(layout.distances))
    n_max = 2 * n_pairs(window, offsets)
    table, unit = _entropies(n_max)
    count_type = np.uint16 if n_max < 2**16 and lut.dtype == np.uint16 else np.uint32
    order = np.lexsort(centres.T[::-1])
    low, high = centres.min(axis=0), centres.max(axis=0) + 1
    box = _padded_box(levels, low, high, window, int(layout.distances[-1]), n_levels)
    corners = (centres - low)[order]
    n_z, n_y, n_x = (high - low + window - 1).tolist()
    columns = np.zeros((n_x, (1 + len(layout.distances)) * n_levels * _stride(n_levels)), dtype=count_type)
    counts = np.zeros(n_levels * _stride(n_levels), dtype=count_type)
    n_planes = max(1, _SLAB_BYTES // (n_y * n_x * len(offsets) * lut.itemsize) - window + 1)
    cells = np.empty((n_y, n_x, len(offsets) * (min(n_planes, n_z) + window - 1)), dtype=lut.dtype)
    for z in range(0, n_z - window + 1, n_planes):
        mine = slice(*np.searchsorted(corners[:, 0], (z, z + n_planes)))
        if mine.start == mine.stop:
            continue
        slab = corners[mine] - (z, 0, 0)
        wanted = _columns_of(slab, window, (n_y, n_x))
        slab_levels = box[:, :, z:]
        _fill_cells(cells, slab_levels, wanted, lut, layout.groups, layout.lower, layout.upper, layout.counters)
        features, found = np.zeros((len(slab), n_features)), np.zeros(len(slab), dtype=np.int64)
        _scan(
            slab,
            cells.reshape(-1),
            (n_x, cells.shape[2] // len(offsets), cells.shape[2]),
            columns,
            counts,
            layout.groups,
            layout.distances,
            window,
            n_levels,
            table,
            unit,
            found,
            features,
        )
        out[order[mine]], pairs_of[order[mine]] = features, found
    return out, pairs_of


def _padded_box(
    levels: NDArray, low: NDArray, high: NDArray, window: int, reach: int, outside: int
) -> NDArray[np.uint16]:
    """(y, x, z) levels that the windows with centres low .. high - 1 see, and `reach` beyond; `outside` the volume."""
    radius = window // 2
    start, stop = low - radius, high + radius + reach
    box = np.full(tuple(stop - start), outside, dtype=np.uint16)
    inside_from, inside_to = np.maximum(start, 0), np.minimum(stop, levels.shape)
    source = tuple(slice(a, b) for a, b in zip(inside_from, inside_to, strict=True))
    target = tuple(slice(a, b) for a, b in zip(inside_from - start, inside_to - start, strict=True))
    box[target] = levels[source]
    return np.ascontiguousarray(np.moveaxis(box, 0, 2))


def _columns_of(corners: NDArray, window: int, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """(y, x) which columns of voxels any of the windows touches."""
    touched = np.zeros(shape, dtype=bool)
    touched[corners[:, 1], corners[:, 2]] = True
    return ndimage.maximum_filter(touched, size=window, origin=window // 2, mode="constant", cval=False)
