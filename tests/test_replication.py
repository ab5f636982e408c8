"""Associations tested again where nothing was learnt, and how likely that was to succeed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from test_gate import counted

from popclust.evaluation.associations import associate_counted
from popclust.evaluation.half_models import (
    Learnable,
    half_of_patients,
    learn_and_place,
    matched_groups,
    outcome_of_halves,
    replicate_in_halves,
)
from popclust.evaluation.odds_ratios import detection_power, odds_ratio_intervals
from popclust.evaluation.replication import NOT_REPLICATED, REPLICATED, UNDERPOWERED, replicate, safeguard_odds_ratio
from popclust.settings import AssociateSettings, EncodeSettings, TopicsSettings

SETTINGS = AssociateSettings(n_permutations=0, min_term_count=1)


def found_in(population, settings=SETTINGS):
    tests = associate_counted(population, settings).associations
    return tests[tests["p_holm"] <= settings.alpha].reset_index(drop=True)


def site(n, seed, effect=1.5, n_terms=4):
    rng = np.random.default_rng(seed)
    group = rng.integers(0, 3, n)
    log_odds = np.full((n, n_terms), -1.0)
    log_odds[:, 0] += effect * (group == 0)
    return counted(group, rng.random(log_odds.shape) < 1 / (1 + np.exp(-log_odds)), SETTINGS)


@pytest.mark.parametrize(("R", "C", "B", "odds"), [(40, 60, 200, 2.5), (40, 60, 200, 0.3), (7, 30, 60, 8.0)])
def test_power_is_the_chance_of_a_significant_table(R, C, B, odds):
    x = np.arange(max(0, R + C - B), min(R, C) + 1)
    weight = stats.nchypergeom_fisher.pmf(x, B, C, R, odds)
    p = np.array([stats.fisher_exact([[v, R - v], [C - v, B - R - C + v]]).pvalue for v in x])
    on_side = (x * B > R * C) == (odds > 1)
    power = detection_power(np.array([R]), np.array([C]), np.array([B]), np.array([odds]), 0.05)[0]
    assert power == pytest.approx(weight[(p <= 0.05) & on_side].sum(), rel=1e-7)
    nothing = detection_power(np.array([0, 5]), np.array([5, 10]), np.array([10, 10]), np.array([2.0, 2.0]), 0.05)
    assert nothing.tolist() == [0.0, 0.0]


def test_what_is_true_holds_and_what_is_gone_does_not():
    found = found_in(site(900, 0))
    assert 0 in set(found["cluster"]) and "RID00" in set(found["term_id"])
    own = found["term_id"] == "RID00"
    again = replicate(found, site(900, 1), SETTINGS)
    assert (again.loc[own, "outcome"] == REPLICATED).all()
    assert (again.loc[own & (found["cluster"] == 0), "power"] > 0.9).all()
    gone = replicate(found, site(900, 2, effect=0.0), SETTINGS)
    assert (gone.loc[own & (found["cluster"] == 0), "outcome"] == NOT_REPLICATED).all()
    few = replicate(found, site(25, 1, effect=0.0), SETTINGS)
    assert (few["outcome"] == UNDERPOWERED).all() and (few["power"] < 0.8).all()


def test_an_association_that_turned_round_is_not_replicated():
    found = found_in(site(900, 0))
    own = found[(found["term_id"] == "RID00") & (found["cluster"] == 0)]
    turned = replicate(own, site(900, 3, effect=-2.5), SETTINGS)
    assert turned["p_value"].iloc[0] < 0.05
    assert turned["outcome"].iloc[0] == NOT_REPLICATED


def test_a_term_of_nobody_and_no_association_at_all_give_an_answer():
    found = found_in(site(900, 0))
    unnamed = replicate(found.assign(term_id="RID77"), site(100, 1), SETTINGS)
    assert (unnamed["C"] == 0).all() and (unnamed["outcome"] == UNDERPOWERED).all()
    assert replicate(found.iloc[:0], site(100, 1), SETTINGS).empty


def test_the_power_is_stated_for_less_than_what_was_found():
    found = found_in(site(900, 0))
    safe = safeguard_odds_ratio(found)
    V, R, C, B = (found[n].to_numpy() for n in ("V", "R", "C", "B"))
    interval = odds_ratio_intervals(V, R, C, B, 0.8)
    above = (found["direction"] > 0).to_numpy()
    np.testing.assert_array_equal(safe[above], interval.low[above])
    assert (np.abs(np.log(safe)) < np.abs(np.log(found["odds_ratio"]))).all()


# --- halves of one study ---------------------------------------------------------------------------------------------


def looks(n=300, seed=0, n_kinds=3):
    """Word counts of people of three kinds, and a term that goes with the first kind."""
    rng = np.random.default_rng(seed)
    kind = np.arange(n) % n_kinds
    words = np.array(["haralick"] * 20 + ["micro_sift"] * 10 + ["macro_sift"] * 10, dtype=object)
    chance = rng.dirichlet(np.full(40, 0.3), n_kinds)
    counts = np.stack([rng.multinomial(800, chance[k]) for k in kind])
    has_term = rng.random((n, 3)) < np.column_stack([np.where(kind == 0, 0.6, 0.15), np.full((n, 2), 0.3)])
    volume_id = np.array([f"v{i:05d}" for i in range(n)], dtype=object)
    learnable = Learnable(
        volume_id, volume_id, counts, words, EncodeSettings(), TopicsSettings(n_topics=5, n_iterations=5)
    )
    return learnable, kind, has_term


def count_with(has_term):
    def count(volume_id, cluster):
        rows = np.array([int(v[1:]) for v in volume_id])
        return counted(cluster, has_term[rows], SETTINGS)

    return count


@pytest.mark.parametrize("descriptor", ["lda", "haralick"])
def test_a_true_association_is_found_on_a_half_and_confirmed_on_the_other(descriptor):
    learnable, kind, has_term = looks()
    found = found_in(counted(kind, has_term)).assign(descriptor=descriptor)
    halves = replicate_in_halves(learnable, found, kind.astype(np.int64), count_with(has_term), SETTINGS)
    assert len(halves) == 2 * len(found)
    own = halves[(halves["term_id"] == "RID00") & (halves["cluster"] == 0)]
    assert (own["overlap"] > 0.95).all() and own["found"].all()
    assert (own["B"] == 150).all()
    outcome = outcome_of_halves(halves, 0.8).set_index(["cluster", "term_id"])
    assert outcome.loc[(0, "RID00"), "replication"] == REPLICATED
    assert outcome.loc[(0, "RID00"), "power"] > 0.8
    if descriptor == "haralick":  # topics are slow
        again = replicate_in_halves(learnable, found, kind.astype(np.int64), count_with(has_term), SETTINGS)
        pd.testing.assert_frame_equal(halves, again, check_exact=True)


def test_too_few_patients_for_two_halves_are_underpowered():
    learnable, kind, has_term = looks(n=12)
    one = associate_counted(counted(kind, has_term), SETTINGS).associations.assign(descriptor="lda").head(2)
    halves = replicate_in_halves(learnable, one, kind.astype(np.int64), count_with(has_term), SETTINGS)
    assert (halves["outcome"] == UNDERPOWERED).all() and (halves["cluster_of_half"] == -1).all()
    outcome = outcome_of_halves(halves, 0.8)
    assert (outcome["replication"] == UNDERPOWERED).all() and (outcome["power"] == 0).all()
    assert outcome_of_halves(
        replicate_in_halves(learnable, one.iloc[:0], kind, count_with(has_term), SETTINGS), 0.8
    ).empty


def test_halves_part_patients_not_visits():
    patient = np.array([f"p{i // 3}" for i in range(90)], dtype=object)
    first = half_of_patients(patient, 0)
    assert all(len(set(first[patient == p])) == 1 for p in set(patient))
    assert first.sum() == 45
    learnable, kind, _ = looks(n=60)
    all_of_one = replace(learnable, patient=np.full(60, "p", dtype=object))
    assert learn_and_place(all_of_one, half_of_patients(all_of_one.patient, 0), "lda", 3, 0) is None
    own, overlap = matched_groups(kind, (kind + 1) % 3, 3)
    assert own.tolist() == [1, 2, 0] and (overlap == 1).all()
