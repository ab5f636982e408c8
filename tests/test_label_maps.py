"""Masks from other tools: label maps, one file per structure, and what is wrong with some."""

from __future__ import annotations

from pathlib import Path

import itk
import numpy as np
import pytest
from small_study import copy_study

from popclust.dataflow.flow import Flow
from popclust.dataflow.inputs import mask_of, source_of_volumes
from popclust.dataflow.stages.normalize import register
from popclust.errors import InputError, VolumeError
from popclust.imaging.files import read_volume_file
from popclust.imaging.label_maps import read_lung_mask
from popclust.imaging.lungs import segment_lungs
from popclust.imaging.ome_zarr import read_ome_zarr
from popclust.imaging.volume import Volume
from popclust.normalization.normalized import Normalized
from popclust.presentation.pictures import read_lungs
from popclust.study import Study


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
    whole, folder = finished.study, tmp_path / "masks"
    series = source_of_volumes(whole).set_index("volume_id")["series_instance_uid"]
    first, second = sorted(finished.passing("normalize"))[:2]
    lungs = segment_lungs(read_ome_zarr(whole.path("volumes", f"{first}.ome.zarr")))
    right: Volume = lungs.with_values(lungs.voxels & (np.arange(lungs.shape[2]) < lungs.shape[2] // 2))
    write(folder / f"{series[first]}.nii.gz", right.voxels, right.spacing_mm, right.origin_mm)
    study = copy_study(whole, tmp_path / "copy").with_settings("masks", folder=str(folder))
    fast = {"n_resolutions": 1, "n_iterations": 5, "n_samples": 200, "grid_spacing_mm": 60.0, "edge_weight": 0.0}
    study = study.with_settings("normalize", transforms="register", **fast)
    assert Path(mask_of(study, series[first])).name == f"{series[first]}.nii.gz"
    assert mask_of(study, series[second]) == ""
    with pytest.raises(InputError, match="not a folder"):
        mask_of(study.with_settings("masks", folder=str(tmp_path / "none")), series[first])
    register(study, first)
    own = Normalized.load(study.open_group("normalized", f"{first}.zarr")).lung
    assert own.extent_mm[2] < 0.75 * read_lungs(whole, first).extent_mm[2], "cropped to the mask that was handed in"


def test_a_file_below_a_source_has_its_mask_at_the_same_path(tmp_path):
    write(tmp_path / "masks" / "ward" / "a.nrrd", blocks(2))
    study = Study.create(str(tmp_path / "s"), {"masks": {"folder": str(tmp_path / "masks")}})
    # with and without the name of the source that the file lies in
    for series in ("ward/a.nii.gz", "export/ward/a.nii.gz"):
        assert Path(mask_of(study, series)) == tmp_path / "masks" / "ward" / "a.nrrd"
    assert mask_of(study, "export/ward/b.nii.gz") == ""
