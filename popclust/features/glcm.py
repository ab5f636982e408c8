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
from functools import cached_property, lru_cache
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
class _Group:
    """Pairs of one kind at one distance, stored together so that a row's pairs are one run in memory."""

    distance: int
    crosses_planes: bool
    """Between planes x and x + distance, else within plane x."""
    crosses_rows: bool
    """Between rows y and y + distance, else within row y."""
    offsets: tuple[Offset, ...]
    """Those with dz = 0 first: they alone are valid in the last `distance` planes of the window."""

    @cached_property
    def n_level(self) -> int:
        """How many of the offsets have dz = 0."""
        return sum(o[0] == 0 for o in self.offsets)


@dataclass(frozen=True)
class _Layout:
    """Where the kernels find the pairs of each offset: plain arrays, one entry per group or per offset."""

    groups: NDArray[np.int64]
    """(group, 6): distance, counter it is added to, crosses rows, offsets, offsets with dz = 0, first offset."""
    lower: NDArray[np.int64]
    """(offset, 3) zyx shift of one end of the pair from the pair's least z, y, x."""
    upper: NDArray[np.int64]
    """(offset, 3) shift of the other end."""
    distances: NDArray[np.int64]
    """Distance of each inter-plane counter (counter 0 is within the plane)."""


@lru_cache(maxsize=64)
def _layout(offsets: tuple[Offset, ...]) -> _Layout:
    distances = sorted({max(map(abs, o)) for o in offsets})
    rows: list[list[int]] = []
    ordered: list[Offset] = []
    for (number, d), planes, crosses in itertools.product(enumerate(distances), (False, True), (False, True)):
        mine = [o for o in offsets if (max(map(abs, o)), o[2] != 0, o[1] != 0) == (d, planes, crosses)]
        group = _Group(d, planes, crosses, tuple(sorted(mine, key=lambda o: o[0] != 0)))
        if mine:
            counter = 1 + number if planes else 0
            rows.append([d, counter, int(crosses), len(mine), group.n_level, len(ordered)])
            ordered += group.offsets
    shift = np.array(ordered, dtype=np.int64)
    return _Layout(np.array(rows), np.maximum(-shift, 0), np.maximum(shift, 0), np.array(distances))


@njit(cache=True, nogil=True)
def _fill_cells(
    cells: NDArray, levels: NDArray, wanted: NDArray, lut: NDArray, groups: NDArray, lower: NDArray, upper: NDArray
) -> None:
    """cells[y, x, n * (first offset of group) + z * (offsets of group) + offset]: the cell of each pair of voxels."""
    n_y, n_x = wanted.shape
    n_z = cells.shape[2] // lower.shape[0]
    n_filled = min(n_z, levels.shape[2] - max(lower.max(), upper.max()))
    for y in range(n_y):
        for x in range(n_x):
            if not wanted[y, x]:
                continue
            for g in range(groups.shape[0]):
                n_own, first = groups[g, 3], groups[g, 5]
                for o in range(n_own):
                    a, b = lower[first + o], upper[first + o]
                    one = levels[y + a[1], x + a[2]]
                    other = levels[y + b[1], x + b[2]]
                    out = cells[y, x]
                    at = n_z * first + o
                    for z in range(n_filled):
                        out[at] = lut[one[z + a[0]], other[z + b[0]]]
                        at += n_own
    return


@njit(cache=True, nogil=True)
def _count_row(counter: NDArray, pairs: NDArray, n_z: int, z: int, window: int, group: NDArray, by: int) -> None:
    """Add `by` to the cells of all pairs of one group that start in one row and lie in the window's z range."""
    distance, n_own, n_level = group[0], group[3], group[4]
    start = np.uint64(n_z * group[5] + z * n_own)
    end = start + np.uint64((window - distance) * n_own)
    for i in range(start, end):
        counter[np.uint64(pairs[i])] += by
    if n_level:
        for _ in range(distance):
            for i in range(end, end + np.uint64(n_level)):
                counter[np.uint64(pairs[i])] += by
            end += np.uint64(n_own)


@njit(cache=True, nogil=True)
def _move_column(
    column: NDArray, cells: NDArray, x: int, y_old: int, y: int, z: int, window: int, n_z: int, groups: NDArray
) -> None:
    """Bring the counters of the plane at x from window row y_old (-1: from nothing) to y."""
    fresh = y_old < 0 or 2 * (y - y_old) >= window
    if fresh:
        column[:] = 0
    for g in range(groups.shape[0]):
        group = groups[g]
        counter = column[group[1]]
        reach = group[0] * group[2]
        if fresh:
            for row in range(y, y + window - reach):
                _count_row(counter, cells[row, x], n_z, z, window, group, 1)
            continue
        for row in range(y_old, y):
            _count_row(counter, cells[row + window - reach, x], n_z, z, window, group, 1)
            _count_row(counter, cells[row, x], n_z, z, window, group, -1)


