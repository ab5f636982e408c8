"""Maps without elastix, registration of small made volumes, starts, orientation, bad input."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popclust.errors import VolumeError
from popclust.imaging.volume import Volume, crop
from popclust.normalization import elastix
from popclust.normalization.preparation import on_grid, prepare
from popclust.normalization.registration import _channels, register_affine, register_nonlinear, register_pair
from popclust.normalization.start import explained, extent_in, find_starts, is_cut_off, search_start, size_start
from popclust.normalization.steps import BENDING, METRICS, Channel, free_form
from popclust.normalization.transform import (
    AffineMap,
    BSplineMap,
    ChainMap,
    DisplacementField,
    inverse_field,
    inverted,
    jacobian_determinants,
)
from popclust.settings import NormalizeSettings

FAST = NormalizeSettings(n_resolutions=2, n_iterations=30, n_samples=1000, grid_spacing_mm=30.0, edge_weight=0.0)


def chest(shift_mm: tuple[float, float, float] = (0, 0, 0), scale: float = 1.0, spacing: float = 4.0) -> Volume:
    """Two ellipsoidal lungs with a heart between, a spine and three vessels, in a body."""
    shape = tuple(round(e / spacing) for e in (240, 200, 280))
    origin = tuple(-(n - 1) / 2 * spacing for n in shape)
    grid = np.indices(shape).astype(float) * spacing + np.reshape(origin, (3, 1, 1, 1))
    z, y, x = (grid - np.reshape(shift_mm, (3, 1, 1, 1))) / scale
    hu = np.full(shape, -1000.0)
    hu[(y / 90) ** 2 + (x / 130) ** 2 < 1] = 30
    for side, depth in ((-1, 95), (1, 88)):
        lung = (z / depth) ** 2 + (y / 60) ** 2 + ((x - side * 62) / 42) ** 2 < 1
        hu[lung] = -850 + 0.4 * y[lung]
        for height in (-40, 0, 40):
            hu[lung & ((z - height) ** 2 + (y - 10) ** 2 < 36)] = 0
    hu[(((z + 30) / 50) ** 2 + ((y + 25) / 35) ** 2 + ((x - 20) / 35) ** 2) < 1] = 50
    hu[(y - 70) ** 2 + x**2 < 144] = 400
    return Volume(hu.astype(np.int16), (spacing,) * 3, origin)


@pytest.fixture(scope="module")
def fixed():
    return prepare(chest(), 4.0)


@pytest.fixture(scope="module")
def moving():
    return prepare(chest((12, -8, 10), 1.06), 4.0)


def bspline(rng: np.random.Generator) -> BSplineMap:
    return BSplineMap(rng.normal(0, 4, (3, 8, 8, 8)), (25.0, 25.0, 25.0), (-90.0, -90.0, -90.0))


def test_bspline_is_what_elastix_evaluates(fixed, moving):
    """Our chain against ITK's own transform, made of the same parameters."""
    import itk

    chain = register_pair(fixed, moving, FAST, start=AffineMap.translation([10, -8, 10]))
    points = np.random.default_rng(0).uniform(-60, 60, (200, 3))
    ours = chain.maps[-1](points)
    theirs = _itk_bspline(chain.maps[-1], itk)
    expected = np.array([list(theirs.TransformPoint(p[::-1].tolist()))[::-1] for p in points])
    np.testing.assert_allclose(ours, expected, atol=1e-3)
    assert np.abs(ours - points).max() > 0.1


def _itk_bspline(ours: BSplineMap, itk):
    """itk::BSplineTransform on the same control points."""
    transform = itk.BSplineTransform[itk.D, 3, 3].New()
    size = np.array(ours.coefficients_mm.shape[1:][::-1])
    spacing = np.array(ours.spacing_mm[::-1])
    transform.SetTransformDomainMeshSize((size - 3).tolist())
    transform.SetTransformDomainOrigin((np.array(ours.origin_mm[::-1]) + spacing).tolist())
    transform.SetTransformDomainPhysicalDimensions(((size - 3) * spacing).tolist())
    values = ours.coefficients_mm[::-1].ravel()
    parameters = itk.OptimizerParameters[itk.D](len(values))
    for i, value in enumerate(values):
        parameters.SetElement(i, float(value))
    transform.SetParameters(parameters)
    return transform


