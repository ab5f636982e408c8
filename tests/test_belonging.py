"""Placing at a stated error: what belongs is placed, what does not is called none of these."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.covariance import ledoit_wolf

from popclust.population.belonging import Belonging
from popclust.population.composition import usual_compositions
from popclust.population.model import Model
from popclust.population.topics import fit_topics, scale_counts
from popclust.settings import EncodeSettings, TopicsSettings

WORDS = np.repeat(np.array(["haralick", "micro_sift", "macro_sift"], object), [24, 12, 12])


def _counts(kinds: list[int], seed: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Word counts of some of five kinds, how far their features lie from words, and the kinds."""
    profiles = np.random.default_rng(5).dirichlet(np.full(48, 0.6), 5)
    rng = np.random.default_rng(seed)
    kind = np.asarray(kinds)[np.arange(n) % len(kinds)]
    counts = np.stack([rng.multinomial(2000, rng.dirichlet(120 * profiles[k] + 0.01)) for k in kind])
    return counts, rng.normal(1.0, 0.05, (n, 3)), kind


def _model(kinds: list[int], error_rate: float = 0.05) -> Model:
    counts, far, kind = _counts(kinds, 1, 120)
    topics = fit_topics(scale_counts(counts, WORDS, EncodeSettings()), TopicsSettings(n_topics=8, n_iterations=10))
    cluster = np.unique(kind, return_inverse=True)[1]
    return Model.frozen("lda", counts, WORDS, EncodeSettings(), topics, cluster, far, error_rate=error_rate)


def test_known_kinds_are_placed_at_the_stated_error_and_an_unknown_one_is_not():
    placed, refused = [], []
    for unknown in range(5):
        known = [k for k in range(5) if k != unknown]
        model = _model(known)
        counts, far, kind = _counts(known, 2, 200)
        found = model.assign(counts, far)
        assert (found.nearest == np.searchsorted(known, kind)).mean() > 0.95
        placed.append((found.cluster >= 0).mean())
        counts, far, _ = _counts([unknown], 3, 50)
        refused.append((model.assign(counts, far).cluster == -1).mean())
    assert np.mean(placed) >= 0.9
    assert np.mean(refused) >= 0.6


def test_features_far_from_every_word_are_none_of_these_whatever_they_count_as():
    model = _model([0, 1, 2])
    counts, far, _ = _counts([0, 1, 2], 4, 30)
    found = model.assign(counts, far + np.array([0.0, 1.0, 0.0]))
    assert (found.cluster == -1).all() and (found.far > 1).all()
    noise = np.random.default_rng(0).multinomial(2000, np.full(48, 1 / 48), 20)
    assert (model.assign(noise, np.ones((20, 3))).cluster == -1).all()


def _zones(airless: float, n: int, seed: int) -> np.ndarray:
    """Histograms (n, 6, 8) of lungs of which a share is dense."""
    rng = np.random.default_rng(seed)
    shares = np.r_[(1 - airless) * np.array([0.1, 0.4, 0.3, 0.1, 0.06, 0.03, 0.01]), airless]
    return rng.multinomial(500, rng.dirichlet(300 * shares + 0.01, (n, 6)))


def test_densities_that_nobody_has_are_none_of_these_and_unknown_ones_say_nothing():
    counts, far, kind = _counts([0, 1, 2], 1, 120)
    topics = fit_topics(scale_counts(counts, WORDS, EncodeSettings()), TopicsSettings(n_topics=8, n_iterations=10))
    model = Model.frozen("lda", counts, WORDS, EncodeSettings(), topics, kind, far, _zones(0.02, 120, 0))
    counts, far, _ = _counts([0, 1, 2], 2, 200)
    assert (model.assign(counts, far, _zones(0.02, 200, 1)).cluster >= 0).mean() > 0.9
    assert (model.assign(counts, far).cluster >= 0).mean() > 0.9
    assert (model.assign(counts, far, _zones(0.25, 200, 2)).cluster == -1).all()


