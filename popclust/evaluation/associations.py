"""Associations between groups and report terms, and the criterion Q that counts them.

For every grouping (descriptor, K, seed), group and term the two-sided Fisher's exact test; Holm's correction over the
K groups of a term; Q is the number of corrected p <= alpha, in both directions (Eq. 2 of the paper). The family of a
term is always its K groups: a group without any unit with a report has p = 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numba import njit
from numpy.typing import NDArray
from scipy.stats import false_discovery_control

from popclust import schema
from popclust.errors import InputError
from popclust.evaluation.counting import CountedPopulation, ReportTerms, count_population
from popclust.evaluation.fisher import fisher_log_p, log_factorials, sample_odds_ratio
from popclust.evaluation.odds_ratios import odds_ratio_intervals
from popclust.evaluation.permutation import count_terms, countable, group_sizes, null_criterion
from popclust.evaluation.prediction import as_good_as_best, gain_of_units
from popclust.population.clustering import BASELINE
from popclust.population.external import EXTERNAL
from popclust.population.groupings import GRID, Groupings
from popclust.reported import AGREED, Grouping
from popclust.settings import AssociateSettings

_NEVER_CHOSEN = (BASELINE, EXTERNAL)
"""Descriptors that 'best' does not choose among."""


@dataclass(frozen=True)
class AssociationResult:
    """What the tests found."""

    associations: pd.DataFrame
    """Tests by (descriptor, n_clusters, seed, term_id, cluster): all of each descriptor's reported grouping, and
    the significant ones of every other grouping. q_fdr (Benjamini-Yekutieli, valid under any dependence, over all
    tests of the grouping) is filled for reported groupings only."""
    criterion: pd.DataFrame
    """unit, descriptor, n_clusters, seed, Q and its null distribution, one row per grouping."""
    reported: Grouping
    """The grouping that is reported."""


def associate(
    clusters: pd.DataFrame | Groupings,
    terms: ReportTerms,
    has_report: pd.Series,
    patient_of_volume: pd.Series,
    settings: AssociateSettings,
    acquired_on: pd.Series | None = None,
    strata: pd.DataFrame | None = None,
) -> AssociationResult:
    """Test every term in every group of every grouping, and Q against permutations.

    Parameters are those of `count_population`; where permutations are to be spread over workers, call
    `count_population`, `null_criterion` on chunks and `associate_counted` instead.

    Returns
    -------
    AssociationResult
        Associations, criterion, reported grouping.

    Raises
    ------
    InputError, ValueError
        As `count_population`.
    """
    population = count_population(clusters, terms, has_report, patient_of_volume, settings, acquired_on, strata)
    null = null_criterion(population, settings.alpha, settings.seed, 0, settings.n_permutations)
    return associate_counted(population, settings, null)


def associate_counted(
    population: CountedPopulation, settings: AssociateSettings, null: NDArray[np.int32] | None = None
) -> AssociationResult:
    """Associations of a counted population.

    Parameters
    ----------
    population
        Units, groups and terms.
    settings
        alpha, unit, descriptor.
    null
        (permutation, grouping) Q from `null_criterion`; without it the columns of the null are NaN.
    """
    tests = run_tests(population, settings.alpha)
    criterion = criterion_table(population, tests.Q, settings, null)
    kept = tests.p_holm <= settings.alpha
    complete = np.zeros(len(population.grid), dtype=bool)
    for descriptor in population.grid["descriptor"].unique():
        complete |= reported_grouping(criterion, descriptor, settings.choose_by).rows(population.grid)
    kept |= np.repeat(complete, population.n_clusters)[:, None]
    associations = _association_table(population, tests, kept, complete, settings)
    reported = reported_grouping(criterion, settings.descriptor, settings.choose_by)
    return AssociationResult(associations, criterion, reported)


@dataclass(frozen=True)
class CellTests:
    """Tests of all groups of all groupings (rows) with all terms (columns)."""

    V: NDArray[np.int64]
    """(group, term) units with the term in the group."""
    R: NDArray[np.int64]
    """(group,) units in the group."""
    p_value: NDArray[np.float64]
    """(group, term) two-sided p."""
    p_holm: NDArray[np.float64]
    """(group, term) corrected over the groups of the term in the grouping."""
    Q: NDArray[np.int64]
    """(grouping,) significant tests."""


def run_tests(population: CountedPopulation, alpha: float) -> CellTests:
    """Fisher's test of every (grouping, group, term), Holm over the groups of a term, Q."""
    R = group_sizes(population)
    C = population.has_term.sum(axis=0).astype(np.int64)
    first_cell = population.first_cell
    has_term = countable(population.has_term)
    V, p_value = _count_and_test(population.cluster, first_cell, has_term, C, R, log_factorials(population.n_units))
    p_holm = _holm_by_grouping(p_value, first_cell)
    significant = np.concatenate([[0], np.cumsum((p_holm <= alpha).sum(axis=1))])
    return CellTests(V.astype(np.int64), R, p_value, p_holm, significant[first_cell[1:]] - significant[first_cell[:-1]])


