"""How well groups foretell reports: what of a left-out unit's terms is known from the group that it is in.

The number of significant associations grows when a group that means something is cut in two, so it asks for too many
groups; counted in both directions it is doubled where there are but two. What groups foretell of reports does neither.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from popclust.evaluation.counting import CountedPopulation

PRIOR_WEIGHT = 2.0
"""Units that the frequency of a term in everybody else counts for in a group: a group of two foretells little."""


def gain_of_units(population: CountedPopulation) -> NDArray[np.float64]:
    """Logarithmic score of every unit's terms, left out itself, by its group against that by everybody.

    For a unit in a group of R units, of which V have a term that C of B units have, all without the unit itself, the
    term is foretold with probability (V + w r) / (R + w), where r = (C + 1/2) / (B + 1) and w is `PRIOR_WEIGHT`;
    without groups with probability r. The gain is the difference of the logarithms of what was given to what is so,
    summed over terms.

    Parameters
    ----------
    population
        Units, groups and terms.

    Returns
    -------
    ndarray of float64
        (grouping, unit), in nats; 0 is no better than without groups.

    References
    ----------
    Gneiting T, Raftery AE. Strictly proper scoring rules, prediction, and estimation. J Am Stat Assoc 2007.
    """
    has_term = population.has_term.astype(np.float64)
    n_units, n_terms = has_term.shape
    gain = np.zeros((len(population.grid), n_units))
    if n_units < 2 or n_terms == 0:
        return gain
    total = has_term.sum(axis=0)
    for g, (cluster, n_clusters) in enumerate(zip(population.cluster, population.n_clusters, strict=True)):
        size = np.bincount(cluster, minlength=n_clusters)[:, None].astype(np.float64)
        inside = np.zeros((n_clusters, n_terms))
        np.add.at(inside, cluster, has_term)
        # Two numbers to a cell, for members with the term and without: a unit's gain is a sum of those of its group.
        has, lacks = (_gain_of_cells(size, inside, total, n_units, own) for own in (1.0, 0.0))
        gain[g] = (has_term * (has - lacks)[cluster]).sum(axis=1) + lacks.sum(axis=1)[cluster]
    return gain


def _gain_of_cells(
    size: NDArray[np.float64], inside: NDArray[np.float64], total: NDArray[np.float64], n_units: int, own: float
) -> NDArray[np.float64]:
    """(group, term) gain of a member whose own report has the term (`own` = 1) or lacks it (0)."""
    # Where no unit is such a member the numbers mean nothing, and are not used.
    rate = np.clip((total - own + 0.5) / n_units, 1e-12, 1 - 1e-12)
    given = (np.maximum(inside - own, 0.0) + PRIOR_WEIGHT * rate) / (np.maximum(size - 1, 0.0) + PRIOR_WEIGHT)
    given = np.minimum(given, 1 - 1e-12)
    return np.log(given / rate) if own else np.log((1 - given) / (1 - rate))


def as_good_as_best(gain: NDArray[np.float64], codes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which numbers of groups foretell reports as well as the best, within a standard error of the difference.

    The units are the same under every number, so the differences unit by unit say how sure the order is. The error of
    the best gain alone also holds how hard each unit is to foretell, and lets too few groups pass.

    Parameters
    ----------
    gain
        (grouping, unit) from `gain_of_units`, of one descriptor.
    codes
        (grouping,) code of each grouping's number of groups, from 0; the mean over its seeds counts.

    Returns
    -------
    ndarray of bool
        (code,) whether the best one's gain is larger by at most the standard error of the difference.

    References
    ----------
    Breiman L et al. Classification and Regression Trees, 1984 (the rule of one standard error).
    Vehtari A, Gelman A, Gabry J. Practical Bayesian model evaluation using leave-one-out cross-validation and WAIC.
    Stat Comput 2017.
    """
    by_code = pd.DataFrame(gain).groupby(codes, sort=True).mean().to_numpy()
    lost = by_code[int(np.argmax(by_code.mean(axis=1).round(12)))] - by_code
    error = lost.std(axis=1, ddof=1) / np.sqrt(lost.shape[1]) if lost.shape[1] > 1 else np.zeros(len(lost))
    return np.asarray(lost.mean(axis=1) <= error + 1e-12)
