"""Are the groups scanners in disguise? Every group against what is known of how and of whom the volumes were made."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from popclust.evaluation.associations import holm
from popclust.evaluation.counting import CountedPopulation

CONFOUNDERS = [
    *(
        "descriptor",
        "n_clusters",
        "seed",
        "cluster",
        "variable",
        "kind",
        "n",
        "n_missing",
        "effect",
        "p_value",
        "p_holm",
    ),
    *("level", "inside", "outside"),
]
"""Columns of the table of confounders."""

_MIN_LEVEL = 5
_N_RANDOM_TABLES = 9_999
_MIN_EXPECTED = 5.0


def confounder_variables(cohort: pd.DataFrame, quality: pd.DataFrame | None = None) -> pd.DataFrame:
    """What is known of each volume apart from its content, by volume_id.

    Parameters
    ----------
    cohort
        The study's table `cohort`; columns that are absent are left out.
    quality
        The study's table `quality` of registrations.

    Returns
    -------
    DataFrame
        Index volume_id; categories as strings (scanner, kernel, contrast, sex), measurements as floats
        (slice_thickness_mm, noise_hu, edge_mm, age_years, acquired_on in days, coverage, ncc, lung_dice); missing is
        None or NaN.
    """
    cohort = cohort.set_index("volume_id")
    columns: dict[str, pd.Series] = {}
    maker = [cohort[name].astype(object) for name in ("manufacturer", "model") if name in cohort]
    if maker:
        known = pd.concat(maker, axis=1)
        columns["scanner"] = known.apply(lambda row: " ".join(str(v) for v in row.dropna()) or None, axis=1)
    for name in ("kernel", "contrast", "sex"):
        if name in cohort:
            columns[name] = cohort[name].astype(object).where(cohort[name].notna(), None)
    for name in ("slice_thickness_mm", "noise_hu", "edge_mm", "age_years"):
        if name in cohort:
            columns[name] = pd.to_numeric(cohort[name], errors="coerce").astype(float)
    if "acquired_on" in cohort:
        date = pd.to_datetime(cohort["acquired_on"], errors="coerce", format="ISO8601")
        columns["acquired_on"] = (date - pd.Timestamp("1970-01-01")) / pd.Timedelta(days=1)
    frame = pd.DataFrame(columns, index=cohort.index)
    if quality is None:
        return frame
    measured = quality.set_index("volume_id")
    return frame.join(measured[[name for name in ("coverage", "ncc", "lung_dice") if name in measured]].astype(float))


def confounders(population: CountedPopulation, variables: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Test every group of one grouping against every variable.

    A category is tested by chi-square, against random tables with the same margins where expected counts are below 5
    (levels with fewer than 5 units are pooled), and its effect is Cramer's V; a measurement by the Mann-Whitney test,
    and its effect is the rank-biserial correlation (positive: larger in the group). Units whose value is missing are
    left out of that variable's tests and counted. Holm's correction runs over the groups of a variable.

    Parameters
    ----------
    population
        Units, terms and one grouping.
    variables
        Columns by volume_id, as `confounder_variables` gives them.
    seed
        Seed of the random tables.

    Returns
    -------
    DataFrame
        One row per (variable, group). `level` is the category most over-represented in the group and inside/outside
        its share in the group and in the rest; for a measurement they are the medians. A variable without variation,
        a group without units, or one that holds all of them gives NaN, and 1 after correction.
    """
    _one_grouping(population)
    rows = variables[~variables.index.duplicated()].reindex(population.volume_id)
    parts = []
    for index, name in enumerate(rows.columns):
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(3, index)))
        parts.append(_test_variable(population, rows[name], rng).assign(variable=name))
    if not parts:
        return pd.DataFrame(columns=CONFOUNDERS)
    table = pd.concat(parts, ignore_index=True)
    grid = population.grid.iloc[0]
    return table.assign(descriptor=grid["descriptor"], n_clusters=grid["n_clusters"], seed=grid["seed"])[CONFOUNDERS]


def is_measurement(values: pd.Series) -> bool:
    """Whether a variable is a measurement rather than a category."""
    return pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)


def _one_grouping(population: CountedPopulation) -> None:
    if len(population.grid) != 1:
        raise ValueError(f"population: wanted one grouping, got {len(population.grid)}; choose one with only()")


def _test_variable(population: CountedPopulation, values: pd.Series, rng: np.random.Generator) -> pd.DataFrame:
    measured = is_measurement(values)
    if measured:
        values = values.replace([np.inf, -np.inf], np.nan)
    known = values.notna().to_numpy()
    cluster = population.cluster[0][known]
    table = []
    for k in range(int(population.n_clusters[0])):
        test = (
            _test_measurement(values[known], cluster == k)
            if measured
            else _test_category(values[known], cluster == k, rng)
        )
        table.append({"cluster": k, "n": int(np.sum(cluster == k)), **test})
    frame = pd.DataFrame(table)
    frame["kind"] = "measurement" if measured else "category"
    frame["n_missing"] = int(np.sum(~known))
    frame["p_holm"] = holm(frame["p_value"].fillna(1.0).to_numpy())
    return frame


