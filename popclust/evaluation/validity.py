"""Everything that stands beside the reported associations, in one call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import pandas as pd

from popclust.evaluation.associations import AssociationResult
from popclust.evaluation.confounders import CONFOUNDERS, confounders
from popclust.evaluation.counting import CountedPopulation
from popclust.evaluation.gate import STRATIFIED, gate, stratify
from popclust.evaluation.odds_ratios import detectable_odds_ratios
from popclust.evaluation.permutation import group_sizes
from popclust.evaluation.split_half import split_half
from popclust.evaluation.technical_effects import PREDICTED, predict_variables
from popclust.evaluation.term_noise import term_noise
from popclust.settings import AssociateSettings

POWER = [
    *("descriptor", "n_clusters", "seed", "cluster", "term_id", "term", "C", "R", "B", "level", "power"),
    *("odds_ratio_above", "odds_ratio_below"),
]
"""Columns of the table of power."""


@dataclass(frozen=True)
class Validity:
    """Tables that say how far the reported associations can be trusted."""

    split_half: pd.DataFrame
    """K chosen on one half of the patients, tested on the other (see `split_half`)."""
    confounders: pd.DataFrame
    """Reported groups against scanner, kernel, age and the rest (see `confounders`)."""
    stratified: pd.DataFrame
    """Reported associations within strata of each variable (see `stratify`)."""
    gate: pd.DataFrame
    """Reported associations: does each survive, is it explained away, or can one not tell (see `gate`)."""
    predicted: pd.DataFrame
    """How well the topics predict each variable (see `predict_variables`)."""
    power: pd.DataFrame
    """What odds ratio could have been found (see `power_table`)."""
    term_noise: pd.DataFrame
    """Q under the term extractor's own errors (see `term_noise`)."""


def examine(
    population: CountedPopulation,
    result: AssociationResult,
    settings: AssociateSettings,
    variables: pd.DataFrame | None = None,
    topics: pd.DataFrame | None = None,
    errors_of_terms: Mapping[str, tuple[float, float]] = MappingProxyType({}),
) -> Validity:
    """Examine the reported grouping.

    Parameters
    ----------
    population
        What was counted, with all groupings.
    result
        What `associate_counted` found on it.
    settings
        Section [associate] of the study.
    variables
        Columns by volume_id from `confounder_variables`; without them the tables of confounders are empty.
    topics
        (volume, topic) descriptors, index volume_id; without them the table of predictions is empty.
    errors_of_terms
        What the extractor misses and makes up of single terms, by term_id (see `term_noise`).

    Returns
    -------
    Validity
        One table per question.
    """
    reported = population.only(result.reported.rows(population.grid))
    against = pd.DataFrame(columns=CONFOUNDERS)
    repeated = pd.DataFrame(columns=STRATIFIED)
    if variables is not None and variables.shape[1] > 0:
        against = confounders(reported, variables, settings.seed)
        repeated = stratify(reported, result.associations, variables, settings)
    predicted = pd.DataFrame(columns=PREDICTED)
    if variables is not None and topics is not None:
        known = variables[~variables.index.duplicated()].reindex(population.volume_id)
        shares = topics.loc[population.volume_id].to_numpy(np.float64)
        predicted = predict_variables(shares, known, population.patient, settings.n_strata, settings.seed)
    return Validity(
        split_half=split_half(population, settings),
        confounders=against,
        stratified=repeated,
        gate=gate(repeated),
        predicted=predicted,
        power=power_table(reported, settings),
        term_noise=term_noise(reported, settings, errors_of_terms),
    )


def power_table(population: CountedPopulation, settings: AssociateSettings) -> pd.DataFrame:
    """What odds ratio each term's test in each group of one grouping could have found.

    Parameters
    ----------
    population
        Units, terms and one grouping.
    settings
        alpha and power.

    Returns
    -------
    DataFrame
        One row per group and term. odds_ratio_above (and odds_ratio_below): the smallest odds ratio above 1 (largest
        below 1) that is found with probability `power` at level alpha / K, the strictest step of Holm's correction;
        inf (0) where these margins could never give a significant result.
    """
    K = int(population.n_clusters[0])
    R = group_sizes(population)
    C = population.has_term.sum(axis=0).astype(np.int64)
    term, cluster = (index.ravel() for index in np.indices((C.size, K)))
    level = settings.alpha / K
    detectable = detectable_odds_ratios(R[cluster], C[term], population.n_units, level, settings.power)
    grid = population.grid.iloc[0]
    table = {
        **{name: grid[name] for name in ("descriptor", "n_clusters", "seed")},
        "cluster": cluster,
        "term_id": np.array(population.term_id, dtype=object)[term],
        "term": np.array(population.term, dtype=object)[term],
        "C": C[term],
        "R": R[cluster],
        "B": population.n_units,
        "level": level,
        "power": settings.power,
        "odds_ratio_above": detectable.above,
        "odds_ratio_below": detectable.below,
    }
    return pd.DataFrame(table, index=pd.RangeIndex(term.size))[POWER]