def test_p_values_are_shares_of_volumes_as_strange():
    distances = np.array([[1.0, 1.2, 1.4, 1.6, 9.0]])
    usual = Belonging.learnt(distances, np.array([0, 0, 0, 0, 1]), np.zeros((5, 1)))
    assert len(usual.scores) == 4  # a group of one says nothing
    p = usual.p_values(np.array([[[0.0, 0.0], [100.0, 100.0]]]), np.zeros((2, 1)))
    assert p.tolist() == [[1.0, 1.0], [0.2, 0.2]]
    assert Belonging.learnt(np.ones((1, 1)), np.array([0]), np.zeros((1, 1))).p_values(
        np.ones((1, 1, 1)), np.zeros((1, 1))
    ) == pytest.approx(1.0)


def test_a_volume_held_out_is_as_strange_as_one_of_the_groups_own():
    rng = np.random.default_rng(0)
    p_values = []
    for _ in range(200):
        points = rng.normal(0, 1, (21, 3))
        own, new = points[:20], points[20]
        centre = own.mean(axis=0)
        usual = Belonging.learnt(np.linalg.norm(own - centre, axis=1)[None], np.zeros(20, int), np.zeros((20, 1)))
        p_values.append(usual.p_values(np.full((1, 1, 1), np.linalg.norm(new - centre)), np.zeros((1, 1)))[0, 0])
    assert np.mean(np.array(p_values) <= 0.2) == pytest.approx(0.2, abs=0.08)


def _compositions(n: int, seed: int = 0) -> np.ndarray:
    """Roots of shares (n, 48) that vary in two directions a lot, and else a little."""
    rng = np.random.default_rng(seed)
    axes = np.random.default_rng(9).normal(0, 0.05, (2, 48))
    return 0.15 + rng.normal(0, 1, (n, 2)) @ axes + 0.004 * rng.normal(0, 1, (n, 48))


def test_distances_from_usual_words_are_those_from_the_others_as_if_learnt_without_each():
    rows = _compositions(30)
    usual, left_out = usual_compositions(rows, WORDS)
    for at, name in enumerate(("haralick", "micro_sift", "macro_sift")):
        own = rows[:, name == WORDS]
        shrinkage = ledoit_wolf(own)[1]
        ridge = shrinkage * np.var(own, axis=0).mean() + 1e-6 * np.var(own, axis=0).mean()
        for i in (0, 7, 29):
            others = np.delete(own, i, axis=0)
            scatter = (others - others.mean(axis=0)).T @ (others - others.mean(axis=0)) / 30
            moved = own[i] - others.mean(axis=0)
            inverse = np.linalg.inv((1 - shrinkage) * scatter + ridge * np.eye(own.shape[1]))
            assert left_out[i, at] == pytest.approx(np.sqrt(moved @ inverse @ moved), rel=1e-6)
    held_out = usual.distances(_compositions(200, seed=1), WORDS)
    assert np.median(held_out, axis=0) == pytest.approx(np.median(left_out, axis=0), rel=0.1)


def test_what_varies_in_nobody_is_strange_however_near_it_lies():
    rows = _compositions(40)
    usual, left_out = usual_compositions(rows, WORDS)
    aside = rows[:1] + 0.03 * np.sign(np.random.default_rng(2).normal(size=48))
    among = rows[:1] + 3 * np.random.default_rng(9).normal(0, 0.05, (2, 48))[:1]
    assert np.linalg.norm(aside - rows.mean(axis=0)) < np.linalg.norm(among - rows.mean(axis=0))
    assert (usual.distances(aside, WORDS) > left_out.max(axis=0)).all()
    assert (usual.distances(among, WORDS) < usual.distances(aside, WORDS)).all()


def test_words_that_nobody_has_and_volumes_that_are_alike_are_measured_too():
    rows = _compositions(20)
    rows[:, WORDS == "macro_sift"] = 0
    usual, left_out = usual_compositions(rows, WORDS)
    assert np.isfinite(left_out).all() and (left_out[:, 2] == 0).all()
    assert (usual.distances(rows + 1, WORDS)[:, 2] == 0).all()
    for alike in (rows[:1], np.repeat(rows[:1], 5, axis=0)):
        usual, left_out = usual_compositions(alike, WORDS)
        assert (left_out == 0).all() and (usual.distances(rows, WORDS) == 0).all()
