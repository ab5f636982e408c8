"""Fisher's exact test for millions of 2x2 tables.

A table is given by the paper's letters: V units have the term and are in the group, the group has R units, the term
C, the population B; the cells are [[V, R-V], [C-V, B-R-C+V]].

Log-factorials are kept as unevaluated sums of two doubles, so that a hypergeometric probability has the precision of
`exp` alone whatever the size of the population; tails are summed outwards from the observed table by the ratio of
neighbouring probabilities, until nothing more can be added.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, localcontext
from functools import lru_cache

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

Table = NDArray[np.float64]
Counts = NDArray[np.int64]

_N_DECIMAL = 64
TIE = 1e-12
"""Tables whose log-probabilities differ by less are equally likely: rounding is some 1e-15."""
_NEGLIGIBLE = 1e-16


@dataclass(frozen=True)
class FisherTest:
    """Fisher's exact test of many tables; every field has the tables' broadcast shape."""

    p_value: NDArray[np.float64]
    """Two-sided p: the probability of all tables with the same margins that are at most as likely."""
    log_p: NDArray[np.float64]
    """Natural logarithm of p, also where p itself is below the smallest double."""
    odds_ratio: NDArray[np.float64]
    """Sample odds ratio; inf where V = R or V = C, NaN where a margin is empty."""


def fisher_exact(V: ArrayLike, R: ArrayLike, C: ArrayLike, B: ArrayLike) -> FisherTest:
    """Two-sided Fisher's exact test of each table.

    Parameters
    ----------
    V, R, C, B
        Counts, broadcast against each other: units with the term in the group, in the group, with the term, in all.

    Returns
    -------
    FisherTest
        p, log p and the sample odds ratio of each table. A table with an empty margin has p = 1.

    Raises
    ------
    ValueError
        Counts that are not whole numbers or form no table.

    References
    ----------
    Fisher RA. On the interpretation of chi-squared from contingency tables, and the calculation of P. J R Stat Soc
    1922. Two-sided as in R's fisher.test and scipy.stats.fisher_exact.
    """
    counts = np.broadcast_arrays(*(np.asarray(count) for count in (V, R, C, B)))
    if any(count.dtype.kind not in "iu" for count in counts):
        raise ValueError("V, R, C and B must be whole numbers; convert them with astype(int)")
    v, r, c, b = (np.ascontiguousarray(count, dtype=np.int64).ravel() for count in counts)
    if np.any((v < 0) | (v > r) | (v > c) | (r > b) | (c > b) | (b - r - c + v < 0)):
        raise ValueError("these counts form no table: wanted 0 <= V <= R, C <= B and R + C - V <= B")
    log_factorial = log_factorials(int(b.max(initial=0)))
    log_p = _fisher_many(v, r, c, b, log_factorial)
    shape = counts[0].shape
    return FisherTest(np.exp(log_p).reshape(shape), log_p.reshape(shape), sample_odds_ratio(v, r, c, b).reshape(shape))


def sample_odds_ratio(
    V: NDArray[np.int64], R: NDArray[np.int64], C: NDArray[np.int64], B: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Cross-product ratio V (B-R-C+V) / ((R-V) (C-V)): inf for an empty denominator, NaN for an empty margin."""
    numerator = V.astype(np.float64) * (B - R - C + V)
    denominator = (R - V).astype(np.float64) * (C - V)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = numerator / denominator
    ratio[(R == 0) | (C == 0) | (R == B) | (C == B)] = np.nan
    return ratio


def log_factorials(n_max: int) -> NDArray[np.float64]:
    """ln(n!) for n = 0 .. n_max at least, as (n, 2) unevaluated sums of a double and its remainder; read-only."""
    return _log_factorials(max(1024, 1 << max(0, n_max).bit_length()))


@lru_cache(maxsize=4)
def _log_factorials(n_max: int) -> NDArray[np.float64]:
    start = np.zeros((_N_DECIMAL, 2))
    with localcontext() as context:
        context.prec = 40
        for n in range(2, _N_DECIMAL):
            exact = Decimal(n).ln()
            start[n, 0] = float(exact)
            start[n, 1] = float(exact - Decimal(start[n, 0]))
    table = _sum_logarithms(start, n_max)
    table.flags.writeable = False
    return table


@njit(cache=True, inline="always")
def _two_sum(a: float, b: float) -> tuple[float, float]:
    total = a + b
    b_part = total - a
    return total, (a - (total - b_part)) + (b - b_part)