def _nothing() -> dict[str, object]:
    return {"effect": np.nan, "p_value": np.nan, "level": None, "inside": np.nan, "outside": np.nan}


def _test_measurement(values: pd.Series, inside: NDArray[np.bool_]) -> dict[str, object]:
    x = values.to_numpy(np.float64)
    n_in, n_out = int(inside.sum()), int((~inside).sum())
    if n_in == 0 or n_out == 0 or np.all(x == x[0]):
        return _nothing()
    test = stats.mannwhitneyu(x[inside], x[~inside])
    effect = 2.0 * float(test.statistic) / (n_in * n_out) - 1.0
    medians = {"inside": float(np.median(x[inside])), "outside": float(np.median(x[~inside]))}
    return {"effect": effect, "p_value": float(test.pvalue), "level": None, **medians}


def _test_category(values: pd.Series, inside: NDArray[np.bool_], rng: np.random.Generator) -> dict[str, object]:
    pooled = pool_rare(values)
    counts = pd.crosstab(pooled.to_numpy(object), inside)
    if counts.shape[0] < 2 or counts.shape[1] < 2:
        return _nothing()
    table = counts.to_numpy(np.int64)
    share = table / table.sum(axis=0)
    top = int(np.argmax(share[:, 1] - share[:, 0]))
    chi2 = _chi_square(table[None])[0]
    if stats.contingency.expected_freq(table).min() >= _MIN_EXPECTED:
        p_value = float(stats.chi2.sf(chi2, len(table) - 1))
    else:
        random = stats.random_table(table.sum(axis=1), table.sum(axis=0)).rvs(_N_RANDOM_TABLES, random_state=rng)
        p_value = float((1 + np.sum(_chi_square(random) >= chi2 * (1 - 1e-12))) / (1 + _N_RANDOM_TABLES))
    effect = float(np.sqrt(chi2 / table.sum()))
    shares = {"inside": float(share[top, 1]), "outside": float(share[top, 0])}
    return {"effect": effect, "p_value": p_value, "level": str(counts.index[top]), **shares}


def _chi_square(tables: NDArray) -> NDArray[np.float64]:
    """Pearson's statistic of (table, level, 2) counts with the same, nowhere empty margins."""
    expected = stats.contingency.expected_freq(tables[0])
    return ((tables - expected) ** 2 / expected).sum(axis=(1, 2))


def pool_rare(values: pd.Series) -> pd.Series:
    """Category labels with those of fewer than 5 units pooled as 'other'."""
    labels = values.astype(str)
    count = labels.map(labels.value_counts())
    return labels.where(count >= _MIN_LEVEL, "other")


@dataclass(frozen=True)
class Predictability:
    """How well something predicts a category of the volumes."""

    balanced_accuracy: float
    """Mean recall over the levels, in volumes of patients that were not learnt from; NaN with fewer than 2 levels."""
    chance: float
    """The same for guessing: 1 / number of levels."""
    n_levels: int
    """Levels with enough patients to be learnt."""
    n: int
    """Volumes used."""


def predictability(
    descriptors: NDArray[np.float64], category: pd.Series, patient: NDArray, seed: int = 0, n_folds: int = 5
) -> Predictability:
    """Cross-validated prediction of a category, e.g. the scanner, from volume descriptors, e.g. topics.

    Multinomial logistic regression on standardised columns with balanced classes; no patient is in both parts of a
    fold. Missing values are left out, and levels with fewer patients than twice the folds.

    Parameters
    ----------
    descriptors
        (volume, feature).
    category
        (volume,) labels in the same order.
    patient
        (volume,) patients in the same order.
    seed, n_folds
        Of the cross-validation.
    """
    patients = pd.Series(np.asarray(patient)).groupby(category.to_numpy(object)).nunique()
    levels = sorted(str(level) for level in patients.index[patients >= 2 * n_folds])
    labels = category.astype(object).where(category.notna(), None).map(lambda v: None if v is None else str(v))
    used = labels.isin(levels).to_numpy()
    if len(levels) < 2:
        return Predictability(np.nan, np.nan, len(levels), int(used.sum()))
    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=2000))
    folds = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    truth = labels[used].to_numpy(str)
    guess = cross_val_predict(model, descriptors[used], truth, groups=np.asarray(patient)[used], cv=folds)
    return Predictability(float(balanced_accuracy_score(truth, guess)), 1.0 / len(levels), len(levels), int(used.sum()))