def holm(p_value: NDArray[np.float64]) -> NDArray[np.float64]:
    """Holm's step-down correction over the first axis of (test, family) p-values.

    References
    ----------
    Holm S. A simple sequentially rejective multiple test procedure. Scand J Stat 1979.
    """
    p_value = np.asarray(p_value, dtype=np.float64)
    columns = p_value.reshape(len(p_value), -1)
    return _holm_by_grouping(columns, np.array([0, len(columns)])).reshape(p_value.shape)


def criterion_table(
    population: CountedPopulation,
    Q: NDArray[np.int64],
    settings: AssociateSettings,
    null: NDArray[np.int32] | None = None,
) -> pd.DataFrame:
    """Q of every grouping beside its null distribution, and what its groups foretell of reports.

    Q_null_mean, Q_null_p95 and p_value belong to the mean of Q over the seeds: one value per (descriptor, K).
    p_value_selected compares the same mean with the largest that each permutation reaches at any K (with descriptor =
    'best': of any descriptor), so it holds for a K that was chosen, by whatever rule. `gain` is the mean of
    `gain_of_units`; `is_candidate` marks the K among which the smallest is reported: those that foretell reports as
    well as the best, or, with choose_by = 'Q', those of the largest mean Q.
    """
    criterion = population.grid.assign(unit=settings.unit, Q=Q)[["unit", *GRID, "Q"]]
    gain = gain_of_units(population)
    criterion["gain"] = gain.mean(axis=1)
    criterion["is_candidate"] = _candidates(criterion, gain, settings.choose_by)
    for column in ("Q_null_mean", "Q_null_p95", "p_value", "p_value_selected"):
        criterion[column] = np.nan
    if null is None or len(null) == 0:
        return criterion
    by = ["descriptor", "n_clusters"]
    codes = criterion.groupby(by, sort=False).ngroup().to_numpy(np.int64)
    observed = _mean_by(codes, Q[None, :].astype(np.float64))[0]
    means = _mean_by(codes, null.astype(np.float64))
    descriptor = criterion.groupby(codes)["descriptor"].first()
    chosen_among = pd.factorize(descriptor)[0]
    if settings.descriptor == "best":
        chosen_among = pd.factorize(descriptor.where(descriptor.isin(_NEVER_CHOSEN), ""))[0]
    largest = np.stack([means[:, chosen_among == code].max(axis=1) for code in chosen_among], axis=1)
    criterion["Q_null_mean"] = means.mean(axis=0)[codes]
    criterion["Q_null_p95"] = np.percentile(means, 95, axis=0)[codes]
    criterion["p_value"] = _permutation_p(observed, means)[codes]
    criterion["p_value_selected"] = _permutation_p(observed, largest)[codes]
    return criterion


def _candidates(criterion: pd.DataFrame, gain: NDArray[np.float64], choose_by: str) -> NDArray[np.bool_]:
    """(grouping,) whether a grouping's K is one of those among which the smallest is reported; per descriptor."""
    found = np.zeros(len(criterion), dtype=bool)
    for _, rows in criterion.groupby("descriptor", sort=False):
        own = rows.index.to_numpy()
        codes = np.unique(rows["n_clusters"], return_inverse=True)[1].ravel()
        agreed = (rows["seed"] == AGREED).to_numpy()
        counted = agreed if agreed.any() else np.ones(len(own), dtype=bool)  # one chain's seeds say less than all runs
        if choose_by == "Q":
            mean = _mean_by(codes[counted], rows["Q"].to_numpy(np.float64)[None, counted])[0]
            is_good = mean == mean.max()
        else:
            is_good = as_good_as_best(gain[own[counted]], codes[counted])
        found[own] = is_good[codes]
    return found