@pytest.mark.parametrize("angles", [(0.1, 0.2, -0.3), (0.0, 0.0, 0.5)])
def test_euler_parameters_mean_what_itk_means(angles):
    import itk

    transform = itk.Euler3DTransform[itk.D].New()
    transform.SetRotation(*angles)
    transform.SetTranslation([1.0, 2.0, 3.0])
    parameters = {
        "Transform": ["EulerTransform"],
        "TransformParameters": [repr(v) for v in (*angles, 1.0, 2.0, 3.0)],
        "CenterOfRotationPoint": ["0", "0", "0"],
    }
    point = np.array([[5.0, -7.0, 11.0]])
    expected = np.array(transform.TransformPoint(point[0, ::-1].tolist()))[::-1]
    np.testing.assert_allclose(elastix.to_map(parameters)(point)[0], expected, atol=1e-9)


def test_affine_parameters_and_back():
    rng = np.random.default_rng(1)
    affine = AffineMap(rng.normal(size=(3, 3)), rng.normal(size=3))
    again = elastix.to_map(elastix.affine_parameters(affine))
    points = rng.normal(size=(10, 3))
    np.testing.assert_allclose(again(points), affine(points), rtol=1e-12)


def test_unknown_transform_is_refused():
    with pytest.raises(ValueError, match="SplineKernelTransform"):
        elastix.to_map(
            {"Transform": ["SplineKernelTransform"], "TransformParameters": ["0"], "CenterOfRotationPoint": ["0"] * 3}
        )


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_inverse_undoes_the_map(seed):
    rng = np.random.default_rng(seed)
    affine = AffineMap(np.eye(3) + rng.normal(0, 0.08, (3, 3)), rng.normal(0, 50, 3))
    chain = ChainMap((bspline(rng), affine))
    points = rng.uniform(-60, 60, (100, 3))
    target = chain(points)
    back = inverted(chain, target, AffineMap.fitted(target, points))
    assert np.linalg.norm(chain(back) - target, axis=1).max() < 0.01


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_jacobian_of_an_affine_map_is_its_determinant(seed):
    rng = np.random.default_rng(seed)
    affine = AffineMap(rng.normal(size=(3, 3)), rng.normal(size=3))
    found = jacobian_determinants(affine, rng.normal(size=(5, 3)))
    np.testing.assert_allclose(found, np.linalg.det(affine.matrix), atol=1e-6)


def test_field_over_a_box_covers_it_and_follows_the_map():
    affine = AffineMap(np.diag([1.1, 0.9, 1.0]), np.array([3.0, 4.0, 5.0]))
    field = DisplacementField.over_box(affine, [(0, 0, 0), (33, 20, 10)], 5.0)
    nodes = field.nodes_mm()
    assert (nodes.min(0) <= 0).all() and (nodes.max(0) >= (33, 20, 10)).all()
    points = np.random.default_rng(0).uniform((0, 0, 0), (33, 20, 10), (50, 3))
    np.testing.assert_allclose(field(points), affine(points), atol=1e-4)


def test_a_known_map_between_two_chests_is_found(fixed, moving):
    chain = register_pair(fixed, moving, FAST)
    points = fixed.lungs.index_to_mm(np.argwhere(fixed.lungs.voxels))
    error = np.linalg.norm(chain(points) - (points * 1.06 + (12, -8, 10)), axis=1)
    assert error.mean() < 3.0


def test_same_bits_after_other_registrations_and_in_a_fresh_process(fixed, moving):
    code = (
        "from tests.test_registration import *\n"
        "print(digest(prepare(chest(), 4.0), prepare(chest((12, -8, 10), 1.06), 4.0)))"
    )
    first = digest(fixed, moving)
    register_affine(moving, fixed, [AffineMap.translation([0, 0, 0])], FAST)
    assert digest(fixed, moving) == first
    fresh = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert fresh.stdout.strip() == first


def digest(fixed, moving) -> str:
    chain = register_nonlinear(fixed, moving, AffineMap.translation([12, -8, 10]), FAST)
    return hashlib.sha256(chain.maps[-1].coefficients_mm.tobytes()).hexdigest()


