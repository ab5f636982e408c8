"""The chain learnt again: who is learnt from, what runs agree on, and what is reported of it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import adjusted_rand_score
from small_study import N_VOLUMES

from popclust.dataflow.flow import Flow
from popclust.evaluation.chain_runs import examine_runs
from popclust.population.clustering import group_volumes
from popclust.population.groupings import GRID, Groupings, agreed_of, read_groupings, read_repeats, runs_of
from popclust.population.repeats import (
    agreed_groups,
    agreement_of_runs,
    leading,
    learnt_from,
    stability_in_runs,
)
from popclust.reported import AGREED


def test_a_run_learns_from_whole_patients():
    patients = [f"p{i // 3}" for i in range(60)]
    for run in range(5):
        learnt = learnt_from(patients, 0.8, 0, run)
        assert learnt.sum() == 48
        assert {p for p, taken in zip(patients, learnt, strict=True) if taken}.isdisjoint(
            p for p, taken in zip(patients, learnt, strict=True) if not taken
        )
    assert (learnt_from(patients, 0.8, 0, 1) == learnt_from(patients, 0.8, 0, 1)).all()
    assert (learnt_from(patients, 0.8, 0, 1) != learnt_from(patients, 0.8, 0, 2)).any()


@pytest.mark.parametrize("patients", [["a"], ["a", "b"], ["a"] * 50 + ["b", "c", "d"]])
def test_few_patients_or_one_with_nearly_all_volumes_are_learnt_from_enough(patients: list[str]):
    for run in range(8):
        assert 2 * learnt_from(patients, 0.5, 3, run).sum() >= len(patients)


def _runs(seed: int = 0, n: int = 60, noise: float = 1.2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Four kinds; descriptors of one chain, and those of eight runs side by side: each sees the kinds through noise."""
    rng = np.random.default_rng(seed)
    kind = np.arange(n) % 4
    place = np.eye(4)[kind] * 3
    seen = [place + noise * rng.normal(0, 1, place.shape) for _ in range(9)]
    return kind, seen[0], np.hstack([leading(s) for s in seen[1:]])


def test_groups_that_begin_with_what_runs_agree_on_are_nearer_the_truth_and_each_other():
    alone, agreed, found = [], [], []
    for seed in range(4):
        kind, own, pooled = _runs(seed)
        alone.append(adjusted_rand_score(kind, group_volumes(own, 4, 0).cluster))
        found.append(agreed_groups(pooled, own, 4))
        agreed.append(adjusted_rand_score(kind, found[-1].cluster))
        nearest = np.linalg.norm(own[:, None] - found[-1].centres[None], axis=2).argmin(axis=1)
        assert (nearest == found[-1].cluster).all()  # so that a new volume can be compared with the centres
        sizes = np.bincount(found[-1].cluster)
        assert (np.diff(sizes) <= 0).all()
    assert np.mean(agreed) >= np.mean(alone)


def test_agreement_where_fewer_volumes_differ_than_groups_are_wanted():
    same = np.zeros((9, 3))
    same[:3] = 1.0
    with pytest.warns(UserWarning, match="distinct clusters"):
        assert set(agreed_groups(leading(same), same, 3).cluster) <= {0, 1, 2}


def test_leading_directions_keep_distances_that_have_them():
    rng = np.random.default_rng(0)
    flat = rng.normal(0, 1, (30, 5)) @ rng.normal(0, 1, (5, 50))
    found = leading(flat)
    assert found.shape == (30, 20)
    slow = np.linalg.norm(flat[:, None] - flat[None], axis=2)
    assert np.linalg.norm(found[:, None] - found[None], axis=2) == pytest.approx(slow, abs=1e-3)


def test_stability_is_the_mean_best_jaccard_over_runs():
    cluster = np.array([0, 0, 0, 1, 1])
    runs = np.array([[0, 0, 0, 1, 1], [0, 0, 1, 1, 1]])
    assert stability_in_runs(cluster, runs) == pytest.approx([(1 + 2 / 3) / 2, (1 + 2 / 3) / 2])
    assert np.isnan(stability_in_runs(cluster, runs[:0])).all()
    assert agreement_of_runs(runs) == pytest.approx(adjusted_rand_score(*runs))
    assert np.isnan(agreement_of_runs(runs[:1]))


def test_the_table_of_runs_takes_each_at_the_number_it_chose():
    grid = pd.DataFrame({"descriptor": "lda", "n_clusters": [2, 2, 3, 3], "seed": [0, 1, 0, 1]})
    ids = np.array(["a", "b", "c", "d"], object)
    cluster = np.array([[0, 0, 1, 1], [0, 1, 0, 1], [0, 0, 1, 2], [0, 1, 2, 2]], np.int16)
    found = examine_runs(np.array([0, 0, 1, 1]), Groupings(grid, ids, cluster), [2, 3], [3, 4])
    assert found.table["n_clusters"].tolist() == [2, 3]
    assert found.table["agreement"].tolist() == pytest.approx([1.0, adjusted_rand_score([0, 0, 1, 1], [0, 1, 2, 2])])
    assert found.stability == pytest.approx([(1 + 0.5) / 2] * 2 + [1.0] * 2)


def test_a_run_reports_what_runs_of_the_chain_agree_on(finished: Flow):
    study = finished.study
    repeats = read_repeats(study)
    assert repeats is not None and not study.exists("repeats")
    assert repeats.cluster.sizes == {"run": 2, "grouping": repeats.sizes["grouping"], "volume": N_VOLUMES}
    cohort = study.read_table("cohort").set_index("volume_id")
    for learnt in repeats.learnt.values:
        patients = cohort.loc[repeats.volume.values, "patient_id"].to_numpy()
        assert set(patients[learnt]).isdisjoint(patients[~learnt])
    reported = study.reported
    assert reported.grouping.seed == AGREED
    groupings = read_groupings(study)
    assert (groupings.grid["seed"] == AGREED).sum() == repeats.sizes["grouping"]
    assert (groupings.table(reported.grouping)["cluster"] == reported.clusters["cluster"]).all()
    runs = runs_of(repeats, reported.grouping.descriptor)
    table = study.read_table("validity/repeats")
    assert len(table) == 2 and set(table["n_clusters"]) <= set(runs.grid["n_clusters"])
    run, number = runs.grid["seed"], runs.grid["n_clusters"]
    rows = [((run == r.run) & (number == r.n_clusters)).to_numpy() for r in table.itertuples()]
    chosen = np.stack([runs.cluster[row][0] for row in rows])
    expected = stability_in_runs(reported.clusters["cluster"].to_numpy(), chosen)
    assert reported.clusters.groupby("cluster")["stability"].first().to_numpy() == pytest.approx(expected)
    assert agreed_of(repeats).grid[GRID].duplicated().sum() == 0