def _mean_by(codes: NDArray, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of the columns of each code; sums of whole numbers, so equal means compare equal."""
    columns = [values[:, codes == code].sum(axis=1) / np.sum(codes == code) for code in range(codes.max() + 1)]
    return np.stack(columns, axis=1)


def _permutation_p(observed: NDArray[np.float64], null: NDArray[np.float64]) -> NDArray[np.float64]:
    """(1 + permutations that reach the observed value) / (1 + permutations): never 0, never too small."""
    return (1.0 + np.sum(null >= observed, axis=0)) / (1.0 + len(null))


def reported_grouping(criterion: pd.DataFrame, descriptor: str, choose_by: str = "prediction") -> Grouping:
    """The grouping that is reported for a descriptor.

    The smallest K of those marked `is_candidate`; of its groupings the one that begins with what runs of the chain
    agree on, where there is one, or else the seed whose Q at that K is nearest the mean, the lowest on ties.
    For 'best' the descriptor whose K has the largest mean gain (with choose_by = 'Q': mean Q), the first by name on
    ties; never the plain histograms or vectors of another tool.

    Raises
    ------
    InputError
        The criterion holds no row of this descriptor.
    """
    is_wanted = (
        ~criterion["descriptor"].isin(_NEVER_CHOSEN) if descriptor == "best" else criterion["descriptor"] == descriptor
    )
    rows = criterion[is_wanted]
    if rows.empty:
        known = ", ".join(sorted(criterion["descriptor"].unique()))
        raise InputError(f"[associate] descriptor: no groups were formed with {descriptor!r}; there are {known}")
    candidates = rows[rows["is_candidate"]]
    smallest = candidates["n_clusters"] == candidates.groupby("descriptor")["n_clusters"].transform("min")
    chosen = candidates[smallest]
    mean = chosen.groupby("descriptor", sort=True)["Q" if choose_by == "Q" else "gain"].mean()
    name = mean.index[int(np.argmax(mean.to_numpy()))]
    same = chosen[chosen["descriptor"] == name].sort_values("seed")
    nearest = int(np.argmin(np.abs(same["Q"].to_numpy() - same["Q"].mean())))
    nearest = 0 if same["seed"].iloc[0] == AGREED else nearest
    return Grouping(str(name), int(same["n_clusters"].iloc[0]), int(same["seed"].iloc[nearest]))


def _association_table(
    population: CountedPopulation,
    tests: CellTests,
    kept: NDArray[np.bool_],
    complete: NDArray[np.bool_],
    settings: AssociateSettings,
) -> pd.DataFrame:
    """The kept (group, term) cells as rows."""
    q_fdr = np.full(tests.p_value.shape, np.nan)
    for index in np.flatnonzero(complete).tolist():
        cells = slice(*population.first_cell[index : index + 2])
        if tests.p_value[cells].size:
            flat = false_discovery_control(tests.p_value[cells], axis=None, method="by")
            q_fdr[cells] = flat.reshape(tests.p_value[cells].shape)
    cell, term = np.nonzero(kept)
    grouping = np.repeat(np.arange(len(population.grid)), population.n_clusters)[cell]
    cluster = cell - population.first_cell[grouping]
    order = np.lexsort((cluster, term, grouping))
    cell, term, grouping, cluster = cell[order], term[order], grouping[order], cluster[order]
    V = tests.V[cell, term]
    R = tests.R[cell]
    C = population.has_term.sum(axis=0).astype(np.int64)[term]
    B = np.full(V.size, population.n_units, dtype=np.int64)
    interval = odds_ratio_intervals(V, R, C, B)
    grid = population.grid.iloc[grouping].reset_index(drop=True)
    columns = {
        "unit": settings.unit,
        **{name: grid[name].to_numpy() for name in GRID},
        "cluster": cluster,
        "term_id": np.array(population.term_id, dtype=object)[term],
        "term": np.array(population.term, dtype=object)[term],
        **{"V": V, "C": C, "R": R, "B": B, "odds_ratio": sample_odds_ratio(V, R, C, B)},
        "ci_low": interval.low,
        "ci_high": interval.high,
        "p_value": tests.p_value[cell, term],
        "p_holm": tests.p_holm[cell, term],
        "q_fdr": q_fdr[cell, term],
        "direction": np.where(V * B >= R * C, 1, -1),
    }
    return pd.DataFrame(columns, index=pd.RangeIndex(V.size))[schema.names("associations")]


@njit(cache=True, nogil=True)
def _count_and_test(
    cluster: NDArray[np.int16],
    first_cell: NDArray[np.int64],
    has_term: NDArray,
    C: NDArray[np.int64],
    R: NDArray[np.int64],
    lf: NDArray[np.float64],
) -> tuple[NDArray, NDArray[np.float64]]:
    V = np.zeros((first_cell[-1], C.size), dtype=has_term.dtype)
    p = np.empty(V.shape)
    for g in range(cluster.shape[0]):
        count_terms(cluster[g], has_term, V[first_cell[g] : first_cell[g + 1]])
    for cell in range(V.shape[0]):
        for t in range(C.size):
            p[cell, t] = np.exp(fisher_log_p(np.int64(V[cell, t]), R[cell], C[t], cluster.shape[1], lf))
    return V, p


@njit(cache=True, nogil=True)
def _holm_by_grouping(p: NDArray[np.float64], first_cell: NDArray[np.int64]) -> NDArray[np.float64]:
    corrected = np.empty(p.shape)
    for g in range(first_cell.size - 1):
        begin, end = first_cell[g], first_cell[g + 1]
        for t in range(p.shape[1]):
            order = np.argsort(p[begin:end, t], kind="mergesort")
            largest = 0.0
            for i in range(order.size):
                largest = min(1.0, max(largest, p[begin + order[i], t] * (order.size - i)))
                corrected[begin + order[i], t] = largest
    return corrected
