"""Matching, the robust fit against known maps, and the search for duplicate subjects."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from popclust.features.sift3d import Keypoints
from popclust.imaging.volume import Volume
from popclust.normalization.keypoint_alignment import (
    Matches,
    chance_inliers,
    fit_rigid,
    match_keypoints,
    squared_distances,
)
from popclust.population import duplicates
from popclust.population.duplicates import find_duplicates, identifying_keypoints


def person(seed: int, n: int = 120) -> Keypoints:
    rng = np.random.default_rng(seed)
    return Keypoints(
        position_mm=rng.uniform(-150, 150, (n, 3)).astype(np.float32),
        scale_mm=rng.uniform(4, 12, n).astype(np.float32),
        diameter_mm=rng.uniform(16, 48, n).astype(np.float32),
        contrast=rng.choice([-1, 1], n).astype(np.int8),
        frame=Rotation.random(n, rng=rng).as_matrix().astype(np.float32),
        descriptor=rng.permuted(np.tile(np.arange(64, dtype=np.uint8), (n, 1)), axis=1),
    )


def seen_again(a: Keypoints, rotation, translation, scale=1.0, wrong=0.0, jitter_mm=0.0, seed=0) -> Keypoints:
    """The same keypoints under a similarity, some of them elsewhere, in another order."""
    rng = np.random.default_rng(seed)
    position = scale * a.position_mm @ rotation.T + translation + rng.normal(0, jitter_mm + 1e-9, (len(a), 3))
    lost = rng.random(len(a)) < wrong
    position[lost] = rng.uniform(-300, 300, (lost.sum(), 3))
    frame = np.einsum("nij,kj->nik", a.frame, rotation)
    frame[lost] = Rotation.random(max(1, lost.sum()), rng=rng).as_matrix()[: lost.sum()]
    b = Keypoints(
        position.astype(np.float32),
        (scale * a.scale_mm).astype(np.float32),
        (scale * a.diameter_mm).astype(np.float32),
        a.contrast,
        frame.astype(np.float32),
        a.descriptor,
    )
    return b.take(rng.permutation(len(a)))


@given(
    angles=st.tuples(*[st.floats(-3, 3)] * 3),
    shift=st.tuples(*[st.floats(-200, 200)] * 3),
    scale=st.sampled_from([1.0, 0.85, 1.2]),
)
@settings(max_examples=15, deadline=None)
def test_a_known_map_is_recovered_through_outliers(angles, shift, scale):
    a = person(0)
    rotation = Rotation.from_euler("xyz", angles).as_matrix()
    b = seen_again(a, rotation, np.array(shift), scale, wrong=0.6, jitter_mm=0.5)
    fit = fit_rigid(a, b, match_keypoints(a, b), 0, tolerance_mm=5.0, similarity=scale != 1.0)
    assert Rotation.from_matrix(fit.rotation.T @ rotation).magnitude() < np.deg2rad(1.0)
    assert fit.scale == pytest.approx(scale, rel=0.01)
    centre = np.zeros((1, 3))
    assert np.linalg.norm(fit(centre) - shift) < 1.0
    assert 35 <= fit.n_inliers <= 65
    assert fit.residual_mm < 2.0


def test_matches_are_mutual_and_of_one_sign():
    a, b = person(1), person(2)
    matches = match_keypoints(a, b)
    assert np.array_equal(a.contrast[matches.fixed], b.contrast[matches.moving])
    for i, j, d in zip(matches.fixed, matches.moving, matches.distance, strict=True):
        every = np.linalg.norm(b.descriptor.astype(float) - a.descriptor[i].astype(float), axis=1)
        assert every[j] == every[b.contrast == a.contrast[i]].min()
        assert d == pytest.approx(every[j], rel=1e-5)


def test_squared_distances_are_exact():
    a, b = person(3, 20).descriptor, person(4, 30).descriptor
    slow = ((a[:, None].astype(int) - b[None].astype(int)) ** 2).sum(-1)
    assert np.array_equal(squared_distances(a, b), slow)


def test_the_fit_repeats_and_ignores_the_order_of_frames():
    a = person(5)
    b = seen_again(a, Rotation.from_euler("z", 0.3).as_matrix(), np.array([5.0, 6.0, 7.0]), wrong=0.5, jitter_mm=2.0)
    matches = match_keypoints(a, b)
    one, two = fit_rigid(a, b, matches, 3), fit_rigid(a, b, matches, 3)
    assert one.rotation.tobytes() == two.rotation.tobytes()
    assert one.translation_mm.tobytes() == two.translation_mm.tobytes()


def test_chance_is_far_below_the_evidence():
    a = person(6)
    b = seen_again(a, np.eye(3), np.array([10.0, 0.0, 0.0]), wrong=0.5)
    matches = match_keypoints(a, b)
    assert fit_rigid(a, b, matches).n_inliers > 3 * chance_inliers(a, b, matches)


def test_what_cannot_be_fitted_is_refused():
    a = person(7, 2)
    with pytest.raises(ValueError, match="3 matched locations"):
        fit_rigid(a, a, match_keypoints(a, a))
    b = person(8)
    with pytest.raises(ValueError, match="tolerance_mm"):
        fit_rigid(b, b, match_keypoints(b, b), tolerance_mm=0.0)


def test_no_keypoints_no_matches():
    nobody = person(9).take(np.zeros(120, bool))
    assert len(match_keypoints(nobody, person(9))) == 0
    assert len(Matches(*[np.empty(0)] * 3)) == 0


def _population() -> dict[str, Keypoints]:
    """Twelve people; two of them were scanned again, one of them twice."""
    population = {f"v{i:02}": person(100 + i) for i in range(12)}
    for name, of, angle in (("twin", "v03", 0.1), ("later", "v03", 0.2), ("again", "v07", 0.15)):
        turn = Rotation.from_euler("xyz", (angle, 0.0, 0.1)).as_matrix()
        population[name] = seen_again(population[of], turn, np.array([3.0, 20.0, 0.0]), wrong=0.3, jitter_mm=1.0)
    return population


SAME = {("later", "twin"), ("later", "v03"), ("twin", "v03"), ("again", "v07")}


def test_the_same_person_is_found_among_others_however_often_scanned():
    pairs = find_duplicates(_population())
    assert {(p.volume_a, p.volume_b) for p in pairs} == SAME
    assert min(p.n_inliers for p in pairs) > 40


@pytest.mark.parametrize("newcomers", [["twin"], ["v03"], ["again", "later", "twin"], ["v00"]])
def test_what_is_found_depends_on_the_two_alone(newcomers: list[str]):
    population = _population()
    rest = {name: keypoints for name, keypoints in population.items() if name not in newcomers}
    whole = find_duplicates(population)
    assert find_duplicates(rest) == [p for p in whole if not {p.volume_a, p.volume_b} & set(newcomers)]


def test_one_person_under_several_ids_has_one():
    patient = pd.Series({"v1": "pc", "v2": "pb", "v3": "pa", "v4": "pd", "v5": "pc", "v6": "pe"})
    pairs = pd.DataFrame({"volume_a": ["v1", "v2", "gone"], "volume_b": ["v2", "v3", "v6"]})
    person = duplicates.one_id_per_person(patient, pairs)
    assert person.to_dict() == {"v1": "pa", "v2": "pa", "v3": "pa", "v4": "pd", "v5": "pa", "v6": "pe"}
    assert duplicates.one_id_per_person(patient, pairs.iloc[:0]).equals(patient.rename("same_person_as"))


def test_no_duplicates_among_one_or_none():
    nobody = person(9).take(np.zeros(120, bool))
    assert find_duplicates({}) == []
    assert find_duplicates({"a": person(0)}) == []
    assert find_duplicates({"a": person(0), "b": nobody}) == []


@pytest.mark.parametrize(
    ("jitter_mm", "turn_deg", "is_found"), [(1.0, 3.0, True), (8.0, 3.0, False), (1.0, 14.0, False)]
)
def test_one_body_has_the_same_things_in_the_same_places(jitter_mm: float, turn_deg: float, is_found: bool):
    a = person(10)
    bent = seen_again(a, np.eye(3), np.zeros(3), jitter_mm=jitter_mm)
    axes = np.random.default_rng(1).normal(size=(len(a), 3))
    turns = Rotation.from_rotvec(np.deg2rad(turn_deg) * axes / np.linalg.norm(axes, axis=1, keepdims=True)).as_matrix()
    b = dataclasses.replace(bent, frame=(bent.frame @ turns).astype(np.float32))
    assert bool(find_duplicates({"a": a, "b": b})) == is_found


def test_real_people_are_known_again_and_told_apart(data_path: Callable[[str], Path]):
    scans = {}
    for name in ("lidc0001", "lidc0002", "lungdx_a0002_B40f", "lungdx_a0002_B70f"):
        image = nib.as_closest_canonical(nib.load(data_path(f"ct/{name}.nii.gz")))
        hu = np.asarray(image.dataobj, np.float32)[::-1, ::-1].transpose(2, 1, 0)
        dx, dy, dz = map(float, image.header.get_zooms())
        scans[name] = identifying_keypoints(Volume(hu, (dz, dy, dx)))
    (pair,) = find_duplicates(scans)
    assert (pair.volume_a, pair.volume_b) == ("lungdx_a0002_B40f", "lungdx_a0002_B70f")
    assert pair.n_inliers > 100
