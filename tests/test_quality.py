"""Measures against slow references; planted failures end in a reason."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_registration import FAST, chest

from popclust.errors import VolumeError
from popclust.imaging.files import read_volume_file
from popclust.imaging.volume import Volume
from popclust.normalization.atlas import AtlasInput, build_atlas
from popclust.normalization.correspondence import SHIFT_MM, drops, middle_of, ncc, thinned
from popclust.normalization.normalized import normalize_volume
from popclust.normalization.preparation import prepare
from popclust.normalization.proportions import stretch_of_edges
from popclust.normalization.quality import (
    MAX_EDGE_SQUEEZE,
    MAX_EDGE_STRETCH,
    UNCHECKED,
    Evidence,
    Measures,
    Orientation,
    dice,
    failure_probability,
    measure,
    reject_reasons,
    rotation_of,
    telling,
)
from popclust.normalization.transform import AffineMap
from popclust.settings import AtlasSettings, NormalizeSettings

GOOD = Measures(
    ncc=0.6, region_ncc=0.95, lung_dice=0.95, lung_inside=0.97, folding=0.0, coverage=1.0, size_ratio=1.0,
    anisotropy=1.1, side_balance=0.95, rotation_degrees=3.0, bending=0.2, wall_ncc=0.75,
    mediastinum_ncc=0.7, sound_ncc=0.95, aerated=0.95, edge_stretch=0.0,
    shift_drop=0.7, turn_drop=0.6, stretch_drop=0.25,
)  # fmt: skip
SURE = Evidence(Orientation("upright", -0.2), 4.0)
LIMITS = NormalizeSettings()


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), gain=st.floats(0.1, 10), offset=st.floats(-100, 100))
def test_ncc_is_pearsons_r_and_bears_gain_and_offset(seed, gain, offset):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, 40))
    assert ncc(a, b) == pytest.approx(np.corrcoef(a, b)[0, 1], abs=1e-12)
    assert ncc(a, gain * b + offset) == pytest.approx(ncc(a, b), abs=1e-9)


def test_ncc_and_dice_of_nothing_are_zero():
    assert ncc(np.ones(5), np.arange(5.0)) == 0.0
    assert dice(np.zeros(3, bool), np.zeros(3, bool)) == 0.0


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_dice_against_counting(seed):
    a, b = np.random.default_rng(seed).random((2, 30)) < 0.5
    both = sum(x and y for x, y in zip(a, b, strict=True))
    assert dice(a, b) == pytest.approx(2 * both / max(a.sum() + b.sum(), 1))


def test_thinning_keeps_at_most_so_many_and_spreads_them():
    rows = np.arange(1000)[:, None]
    kept = thinned(rows, 300)
    assert len(kept) <= 300
    assert kept[-1] > 990


def test_the_rotation_of_a_stretched_rotation_is_found():
    angle = 0.4
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    np.testing.assert_allclose(rotation_of(turn * 1.7), turn, atol=1e-12)
    assert np.linalg.det(rotation_of(np.diag([1.0, 1.0, -1.0]))) == pytest.approx(1)


def test_measures_of_the_identity_are_perfect():
    prepared = prepare(chest(), 4.0)
    found = measure(prepared, prepared, AffineMap.translation([0, 0, 0]), prepared.lungs)
    assert found.ncc == pytest.approx(1) and found.region_ncc == pytest.approx(1)
    assert found.lung_dice == 1 and found.lung_inside == 1 and found.coverage == 1 and found.folding == 0
    assert found.size_ratio == pytest.approx(1) and found.anisotropy == pytest.approx(1)


def test_folding_and_size_of_known_maps():
    prepared = prepare(chest(), 4.0)
    flipped = measure(prepared, prepared, AffineMap(np.diag([1.0, 1.0, -1.0]), np.zeros(3)), prepared.lungs)
    assert flipped.folding == 1
    large = measure(prepared, prepared, AffineMap(np.diag([1.2, 1.2, 1.2]), np.zeros(3)), prepared.lungs)
    assert large.size_ratio == pytest.approx(1.2, rel=1e-6)
    assert large.coverage <= 1


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"ncc": -0.2}, "low_ncc"),
        ({"lung_dice": 0.2}, "low_lung_dice"),
        ({"lung_inside": 0.5}, "lung_outside"),
        ({"coverage": 0.01}, "low_coverage"),
        ({"side_balance": 0.2}, "one_sided"),
        ({"folding": 0.5}, "folding"),
        ({"size_ratio": 0.4}, "wrong_size"),
        ({"size_ratio": 2.2}, "wrong_size"),
        ({"anisotropy": 2.5}, "wrong_proportions"),
        ({"anisotropy": 1.7, "edge_stretch": 0.5}, "wrong_proportions"),
        ({"anisotropy": 1.7, "edge_stretch": -0.4}, "wrong_proportions"),
        ({"edge_stretch": -0.5}, "wrong_proportions"),
    ],
)
def test_each_broken_limit_has_its_reason(change, code):
    assert reject_reasons(GOOD, SURE, 0.0, LIMITS) == []
    assert reject_reasons(dataclasses.replace(GOOD, **change), SURE, 0.0, LIMITS) == [code]


@pytest.mark.parametrize("change", [{"anisotropy": 1.9}, {"edge_stretch": 0.5}, {"edge_stretch": -0.4}])
def test_a_shallow_breath_or_odd_edges_alone_are_no_reason(change):
    assert reject_reasons(dataclasses.replace(GOOD, **change), SURE, 0.0, LIMITS) == []


@pytest.mark.parametrize("name", ["lidc0001", "lidc0002", "nsclcrg_R01-001"])
def test_edges_tell_a_wrong_slice_distance(name: str, data_path: Callable[[str], Path]):
    volume = read_volume_file(str(data_path(f"ct/{name}.nii.gz")))

    def told(factor: float) -> float:
        z, y, x = volume.spacing_mm
        return stretch_of_edges(prepare(dataclasses.replace(volume, spacing_mm=(z * factor, y, x)), 4.0))

    assert abs(told(1.0)) < MAX_EDGE_STRETCH and told(0.45) < -MAX_EDGE_SQUEEZE
    for factor in (0.5, 0.6, 1.6, 2.0):
        assert told(factor) - told(1.0) == pytest.approx(np.log(factor), abs=0.3)


def test_where_there_are_no_edges_nothing_is_told():
    prepared = prepare(chest(), 4.0)
    flat = dataclasses.replace(prepared, image=prepared.image.with_values(np.zeros(prepared.image.shape, np.float32)))
    assert stretch_of_edges(flat) == 0.0
    tiny = dataclasses.replace(prepared, lungs=prepared.lungs.with_values(np.zeros(prepared.lungs.shape, bool)))
    assert stretch_of_edges(tiny) == 0.0


def test_orientation_and_probability_have_their_reasons():
    assert reject_reasons(GOOD, Evidence(Orientation("mirrored", 0.1, True), 4.0), 0.0, LIMITS) == ["mirrored"]
    assert reject_reasons(GOOD, Evidence(Orientation("mirrored", 0.1, False), 4.0), 0.0, LIMITS) == []
    assert reject_reasons(GOOD, Evidence(UNCHECKED, 0.0), 0.9, LIMITS) == ["likely_failed"]
    half = dataclasses.replace(GOOD, side_balance=0.1)
    assert reject_reasons(half, Evidence(Orientation("mirrored", 0.1, True)), 0.0, LIMITS) == ["one_sided"]


@settings(max_examples=40, deadline=None)
@given(share=st.floats(0, 1))
def test_a_worse_agreement_never_looks_safer(share):
    worse = dataclasses.replace(GOOD, wall_ncc=share * GOOD.wall_ncc, mediastinum_ncc=share * GOOD.mediastinum_ncc)
    before, after = (failure_probability(m) for m in (GOOD, worse))
    assert 0 <= before <= after <= 1


def test_a_map_is_held_against_wrong_ones():
    prepared = prepare(chest(), 4.0)
    nothing = prepared.lungs.with_values(np.zeros(prepared.lungs.shape, bool))
    here = AffineMap.translation([0.0, 0.0, 0.0])
    right = drops(prepared, prepared, here, nothing)["both"]
    assert min(right.shift, right.turn, right.stretch) > 0.1
    by_the_map_of_shifts = drops(prepared, prepared, AffineMap.translation([SHIFT_MM, 0.0, 0.0]), nothing)["both"]
    assert by_the_map_of_shifts.shift < 0 < right.shift  # one of the wrong maps takes it back


def test_the_most_telling_measures_are_said_in_words():
    odd = dataclasses.replace(GOOD, shift_drop=-0.2, wall_ncc=0.1)
    told = telling(odd)
    assert len(told) == 3
    assert told[0].startswith("chest wall") and "0.10" in told[0] and "shifted" in told[1]


def test_disease_of_the_lungs_alone_does_not_look_like_a_failure():
    ill = dataclasses.replace(GOOD, ncc=0.05, region_ncc=0.5, lung_dice=0.6, aerated=0.4)
    assert failure_probability(ill) == failure_probability(GOOD) < 0.05
    assert reject_reasons(ill, SURE, failure_probability(ill), LIMITS) == []


def _fluid(prepared):
    """The lungs' back half on one side."""
    _, y, x = np.indices(prepared.lungs.shape, sparse=True)
    _, middle_y, middle_x = np.array(prepared.lungs.shape) / 2
    return prepared.lungs.voxels & (y > middle_y) & (x > middle_x)


