"""The chain learnt again: from which volumes, what the runs agree on, and how well groups come back in them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from popclust.population.clustering import KMeansFit, KMeansSolution, best_jaccard, exact_kmeans, group_by_centres

N_LEADING = 20
"""Directions of a run's descriptors that are pooled."""


def learnt_from(patient_of_volume: Sequence[str], share: float, seed: int, run: int) -> NDArray[np.bool_]:
    """Volumes that a run learns from: all of a share of the patients, drawn without putting back.

    Parameters
    ----------
    patient_of_volume : (volume,) sequence of str
        Patient of each volume.
    share : float
        Of the patients, rounded; at least two, all if there are no more.
    seed, run : int
        What is drawn follows from them.

    Returns
    -------
    (volume,) array of bool
        All of them where one patient holds so many volumes that those of the others are fewer than half.
    """
    patients = np.unique(np.asarray(patient_of_volume, dtype=str))
    n_drawn = min(len(patients), max(2, round(share * len(patients))))
    rng = np.random.default_rng([seed, run])
    drawn = np.isin(np.asarray(patient_of_volume, dtype=str), rng.permutation(patients)[:n_drawn])
    return drawn if 2 * drawn.sum() >= len(drawn) else np.ones(len(drawn), dtype=bool)


def leading(descriptors: NDArray[np.float64], n: int = N_LEADING) -> NDArray[np.float32]:
    """The leading directions (volume, n) of descriptors (volume, feature); zeros where there are fewer.

    Runs are pooled by them: they keep the distances that groups are made of, whatever the number of words.
    """
    centred = descriptors - descriptors.mean(axis=0)
    out = np.zeros((len(centred), n), np.float32)
    if centred.shape[1] <= n:
        out[:, : centred.shape[1]] = centred
        return out
    values, axes = eigh(centred.T @ centred, subset_by_index=(centred.shape[1] - n, centred.shape[1] - 1))
    out[:] = centred @ axes[:, np.argsort(-values, kind="stable")]
    return out


def agreed_groups(
    pooled: NDArray[np.floating], descriptors: NDArray[np.float64], n_clusters: int, fit: KMeansFit = exact_kmeans
) -> KMeansSolution:
    """Groups of the chain's own descriptors that begin with what all runs of the chain agree on.

    Side by side, the descriptors of all runs make a space in which the squared distance of two volumes is the sum of
    those in the runs: what a single run sees by chance is averaged out. k-means there gives the start; k-means of the
    chain's own descriptors goes on from it, so that the groups have centres that a new volume can be compared with.

    Parameters
    ----------
    pooled : (volume, column) array
        `leading` directions of every run, side by side.
    descriptors : (volume, feature) array
        What groups are formed on.
    n_clusters : int
        K.
    fit : KMeansFit
        What finds the centres in the pooled space.

    References
    ----------
    Strehl A, Ghosh J. Cluster ensembles: a knowledge reuse framework. J Mach Learn Res 2002.
    """
    columns = np.hstack([pooled, leading(descriptors)]).astype(np.float64)
    first = group_by_centres(columns, fit(columns, n_clusters, 0)).cluster
    n_found = int(first.max()) + 1
    if n_found < n_clusters:  # fewer volumes differ than groups are wanted
        return group_by_centres(descriptors, fit(descriptors, n_clusters, 0))
    start = np.stack([descriptors[first == g].mean(axis=0) for g in range(n_clusters)])
    kmeans = KMeans(n_clusters, init=start, n_init=1, max_iter=1000, tol=0.0).fit(descriptors)
    return group_by_centres(descriptors, np.asarray(kmeans.cluster_centers_))


def stability_in_runs(cluster: NDArray[np.integer], runs: NDArray[np.integer]) -> NDArray[np.float64]:
    """How well each group comes back in runs of the chain.

    Parameters
    ----------
    cluster : (volume,) array of int
        Groups.
    runs : (run, volume) array of int
        Groups of each run, which may differ in number.

    Returns
    -------
    (cluster,) array
        Mean over the runs of the group's best Jaccard overlap with a group there; NaN without a run.

    References
    ----------
    Hennig C. Cluster-wise assessment of cluster stability. Comput Stat Data Anal 2007.
    """
    if len(runs) == 0:
        return np.full(int(cluster.max()) + 1, np.nan)
    return np.asarray(np.mean([best_jaccard(cluster, r) for r in runs], axis=0))


def agreement_of_runs(runs: NDArray[np.integer]) -> float:
    """Mean adjusted Rand index of all pairs of runs (run, volume); NaN with fewer than two."""
    pairs = [(a, b) for a in range(len(runs)) for b in range(a)]
    return float(np.mean([adjusted_rand_score(runs[a], runs[b]) for a, b in pairs])) if pairs else float("nan")
