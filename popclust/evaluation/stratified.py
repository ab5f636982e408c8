"""Associations repeated within strata of a confounder: what survives is no scanner in disguise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.contingency_tables import StratifiedTable

from popclust.evaluation.confounders import is_measurement, pool_rare
from popclust.evaluation.counting import CountedPopulation
from popclust.settings import AssociateSettings

JOINT = "technical (jointly)"
"""Name of the stratification by all technical variables at once."""

STRATIFIED = [
    *("descriptor", "n_clusters", "seed", "cluster", "term_id", "term", "variable", "n_strata", "information"),
    *("method", "odds_ratio", "ci_low", "ci_high", "p_value", "q_fdr", "gate", "survives"),
]
"""Columns of the table of stratified tests."""

_MANTEL_FLEISS = 5.0
_MIN_JOINT_INFORMATION = 0.25
_TIE = 1e-7


@dataclass(frozen=True)
class StratifiedTest:
    """One association pooled over strata."""

    method: str
    """'mantel_haenszel', 'exact' where strata are sparse, 'none' where they hold no information."""
    n_strata: int
    """Strata that hold information: no margin of theirs is empty."""
    information: float
    """Variance of V within the strata over that without strata: what stratification leaves to be tested."""
    odds_ratio: float
    """Mantel-Haenszel pooled odds ratio."""
    ci_low: float
    """Lower end of its 95 % interval (Robins, Breslow, Greenland)."""
    ci_high: float
    """Upper end."""
    p_value: float
    """Two-sided p of no association in any stratum; 1 where nothing can be tested."""
    direction: int
    """1 where V is above its expectation within strata, -1 below, 0 where equal."""


def stratified_test(tables: NDArray[np.int64]) -> StratifiedTest:
    """Test one association over strata.

    Parameters
    ----------
    tables
        (stratum, 2, 2) counts [[V, R-V], [C-V, B-R-C+V]].

    Returns
    -------
    StratifiedTest
        Cochran-Mantel-Haenszel with continuity correction where the Mantel-Fleiss criterion allows it, else the exact
        test of the summed V, whose distribution is the convolution of the strata's hypergeometric distributions.

    References
    ----------
    Mantel N, Haenszel W. J Natl Cancer Inst 1959; Mantel N, Fleiss JL. Am J Epidemiol 1980.
    """
    margins = np.stack([tables.sum(axis=2), tables.sum(axis=1)], axis=1)
    informative = tables[np.all(margins > 0, axis=(1, 2))]
    total = _moments(tables.sum(axis=0)[None])
    if len(informative) == 0 or total.variance[0] == 0:
        return StratifiedTest("none", 0, 0.0, np.nan, np.nan, np.nan, 1.0, 0)
    moments = _moments(informative)
    excess = float(informative[:, 0, 0].sum() - moments.mean.sum())
    pooled = _pooled_odds_ratio(informative)
    method, p_value = "mantel_haenszel", 1.0
    if _mantel_fleiss(moments) >= _MANTEL_FLEISS:
        p_value = float(StratifiedTable(_to_list(informative)).test_null_odds(correction=abs(excess) >= 0.5).pvalue)
    else:
        method, p_value = "exact", _exact_p(informative)
    information = float(moments.variance.sum() / total.variance[0])
    return StratifiedTest(method, len(informative), information, *pooled, p_value, int(np.sign(excess)))


@dataclass(frozen=True)
class _Moments:
    mean: NDArray[np.float64]
    variance: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def _moments(tables: NDArray[np.int64]) -> _Moments:
    """Mean, variance and range of V in each stratum, given its margins."""
    R = tables[:, 0].sum(axis=1).astype(np.float64)
    C = tables[:, :, 0].sum(axis=1).astype(np.float64)
    B = tables.sum(axis=(1, 2)).astype(np.float64)
    mean = R * C / np.maximum(B, 1)
    variance = mean * (B - R) * (B - C) / np.maximum(B * (B - 1), 1)
    return _Moments(mean, variance, np.maximum(0, R + C - B), np.minimum(R, C))


def _mantel_fleiss(moments: _Moments) -> float:
    """Distance of the expected V from the nearer end of what the margins allow, summed over strata."""
    mean = moments.mean.sum()
    return float(min(mean - moments.low.sum(), moments.high.sum() - mean))


def _to_list(tables: NDArray[np.int64]) -> list[NDArray[np.float64]]:
    return [table.astype(np.float64) for table in tables]


def _pooled_odds_ratio(tables: NDArray[np.int64]) -> tuple[float, float, float]:
    """Mantel-Haenszel odds ratio and its interval; open ends where a product is empty."""
    n = tables.sum(axis=(1, 2))
    above = float((tables[:, 0, 0] * tables[:, 1, 1] / n).sum())
    below = float((tables[:, 0, 1] * tables[:, 1, 0] / n).sum())
    if above == 0 or below == 0:
        return (0.0 if below > 0 else np.inf if above > 0 else np.nan), 0.0, np.inf
    pooled = StratifiedTable(_to_list(tables))
    low, high = pooled.oddsratio_pooled_confint()
    return float(pooled.oddsratio_pooled), float(low), float(high)


def _exact_p(tables: NDArray[np.int64]) -> float:
    """Two-sided exact p: all sums of V that are at most as likely as the observed one."""
    distribution = np.ones(1)
    observed = 0
    for (v, r_without), (c_without, neither) in tables.tolist():
        R, C, B = v + r_without, v + c_without, v + r_without + c_without + neither
        low = max(0, R + C - B)
        distribution = np.convolve(distribution, stats.hypergeom.pmf(np.arange(low, min(R, C) + 1), B, C, R))
        observed += v - low
    at_most = distribution <= distribution[observed] * (1 + _TIE)
    return float(min(1.0, distribution[at_most].sum()))


def strata_codes(values: pd.Series, n_strata: int) -> NDArray[np.int64]:
    """(unit,) stratum of each unit.

    A category's levels are strata, those of fewer than 5 units pooled; a measurement is cut at its quantiles, unless
    it takes no more than n_strata values; missing is a stratum of its own.
    """
    measured = is_measurement(values)
    if measured:
        values = values.replace([np.inf, -np.inf], np.nan)
    known = values.notna().to_numpy()
    codes = np.full(len(values), -1, dtype=np.int64)
    if measured and values.nunique() > n_strata:
        x = values.to_numpy(np.float64)
        cuts = np.unique(np.quantile(x[known], np.arange(1, n_strata) / n_strata))
        codes[known] = np.searchsorted(cuts, x[known], side="right")
    else:
        codes[known] = pd.factorize(pool_rare(values[known]), sort=True)[0]
    return codes + 1


def stratify(
    population: CountedPopulation, associations: pd.DataFrame, variables: pd.DataFrame, settings: AssociateSettings
) -> pd.DataFrame:
    """Repeat the significant associations of one grouping within strata of every variable.

    Parameters
    ----------
    population
        Units, terms and the one grouping.
    associations
        Table of associations; its rows of this grouping with p_holm <= alpha are repeated.
    variables
        Columns by volume_id, as `confounders.confounder_variables` gives them.
    settings
        alpha, gate_fdr, n_strata and technical: the variables that form the gate, singly and jointly.

    Returns
    -------
    DataFrame
        One row per association and variable. q_fdr is the false discovery rate (Benjamini-Hochberg) over the
        associations repeated: a population whose only structure is the variable keeps any of them with probability
        gate_fdr, while true associations do not cost each other power. An association survives where q_fdr <= gate_fdr
        in the direction it was found; where the variable leaves nothing to test (information
        0) it cannot be told from the variable, and does not survive. The joint stratification belongs to the gate
        where it leaves a quarter of the information.
    """
    grid = population.grid.iloc[0]
    same = (associations["descriptor"] == grid["descriptor"]) & (associations["n_clusters"] == grid["n_clusters"])
    same &= (associations["seed"] == grid["seed"]) & (associations["p_holm"] <= settings.alpha)
    found = associations[same].reset_index(drop=True)
    parts = []
    for name, codes in _stratifications(population, variables, settings).items():
        part = _stratify_by(population, found, codes, settings.gate_fdr).assign(variable=name)
        part["gate"] = name in settings.technical
        if name == JOINT:
            part["gate"] = part["information"] >= _MIN_JOINT_INFORMATION
        parts.append(part)
    if not parts:
        return pd.DataFrame(columns=STRATIFIED)
    return pd.concat(parts, ignore_index=True)[STRATIFIED]


def _stratifications(
    population: CountedPopulation, variables: pd.DataFrame, settings: AssociateSettings
) -> dict[str, NDArray[np.int64]]:
    rows = variables[~variables.index.duplicated()].reindex(population.volume_id)
    codes = {str(name): strata_codes(rows[name], settings.n_strata) for name in rows.columns}
    technical = [codes[name] for name in settings.technical if name in codes and np.unique(codes[name]).size > 1]
    if len(technical) > 1:
        codes[JOINT] = np.unique(np.stack(technical), axis=1, return_inverse=True)[1].ravel()
    return codes


def _stratify_by(
    population: CountedPopulation, found: pd.DataFrame, codes: NDArray[np.int64], fdr: float
) -> pd.DataFrame:
    column = {term_id: t for t, term_id in enumerate(population.term_id)}
    tests = []
    for cluster, term_id in zip(found["cluster"], found["term_id"], strict=True):
        cell = (population.cluster[0] != cluster) * 2 + ~population.has_term[:, column[term_id]]
        counts = np.bincount(codes * 4 + cell, minlength=4 * (codes.max() + 1))
        tests.append(vars(stratified_test(counts.reshape(-1, 2, 2))))
    names = list(StratifiedTest.__dataclass_fields__)
    table = pd.concat([found[STRATIFIED[:6]], pd.DataFrame(tests, columns=names)], axis=1)
    p_value = table["p_value"].to_numpy(np.float64)
    table["q_fdr"] = stats.false_discovery_control(p_value, method="bh") if len(table) else p_value
    table["survives"] = (table["q_fdr"] <= fdr) & (table["direction"] == found["direction"])
    return table


def gate(stratified: pd.DataFrame) -> pd.DataFrame:
    """Decide for each association whether it survives every stratification of the gate.

    Parameters
    ----------
    stratified
        The table of `stratify`.

    Returns
    -------
    DataFrame
        descriptor, n_clusters, seed, cluster, term_id, term, survives, fails: the variables it does not survive,
        joined by ', '.
    """
    key = STRATIFIED[:6]
    failing = stratified[stratified["gate"].astype(bool) & ~stratified["survives"].astype(bool)]
    fails = failing.groupby(key, sort=False)["variable"].agg(", ".join)
    verdict = stratified[key].drop_duplicates(ignore_index=True)
    verdict["fails"] = [fails.get(row, "") for row in verdict.itertuples(index=False, name=None)]
    verdict["survives"] = verdict["fails"] == ""
    return verdict[[*key, "survives", "fails"]]
