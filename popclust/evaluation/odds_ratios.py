"""Odds ratios of 2x2 tables whose margins are fixed: exact intervals, and what a population could detect.

With fixed margins V follows Fisher's noncentral hypergeometric distribution, whose one parameter is the odds ratio.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from popclust.evaluation.fisher import TIE, critical_counts, fisher_log_p, log_factorials, log_ratio

_NEGLIGIBLE = 1e-17
_LOG_LARGEST = 300.0
_FAR_BELOW = 1e-3
_N_BACK = 3
_ABOVE_ONE = 1e-12


@dataclass(frozen=True)
class Intervals:
    """Confidence intervals, one per table."""

    low: NDArray[np.float64]
    """Lower ends; 0 where V is the smallest that the margins allow."""
    high: NDArray[np.float64]
    """Upper ends; inf where V is the largest that the margins allow."""


def odds_ratio_intervals(
    V: NDArray[np.int64], R: NDArray[np.int64], C: NDArray[np.int64], B: NDArray[np.int64], level: float = 0.95
) -> Intervals:
    """Confidence interval of each table's odds ratio that agrees with Fisher's two-sided exact test.

    The odds ratios at which the two-sided test, which sums the probabilities of all tables at most as likely, has
    p > 1 - level; from the smallest to the largest such. So 1 lies outside exactly where the p of `fisher_exact` is at
    most 1 - level; where the set has a gap that holds 1, what lies beyond the gap is left out.

    Parameters
    ----------
    V, R, C, B
        (table,) counts of units with the term in the group, in the group, with the term, in all.
    level
        Confidence.

    Returns
    -------
    Intervals
        (table,) ends; [0, inf] where a margin is empty.

    References
    ----------
    Fay MP. Confidence intervals that match Fisher's exact or Blaker's exact tests. Biostatistics 2010.
    """
    tables, inverse = np.unique(np.stack([V, R, C, B], axis=1).astype(np.int64), axis=0, return_inverse=True)
    alpha = round(1.0 - level, 12)
    low, high = _intervals(tables, alpha, log_factorials(int(tables[:, 3].max(initial=0))))
    return Intervals(low[inverse.ravel()], high[inverse.ravel()])


@njit(cache=True)
def _up(v: int, r: int, c: int, b: int, log_odds: float) -> tuple[float, float]:
    """Sum of P(x) / P(v) over x > v, and the same weighted with x - v, at a log odds ratio."""
    odds = np.exp(log_odds)
    total, moment, term = 0.0, 0.0, 1.0
    for x in range(v, min(r, c)):
        ratio = odds * (float(r - x) * float(c - x)) / (float(x + 1) * float(b - r - c + x + 1))
        term *= ratio
        total += term
        moment += term * (x + 1 - v)
        if ratio < 1.0 and term * (x + 1 - v) < _NEGLIGIBLE * (1.0 + moment):
            break
    return total, moment


@njit(cache=True)
def _log_upper_tail(v: int, r: int, c: int, b: int, log_odds: float) -> tuple[float, float]:
    """Logarithm of P(X >= v) and its derivative by the log odds ratio, at a log odds ratio."""
    above, above_moment = _up(v, r, c, b, log_odds)
    below, below_moment = _up(r - v, r, b - c, b, -log_odds)
    if not np.isfinite(above_moment):  # v lies far below all that is likely
        return 0.0, 0.0
    if not np.isfinite(below_moment):  # v lies far above all that is likely
        return -np.inf, np.inf
    at_least = 1.0 + above
    mean = (above_moment - below_moment) / (at_least + below)
    return -np.log1p(below / at_least), above_moment / at_least - mean


@njit(cache=True)
def _lower_end(v: int, r: int, c: int, b: int, log_level: float, start: float) -> float:
    """Log odds ratio at which ln P(X >= v) = log_level; Newton steps inside a shrinking bracket."""
    left, right = -_LOG_LARGEST, _LOG_LARGEST
    at = start
    for _ in range(200):
        log_tail, slope = _log_upper_tail(v, r, c, b, at)
        if log_tail < log_level:
            left = at
        else:
            right = at
        step = (log_level - log_tail) / slope if slope > 0 and np.isfinite(log_tail) else 0.0
        target = at + step
        if step == 0.0 or target <= left or target >= right or abs(step) > 3.0:
            wide = right - left > 8.0
            target = (at + 3.0 if at == left else at - 3.0) if wide else 0.5 * (left + right)
        if abs(target - at) < 1e-13 * max(1.0, abs(at)):
            return target
        at = target
    return at


@njit(cache=True)
def _two_sided(v: int, x: int, r: int, c: int, b: int, log_odds: float) -> float:
    """P(X <= x or X >= v) at a log odds ratio, for x < v."""
    odds = np.exp(log_odds)
    term, inside, outside = 1.0, 0.0, 1.0
    for y in range(v, max(0, r + c - b), -1):
        term *= float(y) * float(b - r - c + y) / (float(r - y + 1) * float(c - y + 1)) / odds
        if y - 1 > x:
            inside += term
        else:
            outside += term
            if term < _NEGLIGIBLE * outside:
                break
    outside += _up(v, r, c, b, log_odds)[0]
    return outside / (inside + outside)


@njit(cache=True)
def _enters_at(x: int, v: int, r: int, c: int, b: int, lf: NDArray[np.float64]) -> float:
    """Log odds ratio from which on x < v is at most as likely as v; the larger, the nearer x is to v."""
    return (log_ratio(x, v, r, c, b, lf) - TIE) / (v - x)


@njit(cache=True)
def _last_as_unlikely(v: int, r: int, c: int, b: int, log_odds: float, lf: NDArray[np.float64]) -> int:
    """Largest x < v that is at most as likely as v at a log odds ratio; one below the support where there is none."""
    below, above = max(0, r + c - b) - 1, v
    while above - below > 1:
        middle = (below + above) // 2
        if _enters_at(middle, v, r, c, b, lf) <= log_odds:
            below = middle
        else:
            above = middle
    return below


@njit(cache=True)
def _matching_low(v: int, r: int, c: int, b: int, alpha: float, lf: NDArray[np.float64]) -> float:
    """Smallest log odds ratio at which the two-sided p of v is above alpha.

    Between the odds ratios at which one more x below v becomes as unlikely as v, p is one minus the probability of what
    lies between: it falls, then rises. So it passes alpha where such a stretch begins, or once on the way to its end.
    """
    cells = np.array([v, r - v, c - v, b - r - c + v]) + 0.5
    centre = np.log(cells[0] * cells[3] / (cells[1] * cells[2]))
    start = centre - 2.0 * np.sqrt(np.sum(1.0 / cells))
    at = _lower_end(v, r, c, b, np.log(alpha * _FAR_BELOW), start)
    if v * b <= r * c:
        return _crossing(v, r, c, b, at, alpha, lf)
    if np.exp(fisher_log_p(v, r, c, b, lf)) <= alpha:  # the odds ratio 1 is rejected: the end lies above it
        return max(_ABOVE_ONE, _crossing(v, r, c, b, max(at, 0.0), alpha, lf))
    return min(0.0, _crossing(v, r, c, b, at, alpha, lf))


@njit(cache=True)
def _crossing(v: int, r: int, c: int, b: int, at: float, alpha: float, lf: NDArray[np.float64]) -> float:
    """The first log odds ratio from `at` on at which the two-sided p of v is above alpha."""
    first = _last_as_unlikely(v, r, c, b, at, lf)
    x = _first_stretch(v, first, r, c, b, at, alpha, lf)
    left = at if x == first else _enters_at(x, v, r, c, b, lf)
    if x == v - 1 or _two_sided(v, x, r, c, b, left) > alpha:
        return left
    right = _enters_at(x + 1, v, r, c, b, lf)
    while right - left > 1e-13 * max(1.0, abs(right)):
        middle = 0.5 * (left + right)
        if middle <= left or middle >= right:
            break
        if _two_sided(v, x, r, c, b, middle) > alpha:
            right = middle
        else:
            left = middle
    return right


@njit(cache=True)
def _reaches(
    x: int, v: int, first: int, r: int, c: int, b: int, start: float, alpha: float, lf: NDArray[np.float64]
) -> bool:
    """Whether p is above alpha somewhere in the stretch from where x is as unlikely as v to where x + 1 is."""
    if x >= v - 1:
        return True
    left = start if x == first else _enters_at(x, v, r, c, b, lf)
    return (
        _two_sided(v, x, r, c, b, left) > alpha or _two_sided(v, x, r, c, b, _enters_at(x + 1, v, r, c, b, lf)) > alpha
    )


@njit(cache=True)
def _first_stretch(
    v: int, first: int, r: int, c: int, b: int, start: float, alpha: float, lf: NDArray[np.float64]
) -> int:
    """First x, from `first` on, whose stretch reaches alpha: by halving, for p rises towards v but for small steps."""
    below, above = first - 1, v - 1
    while above - below > 1:
        middle = (below + above) // 2
        if _reaches(middle, v, first, r, c, b, start, alpha, lf):
            above = middle
        else:
            below = middle
    for _ in range(_N_BACK):
        for back in range(above - 1, max(first, above - _N_BACK) - 1, -1):
            if _reaches(back, v, first, r, c, b, start, alpha, lf):
                above = back
                break
        else:
            break
    return above


@njit(cache=True, nogil=True)
def _intervals(
    tables: NDArray[np.int64], alpha: float, lf: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    low = np.zeros(len(tables))
    high = np.full(len(tables), np.inf)
    for i in range(len(tables)):
        v, r, c, b = tables[i]
        if v > max(0, r + c - b):
            low[i] = np.exp(_matching_low(v, r, c, b, alpha, lf))
        if v < min(r, c):  # the same seen from the units without the term
            high[i] = np.exp(-_matching_low(r - v, r, b - c, b, alpha, lf))
    return low, high


@dataclass(frozen=True)
class Detectable:
    """Odds ratios that a test would find with the wanted probability, one pair per table's margins."""

    above: NDArray[np.float64]
    """Smallest odds ratio above 1; inf where no V that the margins allow is significant."""
    below: NDArray[np.float64]
    """Largest odds ratio below 1; 0 where no V that the margins allow is significant."""


