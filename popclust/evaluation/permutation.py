"""The null distribution of Q: reports move between patients, groups stay.

Permutation i depends on (seed, i) alone, so any split of the permutations over workers gives the same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numba import njit
from numpy.typing import NDArray

from popclust.evaluation.counting import CountedPopulation
from popclust.evaluation.fisher import critical_counts, fisher_log_p, log_factorials

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Exchange:
    """Which patients may exchange their reports."""

    classes: tuple[NDArray[np.int64], ...]
    """Per class of patients with equally many units in the same strata: (patient, size) their units."""
    n_units: int
    """Units in all."""

    def permutation(self, seed: int, index: int) -> NDArray[np.int64]:
        """(unit,) the unit whose report each unit gets in permutation `index`."""
        rng = np.random.default_rng(np.random.SeedSequence([seed, index]))
        source = np.empty(self.n_units, dtype=np.int64)
        for members in self.classes:
            source[members.ravel()] = members[rng.permutation(len(members))].ravel()
        return source


def exchange_of(population: CountedPopulation) -> Exchange:
    """Classes of patients that may exchange reports: equally many units, in the same strata."""
    units = pd.DataFrame({"patient": population.patient, "stratum": population.stratum})
    classes: dict[tuple[int, ...], list[NDArray[np.int64]]] = {}
    for members in units.groupby("patient", sort=True).indices.values():
        rows = np.asarray(members, dtype=np.int64)
        classes.setdefault(tuple(population.stratum[rows].tolist()), []).append(rows)
    return Exchange(tuple(np.array(classes[key], dtype=np.int64) for key in sorted(classes)), population.n_units)


def null_criterion(population: CountedPopulation, alpha: float, seed: int, first: int, last: int) -> NDArray[np.int32]:
    """Q of every grouping under permutations first .. last - 1.

    Parameters
    ----------
    population
        Units, groups and terms.
    alpha
        Level of a significant association after Holm's correction.
    seed, first, last
        Permutation i depends on (seed, i) alone: concatenating chunks gives the same as one call.

    Returns
    -------
    ndarray
        (permutation, grouping) int32.
    """
    exchange = exchange_of(population)
    screen = Screen.of(population, alpha)
    null = np.zeros((max(0, last - first), len(population.grid)), dtype=np.int32)
    for row, index in enumerate(range(first, last)):
        source = exchange.permutation(seed, index)
        null[row] = screen.criterion(population, population.has_term[source])
    return null


@dataclass(frozen=True)
class Screen:
    """Bounds of V beyond which a test can matter to Q; margins, and so the bounds, survive a permutation."""

    alpha: float
    """Level after Holm's correction."""
    C: NDArray[np.int64]
    """(term,) units with each term."""
    R: NDArray[np.int64]
    """(group of any grouping,) units in each group."""
    first: NDArray[np.int32]
    """(group, term, 2) V at or outside these may pass Holm's first step, alpha / K."""
    last: NDArray[np.int32]
    """(group, term, 2) V at or outside these may pass Holm's last step, alpha."""

    @classmethod
    def of(cls, population: CountedPopulation, alpha: float) -> Screen:
        """Bounds for the population's group sizes and term counts."""
        R = group_sizes(population)
        C = population.has_term.sum(axis=0).astype(np.int64)
        B = population.n_units
        K = np.repeat(population.n_clusters, population.n_clusters)
        log_factorial = log_factorials(B)
        first = _bounds(R, C, B, alpha / K, log_factorial)
        return cls(alpha, C, R, first, _bounds(R, C, B, np.full(K.size, alpha), log_factorial))

    def criterion(self, population: CountedPopulation, has_term: NDArray[np.bool_]) -> NDArray[np.int32]:
        """(grouping,) Q with the given terms of units, whose column sums must be those of the population."""
        return _criterion(
            population.cluster,
            population.first_cell,
            countable(has_term),
            self.C,
            self.R,
            self.first,
            self.last,
            self.alpha,
            log_factorials(population.n_units),
        )


def countable(has_term: NDArray[np.bool_]) -> NDArray[np.unsignedinteger]:
    """The (unit, term) terms in the smallest type that can add them up: whole rows are added, many columns at once."""
    return has_term.astype(np.uint16 if len(has_term) <= np.iinfo(np.uint16).max else np.uint32)


def group_sizes(population: CountedPopulation) -> NDArray[np.int64]:
    """(group of any grouping,) units in each group."""
    cell = population.cluster + population.first_cell[:-1, None]
    return np.bincount(cell.ravel(), minlength=int(population.first_cell[-1]))


@njit(cache=True, nogil=True)
def _bounds(R: Counts, C: Counts, B: int, level: NDArray[np.float64], lf: NDArray[np.float64]) -> NDArray[np.int32]:
    bounds = np.empty((R.size, C.size, 2), dtype=np.int32)
    for cell in range(R.size):
        for t in range(C.size):
            low, high = critical_counts(R[cell], C[t], B, level[cell], lf)
            bounds[cell, t, 0] = low
            bounds[cell, t, 1] = high
    return bounds


@njit(cache=True, nogil=True)
def count_terms(cluster: NDArray[np.int16], has_term: NDArray, V: NDArray) -> None:
    """Add up V (group, term) of one grouping (numba kernel)."""
    V[:] = 0
    for unit in range(cluster.size):
        k = np.uint64(cluster[unit])
        for t in range(has_term.shape[1]):
            V[k, t] += has_term[unit, t]


@njit(cache=True, nogil=True)
def _criterion(
    cluster: NDArray[np.int16],
    first_cell: Counts,
    has_term: NDArray,
    C: Counts,
    R: Counts,
    first: NDArray[np.int32],
    last: NDArray[np.int32],
    alpha: float,
    lf: NDArray[np.float64],
) -> NDArray[np.int32]:
    n_groupings, n_units = cluster.shape
    Q = np.zeros(n_groupings, dtype=np.int32)
    for g in range(n_groupings):
        offset = first_cell[g]
        K = first_cell[g + 1] - offset
        V = np.zeros((K, C.size), dtype=has_term.dtype)
        count_terms(cluster[g], has_term, V)
        hit = np.zeros(C.size, dtype=np.bool_)
        for k in range(K):
            for t in range(C.size):
                v = np.int64(V[k, t])
                hit[t] |= (v <= first[offset + k, t, 0]) | (v >= first[offset + k, t, 1])
        for t in range(C.size):
            if hit[t]:
                Q[g] += _n_significant(V[:, t], C[t], R[offset:], n_units, last[offset:, t], alpha, lf)
    return Q


@njit(cache=True, nogil=True)
def _n_significant(
    V: NDArray,
    C: int,
    R: Counts,
    B: int,
    bounds: NDArray[np.int32],
    alpha: float,
    lf: NDArray[np.float64],
) -> int:
    """Groups of a term that Holm rejects."""
    p = np.empty(V.size)
    n = 0
    for k in range(V.size):
        v = np.int64(V[k])
        if v <= bounds[k, 0] or v >= bounds[k, 1]:
            p[n] = np.exp(fisher_log_p(v, R[k], C, B, lf))
            n += 1
    p = np.sort(p[:n])
    for i in range(n):
        if p[i] * (V.size - i) > alpha:
            return i
    return n
