"""Files listed, and sorted into series."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from dicom_writer import (
    ANYTHING,
    AXIAL,
    KEY,
    grouped,
    ingested,
    numbered,
    reasons_of,
    save,
    series_datasets,
    set_pixels,
    uid,
    volume_of,
)
from pydicom.dataset import Dataset

from popclust.errors import InputError
from popclust.imaging.headers import list_files, scan_headers
from popclust.imaging.ingest import read_series, volume_id_of
from popclust.imaging.series import group_series
from popclust.settings import IngestSettings


def test_other_images_in_the_series_do_not_bend_its_spacing(tmp_path: Path) -> None:
    hu = numbered((6, 4, 4))
    axial = series_datasets(hu)
    scout, capture, coronal, large = series_datasets(numbered((4, 4, 4)), origin_xyz_mm=(0, 0, 500))
    scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    capture.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    coronal.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
    set_pixels(large, np.zeros((8, 8), dtype=np.uint16))
    for index, ds in enumerate((scout, capture, coronal, large)):
        ds.SOPInstanceUID = uid(1, 1, 100 + index)
    save([scout, *axial, capture, coronal, large], tmp_path)
    result = ingested(tmp_path)
    assert result.volume is not None
    np.testing.assert_array_equal(result.volume.voxels, hu)
    assert result.record.n_set_aside == 4


def test_series_of_scouts_alone(tmp_path: Path) -> None:
    def scout(index: int, ds: Dataset) -> None:
        ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]

    save(series_datasets(numbered((3, 4, 4))), tmp_path, edit=scout)
    assert reasons_of(tmp_path) == ("localizer",)


def test_images_exported_twice_count_once(tmp_path: Path) -> None:
    hu = numbered((5, 4, 4))
    save(series_datasets(hu), tmp_path / "a")
    save(series_datasets(hu)[:3], tmp_path / "b")
    (series,) = grouped(tmp_path)
    assert (len(series.headers), series.n_repeated, series.n_set_aside) == (5, 3, 0)
    np.testing.assert_array_equal(volume_of(tmp_path).voxels, hu)


@pytest.mark.parametrize("number", ["AcquisitionNumber", "TemporalPositionIdentifier"])
def test_two_acquisitions_in_one_series(number: str, tmp_path: Path) -> None:
    hu = numbered((6, 4, 4))
    second = series_datasets(hu[:5] + 7)
    for index, ds in enumerate(second):
        ds.SOPInstanceUID = uid(1, 1, 50 + index)
        setattr(ds, number, 2)
    save([*second, *series_datasets(hu)], tmp_path)
    result = ingested(tmp_path)
    assert result.volume is not None
    np.testing.assert_array_equal(result.volume.voxels, hu)
    assert result.record.n_set_aside == 5


def test_positions_twice_with_nothing_to_tell_them_apart(tmp_path: Path) -> None:
    def another(index: int, ds: Dataset) -> None:
        ds.SOPInstanceUID = uid(1, 1, 50 + index)

    save(series_datasets(numbered((5, 4, 4))), tmp_path / "a")
    save(series_datasets(numbered((5, 4, 4)) + 1), tmp_path / "b", edit=another)
    assert reasons_of(tmp_path) == ("duplicate_positions",)


def test_copies_under_other_uids_count_once_if_their_voxels_agree(tmp_path: Path) -> None:
    def another(index: int, ds: Dataset) -> None:
        ds.SOPInstanceUID = uid(1, 1, 50 + index)

    hu = numbered((5, 4, 4))
    save(series_datasets(hu), tmp_path / "a")
    save(series_datasets(hu)[1:3], tmp_path / "b", edit=another)
    np.testing.assert_array_equal(volume_of(tmp_path).voxels, hu)
    record = ingested(tmp_path).record
    assert (record.n_images, record.n_slices, record.n_set_aside) == (7, 5, 0)


def test_one_acquisition_number_per_slice_is_no_reason_to_split(tmp_path: Path) -> None:
    def number(index: int, ds: Dataset) -> None:
        ds.AcquisitionNumber = index

    hu = numbered((5, 4, 4))
    save(series_datasets(hu), tmp_path, edit=number)
    np.testing.assert_array_equal(volume_of(tmp_path).voxels, hu)


def test_two_kernels_of_one_study(tmp_path: Path) -> None:
    def soft(index: int, ds: Dataset) -> None:
        ds.ConvolutionKernel = "B40f"

    save(series_datasets(numbered((3, 4, 4)), series=1), tmp_path)
    save(series_datasets(numbered((3, 4, 4)) + 1, series=2), tmp_path, stem="S", edit=soft)
    rules = IngestSettings(max_slice_thickness_mm=3, min_slices=2, min_lung_ml=0, check_hu=False)
    sharp, soft_one = (read_series(series, rules, KEY).record for series in grouped(tmp_path))
    assert (sharp.study_id, sharp.patient_id) == (soft_one.study_id, soft_one.patient_id)
    assert sharp.volume_id != soft_one.volume_id
    assert (sharp.reasons, soft_one.reasons) == ((), ("kernel_not_sharp",))


def test_file_cut_within_its_header_is_a_row_of_its_own(tmp_path: Path) -> None:
    paths = save(series_datasets(numbered((4, 4, 4))), tmp_path)
    Path(paths[0]).write_bytes(Path(paths[0]).read_bytes()[:160])
    records = [read_series(series, ANYTHING, KEY).record for series in grouped(tmp_path)]
    assert sorted((record.n_slices, record.reasons) for record in records)[-1] == (3, ())
    assert len(records) <= 2


def test_files_that_are_no_images(tmp_path: Path) -> None:
    report = series_datasets(numbered((1, 2, 2)))[0]
    report.SOPClassUID, report.Modality = "1.2.840.10008.5.1.4.1.1.88.11", "SR"
    del report.Rows, report.Columns, report.PixelData
    save([report], tmp_path)
    (tmp_path / "notes.txt").write_text("nothing")
    (tmp_path / "empty").write_bytes(b"")
    headers = scan_headers(list_files([tmp_path]))
    assert {header.problem for header in headers} == {"not_an_image"}
    assert group_series(headers) == []


def test_series_without_uids_is_named_by_its_folder(tmp_path: Path) -> None:
    def anonymous(index: int, ds: Dataset) -> None:
        del ds.SeriesInstanceUID, ds.StudyInstanceUID

    hu = numbered((4, 4, 4))
    for name in ("one", "two"):
        save(series_datasets(hu), tmp_path / "in" / name, edit=anonymous)
    series = grouped(tmp_path / "in")
    assert [one.identity for one in series] == ["in/one", "in/two"]
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "in").rename(tmp_path / "elsewhere" / "in")
    moved = grouped(tmp_path / "elsewhere" / "in")
    assert [volume_id_of(one, KEY) for one in moved] == [volume_id_of(one, KEY) for one in series]


def test_list_files(tmp_path: Path) -> None:
    for name in ("b/IM2", "a/IM1", ".hidden/IM3", "a/.IM4", "DICOMDIR", "b/Thumbs.db"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    assert list_files([tmp_path, tmp_path / "a" / "IM1"]) == [str(tmp_path / "a" / "IM1"), str(tmp_path / "b" / "IM2")]


def test_missing_and_empty_sources(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        list_files([tmp_path / "nowhere"])
    with pytest.raises(InputError, match="holds no files"):
        list_files([tmp_path])
    with pytest.raises(InputError, match="none given"):
        list_files([])


def test_headers_travel_between_processes(tmp_path: Path) -> None:
    save(series_datasets(numbered((50, 2, 2))), tmp_path)
    headers = scan_headers(list_files([tmp_path]), [tmp_path])
    packed = pickle.dumps(headers)
    assert pickle.loads(packed) == headers  # noqa: S301 - our own bytes
    assert len(packed) / len(headers) < 400
    assert headers[0].orientation == AXIAL