def detectable_odds_ratios(
    R: NDArray[np.int64], C: NDArray[np.int64], B: int, level: float, power: float = 0.8
) -> Detectable:
    """Odds ratio at which Fisher's test of these margins has p <= level with probability `power`.

    Parameters
    ----------
    R, C
        (table,) units in the group, units with the term.
    B
        Units in all.
    level
        p that counts as found; alpha / K is the strictest step of Holm's correction over K groups.
    power
        Probability of finding it, above `level` and below 1.

    Returns
    -------
    Detectable
        (table,) odds ratios, exact under Fisher's noncentral hypergeometric distribution.

    Raises
    ------
    ValueError
        `power` is not between `level` and 1.
    """
    if not level < power < 1:
        raise ValueError(f"power: wanted a probability between {level} and 1, got {power}")
    margins = np.stack([R, C], axis=1).astype(np.int64)
    tables, inverse = np.unique(margins, axis=0, return_inverse=True)
    above, below = _detectable(tables, B, level, power, log_factorials(B))
    return Detectable(above[inverse.ravel()], below[inverse.ravel()])


def detection_power(
    R: NDArray[np.int64], C: NDArray[np.int64], B: NDArray[np.int64], odds_ratio: NDArray[np.float64], level: float
) -> NDArray[np.float64]:
    """Probability that Fisher's test of these margins has p <= level, on the side on which the odds ratio lies.

    Parameters
    ----------
    R, C, B
        (table,) units in the group, units with the term, units in all.
    odds_ratio
        (table,) the true odds ratios; at 1 the side is that above.
    level
        p that counts as found.

    Returns
    -------
    ndarray
        (table,) exact under Fisher's noncentral hypergeometric distribution; 0 where a margin is empty.
    """
    return _powers(R, C, B, np.log(odds_ratio), level, log_factorials(int(B.max(initial=0))))


