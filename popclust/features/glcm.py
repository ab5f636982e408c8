"""Dense grey-level co-occurrence features of cubic windows: exact, whatever the points, their order and the blocks."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from popclust.features.glcm_counting import (
    Offset,
    cells_of_pairs,
    directions,
    fill_cells,
    layout_of,
    n_pairs,
    scan,
    stride_of,
)
from popclust.features.glcm_features import (
    HARALICK_13,
    IBSI_25,
    entropy_bits,
    entropy_table,
    further_12,
    haralick_13,
)

_SLAB_BYTES = 7 << 20
"""Size of the buffer of pair cells: larger ones leave the cache, smaller ones count more planes twice (measured)."""


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
    counted = levels if mask is None else np.where(mask, levels, np.uint16(n_levels))
    offsets = directions(distances)
    n_features = len(HARALICK_13 if features == "haralick13" else IBSI_25)
    parts = (offsets,) if aggregation == "merged" else tuple((o,) for o in offsets)
    total, n = _window_features(counted, centres, window, n_levels, parts[0], n_features)
    n_used = (n > 0).astype(np.int64)
    for part in parts[1:]:
        values, n = _window_features(counted, centres, window, n_levels, part, n_features)
        total += values
        n_used += n > 0
    if len(parts) > 1:
        total /= np.maximum(n_used, 1)[:, None]
    alone = n_used == 0
    total[alone] = constant_features(n_levels, n_features)[levels[tuple(centres[alone].T)]]
    return total


def constant_features(n_levels: int, n_features: int) -> NDArray[np.float64]:
    """(n_levels, n_features) features of windows of one single level."""
    stride = stride_of(n_levels)
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
    return centres.astype(np.int64, copy=False)


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
    shape = tuple(min(window, n) for n in levels.shape)
    if (2 * n_pairs(shape, directions(distances)) * n_levels) ** 2 >= 2**62:
        raise ValueError(f"window: {window} voxels with {n_levels} levels overflow 64 bit sums")


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
    """Features (0 without a pair) and number of pairs of each window, the counts merged over the offsets."""
    out, pairs_of = np.zeros((len(centres), n_features)), np.zeros(len(centres), dtype=np.int64)
    if len(centres) == 0:
        return out, pairs_of
    layout = layout_of(offsets)
    lut = cells_of_pairs(n_levels, 1 + len(layout.distances))
    n_max = 2 * n_pairs(tuple(min(window, n) for n in levels.shape), offsets)
    table, unit = _entropies(n_max)
    count_type = np.uint16 if n_max < 2**16 and lut.dtype == np.uint16 else np.uint32
    order = _order(centres, levels.shape)
    centres = centres if order is None else centres[order]
    low, high = centres.min(axis=0), centres.max(axis=0) + 1
    box = _padded_box(levels, low, high, window, int(layout.distances[-1]), n_levels)
    corners = centres - low
    n_z, n_y, n_x = (high - low + window - 1).tolist()
    columns = np.zeros((n_x, (1 + len(layout.distances)) * n_levels * stride_of(n_levels)), dtype=count_type)
    counts = np.zeros(n_levels * stride_of(n_levels), dtype=count_type)
    n_planes = max(1, _SLAB_BYTES // (n_y * n_x * len(offsets) * lut.itemsize) - window + 1)
    cells = np.empty((n_y, n_x, len(offsets) * (min(n_planes, n_z) + window - 1)), dtype=lut.dtype)
    for z in range(0, n_z - window + 1, n_planes):
        mine = slice(*np.searchsorted(corners[:, 0], (z, z + n_planes)))
        if mine.start == mine.stop:
            continue
        slab = corners[mine] - (z, 0, 0)
        wanted = _columns_of(slab, window, (n_y, n_x))
        slab_levels = box[:, :, z:]
        fill_cells(cells, slab_levels, wanted, lut, layout.groups, layout.lower, layout.upper, layout.counters)
        scan(
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
            pairs_of[mine],
            out[mine],
        )
    if order is not None:
        back = np.argsort(order)
        out, pairs_of = out[back], pairs_of[back]
    return out, pairs_of


def _order(centres: NDArray[np.int64], shape: tuple[int, ...]) -> NDArray[np.int64] | None:
    """What brings the points into lexicographic order, None if they are."""
    rank = np.ravel_multi_index(tuple(centres.T), shape)
    return None if (rank[1:] >= rank[:-1]).all() else np.argsort(rank, kind="stable")


def _padded_box(
    levels: NDArray, low: NDArray, high: NDArray, window: int, reach: int, outside: int
) -> NDArray[np.unsignedinteger]:
    """(y, x, z) levels that the windows with centres low .. high - 1 see, and `reach` beyond; `outside` the volume."""
    radius = window // 2
    start, stop = low - radius, high + radius + reach
    box = np.full(tuple(stop - start), outside, dtype=np.min_scalar_type(outside))
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
