"""Associations tested again where nothing was learnt: in patients, or a population, that a frozen model placed."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from popclust.evaluation.counting import CountedPopulation
from popclust.evaluation.fisher import fisher_exact, sample_odds_ratio
from popclust.evaluation.odds_ratios import detection_power, odds_ratio_intervals
from popclust.evaluation.permutation import group_sizes
from popclust.settings import AssociateSettings

REPLICATED, NOT_REPLICATED, UNDERPOWERED = "replicated", "not replicated", "underpowered"
"""The outcomes."""
REPLICATION = [
    *("cluster", "term_id", "term", "direction", "odds_ratio", "odds_ratio_safe", "V", "C", "R", "B"),
    *("odds_ratio_again", "ci_low", "ci_high", "p_value", "power", "outcome"),
]
"""Columns of the table of replication."""

_SAFEGUARD = 0.8


def replicate(found: pd.DataFrame, population: CountedPopulation, settings: AssociateSettings) -> pd.DataFrame:
    """Test associations again on units that had no part in finding them.

    An association is replicated where the two-sided exact test has p <= alpha in the direction it was found: each is a
    question of its own, asked before these units were looked at. Otherwise it is not replicated if such a test would
    have found it with the wanted power, and underpowered if not. The power is exact, for an odds ratio that is believed
    to be exceeded: the end nearer to 1 of the 80 % interval of what was found, since what is found looks larger than it
    is.

    Parameters
    ----------
    found
        Associations with cluster, term_id, term, direction, and the counts V, C, R, B they were found with.
    population
        The new units, placed in the same groups: one grouping. A term that none of them has counts 0.
    settings
        alpha and power.

    Returns
    -------
    DataFrame
        One row per association, columns as in REPLICATION; counts are those of the new units.

    References
    ----------
    Perugini M, Gallucci M, Costantini G. Safeguard power as a protection against imprecise power estimates. Perspect
    Psychol Sci 2014.
    """
    if found.empty:
        return pd.DataFrame(columns=REPLICATION)
    direction = found["direction"].to_numpy(np.int64)
    safe = safeguard_odds_ratio(found)
    V, R, C, B = _counts(found, population)
    test = fisher_exact(V, R, C, B)
    interval = odds_ratio_intervals(V, R, C, B)
    power = detection_power(R, C, B, safe, settings.alpha)
    is_again = (test.p_value <= settings.alpha) & (np.sign(V * B - R * C) == direction)
    otherwise = np.where(power >= settings.power, NOT_REPLICATED, UNDERPOWERED)
    columns = {
        "odds_ratio_safe": safe,
        **{"V": V, "C": C, "R": R, "B": B},
        "odds_ratio_again": sample_odds_ratio(V, R, C, B),
        **{"ci_low": interval.low, "ci_high": interval.high},
        **{"p_value": test.p_value, "power": power},
        "outcome": np.where(is_again, REPLICATED, otherwise),
    }
    return found.reset_index(drop=True).assign(**columns)[REPLICATION]


def safeguard_odds_ratio(found: pd.DataFrame) -> NDArray[np.float64]:
    """(association,) end nearer to 1 of the 80 % interval; 1 where the interval holds 1."""
    V, R, C, B = (found[name].to_numpy(np.int64) for name in ("V", "R", "C", "B"))
    interval = odds_ratio_intervals(V, R, C, B, _SAFEGUARD)
    above = found["direction"].to_numpy() > 0
    return np.where(above, np.maximum(interval.low, 1.0), np.minimum(interval.high, 1.0))


def _counts(
    found: pd.DataFrame, population: CountedPopulation
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """V, R, C and B of each association among the new units."""
    cluster = found["cluster"].to_numpy(np.int64)
    column = {term_id: t for t, term_id in enumerate(population.term_id)}
    term = found["term_id"].map(column).fillna(-1).to_numpy(np.int64)
    has_term = np.hstack([population.has_term, np.zeros((population.n_units, 1), bool)])  # the last is a term of nobody
    members = population.cluster[0][None] == cluster[:, None]
    V = (members & has_term.T[term]).sum(axis=1).astype(np.int64)
    R = group_sizes(population)[cluster].astype(np.int64)
    return V, R, has_term.sum(axis=0)[term].astype(np.int64), np.full(len(found), population.n_units, np.int64)
