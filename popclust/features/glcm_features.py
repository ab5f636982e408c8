"""Haralick's features of one grey-level co-occurrence matrix, from exact integer pair counts.

A symmetric matrix is kept as the number ``n[d, i]`` of voxel pairs with levels ``i`` and ``i + d``. All sums over it
are integers, entropies included: ``n log2 n`` is read from a table in fixed point. Integer sums do not depend on the
order of their terms, so the same counts give the same bits however the loops are vectorised.

Notation: ``T`` pairs, ``n_d`` pairs that differ by ``d``, ``n_s`` pairs that add up to ``s``, and ``m_i`` ends of pairs
at level ``i``; then p_(x-y)(d) = n_d / T, p_(x+y)(s) = n_s / T and p_x(i) = m_i / 2T. A pair of different levels stands
in two cells of the matrix with probability n / 2T each, a pair of equal levels in one with n / T.
"""

from __future__ import annotations

import math

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

HARALICK_13 = (
    "angular_second_moment",
    "contrast",
    "correlation",
    "joint_variance",
    "inverse_difference_moment",
    "sum_average",
    "sum_variance",
    "sum_entropy",
    "joint_entropy",
    "difference_variance",
    "difference_entropy",
    "information_correlation_1",
    "information_correlation_2",
)
"""The 13 features of Haralick, Shanmugam and Dinstein 1973, by their IBSI names."""

IBSI_25 = (
    *HARALICK_13,
    "joint_maximum",
    "joint_average",
    "difference_average",
    "dissimilarity",
    "inverse_difference",
    "normalised_inverse_difference",
    "normalised_inverse_difference_moment",
    "inverse_variance",
    "autocorrelation",
    "cluster_tendency",
    "cluster_shade",
    "cluster_prominence",
)
"""All 25 co-occurrence features of the Image Biomarker Standardisation Initiative (section 3.6)."""

LANES = 16
"""Cells are laid out and summed in groups of this many, so that the compiler uses whole vectors."""


_IDM_WEIGHT = 1.0 / (1.0 + np.arange(256.0) ** 2)
"""Weight of a difference of levels in the inverse difference moment."""


@njit(cache=True)
def entropy_table(n_max: int, n_bits: int) -> NDArray[np.int64]:
    """``n log2 n`` for n = 0 .. n_max in fixed point with n_bits binary places."""
    table = np.zeros(n_max + 1, dtype=np.int64)
    for n in range(2, n_max + 1):
        table[n] = np.int64(round(n * math.log2(n) * 2.0**n_bits))
    return table


def entropy_bits(n_max: int) -> int:
    """Binary places that keep ``n log2 n`` up to n_max, and sums of them, below 2**62."""
    return 61 - math.ceil(math.log2(max(n_max, 4) * math.log2(max(n_max, 4))))


@intrinsic
def _add_vectors(typing_context, cells, start, step, n, out, at):  # type: ignore[no-untyped-def]
    """out[at + k] = sum over j < n of cells[start + j * step + k], for k = 0 .. LANES - 1.

    Written in the compiler's own vector type: as a loop nest it is not vectorised, and takes five times as long.
    """

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        source, first, stride, count, target, place = arguments
        item = context.get_data_type(cells.dtype)
        vector = ir.VectorType(item, LANES)
        align = item.width // 8

        def at_index(array_type, array, index):  # type: ignore[no-untyped-def]
            data = context.make_array(array_type)(context, builder, array).data
            return builder.bitcast(builder.gep(data, [index]), vector.as_pointer())

        total = cgutils.alloca_once_value(builder, ir.Constant(vector, [0] * LANES))
        with cgutils.for_range(builder, count) as loop:
            index = builder.add(first, builder.mul(loop.index, stride))
            more = builder.load(at_index(cells, source, index), align=align)
            builder.store(builder.add(builder.load(total), more), total)
        builder.store(builder.load(total), at_index(out, target, place), align=align)
        return context.get_dummy_value()

    return types.void(cells, types.intp, types.intp, types.intp, out, types.intp), generate


