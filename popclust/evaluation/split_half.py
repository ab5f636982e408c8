"""K chosen on one half of the patients, tested on the other: the choice cannot flatter what it never saw."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from popclust.evaluation.associations import CellTests, criterion_table, reported_grouping, run_tests
from popclust.evaluation.counting import CountedPopulation
from popclust.evaluation.permutation import null_criterion
from popclust.settings import AssociateSettings

SPLIT_HALF = [
    *("chosen_on", "tested_on", "n_chosen", "n_tested", "descriptor", "n_clusters", "seed", "Q_chosen", "Q_tested"),
    *("n_replicated", "Q_null_mean", "Q_null_p95", "p_value"),
]
"""Columns of the table of halves."""


def split_half(population: CountedPopulation, settings: AssociateSettings) -> pd.DataFrame:
    """Choose the grouping on each half of the patients and test it on the other.

    Groups were formed on all volumes without a look at any report, so a half of the patients brings half of the
    reports and the groups stay. Both halves take both parts.

    Parameters
    ----------
    population
        Units, groups and terms.
    settings
        alpha, descriptor, n_permutations and seed.

    Returns
    -------
    DataFrame
        Two rows: chosen_on and tested_on ('first' or 'second' half), n_chosen and n_tested units, the grouping chosen,
        Q of that grouping on both halves, n_replicated (significant on both, in the same direction), and the null of
        Q_tested with its p, which needs no correction for the choice.
    """
    first = halves(population, settings.seed)
    parts = {"first": population.take(first), "second": population.take(~first)}
    rows = [
        _choose_and_test(parts, chosen, tested, settings)
        for chosen, tested in (("first", "second"), ("second", "first"))
    ]
    return pd.DataFrame(rows)[SPLIT_HALF]


def halves(population: CountedPopulation, seed: int) -> NDArray[np.bool_]:
    """(unit,) whether the unit's patient is in the first half; the larger half where patients are odd in number."""
    patients = np.unique(population.patient)
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,)))
    chosen = rng.permutation(patients)[: (patients.size + 1) // 2]
    return np.isin(population.patient, chosen)


def _choose_and_test(
    parts: dict[str, CountedPopulation], chosen_on: str, tested_on: str, settings: AssociateSettings
) -> dict[str, object]:
    chosen, tested = parts[chosen_on], parts[tested_on]
    criterion = criterion_table(chosen, run_tests(chosen, settings.alpha).Q, settings)
    grouping = reported_grouping(criterion, settings.descriptor, settings.choose_by)
    row: dict[str, object] = {
        "chosen_on": chosen_on,
        "tested_on": tested_on,
        "n_chosen": chosen.n_units,
        "n_tested": tested.n_units,
        "descriptor": grouping.descriptor,
        "n_clusters": grouping.n_clusters,
        "seed": grouping.seed,
    }
    return row | _test(chosen.only(grouping.rows(chosen.grid)), tested.only(grouping.rows(tested.grid)), settings)


def _test(chosen: CountedPopulation, tested: CountedPopulation, settings: AssociateSettings) -> dict[str, object]:
    before, after = run_tests(chosen, settings.alpha), run_tests(tested, settings.alpha)
    Q = int(after.Q[0])
    null = null_criterion(tested, settings.alpha, settings.seed, 0, settings.n_permutations)[:, 0]
    has_null = null.size > 0
    return {
        "Q_chosen": int(before.Q[0]),
        "Q_tested": Q,
        "n_replicated": int(
            np.sum(_signed(chosen, before, settings.alpha) * _signed(tested, after, settings.alpha) > 0)
        ),
        "Q_null_mean": float(null.mean()) if has_null else np.nan,
        "Q_null_p95": float(np.percentile(null, 95)) if has_null else np.nan,
        "p_value": float((1 + np.sum(null >= Q)) / (1 + null.size)) if has_null else np.nan,
    }


def _signed(population: CountedPopulation, tests: CellTests, alpha: float) -> NDArray[np.float64]:
    """(group, term) 1 or -1 where significantly more or less frequent, else 0."""
    expected = np.outer(tests.R, population.has_term.sum(axis=0)) / population.n_units
    return np.where(tests.p_holm <= alpha, np.sign(tests.V - expected), 0.0)
