"""What groups foretell of reports, against the definition, and the number of groups that follows."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from popclust.evaluation.associations import associate_counted
from popclust.evaluation.counting import CountedPopulation
from popclust.evaluation.prediction import PRIOR_WEIGHT, as_good_as_best, gain_of_units
from popclust.settings import AssociateSettings


def population_of(clusters: list[NDArray[np.int64]], has_term: NDArray[np.bool_]) -> CountedPopulation:
    n_units, n_terms = has_term.shape
    grid = pd.DataFrame({"descriptor": "lda", "n_clusters": [int(c.max()) + 1 for c in clusters], "seed": 0})
    names = tuple(f"RID{t}" for t in range(n_terms))
    every = np.arange(n_units)
    ids = np.array([f"v{i}" for i in every], dtype=object)
    return CountedPopulation(
        grid, np.array(clusters, np.int16), has_term, names, names, ids, every, np.zeros(n_units, int)
    )


def planted(seed: int, n: int = 120, kinds: int = 4) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Kinds of people, each with a term of its own; some is left unsaid, some is said of others."""
    rng = np.random.default_rng(seed)
    kind = rng.permutation(np.arange(n) % kinds)
    return kind, rng.random((n, kinds)) < np.where(np.eye(kinds)[kind] == 1, 0.85, 0.06)


def test_the_gain_is_that_of_its_definition():
    kind, has_term = planted(0, 30, 3)
    (gain,) = gain_of_units(population_of([kind], has_term))
    for unit in range(30):
        others = np.arange(30) != unit
        rate = (has_term[others].sum(axis=0) + 0.5) / 30
        mates = has_term[others & (kind == kind[unit])]
        given = (mates.sum(axis=0) + PRIOR_WEIGHT * rate) / (len(mates) + PRIOR_WEIGHT)
        right, before = (np.where(has_term[unit], p, 1 - p) for p in (given, rate))
        assert gain[unit] == pytest.approx(np.log(right / before).sum(), rel=1e-9)


def test_groups_that_mean_nothing_gain_nothing():
    rng = np.random.default_rng(1)
    _, has_term = planted(1)
    gains = gain_of_units(population_of([rng.integers(0, 6, 120) for _ in range(20)], has_term)).mean(axis=1)
    assert gains.mean() < 0


def test_cutting_a_group_in_two_raises_Q_and_not_the_gain():
    kind, has_term = planted(2, 240)
    rng = np.random.default_rng(0)
    cut = 2 * kind + rng.integers(0, 2, 240)
    population = population_of([kind, cut], has_term)
    whole, halves = gain_of_units(population).mean(axis=1)
    assert halves < whole
    by_prediction = associate_counted(population, AssociateSettings(min_term_count=2, n_permutations=0))
    by_q = associate_counted(population, AssociateSettings(min_term_count=2, n_permutations=0, choose_by="Q"))
    assert by_prediction.criterion["Q"].iloc[1] > by_prediction.criterion["Q"].iloc[0]
    assert (by_prediction.reported.n_clusters, by_q.reported.n_clusters) == (4, 8)


@pytest.mark.parametrize("seed", range(5))
def test_planted_kinds_are_counted(seed: int):
    """Among groupings that part the kinds further and further at random, or merge them."""
    kind, has_term = planted(seed, 160)
    rng = np.random.default_rng(seed)
    groupings = [np.minimum(kind, 1), np.minimum(kind, 2), kind]
    groupings += [np.where(rng.random(160) < 0.5, kind, 4 + rng.integers(0, extra, 160)) for extra in (2, 4, 6)]
    gain = gain_of_units(population_of(groupings, has_term))
    assert int(np.argmax(as_good_as_best(gain, np.arange(6)))) == 2


def test_one_unit_or_no_term_says_nothing():
    for has_term in (np.zeros((1, 3), bool), np.zeros((5, 0), bool)):
        cluster = np.zeros(len(has_term), np.int64)
        gain = gain_of_units(population_of([cluster, cluster], has_term))
        assert not gain.any()
        assert as_good_as_best(gain, np.arange(2)).tolist() == [True, True]