@njit(cache=True, nogil=True)
def _marginals(counts: NDArray, n_levels: int, stride: int, sums: NDArray) -> None:
    """Sum the cells counts[d * stride + i] to m_i, n_s (even s = 2q, odd s = 2q + 1) and n_d.

    They are put at 0, 1, 2 and 3 times `stride` of `sums`. A row d moved to the right by d (for m_i) or d // 2 (n_s)
    is read together with the end of row d - 1, where the cells from n_levels - d + 1 on are empty; only m_0 meets a
    full one there and is set apart.
    """
    for chunk in range(0, stride, LANES):
        _add_vectors(counts, chunk, stride, n_levels, sums, chunk)
        _add_vectors(counts, chunk + stride - 1, stride - 1, n_levels - 1, sums, stride + chunk)
        for k in range(LANES):
            sums[chunk + k] += counts[chunk + k] + sums[stride + chunk + k]
        _add_vectors(counts, chunk, 2 * stride - 1, (n_levels + 1) // 2, sums, stride + chunk)
        _add_vectors(counts, chunk + stride, 2 * stride - 1, n_levels // 2, sums, 2 * stride + chunk)
    first = counts[0]
    for d in range(n_levels):
        first += counts[d * stride]
        total = 0
        for chunk in range(d * stride, (d + 1) * stride, LANES):
            for k in range(LANES):
                total += counts[chunk + k]
        sums[3 * stride + d] = total
    sums[0] = first


@njit(cache=True, nogil=True)
def _cell_sums(
    counts: NDArray, differences: NDArray, n_levels: int, stride: int, table: NDArray
) -> tuple[np.int64, np.int64, np.int64]:
    """Sum of n log2 n (fixed point), of n**2 over all cells, and of n**2 over those of equal levels."""
    entropy = np.int64(0)
    squares = np.int64(0)
    diagonal = np.int64(0)
    for i in range(n_levels):
        diagonal += np.int64(counts[i]) * np.int64(counts[i])
    for d in range(n_levels):
        if differences[d] == 0:
            continue
        for i in range(d * stride, d * stride + n_levels - d):
            n = np.int64(counts[i])
            entropy += table[n]
            squares += n * n
    return entropy, squares, diagonal


@njit(cache=True, nogil=True, error_model="numpy")
def haralick_13(
    counts: NDArray, n_levels: int, stride: int, table: NDArray, unit: float, sums: NDArray, out: NDArray, p: int
) -> np.int64:
    """Write Haralick's 13 features of one matrix to out[p]; return its number of pairs (0: nothing is written).

    `counts` is the flat (n_levels, stride) array of n[d, i]; `table` and `unit` are the entropy table and its unit;
    `sums` is scratch of 4 * stride, as :func:`_marginals` leaves it.

    With symmetric matrices several definitions fall together, so few sums are needed: sum variance is
    4 variance - contrast, correlation is 1 - contrast / (2 variance), HXY1 = HXY2 = 2 HX (IBSI 3.6.24, 3.6.25).
    """
    _marginals(counts, n_levels, stride, sums)
    n_pairs = np.int64(0)
    first = np.int64(0)
    second = np.int64(0)
    contrast = np.int64(0)
    dissimilarity = np.int64(0)
    end_entropy = np.int64(0)
    sum_entropy = np.int64(0)
    difference_entropy = np.int64(0)
    homogeneity = 0.0
    for i in range(n_levels):
        m = np.int64(sums[i])
        n_d = np.int64(sums[3 * stride + i])
        n_pairs += n_d
        first += (i + 1) * m
        second += (i + 1) * (i + 1) * m
        dissimilarity += i * n_d
        contrast += i * i * n_d
        homogeneity += n_d * _IDM_WEIGHT[i]
        end_entropy += table[m]
        sum_entropy += table[np.int64(sums[stride + i])] + table[np.int64(sums[2 * stride + i])]
        difference_entropy += table[n_d]
    if n_pairs == 0:
        return n_pairs
    cell_entropy, squares, diagonal = _cell_sums(counts, sums[3 * stride :], n_levels, stride, table)
    pairs = float(n_pairs)
    variance = float(2 * n_pairs * second - first * first)  # times 4 T**2, as is its part that contrast leaves
    common = float(2 * n_pairs * second - first * first - 2 * n_pairs * contrast)
    # T HXY and T 2 HX: a cell of different levels holds half its pairs, which adds one bit per such pair.
    joint = table[n_pairs] - cell_entropy + np.int64(float(n_pairs - np.int64(sums[3 * stride])) / unit)
    separate = table[2 * n_pairs] - end_entropy
    out[p, 0] = (0.5 * (squares + diagonal)) / (pairs * pairs)
    out[p, 1] = contrast / pairs
    out[p, 2] = common / variance if variance > 0 else 1.0
    out[p, 3] = variance / (4.0 * pairs * pairs)
    out[p, 4] = homogeneity / pairs
    out[p, 5] = first / pairs
    out[p, 6] = (variance - float(n_pairs * contrast)) / (pairs * pairs)
    out[p, 7] = (table[n_pairs] - sum_entropy) * unit / pairs
    out[p, 8] = joint * unit / pairs
    out[p, 9] = float(n_pairs * contrast - dissimilarity * dissimilarity) / (pairs * pairs)
    out[p, 10] = (table[n_pairs] - difference_entropy) * unit / pairs
    shared = (separate - joint) * unit / pairs
    out[p, 11] = -2.0 * (separate - joint) / separate if separate > 0 else 0.0
    out[p, 12] = math.sqrt(max(0.0, 1.0 - math.exp(-2.0 * shared)))
    return n_pairs


@njit(cache=True, nogil=True, error_model="numpy")
def further_12(counts: NDArray, n_levels: int, stride: int, n_pairs: int, sums: NDArray, out: NDArray, p: int) -> None:
    """Write the 12 IBSI features beyond Haralick's to out[p, 13:], after :func:`haralick_13` on the same counts."""
    pairs = float(n_pairs)
    largest = np.int64(0)
    for d in range(n_levels):
        for i in range(n_levels - d):
            n = np.int64(counts[d * stride + i])
            largest = max(largest, 2 * n if d == 0 else n)
    total = np.int64(0)
    inverse = 0.0
    inverse_normalised = 0.0
    moment_normalised = 0.0
    inverse_variance = 0.0
    for d in range(n_levels):
        n_d = float(sums[3 * stride + d])
        total += d * np.int64(sums[3 * stride + d])
        inverse += n_d / (1.0 + d)
        inverse_normalised += n_d / (1.0 + d / n_levels)
        moment_normalised += n_d / (1.0 + (d / n_levels) ** 2)
        if d > 0:
            inverse_variance += n_d / (d * d)
    second = third = fourth = 0.0
    for s in range(2 * n_levels - 1):
        away = s + 2 - out[p, 5]
        n_s = float(sums[(1 + s % 2) * stride + s // 2])
        second += away * away * n_s
        third += away * away * away * n_s
        fourth += away * away * away * away * n_s
    out[p, 13] = largest / (2.0 * pairs)
    out[p, 14] = out[p, 5] / 2.0
    out[p, 15] = total / pairs
    out[p, 16] = total / pairs
    out[p, 17] = inverse / pairs
    out[p, 18] = inverse_normalised / pairs
    out[p, 19] = moment_normalised / pairs
    out[p, 20] = inverse_variance / pairs
    out[p, 21] = (out[p, 6] + out[p, 5] * out[p, 5] - out[p, 1]) / 4.0
    out[p, 22] = second / pairs
    out[p, 23] = third / pairs
    out[p, 24] = fourth / pairs
    return
