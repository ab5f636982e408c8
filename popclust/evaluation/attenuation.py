"""How much of an odds ratio is left within strata, with an interval.

The log odds ratio of a table is compared with the Mantel-Haenszel log odds ratio of the same units within strata. Both
are estimated from the same people, so their errors go together: what is left is known far better than either.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

_V, _R, _C, _N = range(4)
_CONTINUITY = 0.5
_TINY = 1e-100


@dataclass(frozen=True)
class LogOddsRatios:
    """Log odds ratios of associations, over all and within strata; all arrays are (association,)."""

    over_all: NDArray[np.float64]
    """Of the tables summed over strata."""
    within: NDArray[np.float64]
    """Common to the strata (Mantel-Haenszel); NaN where none of them holds information."""
    variance_over_all: NDArray[np.float64]
    variance_within: NDArray[np.float64]
    """Infinite where no stratum holds information."""
    covariance: NDArray[np.float64]
    information: NDArray[np.float64]
    """Variance of V within strata over that without: what stratification leaves to be tested."""
    n_strata: NDArray[np.int64]
    """Strata none of whose margins is empty."""


@dataclass(frozen=True)
class Intervals:
    """Values with both ends of their intervals, all (association,)."""

    value: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def log_odds_ratios(tables: NDArray[np.int64]) -> LogOddsRatios:
    """Log odds ratios of associations, over all units and within strata, with their joint variance.

    Half a unit is added to every cell, spread over strata in proportion to their size, so that an empty cell gives a
    finite answer. Variances are those of the influence of single units; within strata never less than the variance of
    Robins, Breslow and Greenland, which holds for few large and for many small strata.

    Parameters
    ----------
    tables
        (stratum, association, 4) counts as `strata.strata_tables` gives them.

    References
    ----------
    Mantel N, Haenszel W. J Natl Cancer Inst 1959; Robins J, Breslow N, Greenland S. Biometrics 1986.
    """
    counts = tables.astype(np.float64)
    is_informative = _informative(counts)
    whole = counts.sum(axis=0) + _CONTINUITY
    over_all = np.log(whole[:, _V] * whole[:, _N] / (whole[:, _R] * whole[:, _C]))
    gradient = np.array([1.0, -1.0, -1.0, 1.0]) / whole
    inside = _with_continuity(counts, is_informative)
    within, gradient_within, robins = _mantel_haenszel(inside)
    variance_over_all = (whole * gradient**2).sum(axis=-1)
    variance_within = (inside * gradient_within**2).sum(axis=(0, 2))
    covariance = (inside * gradient[None] * gradient_within).sum(axis=(0, 2))
    nothing = ~is_informative.any(axis=0)
    variance_within = np.where(nothing, np.inf, np.maximum(variance_within, robins))
    return LogOddsRatios(
        over_all=over_all,
        within=np.where(nothing, np.nan, within),
        variance_over_all=variance_over_all,
        variance_within=variance_within,
        covariance=np.where(nothing, 0.0, covariance),
        information=_information(counts),
        n_strata=is_informative.sum(axis=0),
    )


def share_left(tables: NDArray[np.int64]) -> NDArray[np.float64]:
    """(association,) share of the log odds ratio that is left within strata, without its interval; NaN as above."""
    counts = tables.astype(np.float64)
    V, R, C, N = np.moveaxis(counts.sum(axis=0) + _CONTINUITY, -1, 0)
    cells = _with_continuity(counts, _informative(counts))
    size = np.maximum(cells.sum(axis=-1), _TINY)
    along, across = (cells[..., i] * cells[..., j] / size for i, j in ((_V, _N), (_R, _C)))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(along.sum(axis=0) / across.sum(axis=0)) / np.log(V * N / (R * C))


def within_interval(ratios: LogOddsRatios, alpha: float) -> Intervals:
    """Odds ratio within strata with its interval of confidence 1 - alpha; 0 to infinity where nothing can be said."""
    reach = stats.norm.isf(alpha / 2) * np.sqrt(ratios.variance_within)
    known = np.isfinite(ratios.within)
    centre = np.where(known, ratios.within, 0.0)
    value = np.where(known, np.exp(centre), np.nan)
    return Intervals(
        value, np.where(known, np.exp(centre - reach), 0.0), np.exp(np.where(known, centre + reach, np.inf))
    )


def retained(ratios: LogOddsRatios, alpha: float) -> Intervals:
    """Share of the log odds ratio that is left within strata: 1 for all of it, 0 for nothing, below 0 if turned round.

    Parameters
    ----------
    ratios
        Of the associations.
    alpha
        1 less the confidence of the interval.

    Returns
    -------
    Intervals
        The shares that the data do not contradict. From -inf to inf where no stratum holds information, or where the
        odds ratio itself is not told from 1.

    References
    ----------
    Fieller EC. Some problems in interval estimation. J R Stat Soc B 1954.
    """
    z2 = stats.norm.isf(alpha / 2) ** 2
    known = np.isfinite(ratios.within) & (ratios.over_all**2 > z2 * ratios.variance_over_all)
    crude, within = np.where(known, ratios.over_all, 1.0), np.where(known, ratios.within, 0.0)
    square = np.where(known, crude**2 - z2 * ratios.variance_over_all, 1.0)
    half = crude * within - z2 * ratios.covariance
    constant = within**2 - z2 * np.where(known, ratios.variance_within, 0.0)
    reach = np.sqrt(np.maximum(half**2 - square * constant, 0.0))
    value = np.where(np.isfinite(ratios.within), ratios.within / ratios.over_all, np.nan)
    return Intervals(
        value, np.where(known, (half - reach) / square, -np.inf), np.where(known, (half + reach) / square, np.inf)
    )


def _informative(counts: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(stratum, association) whether no margin is empty."""
    V, R, C, N = np.moveaxis(counts, -1, 0)
    return (V + R > 0) & (C + N > 0) & (V + C > 0) & (R + N > 0)


