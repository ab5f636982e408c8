"""A chest of which one side is right is accepted in part, and that side alone is sampled."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from test_registration import FAST, chest

from popclust.normalization.correspondence import likeness_of_parts, middle_of
from popclust.normalization.preparation import prepare
from popclust.normalization.quality import OF_THE_WHOLE, UNCHECKED, Evidence, filled_of, measure, reject_reasons
from popclust.normalization.sides import SIDES, Side, left_of, sides_of, trusted_sides
from popclust.normalization.transform import AffineMap
from popclust.settings import NormalizeSettings

LIMITS = NormalizeSettings()
RIGHT = Side(coverage=1.0, lung_dice=0.95, lung_inside=0.97, failure_probability=0.02)
HERE = AffineMap.translation([0.0, 0.0, 0.0])


def judged(reference, volume, lung):
    alike = likeness_of_parts(reference, volume, HERE, filled_of(volume, lung))
    return alike, sides_of(reference, volume, HERE, left_of(reference, HERE, volume.lungs), lung, alike)


def test_the_sides_of_a_chest_on_itself_are_both_right():
    prepared = prepare(chest(), 4.0)
    alike, sides = judged(prepared, prepared, prepared.lungs)
    assert all(side.coverage == side.lung_dice == side.lung_inside == 1 for side in sides.values())
    both = measure(prepared, prepared, HERE, prepared.lungs)
    assert both.wall_ncc == alike["both"].wall_ncc and both.turn_drop == alike["both"].turn_drop
    assert trusted_sides([], sides, LIMITS) == list(SIDES)


def test_what_befalls_one_side_is_not_seen_in_the_other():
    whole = prepare(chest(), 4.0)
    left = left_of(whole, HERE, whole.lungs).voxels
    noise = np.random.default_rng(0).normal(-300, 400, left.shape).astype(np.float32)
    spoilt = dataclasses.replace(
        whole,
        image=whole.image.with_values(np.where(left, noise, whole.image.voxels)),
        lungs=whole.lungs.with_values(whole.lungs.voxels & ~left),
    )
    before, after = (judged(whole, volume, whole.lungs) for volume in (whole, spoilt))
    # the smoothing over a voxel or two at the middle aside
    assert after[0]["right"].wall_ncc == pytest.approx(before[0]["right"].wall_ncc, abs=0.02)
    assert after[0]["left"].wall_ncc < 0.5
    assert after[1]["right"].lung_dice > 0.95 and after[1]["left"].lung_dice < 0.05
    assert trusted_sides(["low_lung_dice", "likely_failed"], after[1], LIMITS) in (["right"], [])


@pytest.mark.parametrize(
    "change",
    [{"coverage": 0.3}, {"lung_dice": 0.3}, {"lung_inside": 0.3}, {"failure_probability": 0.9}],
    ids=lambda change: next(iter(change)),
)
def test_one_side_is_kept_where_the_other_breaks_a_limit(change):
    sides = {"right": RIGHT, "left": dataclasses.replace(RIGHT, **change)}
    assert trusted_sides(["likely_failed"], sides, LIMITS) == ["right"]
    assert trusted_sides(["one_sided"], dict(zip(SIDES, reversed(sides.values()), strict=True)), LIMITS) == ["left"]
    for code in OF_THE_WHOLE:
        assert trusted_sides([code, "one_sided"], sides, LIMITS) == []


def test_nothing_is_kept_where_the_sides_contradict_the_whole():
    assert trusted_sides(["likely_failed"], dict.fromkeys(SIDES, RIGHT), LIMITS) == []
    broken = dataclasses.replace(RIGHT, lung_dice=0.1)
    assert trusted_sides(["likely_failed"], dict.fromkeys(SIDES, broken), LIMITS) == []


def test_half_a_field_of_view_is_a_side():
    whole = prepare(chest(), 4.0)
    seen = chest()
    half = seen.shape[2] // 2 + 4
    cut = prepare(dataclasses.replace(seen, voxels=seen.voxels[:, :, :half].copy()), 4.0)
    lung = cut.lungs
    alike, sides = judged(whole, cut, lung)
    measures = measure(whole, cut, HERE, lung, alike["both"])
    reasons = reject_reasons(measures, Evidence(UNCHECKED), 0.0, FAST)
    assert "one_sided" in reasons
    assert sides["right"].coverage > 0.9 and sides["left"].coverage < 0.5
    assert middle_of(whole.lungs) == pytest.approx(0.0, abs=200.0)
