"""NIfTI, MetaImage and NRRD volumes."""

from __future__ import annotations

from pathlib import Path

import itk
import numpy as np
import pytest
from numpy.typing import NDArray

from popclust.imaging.headers import list_files, scan_headers
from popclust.imaging.ingest import IngestedSeries, read_series
from popclust.imaging.series import group_series
from popclust.settings import IngestSettings

# ITK's SWIG modules warn when they are imported, and crash if the warning is an error.
pytestmark = pytest.mark.filterwarnings("ignore:builtin type:DeprecationWarning")

ANYTHING = IngestSettings(
    max_slice_thickness_mm=99, min_slices=2, min_lung_ml=0, accept_missing_kernel=True, check_hu=False
)


def write(values: NDArray, path: Path, direction: NDArray | None = None) -> None:
    image = itk.image_from_array(values)
    n = values.ndim
    image.SetSpacing([0.7, 0.8, 2.5, 1.0][:n])
    image.SetOrigin([-10.0, 20.0, 30.0, 0.0][:n])
    if direction is not None:
        image.SetDirection(itk.matrix_from_array(np.asarray(direction, dtype=np.float64)))
    itk.imwrite(image, str(path))


def ingested(folder: Path) -> IngestedSeries:
    (series,) = group_series(scan_headers(list_files([folder]), [folder]))
    return read_series(series, ANYTHING, bytes(32))


@pytest.mark.parametrize("name", ["ct.nii.gz", "ct.nii", "ct.mha", "ct.nrrd", "ct.mhd"])
def test_formats(name: str, tmp_path: Path) -> None:
    hu = np.arange(60, dtype=np.int16).reshape(3, 4, 5) - 30
    write(hu, tmp_path / name)
    result = ingested(tmp_path)
    assert result.volume is not None
    np.testing.assert_array_equal(result.volume.voxels, hu)
    assert result.volume.voxels.dtype == np.int16
    assert result.volume.spacing_mm == pytest.approx((2.5, 0.8, 0.7))
    assert result.volume.origin_mm == pytest.approx((30.0, 20.0, -10.0))
    record = result.record
    assert (record.n_slices, record.slice_distance_mm, record.slice_thickness_mm) == (3, 2.5, None)
    assert (record.kernel, record.age_years, record.sex, record.acquired_on, record.contrast) == (None,) * 5


@pytest.mark.parametrize("name", ["ct.mha", "ct.nii.gz", "ct.nrrd"])
def test_turned_axes(name: str, tmp_path: Path) -> None:
    """Array axes that run to the feet, to the front and to the right, with x and y exchanged."""
    hu = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    direction = np.array([[0, -1, 0], [-1, 0, 0], [0, 0, -1]])
    write(hu, tmp_path / name, direction)
    volume = ingested(tmp_path).volume
    assert volume is not None
    assert volume.shape == (3, 5, 4)
    for k, j, i in np.ndindex(hu.shape):
        xyz = np.array([-10.0, 20.0, 30.0]) + direction @ (np.array([i, j, k]) * [0.7, 0.8, 2.5])
        index = np.rint(volume.mm_to_index(xyz[::-1])).astype(int)
        assert volume.voxels[tuple(index)] == hu[k, j, i]


def test_floats_are_rounded_and_clipped_and_holes_are_air(tmp_path: Path) -> None:
    values = np.zeros((2, 3, 4), dtype=np.float32)
    values[0, 0] = [np.nan, np.inf, -np.inf, -3024]
    values[0, 1] = [1.6, -1.6, 99999, -1023.7]
    write(values, tmp_path / "ct.nii.gz")
    volume = ingested(tmp_path).volume
    assert volume is not None
    assert volume.voxels.dtype == np.int16
    assert volume.voxels[0, :2].tolist() == [[-1024] * 4, [2, -2, 32767, -1024]]


def test_time_series(tmp_path: Path) -> None:
    write(np.zeros((2, 3, 4, 5), dtype=np.int16), tmp_path / "ct.nii.gz")
    assert ingested(tmp_path).record.reasons == ("not_3d",)


def test_flat_picture(tmp_path: Path) -> None:
    write(np.zeros((4, 5), dtype=np.int16), tmp_path / "ct.nii.gz")
    assert ingested(tmp_path).record.reasons == ("not_3d",)


@pytest.mark.parametrize("name", ["ct.nii", "ct.nii.gz", "ct.mha", "ct.nrrd"])
def test_rubbish_and_truncation(name: str, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / name).write_bytes(b"rubbish" * 100)
    assert ingested(tmp_path / "a").record.reasons == ("unreadable_header",)
    (tmp_path / "b").mkdir()
    noise = np.random.default_rng(0).integers(-1000, 1000, (20, 30, 30), dtype=np.int16)
    write(noise, tmp_path / "b" / name)
    content = (tmp_path / "b" / name).read_bytes()
    (tmp_path / "b" / name).write_bytes(content[: len(content) // 2])
    result = ingested(tmp_path / "b")
    assert result.record.reasons == ("unreadable_pixels",)
    assert result.volume is None


def test_same_name_below_two_sources(tmp_path: Path) -> None:
    for source in ("a", "b"):
        (tmp_path / source).mkdir()
        write(np.zeros((2, 3, 4), dtype=np.int16), tmp_path / source / "ct.mha")
    sources = [tmp_path / "a", tmp_path / "b"]
    series = group_series(scan_headers(list_files(sources), sources))
    assert [one.identity for one in series] == ["a/ct.mha", "b/ct.mha"]
