from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score

from popclust.dataflow import learning
from popclust.dataflow.learning import minibatch_centres
from popclust.errors import InputError
from popclust.population.clustering import (
    KMeansFit,
    descriptor_matrix,
    exact_kmeans,
    group_over_seeds,
    group_volumes,
    numbers_of_clusters,
    stability_over_seeds,
)
from popclust.population.model import Model
from popclust.population.neighbours import neighbours
from popclust.population.topics import fit_topics, scale_counts
from popclust.population.vocabulary import VOCABULARIES, FeatureScaling, Vocabulary, sample_rows, training_order
from popclust.settings import ClusterSettings, EncodeSettings, TopicsSettings
from popclust.study import Study

WORDS = np.array(["haralick"] * 4 + ["micro_sift"] * 3 + ["macro_sift"] * 2, dtype=object)


@pytest.fixture
def rows() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(5, 3, (500, 6)), rng.normal(100, 40, (500, 3))


def test_scaled_features_and_positions_have_the_stated_variance(rows):
    features, positions = rows
    for weight in (1.0, 0.25):
        scaled = FeatureScaling.fitted(features, positions, weight).apply(features, positions)
        assert scaled[:, :6].var(axis=0).sum() == pytest.approx(1, rel=0.1)
        assert scaled[:, 6:].var(axis=0).sum() == pytest.approx(weight**2, rel=0.1)


def test_a_constant_feature_and_an_outlier_do_no_harm(rows):
    features, positions = rows
    features[:, 0] = 7.0
    scaling = FeatureScaling.fitted(features, positions, 1.0)
    features[0, 1] = 1e12
    scaled = scaling.apply(features, positions)
    assert np.isfinite(scaled).all()
    assert (scaled[:, 0] == 0).all()
    assert abs(scaled).max() < 10


def test_words_are_the_nearest_centres(rows):
    features, positions = rows
    scaling = FeatureScaling.fitted(features, positions, 1.0)
    scaled = scaling.apply(features, positions)
    words = Vocabulary("haralick", scaling, scaled[:20]).words(features, positions)
    slow = [int(np.argmin([((r - c) ** 2).sum() for c in scaled[:20]])) for r in scaled]
    assert words.tolist() == slow


def test_a_vocabulary_comes_back(rows, tmp_path):
    features, positions = rows
    scaling = FeatureScaling.fitted(features, positions, 0.5)
    vocabulary = Vocabulary("micro_sift", scaling, scaling.apply(features[:9], positions[:9]))
    vocabulary.save(zarr.open_group(str(tmp_path / "v.zarr"), mode="w"))
    again = Vocabulary.load(zarr.open_group(str(tmp_path / "v.zarr"), mode="r"))
    assert again.name == "micro_sift"
    assert (again.counts(features, positions) == vocabulary.counts(features, positions)).all()
    assert vocabulary.counts(features, positions).sum() == len(features)
    assert vocabulary.counts(features[:0], positions[:0]).tolist() == [0] * 9


def test_a_sample_depends_on_seed_and_volume_alone():
    a = sample_rows(100, 10, 0, "v1")
    assert a.tolist() == sample_rows(100, 10, 0, "v1").tolist()
    assert a.tolist() != sample_rows(100, 10, 0, "v2").tolist()
    assert a.tolist() != sample_rows(100, 10, 1, "v1").tolist()
    assert sorted(sample_rows(5, 10, 0, "v1").tolist()) == [0, 1, 2, 3, 4]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=8), st.integers(1, 20))
@hypothesis_settings(deadline=None, max_examples=50)
def test_slabs_hold_every_row_once(n_rows: list[int], depth: int):
    counts = np.array(n_rows)
    slabs = [training_order(counts, s, s + depth) for s in range(0, max(n_rows), depth)]
    for i, n in enumerate(n_rows):
        assert [j for slab in slabs for j in range(n)[slab[i]]] == list(range(n))


