"""Groups of volumes: k-means on volume descriptors over K and seeds."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.metrics import pairwise_distances_argmin_min

from popclust.errors import InputError
from popclust.population.topics import scale_counts
from popclust.settings import ClusterSettings, EncodeSettings

DESCRIPTORS = ("haralick", "sift", "concatenated", "lda")
"""f^H, f^S, [f^H f^S] and f^L of the paper."""
BASELINE = "zones"
"""Histograms of density in six zones, without registration or words: compared, never reported."""


@dataclass(frozen=True)
class KMeansSolution:
    """One k-means solution; groups are numbered by size, 0 the largest."""

    cluster: NDArray[np.int64]
    """(volume,) group of each volume."""
    distance: NDArray[np.float64]
    """(volume,) Euclidean distance to the group's centre."""
    centres: NDArray[np.float64]
    """(cluster, feature) centres."""


KMeansFit = Callable[[NDArray[np.float64], int, int], NDArray[np.float64]]
"""(descriptors, n_clusters, seed) -> centres (n_clusters, feature)."""


def descriptor_matrix(
    name: str,
    scaled_counts: NDArray[np.float64],
    vocabulary_of_word: NDArray,
    topic_of_volume: NDArray[np.float64],
) -> NDArray[np.float64]:
    """The matrix (volume, feature) of one of :data:`DESCRIPTORS`.

    Word counts and topic shares are compositions: their square roots are taken, so that the Euclidean distance of
    k-means is the Hellinger distance of the compositions (up to a factor) and frequent words do not rule alone.

    Raises
    ------
    ValueError
        No such descriptor.
    """
    words = np.asarray(vocabulary_of_word)
    columns = {
        "haralick": words == "haralick",
        "sift": np.isin(words, ["micro_sift", "macro_sift"]),
        "concatenated": np.ones(len(words), dtype=bool),
    }
    if name == "lda":
        values = topic_of_volume
    elif name in columns:
        values = scaled_counts[:, columns[name]]
        if not columns[name].any():  # nobody has a word of these: one column in which all are alike
            values = np.zeros((len(scaled_counts), 1))
    else:
        raise ValueError(f"descriptor: must be one of {', '.join(DESCRIPTORS)}, got {name!r}")
    sums = values.sum(axis=1, keepdims=True)
    return np.sqrt(np.divide(values, sums, out=np.zeros_like(values), where=sums > 0))


def matrix_of(name: str, words: xr.Dataset, topics: xr.Dataset, masses: EncodeSettings) -> NDArray[np.float64]:
    """The matrix (volume, feature) of one of :data:`DESCRIPTORS` or of :data:`BASELINE`.

    Parameters
    ----------
    name : str
        The descriptor.
    words, topics : Dataset
        Contents of word_counts.zarr and topics.zarr, of the same volumes.
    masses : EncodeSettings
        Masses that the counts are scaled to.
    """
    if name == BASELINE:
        return zone_matrix(words["zone_counts"].to_numpy())
    vocabulary = words["vocabulary"].to_numpy()
    scaled = scale_counts(words["counts"].to_numpy(), vocabulary, masses)
    return descriptor_matrix(name, scaled, vocabulary, topics["topic_of_volume"].to_numpy())


def zone_matrix(zone_counts: NDArray[np.integer]) -> NDArray[np.float64]:
    """The matrix (volume, feature) of :data:`BASELINE`, roots of zones' shares, from counts (volume, zone, bin)."""
    sums = np.maximum(zone_counts.sum(axis=2, keepdims=True, dtype=np.float64), 1.0)
    return np.sqrt(zone_counts / sums).reshape(len(zone_counts), -1)


