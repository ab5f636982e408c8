"""Lung that fluid fills is sampled where the chest wall says so, on real CT."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from popclust.imaging.files import read_volume_file
from popclust.imaging.volume import Volume
from popclust.normalization.atlas import AtlasInput, build_atlas
from popclust.normalization.cage import lungs_within_wall, with_disease
from popclust.normalization.normalized import carried_over, normalize_volume
from popclust.normalization.preparation import Prepared, prepare
from popclust.normalization.registration import _channels, lungs_agree, register_affine
from popclust.normalization.start import find_starts
from popclust.normalization.steps import METRICS
from popclust.normalization.transform import AffineMap
from popclust.settings import AtlasSettings, NormalizeSettings

COARSE = NormalizeSettings(
    n_resolutions=2, n_iterations=100, n_samples=1500, grid_spacing_mm=30.0, field_spacing_mm=8.0,
    check_orientation=False,
)  # fmt: skip
SPACING_MM = 5.0
SQUARES = METRICS["squares"]


@pytest.fixture(scope="module")
def atlas(data_path: Callable[[str], Path]):
    """lidc0001 as the atlas."""
    reference = AtlasInput("atlas", read_volume_file(data_path("ct/lidc0001.nii.gz")))
    return build_atlas(reference, [], AtlasSettings(spacing_mm=SPACING_MM), COARSE).atlas


@pytest.fixture(scope="module")
def person(data_path: Callable[[str], Path]) -> Volume:
    """Another person."""
    return read_volume_file(data_path("ct/lidc0002.nii.gz"))


def with_fluid(volume: Volume) -> tuple[Volume, np.ndarray]:
    """Fluid in the lower half of the back of both lungs, and where it is."""
    prepared = prepare(volume, SPACING_MM)
    lung = carried_over(prepared.lungs, AffineMap.translation((0.0, 0.0, 0.0)), volume).voxels
    z, y, _ = (np.flatnonzero(lung.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1)))
    behind = np.arange(lung.shape[1]) > y[0] + 0.5 * (y[-1] - y[0])
    below = np.arange(lung.shape[0]) < z[0] + 0.9 * (z[-1] - z[0])
    fluid = lung & behind[None, :, None] & below[:, None, None]
    return volume.with_values(np.where(fluid, 12, volume.voxels).astype(np.int16)), fluid


@pytest.mark.timeout(600)
def test_fluid_is_sampled_and_what_is_outside_is_not(atlas, person: Volume):
    ill, fluid = with_fluid(person)
    before = normalize_volume(person, atlas, COARSE)
    after = normalize_volume(ill, atlas, COARSE)
    is_fluid = carried_over(ill.with_values(fluid), AffineMap.translation((0.0, 0.0, 0.0)), after.lung).voxels
    true = carried_over(before.lung, AffineMap.translation((0.0, 0.0, 0.0)), after.lung).voxels | is_fluid
    by_registration = carried_over(atlas.reference.lungs, after.to_atlas, after.lung).voxels
    inside = [(lung & is_fluid).sum() / is_fluid.sum() for lung in (by_registration, after.lung.voxels)]
    assert inside[1] > inside[0] and inside[1] > 0.9
    outside = [(lung & ~true).sum() / lung.sum() for lung in (by_registration, after.lung.voxels)]
    assert outside[1] < outside[0] + 0.04  # the fluid that is followed, a fifth of these lungs, adds little beside it


@pytest.fixture(scope="module")
def prepared(person: Volume) -> Prepared:
    """That person as registration sees them."""
    return prepare(person, SPACING_MM)


def test_a_healthy_lung_gains_nothing(prepared: Prepared):
    joined = with_disease(prepared.lungs, prepared.lungs, prepared)
    np.testing.assert_array_equal(joined.voxels, prepared.lungs.voxels)


def test_bone_and_crumbs_are_not_joined(prepared: Prepared):
    nothing = prepared.lungs.with_values(np.zeros(prepared.lungs.shape, bool))
    bone = prepared.lungs.with_values(prepared.image.voxels > 150)
    np.testing.assert_array_equal(with_disease(nothing, bone, prepared).voxels, nothing.voxels)
    crumb = np.zeros(prepared.lungs.shape, bool)
    crumb[5:7, 5:7, 5:7] = True
    np.testing.assert_array_equal(with_disease(nothing, nothing.with_values(crumb), prepared).voxels, nothing.voxels)


def test_where_no_wall_is_seen_nothing_is_joined(prepared: Prepared):
    bare = Prepared(
        prepared.image.with_values(np.where(prepared.lungs.voxels, prepared.image.voxels, -1000)),
        prepared.lungs, prepared.field_of_view_mm,
    )  # fmt: skip
    away = AffineMap.translation((5000.0, 0.0, 0.0))
    assert not lungs_within_wall(bare, prepared, away, COARSE).voxels.any()


def test_lung_edges_guide_away_from_fluid_alone(atlas, person: Volume):
    ill, fluid = with_fluid(person)
    volume = prepare(ill, SPACING_MM)
    start = register_affine(
        volume, atlas.reference, [s.to_template for s in find_starts(volume, atlas.reference)], COARSE
    )
    assert lungs_agree(volume, atlas.reference, start) < COARSE.min_edge_dice
    (edges,) = (c for c in _channels(volume, atlas.reference, start, COARSE, with_points=False) if c.metric == SQUARES)
    is_fluid = carried_over(ill.with_values(fluid), AffineMap.translation((0.0, 0.0, 0.0)), volume.lungs).voxels
    surface = volume.lungs.voxels ^ ndimage.binary_erosion(volume.lungs.voxels)
    beside = surface & ndimage.binary_dilation(is_fluid)
    assert edges.mask.voxels[beside].mean() < 0.1
    assert edges.mask.voxels[surface & ~beside].mean() > 0.4
