"""A lung that holds no air is looked for where the other side's mirror image is; nothing else moves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from popclust.imaging.files import read_volume_file
from popclust.imaging.volume import Volume, resample, sample
from popclust.normalization.atlas import AtlasInput, build_atlas
from popclust.normalization.normalized import normalize_volume
from popclust.normalization.opaque_side import with_opaque_side
from popclust.normalization.preparation import MARGIN_MM, prepare
from popclust.settings import AtlasSettings, NormalizeSettings

SPACING_MM = 5.0


@pytest.fixture(scope="module")
def person(data_path: Callable[[str], Path]) -> tuple[Volume, Volume]:
    """A real CT and its aerated lungs."""
    volume = resample(read_volume_file(data_path("ct/lidc0002.nii.gz")), 2.5)
    return volume, prepare(volume, 2.5).lungs


def _filled(volume: Volume, lungs: Volume, *, left: bool, hu: float = 40.0) -> tuple[Volume, np.ndarray]:
    """The same person with one lung turned to tissue, and where (mm)."""
    points = lungs.index_to_mm(np.argwhere(lungs.voxels))
    points = points[(points[:, 2] > points[:, 2].mean()) == left]
    index = np.rint(volume.mm_to_index(points)).astype(int)
    voxels = volume.voxels.copy()
    voxels[tuple(index.T)] = np.maximum(voxels[tuple(index.T)], hu + np.random.default_rng(0).normal(0, 15, len(index)))
    return volume.with_values(voxels), points


@pytest.mark.parametrize("left", [False, True])
def test_a_filled_lung_is_sampled_and_accepted(person, data_path, left: bool) -> None:
    volume, filled = _filled(*person, left=left)
    settings = NormalizeSettings(
        n_resolutions=2, n_iterations=100, n_samples=1500, grid_spacing_mm=30.0, field_spacing_mm=8.0, n_best=1
    )
    reference = AtlasInput("atlas", read_volume_file(data_path("ct/lidc0001.nii.gz")))
    atlas = build_atlas(reference, (), AtlasSettings(spacing_mm=SPACING_MM), settings).atlas
    found = normalize_volume(volume, atlas, settings)
    assert found.quality["reasons"] == []
    assert found.quality["trusted"] == ["right", "left"]
    assert (sample(found.lung, filled, outside=0.0) > 0.5).mean() > 0.85


def test_the_crop_keeps_the_filled_side(person) -> None:
    volume, filled = _filled(*person, left=True)
    whole, prepared = prepare(person[0], SPACING_MM), prepare(volume, SPACING_MM)
    assert prepared.lungs.voxels.sum() < 0.7 * whole.lungs.voxels.sum()
    _, y, x = prepared.image.mm_to_index(filled).max(axis=0)
    assert x < prepared.image.shape[2]
    assert y < prepared.image.shape[1]
    assert abs(prepared.image.extent_mm[2] - whole.image.extent_mm[2]) < MARGIN_MM


def test_two_aerated_lungs_stay_as_they_are(person) -> None:
    volume, lungs = person
    assert with_opaque_side(lungs, prepare(volume, 2.5).image) is lungs


def test_one_lung_in_a_field_of_view_of_its_own_has_no_mirror_image(person) -> None:
    volume, lungs = person
    middle = int(np.argwhere(lungs.voxels)[:, 2].mean()) + 8
    image = prepare(volume, 2.5).image
    half = Volume(image.voxels[..., :middle], image.spacing_mm, image.origin_mm)
    own = Volume(lungs.voxels[..., :middle].copy(), lungs.spacing_mm, lungs.origin_mm)
    own.voxels[..., middle - 16 :] = False
    assert with_opaque_side(own, half) is own


def test_without_a_spine_nobody_knows_the_middle(person) -> None:
    volume, lungs = person
    image = prepare(volume, 2.5).image
    one = lungs.with_values(lungs.voxels & (np.arange(lungs.shape[2]) < 0.4 * lungs.shape[2]))
    assert with_opaque_side(one, image.with_values(np.minimum(image.voxels, 100.0))) is one
    assert with_opaque_side(one.with_values(np.zeros(one.shape, bool)), image).voxels.sum() == 0
