"""What is left of an association within strata: survives, explained away, cannot tell."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import StratifiedTable
from test_validity import SETTINGS, reported, scanned

from popclust.evaluation.associations import associate_counted
from popclust.evaluation.attenuation import log_odds_ratios, retained, share_left, within_interval
from popclust.evaluation.counting import ReportTerms, count_population
from popclust.evaluation.gate import CANNOT_TELL, EXPLAINED, JOINT, SURVIVES, gate, stratify
from popclust.evaluation.strata import strata_codes, strata_tables


def counted(group, has_term, settings=SETTINGS, patient=None):
    """A population with one grouping."""
    volume_id = np.array([f"v{i:05d}" for i in range(len(group))], dtype=object)
    terms = [f"RID{t:02d}" for t in range(has_term.shape[1])]
    clusters = pd.DataFrame(
        {"volume_id": volume_id, "descriptor": "lda", "n_clusters": int(group.max()) + 1, "seed": 0}
    )
    reports = ReportTerms(pd.DataFrame(has_term, index=volume_id, columns=terms), pd.Series(terms, index=terms))
    patients = pd.Series(volume_id if patient is None else patient, index=volume_id)
    everyone = pd.Series(True, index=volume_id)
    return count_population(clusters.assign(cluster=group), reports, everyone, patients, settings)


def verdict_of(population, variables, settings=SETTINGS):
    found = associate_counted(population, settings).associations
    return gate(stratify(population, found, variables.set_axis(population.volume_id), settings))


# --- strata and what is left in them ---------------------------------------------------------------------------------


def test_strata_are_levels_or_quantiles_and_missing_is_one():
    codes = strata_codes(pd.Series([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, np.nan, np.inf]), 4)
    assert codes.tolist() == [1, 1, 2, 2, 3, 3, 4, 4, 0, 0]
    assert strata_codes(pd.Series([1.0, 2.5, 1.0, np.nan] * 5), 4).tolist() == [1, 2, 1, 0] * 5
    assert strata_codes(pd.Series(["a"] * 5 + ["b"] * 5 + ["c", "d", None], dtype=object), 4).tolist() == (
        [1] * 5 + [2] * 5 + [3, 3, 0]
    )


def test_tables_of_strata_are_counted_cell_by_cell():
    rng = np.random.default_rng(0)
    codes, cluster, has_term = rng.integers(0, 3, 90), rng.integers(0, 4, 90), rng.random((90, 5)) < 0.4
    group, term = np.array([0, 3, 3]), np.array([4, 1, 4])
    tables = strata_tables(codes, cluster, has_term, (group, term))
    for s, a in np.ndindex(3, 3):
        own, inside, present = codes == s, cluster == group[a], has_term[:, term[a]]
        cells = [inside & present, inside & ~present, ~inside & present, ~inside & ~present]
        assert tables[s, a].tolist() == [np.sum(own & cell) for cell in cells]


def test_the_odds_ratio_within_large_strata_is_statsmodels():
    tables = np.random.default_rng(0).integers(300, 900, (4, 6, 4))
    ratios = log_odds_ratios(tables)
    interval = within_interval(ratios, 0.05)
    for j in range(6):
        reference = StratifiedTable([t.reshape(2, 2).astype(float) for t in tables[:, j]])
        assert interval.value[j] == pytest.approx(reference.oddsratio_pooled, rel=1e-3)
        assert (interval.low[j], interval.high[j]) == pytest.approx(reference.oddsratio_pooled_confint(), rel=2e-3)
    np.testing.assert_allclose(share_left(tables), ratios.within / ratios.over_all)


def test_the_joint_variance_is_that_of_samples_drawn_again():
    """Variances and covariance against 4,000 multinomial samples of the same strata."""
    rng = np.random.default_rng(0)
    chance = np.array([[[30, 40, 20, 110]], [[70, 30, 60, 40]], [[10, 50, 20, 100]]]) / 580
    truth = log_odds_ratios(np.round(580 * chance).astype(int))
    drawn = rng.multinomial(580, chance.ravel(), 4000).reshape(4000, 3, 4)
    again = log_odds_ratios(np.moveaxis(drawn, 0, 1))
    covariance = np.cov(again.over_all, again.within)
    assert covariance[0, 0] == pytest.approx(truth.variance_over_all[0], rel=0.08)
    assert covariance[1, 1] == pytest.approx(truth.variance_within[0], rel=0.08)
    assert covariance[0, 1] == pytest.approx(truth.covariance[0], rel=0.08)


def test_the_interval_of_the_share_covers_it_and_inverts_its_test():
    rng = np.random.default_rng(1)
    chance = np.array([[60, 40, 30, 70], [30, 70, 15, 85]]) / 400  # odds ratio 3.5 and 2.4 within
    true = share_left(np.round(4e7 * chance[:, None]).astype(np.int64))[0]
    drawn = log_odds_ratios(np.moveaxis(rng.multinomial(400, chance.ravel(), 3000).reshape(3000, 2, 4), 0, 1))
    left = retained(drawn, 0.05)
    assert np.mean((left.low <= true) & (true <= left.high)) == pytest.approx(0.95, abs=0.015)
    z = stats.norm.isf(0.025)
    for end in (left.low, left.high):
        known = np.isfinite(end)
        own, share = [x[known] for x in vars(drawn).values()], end[known]
        over_all, within, variance_over_all, variance_within, covariance = own[:5]
        variance = variance_within - 2 * share * covariance + share**2 * variance_over_all
        np.testing.assert_allclose(np.abs(within - share * over_all), z * np.sqrt(variance), rtol=1e-6)


def test_one_stratum_leaves_everything_and_none_nothing():
    one = log_odds_ratios(np.array([[[30, 20, 10, 40]]]))
    left = retained(one, 0.05)
    assert (left.low[0], left.value[0], left.high[0]) == pytest.approx((1.0, 1.0, 1.0))
    assert (one.n_strata[0], one.information[0]) == (1, 1.0)
    disguised = log_odds_ratios(np.array([[[30, 20, 0, 0]], [[0, 0, 10, 40]]]))
    left = retained(disguised, 0.05)
    assert (left.low[0], left.high[0]) == (-np.inf, np.inf)
    assert (disguised.n_strata[0], disguised.information[0]) == (0, 0.0)
    assert np.isnan(within_interval(disguised, 0.05).value[0])


# --- the outcomes ----------------------------------------------------------------------------------------------------


def test_a_scanner_in_disguise_is_explained_away():
    population, variables, _ = scanned(disease=False)
    one, result = reported(population)
    verdict = gate(stratify(one, result.associations, variables, SETTINGS))
    assert len(verdict) >= 10
    assert not (verdict["outcome"] == SURVIVES).any()
    assert (verdict["outcome"] == EXPLAINED).mean() > 0.9
    assert verdict["because"].str.contains("scanner").all()


def test_disease_beside_scanners_survives():
    population, variables, _ = scanned(disease=True)
    one, result = reported(population)
    verdict = gate(stratify(one, result.associations, variables, SETTINGS))
    term = verdict["term_id"].str[3:].astype(int)
    real = (term >= 6) & (term < 12)
    assert real.sum() >= 20
    assert (verdict["outcome"] == SURVIVES)[real].mean() >= 0.95
    assert (verdict["outcome_personal"] == SURVIVES)[real].mean() >= 0.95  # age has nothing to do with them
    assert not (verdict["outcome"] == SURVIVES)[term < 6].any()
    assert (verdict.loc[verdict["outcome"] == SURVIVES, "because"] == "").all()


def test_age_that_drives_both_explains_away_apart_from_the_scanner():
    rng = np.random.default_rng(0)
    age = rng.normal(60, 15, 1500)
    group = np.digitize(age + rng.normal(0, 10, 1500), (50, 60, 70))
    log_odds = -1.5 + np.outer((age - 60) / 15, [1.0, -1.0, 0.8, 0.0])
    population = counted(group, rng.random(log_odds.shape) < 1 / (1 + np.exp(-log_odds)))
    variables = pd.DataFrame({"scanner": rng.choice(["A", "B"], 1500), "age_years": age})
    verdict = verdict_of(population, variables)
    assert len(verdict) >= 7
    assert (verdict["outcome"] == SURVIVES).mean() >= 0.95
    assert not (verdict["outcome_personal"] == SURVIVES).any()
    assert (verdict["outcome_personal"] == EXPLAINED).mean() >= 0.8
    assert set(verdict["because_personal"]) == {"age_years"}


def test_a_group_that_is_the_scanner_cannot_be_told_from_it():
    rng = np.random.default_rng(0)
    group = rng.integers(0, 2, 400)
    population = counted(group, rng.random((400, 3)) < np.where(group, 0.6, 0.2)[:, None])
    verdict = verdict_of(population, pd.DataFrame({"scanner": np.where(group, "A", "B")}))
    assert len(verdict) == 6
    assert (verdict["outcome"] == CANNOT_TELL).all() and (verdict["because"] == "scanner").all()
    assert (verdict["outcome_personal"] == CANNOT_TELL).all()  # nobody knows their age
    unknown = verdict_of(population, pd.DataFrame({"scanner": np.full(400, None)}))
    assert (unknown["outcome"] == CANNOT_TELL).all() if len(unknown) else True


def test_two_variables_that_only_together_explain_are_caught_jointly():
    rng = np.random.default_rng(1)
    population, variables, _ = scanned(n=4000, disease=False)
    one, result = reported(population)
    first = rng.random(4000) < 0.5
    scanner = (variables["scanner"] == "A").to_numpy()
    variables = pd.DataFrame({"scanner": first, "kernel": first ^ scanner}, index=variables.index).astype(str)
    verdict = gate(stratify(one, result.associations, variables, SETTINGS))
    assert (verdict["outcome"] == EXPLAINED).mean() > 0.9
    assert (verdict["because"] == JOINT).any()


def test_a_shuffled_variable_changes_no_outcome_and_little_beyond_the_reference():
    population, variables, _ = scanned(disease=True)
    one, result = reported(population)
    rng = np.random.default_rng(5)
    shuffled = variables.set_axis(rng.permutation(variables.index))
    table = stratify(one, result.associations, shuffled, SETTINGS)
    scanner = table[table["variable"] == "scanner"]
    assert (scanner["outcome"] == SURVIVES).mean() >= 0.95
    assert scanner["retained"].between(scanner["shuffled_low"], scanner["shuffled_high"]).mean() > 0.7
    again = stratify(one, result.associations, shuffled, SETTINGS)
    pd.testing.assert_frame_equal(table, again, check_exact=True)


# --- what breaks a careless gate -------------------------------------------------------------------------------------


def test_one_patient_with_fifty_volumes_does_not_carry_an_association():
    """Volumes counted as the paper does: all that is found hangs on one patient's 50 visits."""
    rng = np.random.default_rng(0)
    settings = replace(SETTINGS, unit="volume")
    patient = np.concatenate([np.zeros(50, int), np.arange(1, 121)])
    group = np.where(patient == 0, 0, rng.integers(0, 2, 170))
    has_term = (rng.random(170) < np.where(patient == 0, 1.0, 0.15))[:, None]
    population = counted(group, has_term, settings, patient.astype(str))
    variables = pd.DataFrame({"scanner": rng.choice(["A", "B"], 170)})
    verdict = verdict_of(population, variables, settings)
    assert len(verdict) == 2
    assert (verdict["outcome"] == CANNOT_TELL).all()
    as_people = verdict_of(counted(group, has_term, settings), variables, settings)
    assert (as_people["outcome"] == SURVIVES).any()


def test_reports_that_are_all_alike_or_a_group_of_one_give_an_answer():
    rng = np.random.default_rng(0)
    group = rng.integers(0, 2, 60)
    variables = pd.DataFrame({"scanner": rng.choice(["A", "B"], 60)})
    alike = verdict_of(counted(group, np.ones((60, 2), bool)), variables)
    assert alike.empty and list(alike) == list(gate(pd.DataFrame(columns=["outcome"])))
    one = np.where(np.arange(60) == 0, 1, 0)
    single = counted(one, np.where(one[:, None], [[True, False]], rng.random((60, 2)) < 0.3))
    found = associate_counted(single, SETTINGS).associations.assign(p_holm=0.0)  # as if it had been found
    verdict = gate(stratify(single, found, variables.set_axis(single.volume_id), SETTINGS))
    assert (verdict["outcome"] == CANNOT_TELL).all()
