"""Odds ratios of 2x2 tables whose margins are fixed: exact intervals, and what a population could detect.

With fixed margins V follows Fisher's noncentral hypergeometric distribution, whose one parameter is the odds ratio.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

_NEGLIGIBLE = 1e-17
_LOG_LARGEST = 300.0


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
    """Exact conditional confidence interval of each table's odds ratio.

    The ends are the odds ratios at which V, or something more extreme, has probability (1 - level) / 2.

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
    Cornfield J. A statistical problem arising from retrospective studies. Proc 3rd Berkeley Symp 1956.
    """
    tables, inverse = np.unique(np.stack([V, R, C, B], axis=1).astype(np.int64), axis=0, return_inverse=True)
    low, high = _intervals(tables, np.log(0.5 * (1.0 - level)))
    return Intervals(low[inverse.ravel()], high[inverse.ravel()])


@njit(cache=True)
def _up(v, r, c, b, log_odds):
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
def _log_upper_tail(v, r, c, b, log_odds):
    """ln P(X >= v) and its derivative by the log odds ratio, at a log odds ratio."""
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
def _lower_end(v, r, c, b, log_level, start):
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


@njit(cache=True, nogil=True)
def _intervals(tables, log_level):
    low = np.zeros(len(tables))
    high = np.full(len(tables), np.inf)
    for i in range(len(tables)):
        v, r, c, b = tables[i]
        cells = np.array([v, r - v, c - v, b - r - c + v]) + 0.5
        centre = np.log(cells[0] * cells[3] / (cells[1] * cells[2]))
        half_width = 2.0 * np.sqrt(np.sum(1.0 / cells))
        if v > max(0, r + c - b):
            low[i] = np.exp(_lower_end(v, r, c, b, log_level, centre - half_width))
        if v < min(r, c):  # the same seen from the units without the term
            high[i] = np.exp(-_lower_end(r - v, r, b - c, b, log_level, -centre - half_width))
    return low, high
