"""The windpipe and bronchi of real CT, and what the registration makes of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from popclust.imaging.airways import segment_airways, windpipe_of
from popclust.imaging.files import read_volume_file
from popclust.imaging.volume import resample
from popclust.normalization.preparation import WALL_MM, WINDPIPE_RAMP_MM, WINDPIPE_SPACING_MM, Prepared, prepare
from popclust.normalization.registration import compared_edges

SPACING_MM = 2.0


@pytest.fixture(scope="module")
def prepared(data_path: Callable[[str], Path]) -> Callable[[str], Prepared]:
    """A real CT by name, as the registration sees it."""
    made: dict[str, Prepared] = {}

    def find(name: str) -> Prepared:
        if name not in made:
            made[name] = prepare(read_volume_file(data_path(f"ct/{name}.nii.gz")), SPACING_MM)
        return made[name]

    return find


@pytest.mark.parametrize("name", ["lidc0001", "lungdx_a0002_B40f", "lung1_LUNG1-002"])
def test_one_tree_of_air_that_forks_to_both_sides(prepared, name: str) -> None:
    person = prepared(name)
    tree = segment_airways(person.image, person.lungs).voxels
    assert 5 < tree.sum() * SPACING_MM**3 / 1000 < 60
    assert ndimage.label(tree, np.ones((3, 3, 3)))[1] == 1
    assert np.median(person.image.voxels[tree]) < -900
    z, _, x = np.nonzero(tree)
    windpipe = x[z > np.percentile(z, 80)].mean()
    sides = x[z < np.median(z)] - windpipe
    assert sides.min() * SPACING_MM < -10
    assert sides.max() * SPACING_MM > 10


def test_the_windpipe_ends_below_the_carina(prepared) -> None:
    person = prepared("lidc0001")
    tree = segment_airways(person.image, person.lungs)
    short, long = (windpipe_of(tree, mm).voxels for mm in (4.0, 12.0))
    ends = [int(np.flatnonzero(mask.any(axis=(1, 2)))[0]) for mask in (tree.voxels, long, short)]
    assert ends[0] < ends[1] == ends[2] - 4
    assert ndimage.label(long[ends[1]])[1] == 2
    assert ndimage.label(short[ends[2] + 8])[1] == 1
    assert not windpipe_of(tree.with_values(tree.voxels & ~long), 4.0).voxels[ends[2] :].any()


def test_the_channel_tells_the_windpipe_from_a_lung(prepared) -> None:
    person = prepared("lidc0001")
    edge, both = person.edge.voxels, person.edge_and_windpipe.voxels
    far = ndimage.distance_transform_edt(~person.windpipe, sampling=[SPACING_MM] * 3) > WINDPIPE_RAMP_MM + WALL_MM
    np.testing.assert_array_equal(both[far], edge[far])
    assert both[person.windpipe].min() > 2
    assert both[~person.windpipe & far].max() <= 1
    assert edge[person.windpipe].min() < 0  # the windpipe passes for lung there


def test_the_windpipe_counts_where_both_show_it(prepared, data_path) -> None:
    person, other = prepared("lidc0001"), prepared("lungdx_a0002_B40f")
    assert compared_edges(person, other) == (person.edge_and_windpipe, other.edge_and_windpipe)
    bases = prepared("crlm_1004_bases")  # gas in the bowel, midway between what is left of the lungs
    assert bases.windpipe.any()
    assert compared_edges(bases, other) == (bases.edge, other.edge)
    coarse = prepare(resample(read_volume_file(data_path("ct/lidc0001.nii.gz")), 2.5), WINDPIPE_SPACING_MM + 1)
    assert compared_edges(coarse, other) == (coarse.edge, other.edge)


def test_without_lungs_there_is_nothing(prepared) -> None:
    image = prepared("lidc0001").image
    assert not segment_airways(image, image.with_values(np.zeros(image.shape, bool))).voxels.any()
