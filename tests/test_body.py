"""What the body says of the way it lies, and that a hair of lung correlation alone says nothing."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import Delaunay
from test_registration import FAST, chest

from popclust.errors import VolumeError
from popclust.imaging.files import read_volume_file
from popclust.imaging.lungs import segment_lungs
from popclust.imaging.volume import Volume, resample
from popclust.normalization.body import head_balance, hull_by_slice, n_bodies, spine_balance
from popclust.normalization.orientation import find_orientation, flipped
from popclust.normalization.preparation import prepare


@pytest.fixture(scope="module")
def lying():
    return prepare(chest(), 4.0)


def test_the_hull_of_a_slice_against_a_triangulation():
    mask = np.random.default_rng(0).random((2, 12, 15)) < 0.06
    grid = np.indices(mask.shape[1:]).reshape(2, -1).T
    for plane, hull in zip(mask, hull_by_slice(mask), strict=True):
        wanted = Delaunay(np.argwhere(plane)).find_simplex(grid, tol=1e-9) >= 0
        np.testing.assert_array_equal(hull.ravel(), wanted)


def test_slices_without_area_have_no_hull():
    mask = np.zeros((3, 5, 5), bool)
    mask[1, 2, 2] = True
    mask[2, 2, 1:4] = True
    assert not hull_by_slice(mask).any()


def test_the_spine_tells_front_from_back(lying):
    turned = flipped(lying, (1,))
    assert spine_balance(lying.image, lying.hull) > 0.9
    assert spine_balance(turned.image, turned.hull) < -0.9


def test_the_windpipe_tells_the_head_from_the_feet(lying):
    voxels = lying.image.voxels.copy()
    middle = voxels.shape[2] // 2
    voxels[-8:, voxels.shape[1] // 2 - 2 : voxels.shape[1] // 2 + 2, middle - 2 : middle + 2] = -1000
    image = lying.image.with_values(voxels)
    lungs = lying.lungs.voxels
    assert head_balance(image, lungs, lying.hull) > 0
    over = image.with_values(voxels[::-1].copy())
    assert head_balance(over, lungs[::-1], lying.hull[::-1]) < 0


def test_a_way_round_is_believed_where_the_body_says_so_too(lying):
    found = find_orientation(lying, flipped(lying, (1,)), FAST)
    assert found.best == "face_down" and found.advantage > 0.05 and found.body_agrees
    assert find_orientation(lying, lying, FAST).best == "upright"


def test_two_bodies_side_by_side_are_told_and_refused(data_path):
    volume = resample(read_volume_file(data_path("ct/nsclcrg_R01-001.nii.gz")), 3.0)
    assert n_bodies(volume, segment_lungs(volume)) == 1
    beside = Volume(np.concatenate([volume.voxels, volume.voxels], axis=2), volume.spacing_mm, volume.origin_mm)
    with pytest.raises(VolumeError, match="more than one body"):
        prepare(beside, 5.0)