@pytest.mark.parametrize("low", [0, 12, 26])
def test_a_fragment_is_placed_where_it_was_cut(fixed, low):
    whole = chest()
    cut = whole.voxels[14 + low // 2 : 34 + low // 2]
    part = prepare(Volume(cut, whole.spacing_mm, (50.0, 20.0, -30.0)), 4.0)
    start = search_start(part, fixed)
    z = whole.origin_mm[0] + (14 + low // 2) * 4.0
    expected = np.array([z - 50.0, whole.origin_mm[1] - 20.0, whole.origin_mm[2] + 30.0])
    assert np.abs(start.to_template.offset_mm - expected).max() < 8.0
    assert abs(extent_in(start.to_template, part).low_mm[0] - z) < 8.0


def test_the_start_that_explains_more_comes_first_and_all_are_judged_alike(fixed, moving):
    starts = find_starts(moving, fixed)
    assert {s.method for s in starts} <= {"search", "keypoints", "size"}
    assert [s.score for s in starts] == sorted((s.score for s in starts), reverse=True)
    truth = AffineMap(np.eye(3) / 1.06, -np.array([12.0, -8.0, 10.0]) / 1.06)
    assert explained(moving, fixed, [truth])[0] > starts[0].score


def test_lungs_of_another_size_begin_scaled(fixed):
    small = prepare(chest((10, 5, -5), 0.75), 4.0)
    found = size_start(small, fixed)
    points = fixed.lungs.index_to_mm(np.argwhere(fixed.lungs.voxels))
    errors = np.linalg.norm(found(0.75 * points + (10, 5, -5)) - points, axis=1)
    assert errors.max() < 8.0
    assert find_starts(small, fixed)[0].method == "size"


def test_a_lost_optimiser_does_not_have_the_last_word(fixed, moving):
    """From a hopeless start the other one wins."""
    far = AffineMap.translation([0, 0, 140])
    near = AffineMap.translation([-12, 8, -10])
    found = register_affine(moving, fixed, [far, near], FAST)
    points = moving.lungs.index_to_mm(np.argwhere(moving.lungs.voxels))
    assert np.linalg.norm(found(points) - (points - (12, -8, 10)) / 1.06, axis=1).mean() < 4.0


def test_stretch_is_taken_back_around_a_point():
    affine = AffineMap(np.diag([0.7, 1.0, 1.1]), np.array([3.0, 4.0, 5.0]))
    centre = np.array([10.0, -20.0, 30.0])
    for power, stretches in ((0.0, [1, 1, 1]), (0.5, np.sqrt([0.7, 1.0, 1.1])), (1.0, [0.7, 1.0, 1.1])):
        relaxed = affine.with_stretch(power, centre)
        np.testing.assert_allclose(relaxed.matrix, np.diag(stretches), atol=1e-12)
        np.testing.assert_allclose(relaxed(centre), affine(centre), atol=1e-12)


def test_only_what_lies_far_from_the_ends_of_the_field_of_view_is_far():
    whole = chest()
    part = prepare(Volume(whole.voxels[30:], whole.spacing_mm, (0.0, -98.0, -138.0)), 4.0)
    z = 4.0 * np.arange(part.image.shape[0])
    assert part.far_from_ends(16.0).voxels.any(axis=(1, 2)).tolist() == ((z >= 16) & (z <= 116 - 16)).tolist()
    assert part.far_from_ends(0.0).voxels.all()


def test_a_cut_off_lung_is_registered_where_it_was_cut(fixed):
    """An affine start that squeezes what is left does not last."""
    whole = chest()
    part = prepare(Volume(whole.voxels[12:34], whole.spacing_mm, whole.origin_mm), 4.0)
    shift = np.array([12 * 4.0, 0.0, 0.0])
    points = part.lungs.index_to_mm(np.argwhere(part.lungs.voxels))
    squeezed = AffineMap(np.diag([0.7, 1.0, 1.0]), np.zeros(3))
    squeezed = AffineMap(squeezed.matrix, points.mean(axis=0) + shift - squeezed(points.mean(axis=0)))
    settings = replace(FAST, edge_weight=10.0, n_iterations=100)
    found = register_nonlinear(part, fixed, squeezed, settings)
    error = np.linalg.norm(found(points) - points - shift, axis=1).mean()
    assert error < 0.5 * np.linalg.norm(squeezed(points) - points - shift, axis=1).mean()


def test_vessels_take_part_in_the_coarse_levels_of_cut_off_lungs_alone(fixed):
    whole = chest()
    part = prepare(Volume(whole.voxels[12:34], whole.spacing_mm, whole.origin_mm), 4.0)
    start, five_levels = AffineMap.translation([48.0, 0, 0]), replace(FAST, n_resolutions=5)
    cut, uncut = (_channels(v, fixed, s, five_levels, with_points=False) for v, s in ((part, start), (fixed, start)))
    assert [c.metric for c in cut if c.mask is part.lungs] == ["AdvancedNormalizedCorrelation"]
    assert [c.weight for c in cut] == [1.0, [1.0, 1.0, 0.0, 0.0, 0.0], FAST.bending_weight]
    assert [c.weight for c in uncut] == [1.0, FAST.bending_weight]
    one_level = _channels(part, fixed, start, replace(FAST, n_resolutions=1), with_points=False)
    assert [c.weight for c in one_level] == [1.0, FAST.bending_weight]


def test_a_fragment_thinner_than_its_two_unknown_ends_is_registered(fixed):
    whole = chest()
    part = prepare(Volume(whole.voxels[20:31], whole.spacing_mm, whole.origin_mm), 4.0)
    points, shift = part.lungs.index_to_mm(np.argwhere(part.lungs.voxels)), np.array([80.0, 0.0, 0.0])
    assert not part.far_from_ends(24.0).voxels.any()
    found = register_nonlinear(part, fixed, AffineMap.translation(shift + 6.0), replace(FAST, edge_weight=10.0))
    assert np.linalg.norm(found(points) - points - shift, axis=1).mean() < 6.0


def test_a_sparse_mask_is_sampled(fixed, moving):
    corners = np.zeros(fixed.image.shape, bool)
    corners[:6, :8, :8] = corners[-6:, -8:, -8:] = True
    everywhere = fixed.image.with_values(np.ones(corners.shape, bool))
    channels = [
        Channel(METRICS["mi"], 1.0, fixed.image, moving.image, fixed.near_lungs(20.0)),
        Channel(METRICS["squares"], [0.0, 1.0], fixed.edge, moving.edge, everywhere.with_values(corners)),
        Channel(BENDING, 100.0, fixed.image, moving.image, everywhere),
    ]
    start = AffineMap.translation((0.0, 0.0, 0.0))
    sparse = free_form(channels, start, FAST)
    assert np.abs(sparse([[0.0, 0.0, 62.0]]) - [[12.0, -8.0, 62 * 1.06 + 10]]).max() < 8
    np.testing.assert_array_equal(sparse([[0.0, 0.0, 62.0]]), free_form(channels, start, FAST)([[0.0, 0.0, 62.0]]))


def test_the_inverse_field_leads_back(fixed):
    wave = ChainMap((bspline(np.random.default_rng(3)), AffineMap.translation([30, -20, 10])))
    there = DisplacementField.over_box(wave, [(-100, -100, -100), (100, 100, 100)], 4.0)
    corners = np.array([(-50, -100, -80), (110, 60, 90)])
    back = inverse_field(there, corners, 4.0)
    low, high = corners
    points = np.random.default_rng(0).uniform(low + 10, high - 10, (300, 3))
    assert np.linalg.norm(there(back(points)) - points, axis=1).mean() < 0.5


def test_cut_lungs_are_told_from_whole_ones():
    lungs = prepare(chest(), 4.0).lungs.voxels
    assert not is_cut_off(lungs)
    assert is_cut_off(lungs[: lungs.shape[0] // 2])


@pytest.mark.parametrize(
    ("volume", "code"),
    [
        (Volume(np.zeros((60, 60, 60), np.int16), (4.0,) * 3), "flat"),
        (Volume(chest().voxels[30:31], (4.0,) * 3), "too_small"),
        (Volume(np.full((60, 60, 60), 40, np.int16) + np.arange(60) * 3, (4.0,) * 3), "no_lung"),
        (chest().with_values(np.full(chest().shape, np.nan, np.float32)), "flat"),
    ],
)
def test_what_cannot_be_registered_is_said_in_one_line(volume, code):
    with pytest.raises(VolumeError) as caught:
        prepare(volume, 4.0)
    assert caught.value.code == code
    assert "\n" not in str(caught.value)


def test_elastix_giving_up_is_a_volume_error(fixed):
    with pytest.raises(VolumeError, match="could not register"):
        register_nonlinear(fixed, fixed, AffineMap.translation([5000, 0, 0]), FAST)


def test_what_else_elastix_says_is_not_taken_for_too_little_overlap(fixed, capfd):
    stage = {"Registration": ["MultiResolutionRegistration"], "Metric": ["NoSuchMetric"]}
    with pytest.raises(RuntimeError, match=r"elastix: .*could not be created: NoSuchMetric"):
        elastix.register([fixed.image], [fixed.image], [stage], start=AffineMap.translation([0, 0, 0]))
    assert capfd.readouterr() == ("", "")


def test_mask_on_another_grid_stays_in_place():
    mask = chest().with_values(chest().voxels < -500)
    grid = crop(chest(spacing=2.0), (slice(10, 90), slice(5, 80), slice(7, 120)))
    fine = on_grid(mask, grid)
    assert fine.shape == grid.shape
    centre = fine.index_to_mm(np.argwhere(fine.voxels & (np.abs(grid.voxels + 850) < 100))).mean(0)
    truth = grid.index_to_mm(np.argwhere(np.abs(grid.voxels + 850) < 100)).mean(0)
    np.testing.assert_allclose(centre, truth, atol=1.0)