def _information(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """(association,) hypergeometric variance of V, summed over strata, over that of the whole."""

    def variance(table: NDArray[np.float64]) -> NDArray[np.float64]:
        V, R, C, N = np.moveaxis(table, -1, 0)
        B = table.sum(axis=-1)
        return (V + R) * (C + N) * (V + C) * (R + N) / np.maximum(B**2 * (B - 1), 1.0)

    whole = variance(counts.sum(axis=0))
    return np.divide(variance(counts).sum(axis=0), whole, out=np.zeros_like(whole), where=whole > 0)


def _with_continuity(counts: NDArray[np.float64], is_informative: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Informative strata with half a unit per cell shared out among them by size; 0 elsewhere."""
    size = counts.sum(axis=-1) * is_informative
    share = np.divide(size, size.sum(axis=0), out=np.zeros_like(size), where=size.sum(axis=0) > 0)
    return (counts + _CONTINUITY * share[..., None]) * is_informative[..., None]


def _mantel_haenszel(
    cells: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """(association,) pooled log odds ratio, its (stratum, association, 4) gradient, the variance of Robins et al."""
    size = np.maximum(cells.sum(axis=-1), _TINY)
    V, R, C, N = np.moveaxis(cells, -1, 0)
    along, across = V * N / size, R * C / size
    total_along, total_across = (np.maximum(x.sum(axis=0), _TINY) for x in (along, across))
    of_along = np.stack([N - along, -along, -along, V - along], axis=-1) / size[..., None]
    of_across = np.stack([-across, C - across, R - across, -across], axis=-1) / size[..., None]
    gradient = of_along / total_along[:, None] - of_across / total_across[:, None]
    agree, differ = (V + N) / size, (R + C) / size
    variance = (
        (agree * along).sum(axis=0) / (2 * total_along**2)
        + (agree * across + differ * along).sum(axis=0) / (2 * total_along * total_across)
        + (differ * across).sum(axis=0) / (2 * total_across**2)
    )
    return np.log(total_along) - np.log(total_across), gradient, variance