@njit(cache=True, nogil=True)
def _powers(
    R: NDArray[np.int64],
    C: NDArray[np.int64],
    B: NDArray[np.int64],
    log_odds: NDArray[np.float64],
    level: float,
    lf: NDArray[np.float64],
) -> NDArray[np.float64]:
    power = np.zeros(R.size)
    for i in range(R.size):
        r, c, b = R[i], C[i], B[i]
        if max(0, r + c - b) == min(r, c):
            continue
        low, high = _exact_bounds(r, c, b, level, lf)
        if log_odds[i] >= 0.0 and high <= min(r, c):
            power[i] = np.exp(_log_upper_tail(high, r, c, b, min(log_odds[i], _LOG_LARGEST))[0])
        elif log_odds[i] < 0.0 and low >= max(0, r + c - b):
            power[i] = np.exp(_log_upper_tail(r - low, r, b - c, b, min(-log_odds[i], _LOG_LARGEST))[0])
    return power


@njit(cache=True)
def _exact_bounds(r: int, c: int, b: int, level: float, lf: NDArray[np.float64]) -> tuple[int, int]:
    """Largest V below and smallest V above the mode with p(V) <= level."""
    low, high = critical_counts(r, c, b, level, lf)
    bottom, top = max(0, r + c - b), min(r, c)
    while low >= bottom and fisher_log_p(low, r, c, b, lf) > np.log(level):
        low -= 1
    while high <= top and fisher_log_p(high, r, c, b, lf) > np.log(level):
        high += 1
    return low, high


@njit(cache=True)
def _log_odds_at_power(v: int, r: int, c: int, b: int, power: float) -> float:
    """Log odds ratio at which P(X >= v) = power, by bisection from above 0."""
    left, right = 0.0, 1.0
    while right < _LOG_LARGEST and _log_upper_tail(v, r, c, b, right)[0] < np.log(power):
        right *= 2.0
    for _ in range(60):
        middle = 0.5 * (left + right)
        if _log_upper_tail(v, r, c, b, middle)[0] < np.log(power):
            left = middle
        else:
            right = middle
    return right


@njit(cache=True, nogil=True)
def _detectable(
    margins: NDArray[np.int64], b: int, level: float, power: float, lf: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    above = np.full(len(margins), np.inf)
    below = np.zeros(len(margins))
    for i in range(len(margins)):
        r, c = margins[i]
        low, high = _exact_bounds(r, c, b, level, lf)
        if high <= min(r, c):
            above[i] = np.exp(_log_odds_at_power(high, r, c, b, power))
        if low >= max(0, r + c - b):  # V <= low is r - V >= r - low among the units without the term
            below[i] = np.exp(-_log_odds_at_power(r - low, r, b - c, b, power))
    return above, below
