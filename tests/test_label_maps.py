"""Masks from other tools: label maps, one file per structure, and what is wrong with some."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import itk
import numpy as np
import pandas as pd
import pytest
from popclust.dataflow.volume_tasks import read_volume, register

from popclust.dataflow.flow import Flow
from popclust.dataflow.inputs import handed_in_mask, source_of_volumes
from popclust.errors import InputError, VolumeError
from popclust.imaging.files import read_volume_file
from popclust.imaging.label_maps import read_lung_mask
from popclust.imaging.lungs import segment_lungs
from popclust.imaging.volume import Volume
from popclust.normalization.normalized import Normalized
from popclust.presentation.pictures import read_lungs
from popclust.settings import MaskSettings, NormalizeSettings


def write(path: Path, labels: np.ndarray, spacing=(2.0, 1.0, 1.0), origin=(-5.0, 3.0, 7.0)) -> Path:
    image = itk.image_from_array(np.ascontiguousarray(labels.astype(np.int16)))
    image.SetSpacing(spacing[::-1])
    image.SetOrigin(origin[::-1])
    path.parent.mkdir(parents=True, exist_ok=True)
    itk.imwrite(image, str(path))
    return path


def blocks(n: int) -> np.ndarray:
    """Labels 1 to n, one plane each."""
    labels = np.zeros((n + 2, 6, 6), np.int16)
    labels[1:-1, 2:4, 1:5] = np.arange(1, n + 1)[:, None, None]
    return labels


def test_a_map_of_lungs_alone_is_all_lung_and_stays_in_place(tmp_path):
    path = write(tmp_path / "m.nii.gz", blocks(2))
    lungs = read_lung_mask(path, ())
    np.testing.assert_array_equal(lungs.voxels, blocks(2) > 0)
    assert lungs.spacing_mm == (2.0, 1.0, 1.0)
    np.testing.assert_allclose(lungs.origin_mm, (-5.0, 3.0, 7.0))
    np.testing.assert_array_equal(read_volume_file(path).voxels, blocks(2))


def test_in_a_map_of_many_organs_the_lungs_have_to_be_named(tmp_path):
    path = write(tmp_path / "total.nii.gz", blocks(20))
    with pytest.raises(VolumeError, match=r"lung_labels") as caught:
        read_lung_mask(path, ())
    assert caught.value.code == "bad_mask"
    np.testing.assert_array_equal(read_lung_mask(path, (10, 11)).voxels, np.isin(blocks(20), (10, 11)))
    with pytest.raises(VolumeError, match="no lung"):
        read_lung_mask(path, (99,))


def test_one_file_per_structure(tmp_path):
    left, right = np.zeros((2, 8, 6, 6), np.int16)
    left[2:4], right[5:7] = 1, 1
    write(tmp_path / "s" / "lung_upper_lobe_left.nii.gz", left)
    write(tmp_path / "s" / "lung_upper_lobe_right.nii.gz", right)
    for other in ("heart", "lung_trachea_bronchia"):
        write(tmp_path / "s" / f"{other}.nii.gz", np.ones((8, 6, 6)))
    np.testing.assert_array_equal(read_lung_mask(tmp_path / "s", ()).voxels, (left + right) > 0)
    write(tmp_path / "s" / "lung_lower_lobe_left.nii.gz", np.ones((9, 6, 6)))
    with pytest.raises(VolumeError, match="different grids"):
        read_lung_mask(tmp_path / "s", ())
    (tmp_path / "empty").mkdir()
    with pytest.raises(VolumeError, match="begins with 'lung'"):
        read_lung_mask(tmp_path / "empty", ())


def test_masks_are_found_by_series_and_take_the_place_of_segmentation(finished: Flow, tmp_path):
    study, folder = finished.study, tmp_path / "masks"
    series = source_of_volumes(study).set_index("volume_id")["series_instance_uid"]
    first, second = sorted(finished.parts["normalize"])[:2]
    whole = segment_lungs(read_volume(study, first))
    right: Volume = whole.with_values(whole.voxels & (np.arange(whole.shape[2]) < whole.shape[2] // 2))
    write(folder / f"{series[first]}.nii.gz", right.voxels, right.spacing_mm, right.origin_mm)
    fast = NormalizeSettings(n_resolutions=1, n_iterations=5, n_samples=200, grid_spacing_mm=60, edge_weight=0)
    settings = dataclasses.replace(study.settings, masks=MaskSettings(str(folder)), normalize=fast)
    study = dataclasses.replace(study, settings=settings)
    found = handed_in_mask(study, series, first)
    assert Path(found.path).name == f"{series[first]}.nii.gz" and found.digest
    assert handed_in_mask(study, series, second).path == ""
    with pytest.raises(InputError, match="not a folder"):
        missing = dataclasses.replace(settings, masks=MaskSettings(str(tmp_path / "none")))
        handed_in_mask(dataclasses.replace(study, settings=missing), series, first)
    copy = dataclasses.replace(study, url=shutil.copytree(study.url, str(tmp_path / "copy")))
    register(copy, first, copy.marker("atlas"), found.path)
    own = Normalized.load(copy.open_group("normalized", f"{first}.zarr")).lung
    assert own.extent_mm[2] < 0.75 * read_lungs(study, first).extent_mm[2], "cropped to the mask that was handed in"


def test_a_file_below_a_source_has_its_mask_at_the_same_path(finished: Flow, tmp_path):
    write(tmp_path / "ward" / "a.nrrd", blocks(2))
    settings = dataclasses.replace(finished.study.settings, masks=MaskSettings(str(tmp_path)))
    study = dataclasses.replace(finished.study, settings=settings)
    found = handed_in_mask(study, pd.Series({"v": "ward/a.nii.gz"}), "v")
    assert Path(found.path) == tmp_path / "ward" / "a.nrrd"
