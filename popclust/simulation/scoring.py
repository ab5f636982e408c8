"""How near a finished study comes to what was planted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from popclust.imaging.volume import Volume, sample

HISTOGRAM_BINS_HU = np.linspace(-1024, 276, 66)
"""Edges of the histograms of the simplest rival: 20 HU wide."""


@dataclass(frozen=True)
class PairScores:
    """Found (cluster, term) pairs against the true ones."""

    recall: float
    """Share of the true positive associations that are found, in the same direction."""
    false_share: float
    """Share of the found ones that are not true, or have the opposite sign."""
    n_true: int
    """True positive associations."""
    n_found: int
    """Found associations, in both directions."""
    jaccard: float
    """Found and true over found or true, in both directions."""


def score_pairs(found: pd.DataFrame, true: pd.DataFrame, alpha: float) -> PairScores:
    """Compare associations of the same groups, from reports and from the truth.

    Parameters
    ----------
    found, true : DataFrame
        Columns cluster, term_id, p_holm, direction.
    alpha : float
        Level of significance.
    """
    found_pairs, true_pairs = _significant(found, alpha), _significant(true, alpha)
    positive = {p for p in true_pairs if p[2] > 0}
    return PairScores(
        recall=len(positive & found_pairs) / len(positive) if positive else float("nan"),
        false_share=len(found_pairs - true_pairs) / len(found_pairs) if found_pairs else 0.0,
        n_true=len(positive),
        n_found=len(found_pairs),
        jaccard=len(found_pairs & true_pairs) / len(found_pairs | true_pairs) if found_pairs | true_pairs else 1.0,
    )


def agreement(groups: Mapping[str, str], clusters: Mapping[str, int]) -> float:
    """Adjusted Rand index of the clusters against the planted groups, over the volumes that have both."""
    volumes = sorted(set(groups) & set(clusters))
    return float(adjusted_rand_score([groups[v] for v in volumes], [clusters[v] for v in volumes]))


def lung_histogram(volume: Volume, lung: Volume) -> NDArray[np.float64]:
    """Share of the lung's voxels in each bin of HU: the simplest description of a lung."""
    points = lung.index_to_mm(np.argwhere(lung.voxels))
    counts, _ = np.histogram(np.clip(sample(volume, points), *HISTOGRAM_BINS_HU[[0, -1]]), HISTOGRAM_BINS_HU)
    return counts / max(1, counts.sum())


def histogram_agreement(
    histograms: Mapping[str, NDArray[np.float64]], groups: Mapping[str, str], n_clusters: int, seeds: Sequence[int]
) -> float:
    """Mean adjusted Rand index, over the seeds, of k-means on lung histograms against the planted groups."""
    volumes = sorted(set(groups) & set(histograms))
    rows = np.stack([histograms[v] for v in volumes])
    found = [KMeans(n_clusters, n_init=10, random_state=s).fit_predict(rows) for s in seeds]
    return float(np.mean([agreement(groups, dict(zip(volumes, f.tolist(), strict=True))) for f in found]))


def _significant(associations: pd.DataFrame, alpha: float) -> set[tuple[int, str, int]]:
    rows = associations[associations["p_holm"] <= alpha]
    return set(zip(rows["cluster"].tolist(), rows["term_id"].tolist(), rows["direction"].tolist(), strict=True))
