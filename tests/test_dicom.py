"""DICOM series from files to volumes in patient space."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_writer import (
    ANYTHING,
    KEY,
    enhanced_dataset,
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
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from popclust.imaging.headers import list_files, scan_headers
from popclust.imaging.ingest import read_series
from popclust.imaging.series import group_series


def test_slices_are_sorted_by_position_not_by_number(tmp_path: Path) -> None:
    hu = numbered((5, 4, 6))

    def shuffle(index: int, ds: Dataset) -> None:
        ds.InstanceNumber = (3, 1, 5, 2, 4)[index]

    save(series_datasets(hu), tmp_path, edit=shuffle)
    volume = volume_of(tmp_path)
    np.testing.assert_array_equal(volume.voxels, hu)
    assert volume.voxels.dtype == np.int16
    assert volume.spacing_mm == pytest.approx((3.0, 0.7, 0.7))
    assert volume.origin_mm == (30.0, -20.0, -10.0)


def test_series_from_head_to_foot_is_turned_round(tmp_path: Path) -> None:
    hu = numbered((5, 4, 6))
    save(reversed(series_datasets(hu)), tmp_path)
    np.testing.assert_array_equal(volume_of(tmp_path).voxels, hu)


SIGNED_AXES = [
    tuple(a + b)
    for (i, a), (j, b) in itertools.product(enumerate(np.vstack([np.eye(3), -np.eye(3)]).tolist()), repeat=2)
    if i % 3 != j % 3
]


@pytest.mark.parametrize("orientation", SIGNED_AXES)
def test_every_voxel_keeps_its_patient_position(orientation: tuple[float, ...], tmp_path: Path) -> None:
    """All 24 right-handed orientations, against the definition in DICOM PS3.3 C.7.6.2.1.1."""
    hu = numbered((3, 4, 5))
    datasets = series_datasets(hu, orientation=orientation, pixel_spacing_mm=(0.8, 0.5), distance_mm=2.0)
    save(datasets, tmp_path)
    volume = volume_of(tmp_path)
    assert volume.voxels.size == hu.size
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    for k, r, c in np.ndindex(hu.shape):
        xyz = np.array(datasets[k].ImagePositionPatient, dtype=float) + row * 0.5 * c + column * 0.8 * r
        index = volume.mm_to_index(xyz[::-1])
        np.testing.assert_allclose(index, np.rint(index), atol=1e-9)
        assert volume.voxels[tuple(np.rint(index).astype(int))] == hu[k, r, c]


@given(angles=st.tuples(*[st.floats(-0.6, 0.6)] * 3))
@settings(deadline=None, max_examples=15)
def test_oblique_series_is_resampled_in_place(angles: tuple[float, float, float], tmp_path_factory) -> None:
    """A field that is linear in patient space is linear still, since the interpolation is."""
    rotation = np.eye(3)
    for (i, j), angle in zip(itertools.combinations(range(3), 2), angles, strict=True):
        turn = np.eye(3)
        turn[[i, j], [i, j]], turn[i, j], turn[j, i] = np.cos(angle), -np.sin(angle), np.sin(angle)
        rotation = rotation @ turn
    row, column, normal = rotation.T
    origin, slope = np.array([-8.0, -9.0, 5.0]), np.array([9.0, 7.0, 11.0])
    k, r, c = np.meshgrid(np.arange(10), np.arange(12), np.arange(14), indexing="ij")
    xyz = origin + c[..., None] * row * 2.0 + r[..., None] * column * 2.0 + k[..., None] * normal * 3.0
    hu = np.rint(xyz @ slope).astype(np.int16)
    folder = tmp_path_factory.mktemp("oblique")
    orientation = (*row.tolist(), *column.tolist())
    save(series_datasets(hu, origin_xyz_mm=origin, orientation=orientation, pixel_spacing_mm=(2.0, 2.0)), folder)
    volume = volume_of(folder)
    there = volume.index_to_mm(np.argwhere(np.ones(volume.shape, dtype=bool)))[:, ::-1]
    index = (there - origin) @ rotation / [2.0, 2.0, 3.0]
    inside = ((index > 0.01) & (index < np.array([13, 11, 9]) - 0.01)).all(axis=1)
    assert inside.sum() > 200
    np.testing.assert_allclose(volume.voxels.ravel()[inside], there[inside] @ slope, atol=1.01)
    outside = ((index < -1.01) | (index > np.array([14.01, 12.01, 10.01]))).any(axis=1)
    assert (volume.voxels.ravel()[outside] == -1024).all()


def test_small_departures_from_a_regular_distance_are_fine(tmp_path: Path) -> None:
    def jitter(index: int, ds: Dataset) -> None:
        ds.ImagePositionPatient[2] += 0.05 * (-1) ** index

    hu = numbered((6, 4, 4))
    save(series_datasets(hu), tmp_path, edit=jitter)
    np.testing.assert_array_equal(volume_of(tmp_path).voxels, hu)


@pytest.mark.parametrize("missing", [1, 4, 8])
def test_missing_slice(missing: int, tmp_path: Path) -> None:
    datasets = series_datasets(numbered((10, 4, 4)), distance_mm=1.0)
    del datasets[missing]
    save(datasets, tmp_path)
    assert reasons_of(tmp_path) == ("irregular_spacing",)


def test_tilted_gantry(tmp_path: Path) -> None:
    def tilt(index: int, ds: Dataset) -> None:
        ds.ImagePositionPatient[1] += 0.5 * index

    save(series_datasets(numbered((6, 4, 4))), tmp_path, edit=tilt)
    assert reasons_of(tmp_path) == ("gantry_tilt",)


def test_slice_displaced_in_its_plane(tmp_path: Path) -> None:
    def displace(index: int, ds: Dataset) -> None:
        ds.ImagePositionPatient[0] += 5.0 * (index == 3)

    save(series_datasets(numbered((6, 4, 4))), tmp_path, edit=displace)
    assert reasons_of(tmp_path) == ("irregular_spacing",)


def test_each_slice_has_its_own_rescale(tmp_path: Path) -> None:
    hu = (numbered((4, 4, 4)) // 4) * 4

    def rescale(index: int, ds: Dataset) -> None:
        slope, intercept = [(1, -1024), (2, -1200), (0.5, -1100.5), (4, 0)][index]
        ds.RescaleSlope, ds.RescaleIntercept = slope, intercept
        set_pixels(ds, np.ceil((hu[index] - intercept) / slope).astype(np.int16))

    save(series_datasets(hu), tmp_path, edit=rescale)
    np.testing.assert_allclose(volume_of(tmp_path).voxels, hu, atol=0.5)


@pytest.mark.parametrize(
    ("dtype", "in_pixels", "vr", "in_header", "limit"),
    [
        ("i2", -2000, "SS", -2000, None),
        ("i2", -2000, "US", 63536, None),
        ("u2", 63536, "US", 63536, None),
        ("u2", 63536, None, None, None),
        ("i2", -3024, None, None, None),
        ("i2", 500, "SS", 500, None),
        ("i2", 1500, "SS", 2000, 1000),
        ("i2", 1500, "SS", 1000, 2000),
    ],
)
def test_padding_becomes_air(dtype, in_pixels, vr, in_header, limit, tmp_path: Path) -> None:
    hu = np.full((3, 4, 4), 30, dtype=np.int16)

    def pad(index: int, ds: Dataset) -> None:
        stored = np.full((4, 4), 30, dtype=dtype)
        stored[:2] = in_pixels
        ds.RescaleIntercept = 0
        set_pixels(ds, stored)
        if in_header is not None:
            ds.add_new("PixelPaddingValue", vr, in_header)
        if limit is not None:
            ds.add_new("PixelPaddingRangeLimit", vr, limit)

    save(series_datasets(hu), tmp_path, edit=pad)
    volume = volume_of(tmp_path)
    assert (volume.voxels[:, :2] == -1024).all()
    assert (volume.voxels[:, 2:] == 30).all()


def test_monochrome1_is_only_a_manner_of_display(tmp_path: Path) -> None:
    def invert(index: int, ds: Dataset) -> None:
        ds.PhotometricInterpretation = "MONOCHROME1"

    hu = numbered((3, 4, 4))
    save(series_datasets(hu), tmp_path, edit=invert)
    np.testing.assert_array_equal(volume_of(tmp_path).voxels, hu)


def test_enhanced_multi_frame(tmp_path: Path) -> None:
    hu = (numbered((4, 4, 4)) // 2 * 2).astype(np.int32)
    positions = np.array([[-10, -20, 30 + 2.0 * k] for k in (2, 0, 3, 1)])
    save([enhanced_dataset(hu[[2, 0, 3, 1]], positions)], tmp_path)
    result = ingested(tmp_path)
    assert result.volume is not None
    np.testing.assert_array_equal(result.volume.voxels, hu)
    assert (result.record.kernel, result.record.slice_thickness_mm, result.record.slice_distance_mm) == ("LUNG", 2.5, 2)


def test_record_of_a_series(tmp_path: Path) -> None:
    def edit(index: int, ds: Dataset) -> None:
        ds.ConvolutionKernel = ["Br59f", "3"]
        ds.ContrastBolusAgent = "Ultravist 300"

    save(series_datasets(numbered((5, 4, 4)), distance_mm=2.0), tmp_path, edit=edit)
    record = ingested(tmp_path).record
    assert (record.kernel, record.manufacturer, record.model) == ("Br59f", "SIEMENS", "Sensation 10")
    assert (record.slice_thickness_mm, record.slice_distance_mm, record.n_slices) == (3.0, 2.0, 5)
    assert (record.age_years, record.sex, record.contrast, record.series_number) == (61.0, "F", True, 1)
    assert record.spacing_zyx_mm == pytest.approx((2.0, 0.7, 0.7))
    assert record.included
    text = str(record.row())
    assert not any(secret in text for secret in ("4711", "Doe", "ACC77", "2020", uid(1), str(tmp_path)))
    assert list(record.row())[:17] == [
        *("volume_id", "patient_id", "study_id", "series_number", "manufacturer", "model", "kernel"),
        *("slice_thickness_mm", "slice_distance_mm", "n_slices", "spacing_zyx_mm", "age_years", "sex", "acquired_on"),
        *("contrast", "included", "reasons"),
    ]


@pytest.mark.parametrize(
    ("age", "born", "expected"),
    [
        ("061Y", "", 61.0),
        ("006M", "", 0.5),
        ("89Y", "", 89.0),
        ("090Y", "", 90.0),
        ("104Y", "", 90.0),
        ("", "19600301", 59.0),
        ("", "19600229", 60.0),
        ("", "19000101", 90.0),
        ("", "", None),
        ("old", "", None),
    ],
)
def test_age(age: str, born: str, expected: float | None, tmp_path: Path) -> None:
    def edit(index: int, ds: Dataset) -> None:
        ds.PatientAge, ds.PatientBirthDate = age, born

    with pydicom.config.disable_value_validation():
        save(series_datasets(numbered((2, 2, 2))), tmp_path, edit=edit)
    assert ingested(tmp_path).record.age_years == expected


@pytest.mark.parametrize(
    ("keyword", "value", "reason"),
    [
        ("Modality", "MR", "not_ct"),
        ("RescaleType", "Z_EFF", "not_hu"),
        ("ImagePositionPatient", None, "position_unknown"),
        ("PixelSpacing", None, "position_unknown"),
        ("ImageOrientationPatient", [1, 0, 0, 1, 0, 0], "position_unknown"),
    ],
)
def test_series_that_cannot_be_used(keyword: str, value: object, reason: str, tmp_path: Path) -> None:
    def edit(index: int, ds: Dataset) -> None:
        setattr(ds, keyword, value)

    save(series_datasets(numbered((3, 4, 4))), tmp_path, edit=edit)
    assert reasons_of(tmp_path) == (reason,)


def test_truncated_slice_costs_its_series_alone(tmp_path: Path) -> None:
    paths = save(series_datasets(numbered((4, 4, 4)), series=1), tmp_path, stem="A")
    save(series_datasets(numbered((4, 4, 4)), series=2), tmp_path, stem="B")
    Path(paths[2]).write_bytes(Path(paths[2]).read_bytes()[:-9])
    broken, whole = (read_series(series, ANYTHING, KEY) for series in grouped(tmp_path))
    assert broken.record.reasons == ("unreadable_pixels",)
    assert broken.volume is None
    assert whole.volume is not None


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_files_without_preamble(syntax: str, tmp_path: Path) -> None:
    def write_as(index: int, ds: Dataset) -> None:
        ds.file_meta.TransferSyntaxUID = syntax

    hu = numbered((4, 4, 4))
    for path in map(Path, save(series_datasets(hu), tmp_path, edit=write_as)):
        content = path.read_bytes()
        # The dataset alone, from ImageType on: no preamble, no group 0002.
        path.write_bytes(content[content.index(b"\x08\x00\x08\x00") :])
    np.testing.assert_array_equal(volume_of(tmp_path).voxels, hu)


def test_enhanced_files_of_one_frame_each(tmp_path: Path) -> None:
    hu = (numbered((3, 4, 4)) // 2 * 2).astype(np.int32)
    files = [enhanced_dataset(hu[k : k + 1], np.array([[-10, -20, 30 + 2.0 * k]])) for k in range(3)]
    for index, ds in enumerate(files):
        ds.SOPInstanceUID = uid(1, 9, 20 + index)
    save(files, tmp_path)
    np.testing.assert_array_equal(volume_of(tmp_path).voxels, hu)


def test_placeholder_dates(tmp_path: Path) -> None:
    def edit(index: int, ds: Dataset) -> None:
        ds.AcquisitionDate, ds.SeriesDate, ds.StudyDate = "00010101", "19000101", "nonsense"

    with pydicom.config.disable_value_validation():
        save(series_datasets(numbered((2, 2, 2))), tmp_path, edit=edit)
    assert ingested(tmp_path).record.acquired_on is None


@given(data=st.data())
@settings(deadline=None, max_examples=60)
@pytest.mark.filterwarnings("ignore")
def test_corrupt_bytes_never_raise(data: st.DataObject, tmp_path_factory) -> None:
    folder = tmp_path_factory.mktemp("corrupt")
    paths = save(series_datasets(numbered((3, 4, 4))), folder)
    content = bytearray(Path(paths[1]).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    Path(paths[1]).write_bytes(content[: data.draw(st.integers(0, len(content)))])
    results = [read_series(series, ANYTHING, KEY) for series in group_series(scan_headers(list_files([folder])))]
    assert all(result.record.included == (result.volume is not None) for result in results)
    assert all(result.record.included or result.record.reasons for result in results)