@njit(cache=True, nogil=True)
def _move_window(counts: NDArray, columns: NDArray, x_old: int, x: int, window: int, distances: NDArray) -> None:
    """Bring the counts of the window from column x_old (-1: from nothing) to x."""
    n_cells = counts.shape[0]
    if x_old < 0 or 2 * (x - x_old) >= window:
        counts[:] = 0
        for c in range(columns.shape[1]):
            reach = 0 if c == 0 else distances[c - 1]
            for t in range(x, x + window - reach):
                plane = columns[t, c]
                for i in range(n_cells):
                    counts[i] += plane[i]
        return
    for t in range(x_old, x):
        for c in range(columns.shape[1]):
            reach = 0 if c == 0 else distances[c - 1]
            entering, leaving = columns[t + window - reach, c], columns[t, c]
            for i in range(n_cells):
                counts[i] += entering[i] - leaving[i]


@njit(cache=True, nogil=True)
def _scan(
    points: NDArray,
    cells: NDArray,
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
    n_z = cells.shape[2] // (groups[-1, 5] + groups[-1, 3])
    stride = counts.shape[0] // n_levels
    column_y = np.full(columns.shape[0], -1)
    sums = np.zeros((4, stride), dtype=counts.dtype)
    z_now, y_now, x_now = -1, -1, -1
    for p in range(points.shape[0]):
        z, y, x = points[p, 0], points[p, 1], points[p, 2]
        if z != z_now:
            column_y[:] = -1
        if z != z_now or y != y_now:
            x_now = -1
        for t in range(x, x + window):
            if column_y[t] != y:
                _move_column(columns[t], cells, t, column_y[t], y, z, window, n_z, groups)
                column_y[t] = y
        _move_window(counts, columns, x_now, x, window, distances)
        z_now, y_now, x_now = z, y, x
        counts[-1] = 0  # the cell of pairs that do not count, which no pair of levels has
        n = haralick_13(counts, n_levels, stride, table, unit, sums, out[p])
        if n > 0 and out.shape[1] > 13:
            further_12(counts, n_levels, stride, n, sums, out[p])
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
    table, sums = entropy_table(2, 50), np.zeros((4, stride), dtype=np.uint32)
    out = np.zeros((n_levels, n_features))
    for level in range(n_levels):
        counts = np.zeros(n_levels * stride, dtype=np.uint32)
        counts[level] = 1
        haralick_13(counts, n_levels, stride, table, 2.0**-50, sums, out[level])
        if n_features > 13:
            further_12(counts, n_levels, stride, 1, sums, out[level])
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
def _cell_of_pair(n_levels: int) -> NDArray:
    """(n_levels + 1, n_levels + 1) cell of two levels; level n_levels stands for 'does not count'."""
    stride = _stride(n_levels)
    a, b = np.indices((n_levels + 1, n_levels + 1))
    cell = np.abs(a - b) * stride + np.minimum(a, b)
    cell[n_levels, :] = cell[:, n_levels] = n_levels * stride - 1
    return cell.astype(np.uint8 if n_levels <= LANES else np.uint16)


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
    layout, lut = _layout(offsets), _cell_of_pair(n_levels)
    n_max = 2 * n_pairs(window, offsets)
    table, unit = _entropies(n_max)
    count_type = np.uint16 if n_max < 2**16 and lut.dtype == np.uint8 else np.uint32
    order = np.lexsort(centres.T[::-1])
    low, high = centres.min(axis=0), centres.max(axis=0) + 1
    box = _padded_box(levels, low, high, window, int(layout.distances[-1]), n_levels)
    corners = (centres - low)[order]
    n_z, n_y, n_x = (high - low + window - 1).tolist()
    columns = np.zeros((n_x, 1 + len(layout.distances), n_levels * _stride(n_levels)), dtype=count_type)
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
        _fill_cells(cells, slab_levels, wanted, lut, layout.groups, layout.lower, layout.upper)
        features, found = np.zeros((len(slab), n_features)), np.zeros(len(slab), dtype=np.int64)
        _scan(
            slab,
            cells,
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
