"""The stage that looks for one person twice: what a task reads, and how much it is given."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.transform import Rotation
from test_keypoint_alignment import person, seen_again

from popclust.dataflow.stages.duplicates import STAGE, compare
from popclust.parts import Made
from popclust.population import duplicates
from popclust.study import Study

OF = {"v1": 1, "v2": 2, "v3": 1, "v4": 4, "v5": 2, "v6": 1}
"""Volumes, and whom they show."""


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Six volumes; the last is not included, the second is finished."""
    made = Study.create(str(tmp_path / "s"))
    turn = Rotation.from_euler("xyz", (0.1, 0.0, 0.1)).as_matrix()
    for volume_id, who in OF.items():
        keypoints = seen_again(person(who), turn, np.array([3.0, 20.0, 0.0]), jitter_mm=1.0, seed=int(volume_id[1]))
        keypoints.save(made.open_group("volumes", f"{volume_id}.keypoints.zarr", mode="w"))
        made.publish("ingest", "m", Made({}, output=f"images of {volume_id}"), volume_id)
    made.publish("duplicates", "m", Made({"pairs": []}), "v5")
    table = pd.DataFrame({"volume_id": list(OF), "included": [v != "v6" for v in OF]})
    table.to_parquet(buffer := BytesIO())
    made.write_bytes(buffer.getvalue(), "cohort.parquet")
    return made


def test_new_volumes_look_for_earlier_and_for_finished_ones(study: Study, monkeypatch: pytest.MonkeyPatch):
    def all_markers(*_: object) -> None:
        pytest.fail("a task reads the markers of the whole population")

    monkeypatch.setattr(Study, "markers", all_markers)
    found = {v: [(p["volume_a"], p["volume_b"]) for p in compare(study, [v])[v].record["pairs"]] for v in OF}
    assert found == {
        "v1": [],
        "v2": [("v2", "v5")],
        "v3": [("v1", "v3")],
        "v4": [],
        "v5": [("v2", "v5")],
        "v6": [("v1", "v6"), ("v3", "v6")],
    }
    (pair,) = compare(study, ["v3", "v4"])["v3"].record["pairs"]
    assert pair["contents"] == ["images of v1", "images of v3"]
    assert pair["n_inliers"] >= duplicates.MIN_INLIERS


@pytest.mark.parametrize(
    ("n_todo", "n_all", "size"), [(12, 12, 2), (20_000, 20_000, 256), (200_000, 200_000, 40), (3, 10**7, 1), (1, 0, 1)]
)
def test_a_task_is_not_longer_in_a_larger_population(n_todo: int, n_all: int, size: int):
    assert STAGE.volumes_of_task(n_todo, n_all) == size
    assert size == 1 or size * n_all <= STAGE.batch_pairs


def test_clear_matches_are_those_of_the_definition():
    rows = np.random.default_rng(0).integers(60, size=90)  # some locations have several rows
    a, b = person(3, 90), person(4, 90)
    a, b = a.take(rows), seen_again(a, np.eye(3), np.zeros(3)).take(rows[::-1])
    mixed = b.take(np.arange(45))
    for other in (b, mixed, mixed.take(np.flatnonzero(mixed.contrast > 0)), b.take(np.arange(0))):
        one, two = (duplicates._hold("v", k) for k in (a, other))
        found = duplicates._clear_matches(one, two)
        assert set(zip(found.fixed.tolist(), found.moving.tolist(), strict=True)) == _slowly(one, two)
    assert len(duplicates._clear_matches(*(duplicates._hold("v", k) for k in (a, b)))) > 10


def _slowly(a: duplicates._Held, b: duplicates._Held) -> set[tuple[int, int]]:
    """Mutual nearest rows of one sign, the first of equal ones, nearer by `MAX_RATIO` than all at other locations."""
    x, y = a.strongest, b.strongest
    apart = np.linalg.norm(x.descriptor[:, None].astype(float) - y.descriptor[None], axis=2)
    apart[x.contrast[:, None] != y.contrast] = np.inf
    found = set()
    for i in range(len(x)):
        for j in range(len(y)):
            if np.isfinite(apart[i, j]) and apart[i].argmin() == j and apart[:, j].argmin() == i:
                rivals = [*apart[i][b.location != b.location[j]], *apart[:, j][a.location != a.location[i]], np.inf]
                if apart[i, j] <= duplicates.MAX_RATIO * min(rivals):
                    found.add((i, j))
    return found