@pytest.mark.parametrize("slab_bytes", [2**28, 1600, 100])
def test_packing_reads_every_sample_once_and_spreads_it_over_all_slabs(tmp_path, monkeypatch, slab_bytes):
    study = Study.create(str(tmp_path / "study"))
    rng, n_rows = np.random.default_rng(0), dict(zip("abcdefgh", [9, 0, 40, 7, 12, 30, 1, 25], strict=True))
    samples = {}
    for volume_id, n in n_rows.items():
        rows = {v: rng.normal(size=(n if v != "macro_sift" else 0, 5)).astype(np.float32) for v in VOCABULARIES}
        group = study.open_group("features", f"{volume_id}.zarr", mode="w")
        for name, values in rows.items():
            group.create_array(f"training_{name}", data=values)
        samples[volume_id] = rows
    read = []
    take = learning.TrainingSample.rows
    monkeypatch.setattr(learning, "_SLAB_BYTES", slab_bytes)
    monkeypatch.setattr(learning.TrainingSample, "rows", lambda s, *a: read.append((s.volume_id, a[0])) or take(s, *a))
    assert learning.pack_training(study, list("hgfedcba")) == {"haralick": 124, "micro_sift": 124, "macro_sift": 0}
    assert sorted(read) == sorted((v, name) for v in n_rows for name in VOCABULARIES)
    packed = study.open_group("vocabulary", "training.zarr")
    depth = max(1, slab_bytes // 20 // 8)
    for index, name in enumerate(VOCABULARIES):
        order = np.random.default_rng([study.settings.vocabulary.seed, index])
        slabs = [
            np.concatenate([samples[v][name][first : first + depth] for v in sorted(samples)])
            for first in range(0, 40 if name != "macro_sift" else 0, depth)
        ]
        expected = [slab[order.permutation(len(slab))] for slab in slabs]
        assert (packed[name][...] == np.concatenate([np.zeros((0, 5)), *expected])).all()


def test_counts_are_scaled_to_the_masses():
    counts = np.random.default_rng(0).integers(0, 50, (5, 9))
    counts[2, 4:7] = 0
    scaled = scale_counts(counts, WORDS, EncodeSettings(mass_haralick=3, mass_micro_sift=2, mass_macro_sift=1))
    assert scaled[:, :4].sum(axis=1) == pytest.approx(3)
    assert scaled[:, 7:].sum(axis=1) == pytest.approx(1)
    assert scaled[2, 4:7].sum() == 0
    assert scaled[0, 4:7].sum() == pytest.approx(2)


def _planted_counts(n: int = 30) -> np.ndarray:
    rng = np.random.default_rng(0)
    profiles = rng.dirichlet(np.full(9, 0.3), 3)
    return np.stack([rng.multinomial(2000, profiles[i % 3]) for i in range(n)])


def test_topics_are_shares_and_transform_again_the_same():
    scaled = scale_counts(_planted_counts(), WORDS, EncodeSettings())
    model = fit_topics(scaled, TopicsSettings(n_topics=4))
    topics = model.transform(scaled)
    assert topics.sum(axis=1) == pytest.approx(1)
    assert model.word_of_topic.sum(axis=1) == pytest.approx(1)
    assert (fit_topics(scaled, TopicsSettings(n_topics=4)).components == model.components).all()
    assert model.transform(scaled[:3]) == pytest.approx(topics[:3], abs=1e-6)


def _documents(n: int, n_topics: int = 6, n_words: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts (n, word), kind of each volume, and topics (topic, word) they were drawn from."""
    rng = np.random.default_rng(0)
    word_of_topic = rng.dirichlet(np.full(n_words, 0.05), n_topics)
    kind = np.arange(n) % 4
    profiles = rng.dirichlet(np.full(n_topics, 0.3), 4)
    shares = [rng.dirichlet(10 * profiles[k] + 0.05) @ word_of_topic for k in kind]
    return np.stack([rng.multinomial(3000, p / p.sum()) for p in shares]).astype(float), kind, word_of_topic


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Mean Bhattacharyya overlap of topics (topic, word), matched one to one."""
    overlap = np.sqrt(a) @ np.sqrt(b).T
    return float(overlap[linear_sum_assignment(-overlap)].mean())


@pytest.mark.slow
def test_topics_of_many_volumes_are_learnt_online_and_agree_with_batch():
    counts, kind, word_of_topic = _documents(2000)
    settings = TopicsSettings(n_topics=6, batch_limit=2000)
    batch, online = fit_topics(counts, settings), fit_topics(counts, replace(settings, batch_limit=1999))
    assert (online.components != batch.components).any()
    assert _overlap(batch.word_of_topic, word_of_topic) > 0.95
    assert _overlap(online.word_of_topic, word_of_topic) > 0.95
    assert _overlap(online.word_of_topic, batch.word_of_topic) > 0.95
    groups = [group_volumes(np.sqrt(m.transform(counts)), 4, 0).cluster for m in (batch, online)]
    assert adjusted_rand_score(*groups) > 0.9
    assert adjusted_rand_score(groups[1], kind) > adjusted_rand_score(groups[0], kind) - 0.03
    assert (fit_topics(counts, replace(settings, batch_limit=0)).components == online.components).all()


def test_topics_of_nothing_or_of_no_numbers_are_refused_in_one_line():
    for counts, message in (
        (np.zeros((3, 9)), "no visual word was counted in any of 3 volumes"),
        (np.zeros((3, 0)), "no visual word"),
        (np.where(np.eye(3, 9) > 0, np.nan, 1.0), "3 of 3 volumes are missing or infinite"),
    ):
        with pytest.raises(InputError, match=message):
            fit_topics(counts, TopicsSettings())


@pytest.mark.parametrize("fit", [exact_kmeans, minibatch_centres])
def test_volumes_that_are_alike_are_one_group_and_gaps_are_refused(fit: KMeansFit):
    with pytest.warns(UserWarning, match="1 distinct clusters at most, as so many volumes are alike; 4 were asked"):
        assert group_volumes(np.ones((9, 3)), 4, 0, fit).cluster.tolist() == [0] * 9
    with pytest.warns(UserWarning, match="2 distinct clusters"):
        two = group_volumes(np.repeat(np.eye(3)[:2], [5, 4], axis=0), 4, 0, fit)
    assert two.cluster.tolist() == [0] * 5 + [1] * 4
    assert two.centres.shape == (4, 3) and not two.distance.any()
    ordered = np.vstack([np.ones((900, 2)), np.arange(6.0).reshape(3, 2)])  # what differs comes last
    assert np.bincount(group_volumes(ordered, 4, 0, fit).cluster).tolist() == [900, 1, 1, 1]
    with pytest.raises(InputError, match="descriptors: 2 of 6 volumes have missing or infinite values"):
        group_volumes(np.where(np.eye(6, 2) > 0, np.inf, 1.0), 2, 0, fit)


def test_a_descriptor_of_words_that_nobody_has_is_one_group():
    counts = np.ones((6, 4))
    matrix = descriptor_matrix("sift", counts, np.full(4, "haralick", object), np.zeros((6, 0)))
    with pytest.warns(UserWarning, match="1 distinct clusters"):
        assert group_volumes(matrix, 2, 0).cluster.tolist() == [0] * 6


@pytest.mark.parametrize("name", ["haralick", "sift", "concatenated", "lda"])
def test_planted_groups_are_found_with_every_descriptor(name: str):
    scaled = scale_counts(_planted_counts(), WORDS, EncodeSettings())
    topics = fit_topics(scaled, TopicsSettings(n_topics=4)).transform(scaled)
    grouping = group_volumes(descriptor_matrix(name, scaled, WORDS, topics), 3, 0)
    assert [len(set(grouping.cluster[i::3])) for i in range(3)] == [1, 1, 1]
    assert sorted(np.bincount(grouping.cluster)) == [10, 10, 10]


def test_an_unknown_descriptor_and_too_few_volumes_are_refused():
    with pytest.raises(ValueError, match="descriptor"):
        descriptor_matrix("hog", np.ones((2, 9)), WORDS, np.ones((2, 2)))
    with pytest.raises(ValueError, match="n_clusters"):
        group_volumes(np.ones((2, 2)), 3, 0)


def test_groups_are_numbered_by_size_and_distances_are_exact():
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.normal(0, 0.1, (5, 2)), rng.normal(5, 0.1, (20, 2)), rng.normal(9, 0.1, (10, 2))])
    grouping = group_volumes(points, 3, 1)
    assert np.bincount(grouping.cluster).tolist() == [20, 10, 5]
    slow = [np.sqrt(((p - grouping.centres[c]) ** 2).sum()) for p, c in zip(points, grouping.cluster, strict=True)]
    assert grouping.distance == pytest.approx(slow, abs=1e-12)


