"""The chain learnt again: who is learnt from, what runs agree on, and what is reported of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_study import make_study
from sklearn.metrics import adjusted_rand_score

from popclust import schema
from popclust.dataflow import repeating
from popclust.dataflow.stages import associate, repeat
from popclust.errors import DamagedError
from popclust.evaluation.chain_runs import examine_runs
from popclust.parts import Made
from popclust.population.clustering import group_volumes
from popclust.population.groupings import GRID, Groupings, agreed_of, read_groupings, read_repeats, runs_of
from popclust.population.repeats import (
    agreed_groups,
    agreement_of_runs,
    leading,
    learnt_from,
    stability_in_runs,
)
from popclust.population.vocabulary import VOCABULARIES, learn_vocabulary
from popclust.reported import AGREED, UNSTABLE
from popclust.study import Study


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


class SerialWork:
    """What the stages ask of a run, each call at once."""

    def __init__(self, study: Study) -> None:
        self.study = study

    def map(self, function: Callable[..., Any], calls: Mapping[str, tuple[Any, ...]]) -> dict[str, Any]:
        return {key: function(*arguments) for key, arguments in calls.items()}

    def once(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)

    def line(self, text: str, style: str = "") -> None:
        """Nobody reads it."""


def _write_features(study: Study, planted: pd.Series) -> list[str]:
    """Features of every volume that has words: mixtures of tissues by the planted group; a vocabulary of each kind."""
    rng = np.random.default_rng(0)
    ids = study.read_dataset("word_counts").volume.values.tolist()
    tissues, shapes = rng.normal(0, 1, (12, 6)), rng.integers(0, 64, (12, 64))
    profile = rng.dirichlet(np.full(12, 0.5), 4)
    for volume_id in ids:
        group = study.open_group("features", f"{volume_id}.zarr", mode="w")
        kind = int(planted[volume_id])
        tissue = rng.choice(12, 200, p=rng.dirichlet(40 * profile[kind] + 0.05))
        texture = (tissues[tissue] + rng.normal(0, 0.3, (200, 6))).astype(np.float32)
        sift = np.clip(shapes[tissue[:80]] + rng.integers(-4, 5, (80, 64)), 0, 63).astype(np.uint8)
        place = rng.normal(0, 50, (200, 3)).astype(np.float32)
        diameter = np.where(np.arange(80) < 40, 1.0, 1e3).astype(np.float32)
        features = {
            "haralick": texture,
            "haralick_position_mm": place,
            "sift": sift,
            "sift_position_mm": place[:80],
            "scale_mm": diameter / 4,
            "diameter_mm": diameter,
            "focal_mm": np.where(np.arange(200) < 3 * kind, 5.0, np.inf).astype(np.float32),
            "zones": np.ones((6, 4), np.uint32),
            "training_haralick": np.hstack([texture, place]),
            "training_micro_sift": np.hstack([sift[:40], place[:40]]).astype(np.float32),
            "training_macro_sift": np.hstack([sift[40:], place[40:80]]).astype(np.float32),
        }
        schema.write_group(group, "features", features, {"haralick_features": list("abcdef"), "volume_id": volume_id})
        study.publish("extract", "made", Made({}), volume_id, files=[f"features/{volume_id}.zarr"])
    for name in VOCABULARIES:
        rows = np.concatenate([study.open_group("features", f"{v}.zarr")[f"training_{name}"][...] for v in ids[:9]])
        words = learn_vocabulary(name, rows[:, :-3], rows[:, -3:], study.settings.vocabulary)
        words.save(study.open_group("vocabulary", f"{name}.zarr", mode="w"))
    study.publish("vocabulary", "made", Made({"words": {"haralick": {}}}))
    return ids


@pytest.fixture(scope="module")
def repeated(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A made-up study whose chain is learnt again three times, and reported."""
    few = {"n_words_haralick": 16, "n_words_micro_sift": 8, "n_words_macro_sift": 8}
    made = make_study(
        tmp_path_factory.mktemp("repeats") / "study",
        36,
        with_volumes=False,
        overrides={
            "repeat": {"n_runs": 3},
            "vocabulary": few,
            "topics": {"n_topics": 5, "n_iterations": 8},
            "cluster": {"n_clusters_max": 5, "descriptors": ["haralick", "lda"]},
            "associate": {"n_one_kind": 19},
        },
        numbers_of_clusters=range(2, 6),
    )
    study = made.study
    _write_features(study, made.planted)
    study.write_table("duplicates", schema.empty_table("duplicates"))
    study.publish("terms", "made", Made({"n_volumes_with_report": 31}))
    work: Any = SerialWork(study)
    study.publish("repeat", "made", repeat.build(work))
    study.publish("associate", "made", associate.build(work))
    return study


def test_a_run_reports_what_runs_of_the_chain_agree_on(repeated: Study):
    repeats = read_repeats(repeated)
    assert repeats is not None and not repeated.exists("repeats")
    assert repeats.cluster.sizes == {"run": 3, "grouping": 8, "volume": 34}
    patient = repeated.read_table("cohort").set_index("volume_id").loc[repeats.volume.values, "patient_id"].to_numpy()
    for learnt in repeats.learnt.values:
        assert 0 < learnt.sum() < 34 and set(patient[learnt]).isdisjoint(patient[~learnt])
    reported = repeated.reported
    assert reported.grouping.seed == AGREED and reported.grouping.descriptor == "lda"
    groupings = read_groupings(repeated)
    assert (groupings.grid["seed"] == AGREED).sum() == 8
    assert (groupings.table(reported.grouping)["cluster"] == reported.clusters["cluster"]).all()
    assert agreed_of(repeats).grid[GRID].duplicated().sum() == 0


def test_stability_is_that_of_the_whole_chain_with_its_choice_of_k(repeated: Study):
    repeats, reported = read_repeats(repeated), repeated.reported
    runs = runs_of(repeats, "lda")
    table = repeated.read_table("validity/repeats")
    assert len(table) == 3 and table["n_clusters"].between(2, 5).all()
    run, number = runs.grid["seed"], runs.grid["n_clusters"]
    rows = [((run == r.run) & (number == r.n_clusters)).to_numpy() for r in table.itertuples()]
    expected = stability_in_runs(
        reported.clusters["cluster"].to_numpy(), np.stack([runs.cluster[row][0] for row in rows])
    )
    assert reported.clusters.groupby("cluster")["stability"].first().to_numpy() == pytest.approx(expected)
    assert reported.unstable == tuple(np.flatnonzero(expected < UNSTABLE))
    structure = repeated.read_table("validity/structure").iloc[0]
    assert reported.has_groups == structure["has_groups"] == repeated.record("associate")["has_groups"]


def test_the_same_again_gives_the_same(repeated: Study):
    before = repeated.read_dataset("repeats")
    repeat.build(SerialWork(repeated))  # type: ignore[arg-type]
    assert before.identical(repeated.read_dataset("repeats"))


def test_features_that_were_changed_are_said_to_be(repeated: Study):
    volume_id = repeating.volumes_of(repeated)[0]
    group = repeated.open_group("features", f"{volume_id}.zarr", mode="r+")
    kept = group["haralick"][...]
    group["haralick"][...] = kept + 1
    with pytest.raises(DamagedError, match=volume_id):
        repeat.build(SerialWork(repeated))  # type: ignore[arg-type]
    group["haralick"][...] = kept
