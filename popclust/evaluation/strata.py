"""Strata of a variable, and the tables of groups and terms within them."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from popclust.evaluation.confounders import is_measurement, pool_rare

_MIN_UNITS = 25


def strata_codes(values: pd.Series, n_strata: int) -> NDArray[np.int64]:
    """(unit,) stratum of each unit.

    A category's levels are strata, those of fewer than 5 units pooled; a measurement is cut at its quantiles, unless
    it takes no more than n_strata values; missing is a stratum of its own, 0.

    >>> strata_codes(pd.Series([1.0, 2.0, 3.0, 4.0, np.nan]), 2).tolist()
    [1, 1, 2, 2, 0]
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


def number_of_strata(wanted: int, n_units: int) -> int:
    """Quantile strata of a measurement: as many as wanted, fewer where one would hold less than 25 units, 2 at least.

    >>> [number_of_strata(6, n) for n in (40, 100, 5000)]
    [2, 4, 6]
    """
    return min(wanted, max(2, n_units // _MIN_UNITS))


def strata_tables(
    codes: NDArray[np.int64],
    cluster: NDArray,
    has_term: NDArray[np.bool_],
    associations: tuple[NDArray[np.int64], NDArray[np.int64]],
) -> NDArray[np.int64]:
    """Tables of some associations within every stratum.

    Parameters
    ----------
    codes
        (unit,) stratum of each unit, from 0.
    cluster
        (unit,) group of each unit, from 0.
    has_term
        (unit, term) whether a unit's report has the term.
    associations
        (association,) group and (association,) column of the term of each association.

    Returns
    -------
    ndarray
        (stratum, association, 4) counts V, R - V, C - V and B - R - C + V.
    """
    group, term = associations
    n_strata, n_clusters, n_units = (
        int(codes.max(initial=0)) + 1,
        int(max(cluster.max(), group.max(initial=0))) + 1,
        codes.size,
    )
    place = codes * n_clusters + cluster.astype(np.int64)
    shape = (n_strata * n_clusters, n_units)
    member = sparse.csr_matrix((np.ones(n_units, np.int64), (place, np.arange(n_units))), shape=shape)
    V = (member @ has_term.astype(np.int64)).reshape(n_strata, n_clusters, has_term.shape[1])
    R = np.bincount(place, minlength=shape[0]).reshape(n_strata, n_clusters)
    both, in_group, with_term, everybody = (
        V[:, group, term],
        R[:, group],
        V.sum(axis=1)[:, term],
        R.sum(axis=1)[:, None],
    )
    cells = (both, in_group - both, with_term - both, everybody - in_group - with_term + both)
    return np.stack(cells, axis=-1).astype(np.int64)