@njit(cache=True)
def _reciprocal(n: float) -> tuple[float, float]:
    """1 / n as a double and its remainder (Dekker's exact product gives the residual)."""
    quotient = 1.0 / n
    scaled = 134217729.0 * quotient
    high = scaled - (scaled - quotient)
    residual = (1.0 - high * n) - (quotient - high) * n
    return quotient, residual / n


@njit(cache=True)
def _sum_logarithms(start: Table, n_max: int) -> Table:
    """Accumulate ln n! with ln n = ln(n-1) + 2 artanh(1 / (2n-1)) after the given first logarithms."""
    table = np.zeros((n_max + 1, 2))
    log_high, log_low = 0.0, 0.0
    for n in range(2, n_max + 1):
        if n < start.shape[0]:
            log_high, log_low = start[n, 0], start[n, 1]
        else:
            z, z_low = _reciprocal(2.0 * n - 1.0)
            square = z * z
            series = z * square * (1 / 3 + square * (1 / 5 + square * (1 / 7 + square / 9)))
            log_high, error = _two_sum(log_high, 2.0 * z)
            log_high, log_low = _two_sum(log_high, log_low + error + 2.0 * (z_low + series))
        high, error = _two_sum(table[n - 1, 0], log_high)
        table[n, 0], table[n, 1] = _two_sum(high, table[n - 1, 1] + log_low + error)
    return table


@njit(cache=True, inline="always")
def _add(high: float, low: float, term_high: float, term_low: float) -> tuple[float, float]:
    high, error = _two_sum(high, term_high)
    return high, low + (error + term_low)


@njit(cache=True)
def _log_probability(v: int, r: int, c: int, b: int, lf: Table) -> float:
    """Logarithm of the hypergeometric probability of v."""
    high, low = _add(lf[r, 0], lf[r, 1], lf[b - r, 0], lf[b - r, 1])
    high, low = _add(high, low, lf[c, 0], lf[c, 1])
    high, low = _add(high, low, lf[b - c, 0], lf[b - c, 1])
    high, low = _add(high, low, -lf[b, 0], -lf[b, 1])
    high, low = _add(high, low, -lf[v, 0], -lf[v, 1])
    high, low = _add(high, low, -lf[r - v, 0], -lf[r - v, 1])
    high, low = _add(high, low, -lf[c - v, 0], -lf[c - v, 1])
    high, low = _add(high, low, -lf[b - r - c + v, 0], -lf[b - r - c + v, 1])
    return high + low


@njit(cache=True)
def log_ratio(x: int, v: int, r: int, c: int, b: int, lf: Table) -> float:
    """Logarithm of P(x) / P(v) where groups and terms have nothing to do with each other (numba kernel)."""
    high, low = _add(lf[v, 0], lf[v, 1], -lf[x, 0], -lf[x, 1])
    high, low = _add(high, low, lf[r - v, 0], lf[r - v, 1])
    high, low = _add(high, low, -lf[r - x, 0], -lf[r - x, 1])
    high, low = _add(high, low, lf[c - v, 0], lf[c - v, 1])
    high, low = _add(high, low, -lf[c - x, 0], -lf[c - x, 1])
    d = b - r - c
    high, low = _add(high, low, lf[d + v, 0], lf[d + v, 1])
    high, low = _add(high, low, -lf[d + x, 0], -lf[d + x, 1])
    return high + low


@njit(cache=True)
def _opposite(v: int, mode: int, r: int, c: int, b: int, lf: Table) -> int:
    """First x above the mode that is at most as likely as v below it; one past the support where there is none."""
    top = min(r, c)
    if log_ratio(top, v, r, c, b, lf) > TIE:
        return top + 1
    below, above = mode, top  # P(below) > P(v) >= P(above)
    guess = min(top - 1, max(mode + 1, 2 * mode - v))
    step = 1
    while above - below > 1:
        if guess <= below or guess >= above:
            guess = (below + above) // 2
        if log_ratio(guess, v, r, c, b, lf) > TIE:
            below = guess
            guess += step
        else:
            above = guess
            guess -= step
        step *= 2
    return above


@njit(cache=True)
def _relative_tail_up(x: int, r: int, c: int, b: int) -> float:
    """Sum of P(y) / P(x) over y >= x, for x above the mode."""
    total, term = 1.0, 1.0
    for y in range(x, min(r, c)):
        term *= (float(r - y) * float(c - y)) / (float(y + 1) * float(b - r - c + y + 1))
        total += term
        if term < _NEGLIGIBLE * total:
            break
    return total


