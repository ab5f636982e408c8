"""Landmark files, choosing templates from a cohort, building, saving and loading an atlas."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import zarr
from scipy import ndimage
from test_registration import FAST, chest

from popclust.dataflow.stages.atlas import Offer, checked_until
from popclust.dataflow.window import Outcome
from popclust.errors import InputError, VolumeError
from popclust.normalization.atlas import Atlas, AtlasInput, build_atlas
from popclust.normalization.cohort_choice import LungShape, choose_from_cohort, lung_shape
from popclust.normalization.landmarks import read_landmarks, shared
from popclust.normalization.normalized import Normalized, normalize_volume, normalized_from_given
from popclust.normalization.preparation import prepare
from popclust.normalization.template_choice import affine_candidates, choose, in_order, reach, search_templates
from popclust.normalization.transform import AffineMap
from popclust.presentation.atlas_figure import template_tiles, templates_figure
from popclust.presentation.style import to_png
from popclust.settings import AtlasSettings

POINTS = {"carina": (0.0, 10.0, 5.0), "apex": (80.0, 0.0, 60.0), "base": (-70.0, -5.0, -60.0)}
SETTINGS = AtlasSettings(spacing_mm=4.0)
PHANTOM = dataclasses.replace(FAST, max_failure_probability=1.0)
"""There is nothing between its lungs, neither fat nor windpipe, that could be compared."""


def moved(points, shift, scale):
    return {name: tuple(scale * np.asarray(p) + shift) for name, p in points.items()}


@pytest.fixture(scope="module")
def built():
    shift, scale = np.array([12.0, -8.0, 10.0]), 1.06
    template = AtlasInput("t1", chest(tuple(shift), scale), landmarks=moved(POINTS, shift, scale))
    return build_atlas(AtlasInput("ref", chest(), landmarks=POINTS), [template], SETTINGS, FAST)


def test_the_table_says_how_good_each_template_is(built):
    (row,) = built.table.to_dict("records")
    assert row["used"] and row["reasons"] == []
    assert row["n_landmarks"] == 3
    assert row["landmark_error_mm"] < 6
    assert row["lung_dice"] > 0.9
    assert [t.template_id for t in built.atlas.templates] == ["atlas", "t1"]


def organs(shift, scale):
    """The heart (1) and the spine (2) of `chest`."""
    volume = chest(tuple(shift), scale)
    labels = np.zeros(volume.shape, np.int16)
    labels[volume.voxels == 50], labels[volume.voxels == 400] = 1, 2
    return volume.with_values(labels)


def test_organs_of_both_are_compared_and_a_poor_overlap_refuses():
    shift, scale = np.array([12.0, -8.0, 10.0]), 1.06
    reference = AtlasInput("ref", chest(), organs=organs((0, 0, 0), 1.0))
    offered = AtlasInput("t1", chest(tuple(shift), scale), organs=organs(shift, scale))
    (row,) = build_atlas(reference, [offered], SETTINGS, FAST).table.to_dict("records")
    assert row["n_organs"] == 2 and row["organ_dice_min"] <= row["organ_dice"]
    assert row["organ_dice"] > 0.6 and row["used"]
    elsewhere = dataclasses.replace(offered, organs=organs(shift + 60, scale))
    refused = build_atlas(reference, [elsewhere], SETTINGS, FAST)
    assert list(refused.table["reasons"][0]) == ["low_organ_dice"]
    assert [t.template_id for t in refused.atlas.templates] == ["atlas"]
    assert [t.template_id for t in refused.registered] == ["t1"], "a person has to see what is refused"


def test_the_picture_shows_templates_where_the_atlas_is(built):
    template = built.registered[0]
    reference = built.atlas.reference
    tiles = template_tiles(reference.image, reference.lungs, template)
    both = tiles[2].astype(int)
    unmoved = dataclasses.replace(template, from_atlas=built.atlas.templates[0].from_atlas)
    astray = template_tiles(reference.image, reference.lungs, unmoved)[2].astype(int)
    assert np.abs(both[..., 0] - both[..., 1]).mean() < 0.7 * np.abs(astray[..., 0] - astray[..., 1]).mean()
    assert to_png(templates_figure(built)) == to_png(templates_figure(built))


def test_saving_and_loading_changes_nothing(built, tmp_path):
    built.save(str(tmp_path / "atlas"))
    again = Atlas.load(str(tmp_path / "atlas"))
    points = np.random.default_rng(0).uniform(-50, 50, (20, 3))
    for a, b in zip(built.atlas.templates, again.templates, strict=True):
        assert a.template_id == b.template_id and dict(a.landmarks) == dict(b.landmarks)
        np.testing.assert_array_equal(a.prepared.image.voxels, b.prepared.image.voxels)
        np.testing.assert_array_equal(a.prepared.lungs.voxels, b.prepared.lungs.voxels)
        np.testing.assert_array_equal(a.from_atlas(points), b.from_atlas(points))
        assert a.prepared.field_of_view_mm == b.prepared.field_of_view_mm
    assert pd.read_parquet(tmp_path / "atlas" / "templates.parquet")["template_id"].tolist() == ["t1"]


def test_no_atlas_is_one_clear_line(tmp_path):
    with pytest.raises(InputError, match="popclust atlas"):
        Atlas.load(str(tmp_path))


def test_a_template_over_the_limits_is_refused_unless_approved():
    wrong = {name: (z + 60.0, y, x) for name, (z, y, x) in POINTS.items()}
    offered = AtlasInput("t1", chest(), landmarks=wrong)
    no_pull = dataclasses.replace(FAST, landmark_weight=0.0)
    strict = build_atlas(AtlasInput("ref", chest(), landmarks=POINTS), [offered], SETTINGS, no_pull)
    assert len(strict.atlas.templates) == 1
    assert list(strict.table["reasons"][0]) == ["landmark_error"]
    approving = dataclasses.replace(SETTINGS, approved=("t1",))
    lenient = build_atlas(AtlasInput("ref", chest(), landmarks=POINTS), [offered], approving, no_pull)
    assert len(lenient.atlas.templates) == 2


def test_a_template_without_lungs_is_refused_and_the_rest_goes_on():
    empty = chest().with_values(np.where(chest().voxels < -500, 40, chest().voxels).astype(np.int16))
    result = build_atlas(AtlasInput("ref", chest()), [AtlasInput("blank", empty)], SETTINGS, FAST)
    assert list(result.table["reasons"][0]) == ["no_lung"]
    assert not result.table["used"][0]


def test_unknown_approval_and_repeated_names_are_refused():
    reference = AtlasInput("ref", chest())
    with pytest.raises(InputError, match=r"atlas\.approved"):
        build_atlas(reference, (), dataclasses.replace(SETTINGS, approved=("nobody",)), FAST)
    with pytest.raises(InputError, match="must differ"):
        build_atlas(reference, [AtlasInput("ref", chest())], SETTINGS, FAST)


def test_a_volume_is_normalized_both_ways_and_stored_in_equal_bytes(built, tmp_path):
    volume = chest((-10, 6, 4), 0.95)
    result = normalize_volume(volume, built.atlas, PHANTOM)
    assert result.quality["accepted"], result.quality
    assert set(result.ncc_of_templates) == {"atlas", "t1"}
    assert result.quality["start"] in ("search", "keypoints", "size")
    assert 0 < result.quality["inverse_error_mm"] < 0.5
    low, high = (np.array(result.quality[f"extent_{end}_mm"]) for end in ("low", "high"))
    corners = np.array([(-120, -100, -140), (120, 100, 140)]) / 0.95
    assert np.abs(np.stack([low, high]) - corners).max() < 25
    lungs = built.atlas.reference.lungs
    points = lungs.index_to_mm(np.argwhere(lungs.voxels)[::20])
    truth = points * 0.95 + (-10, 6, 4)
    assert np.linalg.norm(result.to_volume(points) - truth, axis=1).mean() < 4
    assert np.linalg.norm(result.to_atlas(result.to_volume(points)) - points, axis=1).mean() < 0.5
    for name in ("a", "b"):
        result.save(zarr.open_group(str(tmp_path / name), mode="w", zarr_format=3))
    files = [p.relative_to(tmp_path / "a") for p in sorted((tmp_path / "a").rglob("*")) if p.is_file()]
    assert files
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)
    again = Normalized.load(zarr.open_group(str(tmp_path / "a"), mode="r"))
    np.testing.assert_array_equal(again.lung.voxels, result.lung.voxels)
    np.testing.assert_array_equal(again.to_atlas(points), result.to_atlas(points))
    np.testing.assert_array_equal(again.rotation_to_atlas, result.rotation_to_atlas)
    assert dict(again.quality) == dict(result.quality)
    json.dumps(dict(again.quality), allow_nan=False)


def test_given_transforms_take_the_place_of_registration(built):
    volume = chest((-10, 6, 4), 0.95)
    registered = normalize_volume(volume, built.atlas, dataclasses.replace(FAST, check_orientation=False))
    given = normalized_from_given(volume, built.atlas, registered.to_volume, registered.to_atlas, PHANTOM)
    assert given.template_id == "given"
    assert given.quality["accepted"]
    np.testing.assert_array_equal(given.lung.voxels, registered.lung.voxels)
    assert given.quality["lung_dice"] == registered.quality["lung_dice"]


def test_full_search_registers_to_every_template(built):
    full = dataclasses.replace(FAST, search="full")
    result = normalize_volume(chest((5, 0, 0), 1.03), built.atlas, full)
    best = max(result.ncc_of_templates, key=lambda name: result.ncc_of_templates[name])
    assert result.template_id == best


@pytest.mark.parametrize(("sure_ncc", "n_registered"), [(0.0, 1), (1.0, 2)])
def test_a_pruned_search_goes_on_where_the_best_fits_badly(built, sure_ncc, n_registered):
    settings = dataclasses.replace(FAST, n_best=1, sure_ncc=sure_ncc)
    volume = prepare(chest((5, 0, 0), 1.03), 4.0)
    candidates = list(affine_candidates(volume, built.atlas, settings).values())
    ways, final_ncc = search_templates(candidates, volume, built.atlas, settings, 1.0)
    assert list(ways) == list(final_ncc) == [c.template.template_id for c in candidates[:n_registered]]


def test_the_next_template_is_tried_where_elastix_gives_up_on_the_first(built):
    volume = prepare(chest((5, 0, 0), 1.03), 4.0)
    near, far = affine_candidates(volume, built.atlas, FAST).values()
    far = dataclasses.replace(far, to_template=AffineMap.translation([5000, 0, 0]))
    ways, _ = search_templates([far, near], volume, built.atlas, FAST, 1.0)
    assert list(ways) == [near.template.template_id]
    with pytest.raises(VolumeError, match="could not register"):
        search_templates([far], volume, built.atlas, FAST, 1.0)


def test_a_template_is_as_promising_as_its_own_way_to_the_atlas(built):
    reached = reach(built.atlas)
    itself, *others = (t.template_id for t in built.atlas.templates)
    assert all(0.5 < reached[name] < 1 for name in others)
    assert reached[itself] == max(reached[name] for name in others)
    assert in_order({"a": 0.80, "b": 0.78, "c": 0.78}, {"a": 0.90, "b": 0.95, "c": 0.95}) == ["b", "c", "a"]


def test_among_equals_the_affine_order_decides():
    assert choose({"t3": 0.9500, "t1": 0.9503, "t2": 0.7}) == "t3"
    assert choose({"t3": 0.9500, "t1": 0.9603, "t2": 0.9}) == "t1"


# -- landmarks ------------------------------------------------------------------------------------------------------


def test_slicer_and_csv_files_give_the_same_points(tmp_path):
    fcsv = (
        "# Markups fiducial file version = 4.11\n# CoordinateSystem = RAS\n"
        "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n"
        "1,-5.0,-10.0,2.5,0,0,0,1,1,1,0,carina,,\n"
    )
    points = [{"id": "1", "label": "carina", "position": [5.0, 10.0, 2.5]}]
    markups = {"markups": [{"type": "Fiducial", "coordinateSystem": "LPS", "controlPoints": points}]}
    texts = {
        "a.fcsv": fcsv,
        "b.mrk.json": json.dumps(markups),
        "c.csv": "label,x_mm,y_mm,z_mm\ncarina,5,10,2.5\n",
        "d.csv": "name,x,y,z,coordinate_system\ncarina,-5,-10,2.5,RAS\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        assert read_landmarks(tmp_path / name) == {"carina": (2.5, 10.0, 5.0)}, name


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "x"),
        ("a.csv", "name,x,y\nq,1,2\n"),
        ("a.csv", "name,x,y,z\nq,1,2,far\n"),
        ("a.csv", "name,x,y,z\nq,1,2,nan\n"),
        ("a.csv", "name,x,y,z\nq,1,2,3\nq,4,5,6\n"),
        ("a.json", "{}"),
        ("a.json", "not json"),
    ],
)
def test_bad_landmark_files_are_one_clear_line(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=name):
        read_landmarks(tmp_path / name)


def test_a_missing_landmark_file_is_one_clear_line(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_landmarks(Path(tmp_path, "none.csv"))


def test_landmarks_pair_by_name():
    pairs = shared({"b": (1, 2, 3), "a": (4, 5, 6)}, {"a": (7, 8, 9), "c": (0, 0, 0)})
    assert pairs.names == ("a",)
    np.testing.assert_array_equal(pairs.second_mm, [[7, 8, 9]])
    assert shared({}, {}).first_mm.shape == (0, 3)


# -- choosing from the cohort ---------------------------------------------------------------------------------------


def _shape(radius: float, is_whole: bool = True) -> LungShape:
    grid = np.indices((48, 48, 48)) - 24
    return LungShape(np.packbits((grid**2).sum(0).ravel() < radius**2), is_whole)


def test_the_medoid_comes_first_and_the_next_covers_what_is_left():
    shapes = {"a": _shape(8), "b": _shape(8.5), "c": _shape(9), "d": _shape(16), "e": _shape(16.5)}
    chosen = choose_from_cohort(shapes, 2)
    assert chosen[0] in "abc"
    assert chosen[1] in "de"
    assert choose_from_cohort(dict(reversed(shapes.items())), 2) == chosen


def test_cut_lungs_are_never_chosen():
    assert choose_from_cohort({"a": _shape(9, False), "b": _shape(12)}, 3) == ["b"]
    with pytest.raises(InputError, match="whole lungs"):
        choose_from_cohort({"a": _shape(9, False)}, 3)


def test_a_coarse_volume_is_chosen_only_where_there_is_no_fine_one():
    coarse = dataclasses.replace(_shape(9), is_fine=False)
    assert choose_from_cohort({"a": coarse, "b": _shape(12), "c": coarse}, 3) == ["b"]
    assert choose_from_cohort({"a": coarse}, 3) == ["a"]
    assert not lung_shape(chest(spacing=4.0)).is_fine and lung_shape(chest(spacing=2.5)).is_fine


def test_the_healthier_half_is_chosen_by_both_measures():
    shapes = {name: dataclasses.replace(_shape(9 + i / 4), evenness=0.6) for i, name in enumerate("abcdefgh")}
    even, near = (dataclasses.replace(_shape(16), evenness=e, rib_gap_mm=g) for e, g in ((0.9, 30.0), (0.3, 0.0)))
    shapes |= {"x": even, "y": near}
    chosen = choose_from_cohort(shapes, 3)
    assert not {"x", "y"} & set(chosen)
    assert len(choose_from_cohort(shapes, 10)) == 10  # nobody is left out where so many are wanted


def test_disease_lowers_evenness_or_parts_lung_from_ribs():
    healthy = chest()
    rng = np.random.default_rng(0)
    holes = ndimage.gaussian_filter(rng.normal(0, 1, healthy.shape), 2.0)
    ill = np.where((healthy.voxels < -500) & (holes > 0.5 * holes.std()), -1000, healthy.voxels)
    assert lung_shape(healthy.with_values(ill)).evenness < lung_shape(healthy).evenness - 0.1


def test_a_refused_template_is_replaced_by_the_next():
    offers = [Offer(None, "", i, name, is_file=False) for i, name in enumerate("Aabcdef")]  # type: ignore[arg-type]
    batches = []

    def outcomes(function, calls):
        batches.append(list(calls))
        return [Outcome(k, {"used": k in "ace"}, "killed" if k == "f" else "") for k in calls]

    assert [o.key for o in checked_until(3, offers, outcomes)] == list("abcde")
    assert batches == [["a", "b", "c"], ["d"], ["e"]]
    assert [o.key for o in checked_until(4, offers, outcomes)] == list("abcdef")
    assert checked_until(0, offers, outcomes) == []


def test_shape_does_not_depend_on_where_the_patient_lies():
    a, b = (lung_shape(chest(shift)) for shift in ((0, 0, 0), (0, 8, -8)))
    assert a.is_whole and b.is_whole
    both = np.unpackbits(a.bits & b.bits).sum()
    assert both / np.unpackbits(a.bits).sum() > 0.95


def test_half_a_chest_is_not_whole():
    whole = chest()
    assert not lung_shape(type(whole)(whole.voxels[:30], whole.spacing_mm, whole.origin_mm)).is_whole