def test_fluid_in_a_lung_lowers_what_sees_it_and_not_what_does_not():
    whole = prepare(chest(), 4.0)
    volume = dataclasses.replace(whole, image=whole.image.with_values(np.where(_fluid(whole), 10, whole.image.voxels)))
    volume = dataclasses.replace(volume, lungs=whole.lungs.with_values(whole.lungs.voxels & ~_fluid(whole)))
    found = measure(whole, volume, AffineMap.translation([0, 0, 0]), whole.lungs)
    assert found.ncc < 0.5 and found.aerated < 0.8
    assert min(found.wall_ncc, found.mediastinum_ncc, found.sound_ncc) > 0.99


@pytest.fixture(scope="module")
def atlas():
    return build_atlas(AtlasInput("ref", chest()), (), AtlasSettings(spacing_mm=4.0), FAST).atlas


def _stretched(volume: Volume, factor: float) -> Volume:
    return Volume(volume.voxels, (factor * volume.spacing_mm[0], *volume.spacing_mm[1:]), volume.origin_mm)


@pytest.mark.parametrize(
    "volume",
    [
        Volume(np.zeros((50, 50, 50), np.int16), (4.0,) * 3),
        Volume(chest().voxels[30:31], (4.0,) * 3),
        _stretched(chest(), 2.2),
        chest().with_values(chest().voxels[:, ::-1].copy()),
        chest().with_values(np.random.default_rng(0).normal(-300, 400, chest().shape).astype(np.float32)),
    ],
    ids=["constant", "one_slice", "wrong_spacing", "face_down", "noise"],
)
def test_planted_failures_are_rejected(atlas, volume):
    try:
        quality = normalize_volume(volume, atlas, FAST).quality
    except VolumeError as error:
        assert "\n" not in error.message
        return
    assert not quality["accepted"]
    assert quality["reasons"]


def test_of_half_a_field_of_view_the_one_side_is_accepted(atlas):
    seen = chest()
    half = Volume(seen.voxels[:, :, : seen.shape[2] // 2].copy(), seen.spacing_mm, seen.origin_mm)
    found = normalize_volume(half, atlas, FAST)
    assert found.quality["accepted"] and found.quality["trusted"] == ["right"]
    assert "one_sided" in found.quality["reasons"]
    sampled = found.lung.index_to_mm(np.argwhere(found.lung.voxels))
    assert len(sampled) and found.to_atlas(sampled)[:, 2].max() <= middle_of(atlas.reference.lungs)
