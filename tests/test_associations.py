"""Counting, Holm, Q, the reported grouping and the permutation null against slow, obvious references."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from popclust import schema
from popclust.errors import InputError
from popclust.evaluation.associations import (
    Grouping,
    _candidates,
    associate,
    associate_counted,
    criterion_table,
    holm,
    reported_grouping,
    run_tests,
)
from popclust.evaluation.counting import ReportTerms, count_population
from popclust.evaluation.permutation import Screen, exchange_of, null_criterion
from popclust.settings import AssociateSettings

SETTINGS = AssociateSettings(n_permutations=30, min_term_count=1)


def made(n=120, n_terms=8, K=(2, 3, 5), seeds=(0, 1), effect=0.5, seed=0, descriptors=("lda",)):
    """Volumes in groups, terms that follow the groups of the first grouping."""
    rng = np.random.default_rng(seed)
    volume_id = np.array([f"v{i:03d}" for i in range(n)])
    x = rng.random(n)
    rows = []
    for descriptor in descriptors:
        for k in K:
            for s in seeds:
                cluster = np.minimum((x + 0.1 * s) % 1.0 * k, k - 1).astype(int)
                cluster = cluster if descriptor == "lda" else rng.permutation(cluster)
                rows.append(
                    pd.DataFrame(
                        {
                            "volume_id": volume_id,
                            "descriptor": descriptor,
                            "n_clusters": k,
                            "seed": s,
                            "cluster": cluster,
                        }
                    )
                )
    chance = 0.2 + effect * (x[:, None] > np.linspace(0.2, 0.9, n_terms))
    present = pd.DataFrame(
        rng.random((n, n_terms)) < chance, index=volume_id, columns=[f"RID{t}" for t in range(n_terms)]
    )
    terms = ReportTerms(present, pd.Series([f"term {t}" for t in range(n_terms)], index=present.columns))
    has_report = pd.Series(rng.random(n) < 0.8, index=volume_id)
    patient = pd.Series([f"p{i // 2:03d}" for i in range(n)], index=volume_id)
    return pd.concat(rows, ignore_index=True), terms, has_report, patient


def slow_associations(clusters, terms, has_report, alpha):
    """All tests, one table at a time, volumes as units."""
    rows = []
    reported = has_report.index[has_report]
    for (descriptor, K, seed), grouping in clusters.groupby(["descriptor", "n_clusters", "seed"]):
        cluster = grouping.set_index("volume_id")["cluster"].loc[reported]
        for term_id in terms.present.columns:
            has = terms.present[term_id].loc[reported]
            p, cells = [], []
            for k in range(K):
                table = [[int((has & (cluster == k)).sum()), int((~has & (cluster == k)).sum())]]
                table.append([int((has & (cluster != k)).sum()), int((~has & (cluster != k)).sum())])
                test = stats.fisher_exact(table)
                p.append(test.pvalue)
                cells.append((table, test.statistic))
            corrected = multipletests(p, alpha, method="holm")[1]
            for k in range(K):
                V = cells[k][0][0][0]
                rows.append((descriptor, K, seed, k, term_id, V, sum(cells[k][0][0]), cells[k][1], p[k], corrected[k]))
    return pd.DataFrame(
        rows, columns=["descriptor", "n_clusters", "seed", "cluster", "term_id", "V", "R", "odds", "p", "holm"]
    )


@pytest.mark.slow
def test_every_kept_test_and_Q_equal_a_loop_over_scipy_and_statsmodels():
    clusters, terms, has_report, patient = made()
    settings = replace(SETTINGS, unit="volume", n_permutations=0)
    shuffled = clusters.sample(frac=1.0, random_state=1)
    result = associate(shuffled, terms, has_report, patient, settings)
    slow = slow_associations(clusters, terms, has_report, settings.alpha)
    Q = slow[slow["holm"] <= settings.alpha].groupby(["n_clusters", "seed"]).size()
    fast = result.criterion.set_index(["n_clusters", "seed"])["Q"]
    assert fast[fast > 0].to_dict() == Q.to_dict()
    assert fast.max() > 0
    key = ["descriptor", "n_clusters", "seed", "cluster", "term_id"]
    both = result.associations.merge(slow, on=key, suffixes=("", "_slow"))
    kept = (slow["holm"] <= settings.alpha) | result.reported.rows(slow)
    assert len(both) == len(result.associations) == kept.sum()
    np.testing.assert_array_equal(both["V"], both["V_slow"])
    np.testing.assert_array_equal(both["R"], both["R_slow"])
    np.testing.assert_allclose(both["p_value"], both["p"], rtol=1e-10)
    np.testing.assert_allclose(both["p_holm"], both["holm"], rtol=1e-10)
    np.testing.assert_array_equal(both["odds_ratio"], both["odds"])
    assert (both["B"] == has_report.sum()).all()
    assert ((both["odds_ratio"] > 1) == (both["direction"] == 1)).all()
    assert ((both["ci_low"] <= both["odds_ratio"]) & (both["odds_ratio"] <= both["ci_high"])).all()


def test_tables_are_those_of_the_schema():
    result = associate(*made(), SETTINGS)
    for name, frame in (("associations", result.associations), ("criterion", result.criterion)):
        declared = [column.name for column in schema.TABLES[name]]
        assert list(frame.columns) == declared
        conformed = schema.conform_table(name, frame)
        pd.testing.assert_frame_equal(conformed, frame, check_dtype=False)
        numbers = [column.name for column in schema.TABLES[name] if column.dtype != "string"]
        pd.testing.assert_frame_equal(conformed[numbers], frame[numbers])


def test_fdr_stands_beside_holm_for_the_reported_groups_only():
    result = associate(*made(), replace(SETTINGS, n_permutations=0))
    reported = result.associations[result.reported.rows(result.associations)]
    reference = multipletests(reported["p_value"], method="fdr_by")[1]
    np.testing.assert_allclose(reported["q_fdr"], reference, rtol=1e-12)
    assert result.associations[~result.reported.rows(result.associations)]["q_fdr"].isna().all()


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_holm_is_statsmodels(p):
    np.testing.assert_allclose(holm(np.array(p)), multipletests(p, method="holm")[1], rtol=1e-12)


def criterion_of(rows):
    """Chosen by Q, the gain as large."""
    frame = pd.DataFrame(rows, columns=["descriptor", "n_clusters", "seed", "Q"])
    frame["gain"] = frame["Q"].astype(float)
    return frame.assign(is_candidate=_candidates(frame, np.zeros((len(frame), 1)), "Q"))


def test_by_Q_the_smallest_K_at_the_maximum_is_reported_and_the_seed_nearest_the_mean():
    rows = [("lda", 2, 0, 4), ("lda", 2, 1, 8), ("lda", 3, 0, 3), ("lda", 3, 1, 9), ("lda", 5, 0, 5), ("lda", 5, 1, 5)]
    assert reported_grouping(criterion_of(rows), "lda") == Grouping("lda", 2, 0)  # 6 at 2 and at 3; both seeds 2 off
    rows[1] = ("lda", 2, 1, 6)
    rows += [("lda", 7, 0, 9), ("lda", 7, 1, 2), ("lda", 7, 2, 10), ("lda", 7, 3, 8)]  # mean 7.25: seed 3 is nearest
    assert reported_grouping(criterion_of(rows), "lda") == Grouping("lda", 7, 3)


def test_best_takes_the_descriptor_with_the_largest_mean():
    rows = [("haralick", 2, 0, 4), ("lda", 2, 0, 5), ("sift", 3, 0, 5)]
    assert reported_grouping(criterion_of(rows), "best") == Grouping("lda", 2, 0)
    with pytest.raises(InputError, match="no groups were formed with 'concatenated'"):
        reported_grouping(criterion_of(rows), "concatenated")


def test_one_volume_per_patient_the_earliest_with_a_report():
    clusters, terms, has_report, patient = made(n=6, K=(2,), seeds=(0,))
    has_report[:] = [True, True, False, True, True, True]
    date = pd.Series(["2020-02-01", "2020-01-01", "2019-01-01", "2021-01-01", None, "2020-05-01"], index=patient.index)
    population = count_population(clusters, terms, has_report, patient, SETTINGS, acquired_on=date)
    assert population.volume_id.tolist() == ["v001", "v003", "v005"]  # v002 is earlier but has no report
    by_name = count_population(clusters, terms, has_report, patient, SETTINGS)
    assert by_name.volume_id.tolist() == ["v000", "v003", "v004"]
    volumes = count_population(clusters, terms, has_report, patient, replace(SETTINGS, unit="volume"))
    assert volumes.volume_id.tolist() == ["v000", "v001", "v003", "v004", "v005"]


def test_a_report_without_terms_counts_and_rare_terms_are_not_tested():
    clusters, terms, has_report, patient = made(n=10, K=(2,), seeds=(0,))
    present = terms.present.iloc[:4].copy()  # the others' reports have no terms
    present.iloc[:, :] = False
    present.iloc[:3, 0] = True
    present.iloc[0, 1] = True
    has_report[:] = True
    patient[:] = patient.index
    population = count_population(
        clusters, ReportTerms(present, terms.labels), has_report, patient, replace(SETTINGS, min_term_count=2)
    )
    assert population.n_units == 10
    assert population.term_id == ("RID0",)
    assert population.term == ("term 0",)


def test_terms_come_from_affirmed_mentions():
    mentions = pd.DataFrame(
        [("v1", "RID2", "nodule", "affirmed"), ("v1", "RID2", "nodule", "affirmed"), ("v2", "RID1", "mass", "negated")],
        columns=["volume_id", "term_id", "term", "status"],
    )
    terms = ReportTerms.from_mentions(mentions)
    assert terms.present.to_dict() == {"RID2": {"v1": True}}
    assert terms.labels.to_dict() == {"RID2": "nodule"}
    both = ReportTerms.from_mentions(mentions, ("affirmed", "negated")).present
    assert both.loc["v2"].to_dict() == {"RID1": True, "RID2": False}


def test_null_is_that_of_shuffled_reports_tested_from_scratch():
    clusters, terms, has_report, patient = made()
    population = count_population(clusters, terms, has_report, patient, replace(SETTINGS, unit="volume"))
    null = null_criterion(population, 0.05, 7, 0, 6)
    exchange = exchange_of(population)
    for index in range(6):
        moved = replace(population, has_term=population.has_term[exchange.permutation(7, index)])
        np.testing.assert_array_equal(null[index], run_tests(moved, 0.05).Q)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000), st.floats(0, 0.7), st.sampled_from([0.05, 0.01, 0.5]))
def test_the_screen_finds_the_same_Q_as_the_tests(seed, effect, alpha):
    population = count_population(*made(n=60, seed=seed, effect=effect, K=(2, 4, 9)), SETTINGS)
    fast = Screen.of(population, alpha).criterion(population, population.has_term)
    np.testing.assert_array_equal(fast, run_tests(population, alpha).Q)


def test_chunks_of_permutations_are_those_of_one_call():
    population = count_population(*made(), SETTINGS)
    whole = null_criterion(population, 0.05, 3, 0, 9)
    parts = [null_criterion(population, 0.05, 3, first, last) for first, last in ((0, 4), (4, 4), (4, 9))]
    np.testing.assert_array_equal(whole, np.concatenate(parts))
    assert not np.array_equal(whole, null_criterion(population, 0.05, 4, 0, 9))


def test_reports_move_between_patients_with_equally_many_volumes_as_blocks():
    clusters, terms, has_report, patient = made(n=40, K=(2,), seeds=(0,))
    has_report[:] = True
    patient[:] = [f"p{i:02d}" for i in [*range(20), *np.repeat(np.arange(20, 30), 2)]]
    patient.iloc[-3:] = "p99"  # one patient with 3 volumes, one left with 1
    population = count_population(clusters, terms, has_report, patient, replace(SETTINGS, unit="volume"))
    exchange = exchange_of(population)
    assert sum(members.size for members in exchange.classes if len(members) == 1) == 3
    size = np.bincount(population.patient)[population.patient]
    source = exchange.permutation(0, 0)
    assert sorted(source) == list(range(40))
    np.testing.assert_array_equal(size[source], size)
    pairs = pd.DataFrame({"to": population.patient, "from": population.patient[source]}).drop_duplicates()
    assert pairs["to"].is_unique and pairs["from"].is_unique
    assert (source != np.arange(40)).any()


def test_reports_stay_within_strata_on_request():
    clusters, terms, has_report, patient = made(K=(2,), seeds=(0,))
    strata = pd.DataFrame({"model": ["A", "B", None] * 40}, index=patient.index)
    population = count_population(clusters, terms, has_report, patient, SETTINGS, strata=strata)
    assert np.unique(population.stratum).size == 3
    source = exchange_of(population).permutation(0, 5)
    np.testing.assert_array_equal(population.stratum[source], population.stratum)
    assert (source != np.arange(population.n_units)).any()


def test_p_selected_repeats_the_choice_of_K():
    clusters, terms, has_report, patient = made(descriptors=("lda", "sift"))
    population = count_population(clusters, terms, has_report, patient, SETTINGS)
    null = null_criterion(population, 0.05, 0, 0, 30)
    Q = run_tests(population, 0.05).Q
    criterion = criterion_table(population, Q, SETTINGS, null)
    best = criterion_table(population, Q, replace(SETTINGS, descriptor="best"), null)
    means = {}
    for (descriptor, K), rows in criterion.groupby(["descriptor", "n_clusters"]):
        means[descriptor, K] = (Q[rows.index].mean(), null[:, rows.index].mean(axis=1))
    for (descriptor, K), rows in criterion.groupby(["descriptor", "n_clusters"]):
        observed, own = means[descriptor, K]
        among = np.max([m[1] for key, m in means.items() if key[0] == descriptor], axis=0)
        anywhere = np.max([m[1] for m in means.values()], axis=0)
        np.testing.assert_allclose(rows["p_value"], (1 + np.sum(own >= observed)) / 31)
        np.testing.assert_allclose(rows["p_value_selected"], (1 + np.sum(among >= observed)) / 31)
        np.testing.assert_allclose(best.loc[rows.index, "p_value_selected"], (1 + np.sum(anywhere >= observed)) / 31)
        np.testing.assert_allclose(rows["Q_null_mean"], own.mean())
        np.testing.assert_allclose(rows["Q_null_p95"], np.percentile(own, 95))


def test_without_permutations_the_null_is_missing_and_the_rest_unchanged():
    data = made()
    without = associate(*data, replace(SETTINGS, n_permutations=0))
    with_null = associate(*data, SETTINGS)
    assert without.criterion[["Q_null_mean", "Q_null_p95", "p_value", "p_value_selected"]].isna().all(axis=None)
    pd.testing.assert_frame_equal(without.associations, with_null.associations)
    assert with_null.criterion["p_value_selected"].between(1 / 31, 1).all()


def test_same_input_gives_the_same_bytes():
    first, second = (associate(*made(), SETTINGS) for _ in range(2))
    pd.testing.assert_frame_equal(first.associations, second.associations, check_exact=True)
    pd.testing.assert_frame_equal(first.criterion, second.criterion, check_exact=True)


def test_terms_in_every_report_or_none_groups_of_one_and_empty_groups():
    clusters, terms, has_report, patient = made(n=12, K=(2, 12), seeds=(0,))
    present = terms.present.copy()
    present["RID0"], present["RID1"] = True, False
    clusters.loc[clusters["n_clusters"] == 12, "cluster"] = np.arange(12)
    has_report[:] = True
    result = associate(
        clusters, ReportTerms(present, terms.labels), has_report, patient, replace(SETTINGS, n_permutations=5)
    )
    everywhere = result.associations[result.associations["term_id"] == "RID0"]
    assert (everywhere["p_value"] == 1).all() and everywhere["odds_ratio"].isna().all()
    assert "RID1" not in set(result.associations["term_id"])
    few = made(n=6, K=(5,), seeds=(0,))  # 3 patients in 5 groups: some hold no unit
    few[2][:] = True
    result = associate(*few, replace(SETTINGS, n_permutations=5))
    assert (result.associations["R"] == 0).any()
    assert (result.associations.loc[result.associations["R"] == 0, "p_value"] == 1).all()


def test_no_term_is_frequent_enough():
    clusters, terms, has_report, patient = made()
    seldom = replace(terms, present=terms.present & (np.arange(len(terms.present)) < 3)[:, None])
    result = associate(clusters, seldom, has_report, patient, replace(SETTINGS, min_term_count=1000))
    assert result.associations.empty
    assert (result.criterion["Q"] == 0).all()
    assert (result.criterion["p_value_selected"] == 1).all()
    assert result.reported == Grouping("lda", 2, 0)


def test_no_reports_and_unknown_patients_are_said_in_one_line():
    clusters, terms, has_report, patient = made()
    for none in (has_report & False, has_report.iloc[:0]):
        with pytest.raises(InputError, match="none of the grouped volumes has a report"):
            associate(clusters, terms, none, patient, SETTINGS)
    with pytest.raises(InputError, match="is not known"):
        associate(clusters, terms, has_report, patient.iloc[:50], SETTINGS)


def test_incomplete_groupings_are_refused():
    clusters, terms, has_report, patient = made()
    for broken in (clusters.iloc[1:], pd.concat([clusters, clusters.iloc[:1]])):
        with pytest.raises(ValueError, match="exactly once"):
            count_population(broken, terms, has_report, patient, SETTINGS)
    with pytest.raises(ValueError, match="group number"):
        count_population(clusters.assign(cluster=clusters["cluster"] + 1), terms, has_report, patient, SETTINGS)


def test_a_null_population_is_significant_as_often_as_it_says():
    """Groups chosen by Q on data without any association: the corrected p is uniform, the plain one is not."""
    selected, plain = [], []
    for seed in range(60):
        clusters, terms, has_report, patient = made(
            n=100, n_terms=12, K=range(2, 10), seeds=(0,), effect=0.0, seed=seed
        )
        settings = replace(SETTINGS, n_permutations=39, alpha=0.2, choose_by="Q")
        population = count_population(clusters, terms, has_report, patient, settings)
        result = associate_counted(population, settings, null_criterion(population, 0.2, seed, 0, 39))
        row = result.criterion[result.reported.rows(result.criterion)].iloc[0]
        selected.append(row["p_value_selected"])
        plain.append(row["p_value"])
    assert 0.3 < np.mean(selected) < 0.75
    assert np.mean(np.array(plain) <= 0.2) > np.mean(np.array(selected) <= 0.2)
    assert np.mean(np.array(selected) <= 0.2) < 0.35
