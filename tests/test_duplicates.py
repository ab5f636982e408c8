"""The search for one person twice: keys, who meets by them, and how the tasks are cut."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from test_keypoint_alignment import person, seen_again

from popclust.dataflow import meeting
from popclust.features.sift3d import Keypoints
from popclust.population import duplicates
from popclust.population.duplicate_keys import MAX_PEOPLE, keys_of, pairs_that_share, share_of_keys
from popclust.study import Study

OF = {"v1": 1, "v2": 2, "v3": 1, "v4": 4, "v5": 2, "v6": 1}
"""Volumes, and whom they show."""
PATIENTS = {"v1": "pa", "v2": "pb", "v3": "pc", "v4": "pd", "v5": "pb", "v6": "pa"}
"""Under which pseudonyms: the second person always under the same."""


def _seen(volume_id: str) -> Keypoints:
    turn = Rotation.from_euler("xyz", (0.1, 0.0, 0.1)).as_matrix()
    shift = np.array([3.0, 20.0, 0.0])
    return seen_again(person(OF[volume_id]), turn, shift, jitter_mm=1.0, seed=int(volume_id[1]))


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Six volumes' keypoints."""
    made = Study.create(str(tmp_path / "s"))
    for volume_id in OF:
        _seen(volume_id).save(made.open_group("volumes", f"{volume_id}.keypoints.zarr", mode="w"))
    return made


def _found(study: Study, search: meeting.Search) -> list[dict[str, Any]]:
    for start in search.starts:
        meeting.write_keys(study, search, start)
    for share in [*range(search.n_shares), *range(search.n_shares)]:  # a task may be done twice
        meeting.meet(study, search, share)
    return [row for share in range(search.n_shares) for row in meeting.look(study, search, share)]


@pytest.mark.parametrize(("volumes_of_task", "n_shares"), [(6, 1), (1, 5), (2, 3)])
def test_people_under_two_pseudonyms_are_found_however_the_search_is_cut(
    study: Study, volumes_of_task: int, n_shares: int
):
    meeting.prepare(study, PATIENTS)
    rows = _found(study, meeting.Search(len(OF), volumes_of_task, n_shares))
    assert sorted((row["volume_a"], row["volume_b"]) for row in rows) == [("v1", "v3"), ("v3", "v6")]
    assert min(row["n_inliers"] for row in rows) >= duplicates.MIN_INLIERS


@pytest.mark.parametrize("volumes", [["v1"], ["v1", "v2"], ["v1", "v6"]])
def test_nobody_is_found_among_one_or_strangers(study: Study, volumes: list[str]):
    assert _found(study, meeting.prepare(study, {v: PATIENTS[v] for v in volumes})) == []


@pytest.mark.parametrize("n_volumes", [1, 12, 20_000, 10**6])
def test_no_task_grows_with_the_population(n_volumes: int):
    search = meeting.Search.of(n_volumes)
    assert search.starts[-1] < n_volumes <= search.starts[-1] + search.volumes_of_task
    assert search.volumes_of_task <= meeting.VOLUMES_OF_TASK
    assert n_volumes / search.n_shares <= meeting.VOLUMES_OF_SHARE


def test_keys_are_shared_by_what_looks_and_stands_alike():
    one, again, other = (set(keys_of(k).tolist()) for k in (_seen("v1"), _seen("v3"), _seen("v4")))
    assert len(one & again) > 100 * len(one & other)
    turn = Rotation.from_euler("x", 90, degrees=True).as_matrix().astype(np.float32)
    lying = _seen("v3")
    turned = set(keys_of(replace(lying, frame=lying.frame @ turn)).tolist())
    assert len(one & turned) < len(one & again) / 5


def test_shares_of_keys_are_even():
    keys = np.concatenate([keys_of(person(seed)) for seed in range(20)])
    sizes = np.bincount(share_of_keys(keys, 7), minlength=7)
    assert sizes.min() > 0.9 * sizes.mean()


def test_who_shares_keys_is_as_defined():
    rng = np.random.default_rng(2)
    person_of = np.sort(rng.integers(5, size=12)).astype(np.uint32)
    rows = np.unique(np.column_stack([rng.integers(30, size=90), rng.integers(12, size=90)]), axis=0)
    key, volume = rows[:, 0].astype(np.uint64), rows[:, 1].astype(np.uint32)
    wanted: Counter[tuple[int, int]] = Counter()
    for value in np.unique(key):
        for a, b in combinations(np.sort(volume[key == value]).tolist(), 2):
            wanted[a, b] += person_of[a] != person_of[b]
    shuffled = rng.permutation(len(key))
    found = pairs_that_share(key[shuffled], volume[shuffled], person_of)
    assert {(a, b): n for a, b, n in found.tolist()} == {pair: n for pair, n in wanted.items() if n}
    assert len(pairs_that_share(key[:0], volume[:0], person_of)) == 0


def test_a_key_of_too_many_people_says_nothing():
    for n in (MAX_PEOPLE, MAX_PEOPLE + 1):
        volume = np.arange(n, dtype=np.uint32)
        found = pairs_that_share(np.ones(n, np.uint64), volume, volume)
        assert len(found) == (n * (n - 1) // 2 if n == MAX_PEOPLE else 0)


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