def numbers_of_clusters(n_volumes: int, settings: ClusterSettings) -> range:
    """The K that are tried: up to `n_clusters_max`, but groups of three volumes on average at least.

    >>> numbers_of_clusters(30, ClusterSettings(n_clusters_min=2, n_clusters_max=30))
    range(2, 11)
    """
    return range(
        settings.n_clusters_min, max(settings.n_clusters_min, min(settings.n_clusters_max, n_volumes // 3)) + 1
    )


def exact_kmeans(descriptors: NDArray[np.float64], n_clusters: int, seed: int) -> NDArray[np.float64]:
    """Centres by Lloyd's algorithm, the best of ten k-means++ starts.

    Where fewer than K volumes differ they are the centres, repeated up to K: nearest volumes go to the first of equal
    ones, and the rest of the groups stay empty.

    Raises
    ------
    InputError
        Missing or infinite values.

    Warns
    -----
    UserWarning
        Fewer than K volumes differ.
    """
    is_gap = ~np.isfinite(descriptors).all(axis=1)
    if is_gap.any():
        raise InputError(
            f"descriptors: {int(is_gap.sum())} of {len(descriptors)} volumes have missing or infinite values; leave "
            "those volumes out, or make their descriptors again"
        )
    if len(np.unique(descriptors[: 100 * n_clusters], axis=0)) < n_clusters:  # some tell it of most populations
        distinct = np.unique(descriptors, axis=0)
        if len(distinct) < n_clusters:
            warnings.warn(
                f"descriptors: {len(distinct)} distinct clusters at most, as so many volumes are alike; {n_clusters} "
                "were asked for, the rest stay empty",
                stacklevel=2,
            )
            return np.resize(distinct, (n_clusters, distinct.shape[1]))
    return np.asarray(KMeans(n_clusters, n_init=10, random_state=seed).fit(descriptors).cluster_centers_)


def group_volumes(
    descriptors: NDArray[np.float64], n_clusters: int, seed: int, fit: KMeansFit = exact_kmeans
) -> KMeansSolution:
    """One k-means solution.

    Parameters
    ----------
    descriptors : (volume, feature) array
        Volume descriptors.
    n_clusters : int
        K.
    seed : int
        Seed of the starts.
    fit : KMeansFit
        What finds the centres.

    Raises
    ------
    ValueError
        Fewer volumes than groups.
    """
    if len(descriptors) < n_clusters:
        raise ValueError(f"n_clusters: {n_clusters} groups need as many volumes, there are {len(descriptors)}")
    return group_by_centres(descriptors, fit(descriptors, n_clusters, seed))


def group_by_centres(descriptors: NDArray[np.float64], centres: NDArray[np.float64]) -> KMeansSolution:
    """Every volume's nearest centre, groups numbered by size."""
    n_clusters = len(centres)
    cluster, _ = pairwise_distances_argmin_min(descriptors, centres)
    order = np.argsort(-np.bincount(cluster, minlength=n_clusters), kind="stable")
    rank = np.argsort(order, kind="stable")
    # to the group's own centre, exactly (the fast formula of scikit-learn loses digits near 0)
    distance = np.linalg.norm(descriptors - centres[cluster], axis=1)
    return KMeansSolution(rank[cluster].astype(np.int64), distance, centres[order])


def group_over_seeds(
    descriptors: NDArray[np.float64],
    volume_ids: Sequence[str],
    name: str,
    n_clusters: int,
    settings: ClusterSettings,
    fit: KMeansFit = exact_kmeans,
) -> pd.DataFrame:
    """Rows of clusters.parquet for one descriptor and one K, over all seeds."""
    groupings = [group_volumes(descriptors, n_clusters, seed, fit) for seed in settings.seeds]
    stability = stability_over_seeds(np.stack([g.cluster for g in groupings]))
    frames = [
        pd.DataFrame(
            {
                "volume_id": list(volume_ids),
                "descriptor": name,
                "n_clusters": n_clusters,
                "seed": seed,
                "cluster": g.cluster,
                "distance": g.distance,
                "stability": s,
            }
        )
        for seed, g, s in zip(settings.seeds, groupings, stability, strict=True)
    ]
    return pd.concat(frames, ignore_index=True)


def stability_over_seeds(clusters: NDArray[np.int64]) -> NDArray[np.float64]:
    """How well each volume's group comes back under the other seeds.

    For every group, the mean over the other seeds of its best Jaccard overlap with any group there (Hennig 2007).

    Parameters
    ----------
    clusters : (seed, volume) array
        Group of each volume under each seed.

    Returns
    -------
    (seed, volume) array
        Stability of the volume's group, 1 where it always comes back whole; NaN with a single seed.
    """
    n_seeds = len(clusters)
    out = np.full(clusters.shape, np.nan)
    for a in range(n_seeds):
        best = [best_jaccard(clusters[a], clusters[b]) for b in range(n_seeds) if b != a]
        if best:
            out[a] = np.mean(best, axis=0)[clusters[a]]
    return out


def best_jaccard(a: NDArray[np.integer], b: NDArray[np.integer]) -> NDArray[np.float64]:
    """The best Jaccard overlap of each group of `a` with any group of `b`, both (volume,)."""
    both = np.zeros((int(a.max()) + 1, int(max(a.max(), b.max())) + 1))
    np.add.at(both, (a, b), 1)
    size_b = np.bincount(b, minlength=both.shape[1])
    union = both.sum(axis=1, keepdims=True) + size_b - both
    return np.asarray(np.divide(both, union, out=np.zeros_like(both), where=union > 0).max(axis=1))
