"""Split halves, confounders, power, term noise, removal of technical effects."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from popclust.evaluation.associations import associate_counted, run_tests
from popclust.evaluation.confounders import confounder_variables, confounders, predictability
from popclust.evaluation.counting import ReportTerms, count_population
from popclust.evaluation.gate import CANNOT_TELL, EXPLAINED, JOINT, SURVIVES, stratify
from popclust.evaluation.permutation import null_criterion
from popclust.evaluation.split_half import halves, split_half
from popclust.evaluation.technical_effects import removal_effect, remove_technical_effects
from popclust.evaluation.term_noise import term_noise, with_errors
from popclust.evaluation.validity import examine, power_table
from popclust.settings import AssociateSettings

SETTINGS = AssociateSettings(n_permutations=19, min_term_count=5, n_noise_repeats=4)


def scanned(n=1200, disease=True, seed=0):
    """Two scanners that change the groups and terms 0-5; with disease, a disease that does the same to terms 6-11."""
    rng = np.random.default_rng(seed)
    volume_id = np.array([f"v{i:04d}" for i in range(n)])
    scanner = rng.random(n) < 0.5
    sick = rng.random(n) < (0.3 if disease else 0.0)
    x = np.stack([rng.normal(size=n) + 2.5 * scanner, rng.normal(size=n) + 4 * sick], axis=1)
    frames = []
    for seed_of_groups, cut in enumerate((1.0, 1.5)):
        four = (x[:, 0] > cut) * 2 + (x[:, 1] > 2)
        for K, cluster in ((2, x[:, 0] > cut), (4, four)):
            columns = {"volume_id": volume_id, "descriptor": "lda", "n_clusters": K, "seed": seed_of_groups}
            frames.append(pd.DataFrame({**columns, "cluster": cluster.astype(int)}))
    log_odds = np.full((n, 14), -1.5)
    log_odds[:, :6] += 1.2 * scanner[:, None]
    log_odds[:, 6:12] += 2.0 * sick[:, None]
    has_term = rng.random(log_odds.shape) < 1 / (1 + np.exp(-log_odds))
    present = pd.DataFrame(has_term, index=volume_id, columns=[f"RID{t:02d}" for t in range(14)])
    terms = ReportTerms(present, pd.Series(present.columns, index=present.columns))
    variables = pd.DataFrame(
        {
            "scanner": np.where(scanner, "A", "B"),
            "kernel": np.where(rng.random(n) < 0.1, None, np.where(rng.random(n) < 0.5, "B70f", "B80f")),
            "age_years": np.where(rng.random(n) < 0.05, np.nan, rng.normal(60, 10, n)),
        },
        index=volume_id,
    )
    everyone, patient = pd.Series(True, index=volume_id), pd.Series(volume_id, index=volume_id)
    return count_population(pd.concat(frames), terms, everyone, patient, SETTINGS), variables, x


def reported(population, settings=SETTINGS):
    result = associate_counted(population, settings)
    return population.only(result.reported.rows(population.grid)), result


# --- confounders -----------------------------------------------------------------------------------------------------


def test_groups_are_told_from_every_variable():
    population, variables, _ = scanned()
    one, _ = reported(population)
    table = confounders(one, variables)
    assert len(table) == 3 * one.n_clusters[0]
    by = table.set_index(["variable", "cluster"])
    assert (by.loc["scanner", "p_holm"] < 1e-6).all()
    assert (by.loc["age_years", "p_holm"] > 0.01).all()
    assert (by.loc["kernel", "p_holm"] > 0.01).all()
    assert by.loc["age_years", "n_missing"].iloc[0] == variables["age_years"].isna().sum()
    inside = one.cluster[0] == 0
    counts = pd.crosstab(variables["scanner"].to_numpy(), inside)
    chi2 = stats.chi2_contingency(counts, correction=False)
    assert by.loc[("scanner", 0), "p_value"] == pytest.approx(chi2.pvalue, rel=1e-9)
    assert by.loc[("scanner", 0), "effect"] == pytest.approx(stats.contingency.association(counts), rel=1e-9)
    known = variables["age_years"].notna().to_numpy()
    age = variables["age_years"].to_numpy()
    test = stats.mannwhitneyu(age[known & inside], age[known & ~inside])
    assert by.loc[("age_years", 0), "p_value"] == pytest.approx(test.pvalue)
    larger = np.sign(age[known & inside][:, None] - age[known & ~inside]).mean()
    assert by.loc[("age_years", 0), "effect"] == pytest.approx(larger)


def test_metadata_that_is_missing_constant_or_rare_gives_an_answer():
    population, variables, _ = scanned(n=200)
    one, result = reported(population)
    variables = variables.assign(
        contrast=None, coverage=np.nan, ncc=0.5, model=[*["rare"] * 3, *["C"] * 197], sex=["M", np.nan] * 100
    )
    table = confounders(one, variables).set_index("variable")
    for name in ("contrast", "coverage", "ncc", "model", "sex"):
        if name != "model":
            assert table.loc[name, "p_value"].isna().all()
            assert (table.loc[name, "p_holm"] == 1).all()
    stratified = stratify(one, result.associations, variables.iloc[:50], SETTINGS)
    known = set(variables) - {"contrast", "coverage"}
    assert set(stratified["variable"]) == known | {JOINT}
    assert stratified["outcome"].isin([SURVIVES, EXPLAINED, CANNOT_TELL]).all()
    assert examine(population, result, SETTINGS).confounders.empty


def test_sparse_categories_are_tested_against_random_tables():
    population, _, _ = scanned(n=60)
    one, _ = reported(population)
    group = one.cluster[0] == 0
    variables = pd.DataFrame({"kernel": np.where(group, "B70f", np.arange(60) % 2).astype(str)}, index=one.volume_id)
    table = confounders(one, variables)
    assert table["p_value"].min() <= 0.01
    pd.testing.assert_frame_equal(table, confounders(one, variables))  # the random tables are seeded


def test_variables_are_taken_from_the_cohort():
    cohort = pd.DataFrame(
        {
            "volume_id": ["a", "b", "c"],
            "manufacturer": ["S", None, None],
            "model": ["X", "Y", None],
            "kernel": ["B70f", None, "B80f"],
            "age_years": [50.0, np.nan, 70.0],
            "acquired_on": ["1970-01-03", None, "not a date"],
        }
    )
    quality = pd.DataFrame(
        {"volume_id": ["b", "a"], "coverage": [0.5, 0.9], "ncc": [0.4, 0.6], "template_id": ["t", "t"]}
    )
    variables = confounder_variables(cohort, quality)
    assert variables["scanner"].tolist()[:2] == ["S X", "Y"]
    assert pd.isna(variables.loc["c", "scanner"])
    assert variables["acquired_on"].tolist()[0] == 2.0
    assert variables["acquired_on"].isna().sum() == 2
    assert variables["coverage"].tolist()[:2] == [0.9, 0.5]
    assert list(variables) == ["scanner", "kernel", "age_years", "acquired_on", "coverage", "ncc"]


# --- halves, power, noise --------------------------------------------------------------------------------------------


def test_halves_part_patients_and_choose_on_what_they_do_not_test():
    population, _, _ = scanned()
    in_first = halves(population, 0)
    assert in_first.sum() == 600
    table = split_half(population, SETTINGS)
    assert table["tested_on"].tolist() == ["second", "first"]
    assert (table["p_value"] == 1 / 20).all()
    for row, mask in zip(table.itertuples(), (in_first, ~in_first), strict=True):
        chosen, tested = population.take(mask), population.take(~mask)
        Q = run_tests(chosen, 0.05).Q
        mean = pd.Series(Q).groupby(chosen.grid["n_clusters"]).mean()
        assert row.n_clusters == mean.idxmax()
        place = ((tested.grid["n_clusters"] == row.n_clusters) & (tested.grid["seed"] == row.seed)).to_numpy()
        assert row.Q_tested == run_tests(tested, 0.05).Q[place][0]
        assert 0 < row.n_replicated <= min(row.Q_tested, row.Q_chosen)


def test_visits_of_a_patient_stay_in_one_half():
    population, _, _ = scanned(n=100)
    visits = replace(population, patient=np.arange(100) // 3)
    in_first = halves(visits, 3)
    assert all(len(set(in_first[visits.patient == p])) == 1 for p in range(34))
    assert split_half(visits, replace(SETTINGS, n_permutations=0))["p_value"].isna().all()


def test_power_is_stated_for_every_test():
    population, _, _ = scanned()
    one, _ = reported(population)
    table = power_table(one, SETTINGS)
    assert len(table) == one.n_clusters[0] * len(one.term_id)
    assert (table["odds_ratio_above"] > 1).all() and (table["odds_ratio_below"] < 1).all()
    halved = power_table(one.take(np.arange(one.n_units) % 2 == 0), SETTINGS)
    assert (halved["odds_ratio_above"] > table["odds_ratio_above"]).mean() > 0.95


def test_errors_of_the_extractor_have_the_given_rates():
    rng = np.random.default_rng(0)
    has_term = rng.random((20_000, 3)) < 0.2
    noisy = with_errors(has_term, 0.3, 0.25, rng)
    assert np.mean(~noisy[has_term]) == pytest.approx(0.3, abs=0.02)
    assert np.sum(noisy & ~has_term) / noisy.sum() == pytest.approx(0.25, abs=0.02)
    np.testing.assert_array_equal(with_errors(has_term, 0.0, 0.0, rng), has_term)
    everywhere = np.ones((10, 1), dtype=bool)
    assert with_errors(everywhere, 0.0, 0.5, rng).all()


def test_noise_weakens_Q():
    population, _, _ = scanned()
    one, _ = reported(population)
    table = term_noise(one, replace(SETTINGS, miss_rate=0.6, false_mention_rate=0.6)).set_index("errors")
    assert table.loc["both", "Q_mean"] < table.loc["misses", "Q_mean"] < table["Q"].iloc[0]
    assert table["share_found_again"].between(0, 1).all()
    singly = term_noise(one, replace(SETTINGS, miss_rate=0.0, false_mention_rate=0.0), {one.term_id[0]: (0.9, 0.0)})
    assert singly["miss_rate"].to_numpy() == pytest.approx(np.array([0.9, 0.0, 0.9]) / len(one.term_id))
    nothing = term_noise(one, replace(SETTINGS, miss_rate=0.0, false_mention_rate=0.0))
    assert (nothing["Q_mean"] == nothing["Q"]).all()
    with pytest.raises(ValueError, match="below 1"):
        term_noise(one, replace(SETTINGS, miss_rate=1.0))
    with pytest.raises(ValueError, match="one grouping"):
        term_noise(population, SETTINGS)


# --- removal of technical effects ------------------------------------------------------------------------------------


def test_a_removed_scanner_cannot_be_predicted_any_more():
    population, variables, x = scanned()
    technical = variables[["scanner", "kernel"]]
    after = remove_technical_effects(x, technical)
    np.testing.assert_allclose(after.mean(axis=0), x.mean(axis=0), atol=1e-12)
    effect = removal_effect(x, after, technical, population.volume_id).set_index("variable")
    assert effect.loc["scanner", "accuracy_before"] > 0.85
    assert effect.loc["scanner", "accuracy_after"] < 0.6
    assert effect.loc["scanner", "chance"] == 0.5


def test_removal_takes_spread_too_and_leaves_what_is_to_be_kept():
    rng = np.random.default_rng(0)
    scanner = rng.random(4000) < 0.5
    age = rng.normal(60, 10, 4000) + 5 * scanner  # the scanner's patients are older
    x = (0.1 * age + 3 * scanner + rng.normal(size=4000) * np.where(scanner, 2, 1))[:, None]
    technical, keep = pd.DataFrame({"scanner": scanner.astype(str)}), pd.DataFrame({"age_years": age})
    after = remove_technical_effects(x, technical, keep)[:, 0]
    slope = np.polyfit(age, after, 1)[0]
    assert slope == pytest.approx(0.1, abs=0.02)
    residual = after - 0.1 * age
    assert residual[scanner].std() == pytest.approx(residual[~scanner].std(), rel=0.05)
    np.testing.assert_allclose(remove_technical_effects(x, technical.iloc[:, :0]), x)
    with pytest.raises(ValueError, match="4000 rows"):
        remove_technical_effects(x, technical.iloc[:5])


def test_prediction_needs_two_levels_with_patients_enough():
    x = np.random.default_rng(0).normal(size=(40, 2))
    one = predictability(x, pd.Series(["a"] * 38 + ["b", None], dtype=object), np.arange(40))
    assert np.isnan(one.balanced_accuracy)
    assert (one.n_levels, one.n) == (1, 38)


def test_a_patient_is_never_learnt_from_and_predicted():
    rng = np.random.default_rng(0)
    patient = np.repeat(np.arange(60), 5)
    x = rng.normal(size=(60, 50))[patient]  # a patient's volumes are alike, the scanner is not in them
    scanner = pd.Series(np.where(rng.random(60) < 0.5, "A", "B")[patient])
    assert predictability(x, scanner, patient).balanced_accuracy < 0.7
    assert predictability(x, scanner, np.arange(300)).balanced_accuracy > 0.8


def test_everything_in_one_call():
    population, variables, x = scanned(n=400)
    topics = pd.DataFrame(x, index=population.volume_id)
    null = null_criterion(population, 0.05, 0, 0, 19)
    result = associate_counted(population, SETTINGS, null)
    validity = examine(population, result, SETTINGS, variables, topics)
    again = examine(population, result, SETTINGS, variables, topics.sample(frac=1, random_state=0))
    for name, table in vars(validity).items():
        assert len(table), name
        pd.testing.assert_frame_equal(table, getattr(again, name), check_exact=True)
    accuracy = validity.predicted.set_index("variable")["accuracy"]
    assert accuracy["scanner"] > 0.8 > accuracy["kernel"]
    assert accuracy["age_years"] < 0.4
    significant = result.reported.rows(result.associations) & (result.associations["p_holm"] <= 0.05)
    assert len(validity.gate) == significant.sum()