@njit(cache=True)
def _relative_tail_down(x: int, r: int, c: int, b: int) -> float:
    """Sum of P(y) / P(x) over y <= x, for x below the mode."""
    total, term = 1.0, 1.0
    for y in range(x, max(0, r + c - b), -1):
        term *= (float(y) * float(b - r - c + y)) / (float(r - y + 1) * float(c - y + 1))
        total += term
        if term < _NEGLIGIBLE * total:
            break
    return total


@njit(cache=True)
def _relative_between(x: int, end: int, r: int, c: int, b: int) -> float:
    """Sum of P(y) / P(x) over x < y < end."""
    total, term = 0.0, 1.0
    for y in range(x, end - 1):
        term *= (float(r - y) * float(c - y)) / (float(y + 1) * float(b - r - c + y + 1))
        total += term
    return total


@njit(cache=True)
def fisher_log_p(v: int, r: int, c: int, b: int, lf: Table) -> float:
    """Logarithm of the two-sided p of one table, given the table of `log_factorials` (numba kernel)."""
    if max(0, r + c - b) == min(r, c):
        return 0.0
    mode = ((r + 1) * (c + 1)) // (b + 2)
    if v > mode:  # exchange 'with' and 'without' the term: the observed table is then never above the mode
        v, c = r - v, b - c
        mode = ((r + 1) * (c + 1)) // (b + 2)
    if v >= mode or log_ratio(mode, v, r, c, b, lf) <= TIE:  # the likeliest table, or one of two
        return 0.0
    opposite = _opposite(v, mode, r, c, b, lf)
    log_probability = _log_probability(v, r, c, b, lf)
    mean = float(r) * float(c) / b
    variance = mean * float(b - r) * float(b - c) / (float(b) * max(1.0, b - 1.0))
    if (v - mean) ** 2 < 4.0 * variance:  # one minus what is likelier: fewer terms, and exact for p near 1
        inside = np.exp(log_probability) * _relative_between(v, opposite, r, c, b)
        if inside < 0.99:
            return np.log1p(-inside)
    return _log_outside(v, opposite, r, c, b, log_probability, lf)


@njit(cache=True)
def _log_outside(v: int, opposite: int, r: int, c: int, b: int, log_probability: float, lf: Table) -> float:
    relative = _relative_tail_down(v, r, c, b)
    if opposite <= min(r, c):
        relative += np.exp(log_ratio(opposite, v, r, c, b, lf)) * _relative_tail_up(opposite, r, c, b)
    return min(0.0, log_probability + np.log(relative))


@njit(cache=True, nogil=True)
def _fisher_many(v: Counts, r: Counts, c: Counts, b: Counts, lf: Table) -> Table:
    log_p = np.empty(v.size)
    for i in range(v.size):
        log_p[i] = fisher_log_p(v[i], r[i], c[i], b[i], lf)
    return log_p


@njit(cache=True)
def critical_counts(r: int, c: int, b: int, level: float, lf: Table) -> tuple[int, int]:
    """Bounds (low, high) with: V <= low or V >= high wherever p(V) <= level (numba kernel).

    The bounds may let a few V through whose p is above the level, never the reverse.
    """
    bottom, top = max(0, r + c - b), min(r, c)
    if bottom == top:
        return bottom - 1, top + 1
    mode = ((r + 1) * (c + 1)) // (b + 2)
    least = level * 1e-9
    p_low = p_high = np.exp(_log_probability(mode, r, c, b, lf))
    low = high = mode
    while low > bottom and p_low > least:
        p_low *= (float(low) * float(b - r - c + low)) / (float(r - low + 1) * float(c - low + 1))
        low -= 1
    while high < top and p_high > least:
        p_high *= (float(r - high) * float(c - high)) / (float(high + 1) * float(b - r - c + high + 1))
        high += 1
    total = 0.0
    while low < high:  # from the outside inwards, the less likely end first
        total += min(p_low, p_high)
        if total > level * (1.0 + 1e-9):
            break
        if p_low < p_high:
            p_low *= (float(r - low) * float(c - low)) / (float(low + 1) * float(b - r - c + low + 1))
            low += 1
        else:
            p_high *= (float(high) * float(b - r - c + high)) / (float(r - high + 1) * float(c - high + 1))
            high -= 1
    return low - 1, high + 1
