"""Whether there are groups at all, beside one population that is cut into pieces."""

from __future__ import annotations

import numpy as np
import pytest

from popclust.evaluation.structure import examine_structure, unimodal_width


def _one_kind(seed: int, n: int = 90) -> np.ndarray:
    """Skewed along one direction, wide along another, some noise."""
    rng = np.random.default_rng(seed)
    return np.column_stack([rng.gamma(2.0, 1.0, n), 1.5 * rng.normal(0, 1, n), rng.normal(0, 0.3, (n, 6))])


def test_one_population_is_hardly_ever_called_groups_whatever_the_scanner():
    rng = np.random.default_rng(1)
    claimed = []
    for seed in range(8):
        rows, scanner = _one_kind(seed), rng.integers(0, 2, 90)
        claimed.append(examine_structure(rows, 2 + seed % 3, None, 19, seed).has_groups)
        apart = rows + 6.0 * scanner[:, None] * np.eye(8)[2]
        claimed.append(examine_structure(apart, 2 + seed % 3, scanner, 19, seed).has_groups)
    assert sum(claimed) <= 2


def test_planted_kinds_are_called_groups_within_scanners_too():
    rng = np.random.default_rng(2)
    for seed in range(3):
        kind, scanner = np.arange(90) % 3, rng.integers(0, 2, 90)
        rows = 0.4 * _one_kind(seed) + 4.0 * np.eye(8)[kind] + 6.0 * scanner[:, None] * np.eye(8)[5]
        found = examine_structure(rows, 3, scanner, 19)
        assert found.has_groups and found.gap > 0 and found.p_value == pytest.approx(1 / 20)


def test_a_scanner_that_is_not_told_looks_like_groups():
    rows = np.concatenate([_one_kind(0, 45), _one_kind(1, 45) + 6.0 * np.eye(8)[2]])
    assert examine_structure(rows, 2, None, 19).has_groups


def test_what_cannot_be_said_is_not_said():
    rows = _one_kind(0)
    assert examine_structure(rows, 3, None, 0).has_groups is None
    assert examine_structure(np.ones((5, 3)), 3, None, 19).p_value == 1.0


def test_the_width_that_leaves_one_mode():
    rng = np.random.default_rng(0)
    two = np.concatenate([rng.normal(-2, 0.2, 50), rng.normal(2, 0.2, 50)])
    one = rng.normal(0, 2, 100)
    assert unimodal_width(two) > 1.5
    assert unimodal_width(one) < 1.5
    assert unimodal_width(np.ones(9)) == 0.0
