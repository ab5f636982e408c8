"""What is learnt from a whole population out of core: groups of many volumes, and the training rows of words."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score

from popclust.dataflow.learning import fit_of_groups, minibatch_centres
from popclust.population.clustering import exact_kmeans, group_by_centres
from popclust.population.vocabulary import learn_vocabulary
from popclust.settings import ClusterSettings, VocabularySettings


def compositions(n: int, n_kinds: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Roots of topic shares (n, 20) of volumes of some kinds, and the kinds."""
    rng = np.random.default_rng(seed)
    kinds = rng.dirichlet(np.full(20, 0.5), n_kinds)
    kind = rng.integers(0, n_kinds, n)
    return np.sqrt(np.stack([rng.dirichlet(15 * kinds[k] + 0.05) for k in kind])), kind


def inertia(descriptors: NDArray[np.float64], centres: NDArray[np.float64]) -> float:
    return float((group_by_centres(descriptors, centres).distance ** 2).sum())


@pytest.mark.slow
@pytest.mark.parametrize("n_clusters", [2, 6, 20])
def test_groups_by_mini_batches_are_as_compact_as_exact_ones(n_clusters: int):
    descriptors, _ = compositions(30_000, 6)
    found = inertia(descriptors, minibatch_centres(descriptors, n_clusters, 0))
    assert found <= 1.01 * inertia(descriptors, exact_kmeans(descriptors, n_clusters, 0))


def test_mini_batches_depend_on_the_seed_and_not_on_the_order_of_kinds():
    descriptors, kind = compositions(30_000, 6)
    order = np.argsort(kind, kind="stable")  # all volumes of one kind first
    found = group_by_centres(descriptors, minibatch_centres(descriptors, 6, 0)).cluster
    ordered = minibatch_centres(descriptors[order], 6, 0)
    assert adjusted_rand_score(found, group_by_centres(descriptors, ordered).cluster) > 0.95
    assert (minibatch_centres(descriptors[order], 6, 0) == ordered).all()


@pytest.mark.slow
def test_mini_batches_do_not_copy_the_matrix():
    descriptors = np.random.default_rng(0).random((200_000, 40))
    minibatch_centres(descriptors[:20_000], 3, 0)  # what is imported and cached
    tracemalloc.start()
    minibatch_centres(descriptors, 3, 0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 0.5 * descriptors.nbytes


def test_few_volumes_are_grouped_exactly_and_many_by_mini_batches():
    settings = ClusterSettings(exact_limit=100)
    assert fit_of_groups(settings, 100) is exact_kmeans
    assert fit_of_groups(settings, 101) is minibatch_centres


def test_features_of_a_kind_without_words_are_of_none():
    features, positions_mm = np.ones((5, 4), np.float32), np.zeros((5, 3), np.float32)
    known = learn_vocabulary("haralick", features + np.arange(5)[:, None], positions_mm, VocabularySettings())
    without = replace(known, centres=known.centres[:0])
    assert len(without.nearest(features, positions_mm).word) == 0
    assert without.counts(features, positions_mm).tolist() == []
