"""The simulated population: maps, drawing, diseases, scanners."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from popclust.simulation.anatomy import LANDMARKS_MM, LUNG_DEPTH, thorax
from popclust.simulation.branching import lung_points, lung_trees
from popclust.simulation.canvas import Grid
from popclust.simulation.disease import DEFAULT_GROUPS, GROUPS, Disease
from popclust.simulation.painting import paint_spheres, paint_tubes, sample_channels
from popclust.simulation.person import (
    CONTROL_ORIGIN_MM,
    CONTROL_SPACING_MM,
    Person,
    PersonTraits,
    spline_grid,
    spline_matrix,
)
from popclust.simulation.rendering import Exposure, Lungs, Rendering, render
from popclust.simulation.scanner import SCANNERS, Kernel, reconstruct

GRID = Grid((64, 72, 80), (4.5, 4.5, 4.5), (-165.0, -150.0, -178.0))
NEUTRAL = Kernel("B60f", 0.0, 0.0, 1.0)
TRAITS = st.builds(
    PersonTraits,
    warp_seed=st.integers(0, 10**6),
    warp_mm=st.floats(0, 14),
    scale_zyx=st.tuples(*[st.floats(0.88, 1.13)] * 3),
    rotation_deg=st.tuples(*[st.floats(-6, 6)] * 3),
    diaphragm_mm=st.floats(-35, 35),
    position_mm=st.tuples(st.floats(-1200, 300), st.floats(-30, 30), st.floats(-20, 20)),
)


def scan(group: str, findings: tuple[str, ...] | None = None, noise_hu: float = 0.0) -> Rendering:
    if findings is None:
        findings = tuple(term for term, _ in GROUPS[group].findings)
    exposure = Exposure(GRID, NEUTRAL, noise_hu, 0.2, 0.0, None, 5)
    return render(PersonTraits(), Lungs(twig_seed=3), (Disease(group, 0.8, 0.5, 4, findings),), exposure)


@pytest.fixture(scope="module")
def normal() -> Rendering:
    return scan("normal")


@given(TRAITS)
@settings(max_examples=15, deadline=None)
def test_the_map_is_inverted_and_does_not_fold(traits: PersonTraits) -> None:
    person = Person(traits)
    rng = np.random.default_rng(0)
    atlas = rng.uniform((-150, -90, -130), (110, 90, 130), (300, 3))
    there = person.to_volume(atlas)
    assert np.abs(person.to_atlas(there) - atlas).max() < 0.05
    step = 0.5
    moved = [
        (person.to_atlas(there + step * axis) - person.to_atlas(there - step * axis)) / (2 * step) for axis in np.eye(3)
    ]
    assert np.linalg.det(np.stack(moved, axis=-1)).min() > 0.15


@given(TRAITS)
@settings(max_examples=5, deadline=None)
def test_a_grid_is_mapped_as_its_points_are(traits: PersonTraits) -> None:
    person = Person(traits)
    shape, spacing = (5, 4, 6), (40.0, 45.0, 38.0)
    z, y, x = np.add(traits.position_mm, (-100.0, -80.0, -110.0))
    grid = person.grid_to_atlas(shape, spacing, (z, y, x))
    points = np.add(np.indices(shape).reshape(3, -1).T * np.asarray(spacing), (z, y, x))
    np.testing.assert_allclose(grid.reshape(3, -1).T, person.to_atlas(points), atol=2e-3)


def test_the_spline_is_the_uniform_cubic_b_spline() -> None:
    coefficients = np.random.default_rng(1).standard_normal((9, 8, 7))
    at = [np.linspace(2.2, n - 3.2, 5) for n in coefficients.shape]
    z, y, x = (spline_matrix(20.0 * a + 3.0, 20.0, 3.0, n) for a, n in zip(at, coefficients.shape, strict=True))
    wanted = ndimage.map_coordinates(coefficients, np.meshgrid(*at, indexing="ij"), order=3, prefilter=False)
    np.testing.assert_allclose(spline_grid(coefficients, (z, y, x)), wanted, atol=1e-5)


def test_people_differ_by_about_a_centimetre_and_reach_covers_the_thorax() -> None:
    points = lung_points(500, np.random.default_rng(0))
    for seed in range(4):
        moved = np.linalg.norm(Person(PersonTraits(warp_seed=seed, warp_mm=10.0)).to_volume(points) - points, axis=1)
        assert 3.0 < moved.mean() < 15.0
        assert moved.max() < 35.0
    low = np.asarray(CONTROL_ORIGIN_MM) + CONTROL_SPACING_MM
    assert (points > low).all()


def test_channels_are_sampled_trilinearly() -> None:
    rng = np.random.default_rng(2)
    fields = rng.standard_normal((6, 7, 8, 2)).astype(np.float32)
    index = rng.uniform(0, 4.9, (3, 200)).astype(np.float32)
    for channel, got in enumerate(sample_channels(fields, index)):
        np.testing.assert_allclose(got, ndimage.map_coordinates(fields[..., channel], index, order=1), atol=1e-5)


@pytest.mark.parametrize("radius_mm", [0.4, 1.0, 2.5, 5.0])
def test_a_tube_keeps_its_cross_section(radius_mm: float) -> None:
    hu = np.zeros((40, 40, 40), np.float32)
    tube = np.array([[-30.0, 0.3, 0.1, 30.0, 0.3, 0.1, radius_mm, radius_mm]])
    paint_tubes(hu, tube, 1.0, True, 1.0, np.ones(3), np.full(3, -20.0))
    assert hu[20].sum() == pytest.approx(np.pi * radius_mm**2, rel=0.25)
    assert hu.max() <= 1.0


@pytest.mark.parametrize("radius_mm", [1.0, 3.0, 6.0])
def test_a_ball_keeps_its_volume(radius_mm: float) -> None:
    hu = np.zeros((40, 40, 40), np.float32)
    paint_spheres(hu, np.array([[0.2, -0.1, 0.3, radius_mm]]), 1.0, True, 1.0, np.ones(3), np.full(3, -20.0))
    assert hu.sum() == pytest.approx(4 / 3 * np.pi * radius_mm**3, rel=0.35)


def test_what_is_already_brighter_stays() -> None:
    hu = np.full((20, 20, 20), 5.0, np.float32)
    ball = np.array([[0.0, 0.0, 0.0, 5.0]])
    paint_spheres(hu, ball, 1.0, True, 1.0, np.ones(3), np.full(3, -10.0))
    assert (hu == 5.0).all()
    paint_spheres(hu, ball, 1.0, False, 1.0, np.ones(3), np.full(3, -10.0))
    assert hu[10, 10, 10] == pytest.approx(1.0, abs=0.1)


def test_the_thorax_has_two_lungs_of_human_size() -> None:
    anatomy = thorax()
    inside = anatomy.channel(LUNG_DEPTH) > 0
    labels, n = ndimage.label(inside)
    litres = np.sort(np.bincount(labels.ravel())[1:])[::-1] * np.prod(anatomy.spacing_mm) / 1e6
    assert n >= 2
    assert 1.3 < litres[1] <= litres[0] < 3.0
    for name, point in LANDMARKS_MM.items():
        index = tuple(np.rint((np.array(point) - anatomy.origin_mm) / anatomy.spacing_mm).astype(int))
        assert anatomy.channel(LUNG_DEPTH)[index] < 8.0, name


def test_vessels_reach_every_part_of_the_lungs() -> None:
    points = lung_points(2000, np.random.default_rng(3))
    ends = lung_trees().vessels[:, 3:6]
    nearest = np.sqrt(((points[:, None] - ends[None]) ** 2).sum(-1).min(axis=1))
    assert np.quantile(nearest, 0.95) < 20.0


def test_a_normal_lung_is_air_with_vessels(normal: Rendering) -> None:
    inside = normal.hu[ndimage.binary_erosion(normal.lung, iterations=2)]
    assert -900 < np.median(inside) < -820
    assert 0.005 < (inside > -500).mean() < 0.12
    assert ((normal.hu > 200) & ~normal.lung).sum() > 2000


def change(group: str, normal: Rendering) -> np.ndarray:
    sick = scan(group)
    assert (sick.lung == normal.lung).all()
    return np.where(normal.lung, sick.hu.astype(float) - normal.hu, 0.0)


def halves(amount: np.ndarray, axis: int, at_mm: float) -> tuple[float, float]:
    position = GRID.origin_mm[axis] + GRID.spacing_mm[axis] * np.arange(GRID.shape[axis])
    sums = amount.sum(axis=tuple(a for a in range(3) if a != axis))
    return float(sums[position < at_mm].sum()), float(sums[position >= at_mm].sum())


def test_emphysema_makes_holes_in_the_upper_lobes(normal: Rendering) -> None:
    below, above = halves(change("emphysema", normal) < -80, 0, -20.0)
    assert above > 4 * below > 0


def test_effusion_lies_at_the_back_and_base_and_is_water(normal: Rendering) -> None:
    amount = change("effusion", normal)
    front, back = halves(amount > 400, 1, 20.0)
    assert back > 6 * front
    below, above = halves(amount > 400, 0, 0.0)
    assert below > 2 * above
    fluid = ndimage.binary_erosion(amount > 700)
    assert np.median(scan("effusion").hu[fluid]) == pytest.approx(20, abs=25)


def test_fibrosis_lies_below_the_pleura_at_the_base(normal: Rendering) -> None:
    amount = np.abs(change("fibrosis", normal)) > 150
    below, above = halves(amount, 0, 0.0)
    assert below > 4 * above
    depth = ndimage.distance_transform_edt(normal.lung) * 4.5
    basal = normal.lung & (np.indices(GRID.shape)[0] < 36)
    assert amount[basal & (depth < 15)].mean() > 2 * amount[basal & (depth > 32)].mean()


def test_nodules_are_many_small_dense_and_everywhere(normal: Rendering) -> None:
    amount = change("nodules", normal) > 250
    _, n = ndimage.label(amount)
    assert n > 120
    assert amount.sum() < 0.12 * normal.lung.sum()
    left, right = halves(amount, 2, 0.0)
    assert 0.4 < left / right < 2.5


def test_ground_glass_is_denser_than_lung_and_thinner_than_tissue(normal: Rendering) -> None:
    amount = change("ground_glass", normal)
    glass = scan("ground_glass", ("RID28531",)).hu[amount > 120]
    assert -720 < np.median(glass) < -400
    assert 0.15 < (amount > 120).sum() / normal.lung.sum() < 0.7


def test_every_group_can_be_drawn_and_differs(normal: Rendering) -> None:
    assert set(DEFAULT_GROUPS) <= set(GROUPS)
    for group in set(GROUPS) - {"normal"}:
        assert (np.abs(change(group, normal)) > 60).sum() > 0.02 * normal.lung.sum(), group


def test_signs_are_drawn_only_if_they_are_found() -> None:
    plain = scan("fibrosis", ("RID3820", "RID38794")).hu
    honeycombed = scan("fibrosis", ("RID3820", "RID38794", "RID35280")).hu
    assert (np.abs(honeycombed.astype(int) - plain) > 200).sum() > 1000


def test_sharp_kernels_are_sharper_and_noisier_than_soft_ones() -> None:
    grid = Grid((12, 64, 64), (2.5, 2.8, 2.8), (0.0, 0.0, 0.0))
    step = np.full(grid.shape, -1000.0, np.float32)
    step[:, :, 32:] = 0.0
    make = SCANNERS[0]

    def taken(kernel: Kernel, noise_hu: float) -> np.ndarray:
        return reconstruct(step, grid, kernel, noise_hu, 0.1, np.random.default_rng(0))

    slopes = [np.diff(taken(k, 0.0)[6, 32]).max() for k in (make.soft[0], make.sharp[0], make.sharp[-1])]
    assert slopes[0] < slopes[1] < slopes[2]
    noise = [(taken(k, 20.0) - taken(k, 0.0))[:, 8:-8, 40:56].std() for k in (make.soft[0], make.sharp[0])]
    assert noise[0] < 0.7 * noise[1]
    assert 5 < noise[1] < 40
