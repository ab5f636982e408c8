"""How the reported groups come back when the whole chain is learnt again, the choice of K repeated each time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score

from popclust.evaluation.associations import criterion_table, reported_grouping, run_tests
from popclust.evaluation.counting import CountedPopulation
from popclust.population.groupings import Groupings
from popclust.population.repeats import stability_in_runs
from popclust.settings import AssociateSettings

REPEATS = ["run", "n_learnt", "descriptor", "n_clusters", "agreement", "others"]
"""Columns of the table of runs."""


@dataclass(frozen=True)
class ChainRuns:
    """The reported groups in the runs of the chain."""

    table: pd.DataFrame
    """One row per run, columns :data:`REPEATS`."""
    stability: NDArray[np.float64]
    """(volume,) mean Jaccard overlap of the volume's group with its best match, over the runs."""


def numbers_chosen(runs: CountedPopulation, settings: AssociateSettings) -> list[int]:
    """The number of groups that reports choose in each run, by the rule that chose the reported one.

    Parameters
    ----------
    runs
        Units, terms and, of one descriptor, the groupings of the runs; the seed is the run.
    settings
        Of the study.
    """
    chosen = []
    for run in sorted(set(runs.grid["seed"])):
        own = runs.only((runs.grid["seed"] == run).to_numpy())
        criterion = criterion_table(own, run_tests(own, settings.alpha).Q, settings)
        chosen.append(reported_grouping(criterion, str(own.grid["descriptor"].iloc[0]), settings.choose_by).n_clusters)
    return chosen


def examine_runs(
    cluster: NDArray[np.integer], runs: Groupings, numbers: Sequence[int], n_learnt: Sequence[int]
) -> ChainRuns:
    """Compare the reported groups with those of every run.

    Parameters
    ----------
    cluster : (volume,) array of int
        The reported groups, in the order of the runs' volumes.
    runs : Groupings
        Groupings of the reported descriptor; the seed is the run.
    numbers : (run,) sequence of int
        Number of groups that each run chose.
    n_learnt : (run,) sequence of int
        Volumes that each run learnt from.
    """
    grid = runs.grid
    rows = [int(np.flatnonzero((grid["seed"] == r) & (grid["n_clusters"] == k))[0]) for r, k in enumerate(numbers)]
    own = runs.cluster[rows]
    among = np.array([[adjusted_rand_score(a, b) for b in own] for a in own])
    n_others = max(1, len(own) - 1)
    table = pd.DataFrame(
        {
            "run": np.arange(len(own)),
            "n_learnt": list(n_learnt),
            "descriptor": grid["descriptor"].iloc[0],
            "n_clusters": list(numbers),
            "agreement": [adjusted_rand_score(cluster, r) for r in own],
            "others": (among.sum(axis=1) - 1) / n_others if len(own) > 1 else np.nan,
        }
    )
    return ChainRuns(table[REPEATS], stability_in_runs(cluster, own)[cluster])