def test_stability_is_one_for_groups_that_return_and_less_for_those_that_do_not():
    same = np.array([[0, 0, 1, 1], [1, 1, 0, 0], [0, 0, 1, 1]])
    assert (stability_over_seeds(same) == 1).all()
    other = np.array([[0, 0, 1, 1], [0, 1, 0, 1]])
    assert stability_over_seeds(other) == pytest.approx(np.full((2, 4), 1 / 3))
    assert np.isnan(stability_over_seeds(same[:1])).all()


def test_the_table_of_groups_holds_every_volume_once_per_seed():
    scaled = scale_counts(_planted_counts(), WORDS, EncodeSettings())
    ids = [f"v{i:02}" for i in range(30)]
    frame = group_over_seeds(scaled, ids, "concatenated", 3, ClusterSettings(seeds=(0, 1)))
    assert len(frame) == 60
    assert frame.groupby("seed")["volume_id"].nunique().tolist() == [30, 30]


def test_k_is_bounded_by_the_population():
    assert list(numbers_of_clusters(9, ClusterSettings())) == [2, 3]
    assert list(numbers_of_clusters(1000, ClusterSettings(n_clusters_max=4))) == [2, 3, 4]


def test_the_frozen_model_puts_its_own_volumes_back_and_refuses_strangers(tmp_path):
    counts = _planted_counts()
    topics = fit_topics(scale_counts(counts, WORDS, EncodeSettings()), TopicsSettings(n_topics=4))
    cluster = np.arange(30) % 3
    model = Model.frozen("concatenated", counts, WORDS, EncodeSettings(), topics, cluster)
    model.save(zarr.open_group(str(tmp_path / "m.zarr"), mode="w"))
    again = Model.load(zarr.open_group(str(tmp_path / "m.zarr"), mode="r"))
    assigned = again.assign(counts)
    assert (assigned.nearest == cluster).all()
    assert np.mean(assigned.cluster == cluster) >= 0.95
    strange = np.zeros((1, 9), dtype=int)
    strange[0, np.argmin(counts.sum(axis=0))] = 2000
    assert again.assign(strange).cluster.tolist() == [-1]
    with pytest.raises(ValueError, match="words"):
        again.assign(counts[:, :5])


def test_neighbours_are_the_nearest_by_the_roots_of_shares():
    rng = np.random.default_rng(3)
    counts = rng.integers(1, 50, (7, 9))
    counts[4] = 3 * counts[1]  # the same composition
    words = xr.Dataset(
        {"counts": (("volume", "word"), counts)},
        coords={"volume": [f"v{i}" for i in range(7)], "vocabulary": ("word", WORDS.astype(str))},
    )
    topics = xr.Dataset({"topic_of_volume": (("volume", "topic"), rng.dirichlet(np.ones(3), 7))})
    found = neighbours(words, topics, "v1", 6)
    assert found["volume_id"][0] == "v4" and found["distance"][0] == pytest.approx(0, abs=1e-9)
    assert sorted(found["volume_id"]) == ["v0", "v2", "v3", "v4", "v5", "v6"]
    roots = np.sqrt(topics["topic_of_volume"].to_numpy())
    by_topics = neighbours(words, topics, "v1", 1, "lda")
    assert by_topics["distance"][0] == pytest.approx(np.sort(np.linalg.norm(roots - roots[1], axis=1))[1])
    with pytest.raises(InputError, match="no volume 'x'"):
        neighbours(words, topics, "x")
