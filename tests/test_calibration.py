"""Whether numbers are HU, told from air and fat in real CT."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from popclust.imaging.calibration import Calibration, measure_calibration
from popclust.imaging.files import read_volume_file
from popclust.imaging.headers import list_files, scan_headers
from popclust.imaging.ingest import IngestedSeries, read_series
from popclust.imaging.series import group_series
from popclust.imaging.volume import Volume
from popclust.settings import IngestSettings

RULES = IngestSettings()
FAULTS: dict[str, Callable[[NDArray], NDArray]] = {
    "+24": lambda hu: hu + 24,
    "-24": lambda hu: hu - 24,
    "+200": lambda hu: hu + 200,
    "-1000": lambda hu: hu - 1000,
    "x0.95": lambda hu: hu * 0.95,
    "x1.05": lambda hu: hu * 1.05,
    "x1.5": lambda hu: hu * 1.5,
    "stored x0.95": lambda hu: (hu + 1024) * 0.95 - 1024,
    "unsigned": lambda hu: np.where(hu < 0, -1024, hu),
}
CASES = {
    "lungdx_a0002_B70f": tuple(FAULTS),
    "cip_ct64": tuple(FAULTS),
    "cptac_C3N-00247": ("+24", "x0.95", "x1.5"),
    "crlm_1004_bases": ("-24", "x1.05"),
}


def changed(volume: Volume, fault: str) -> Volume:
    hu = FAULTS[fault](volume.voxels.astype(np.float32))
    return volume.with_values(np.clip(np.rint(hu), -1024, 32767).astype(np.int16))


def is_hu(found: Calibration) -> bool:
    return found.is_hu(RULES.max_hu_shift, RULES.max_hu_slope_error)


@pytest.mark.parametrize("name", CASES)
def test_real_ct_is_in_hu_and_its_faults_are_found(name: str, data_path: Callable[[str], Path]):
    volume = read_volume_file(data_path(f"ct/{name}.nii.gz"))
    assert is_hu(measure_calibration(volume))
    assert [fault for fault in CASES[name] if is_hu(measure_calibration(changed(volume, fault)))] == []


def test_the_shift_and_slope_are_told(data_path: Callable[[str], Path]):
    volume = read_volume_file(data_path("ct/lungdx_a0002_B40f.nii.gz"))
    right = measure_calibration(volume)
    assert right.shift_hu == pytest.approx(0, abs=6)
    assert right.slope == pytest.approx(1, abs=0.01)
    moved = measure_calibration(changed(volume, "+200"))
    assert moved.shift_hu == pytest.approx(right.shift_hu + 200, abs=4)
    stretched = measure_calibration(changed(volume, "x0.95"))
    assert stretched.slope == pytest.approx(0.95 * right.slope, abs=0.005)


def test_a_body_cut_out_of_its_room_is_in_hu_still(data_path: Callable[[str], Path]):
    volume = read_volume_file(data_path("ct/lungdx_a0002_B40f.nii.gz"))
    half = volume.voxels.shape[2] // 2
    outside = np.maximum.accumulate(volume.voxels > -300, axis=2)
    outside[:, :, half:] = np.maximum.accumulate((volume.voxels > -300)[:, :, ::-1], axis=2)[:, :, ::-1][:, :, half:]
    cut = volume.with_values(np.where(outside, volume.voxels, -1024).astype(np.int16))
    assert (cut.voxels == -1024).mean() > 0.2
    assert is_hu(measure_calibration(cut))


def wasted(volume: Volume) -> Volume:
    """Fat gone but for a little of a mixture at -60 HU; muscle and vessels stay where they are."""
    hu = volume.voxels.astype(np.float32)
    is_fat = (hu > -250) & (hu < 0)
    labels = np.indices(hu.shape).sum(axis=0) // 40 % 9  # a ninth of it, in large pieces
    hu[is_fat & (labels == 0)] = -60
    hu[is_fat & (labels > 0)] = 55
    return volume.with_values(np.rint(hu).astype(np.int16))


@pytest.mark.parametrize("slope", [0.9, 1.05, 1.12, 1.17, 1.22, 1.3])
def test_muscle_tells_where_fat_is_gone(slope: float, data_path: Callable[[str], Path]):
    volume = wasted(read_volume_file(data_path("ct/lungdx_a0002_B40f.nii.gz")))
    right = measure_calibration(volume)
    assert right.fat_hu is None
    assert is_hu(right)
    stretched = np.rint((volume.voxels + 1024) * slope - 1024).clip(-1024, 32767).astype(np.int16)
    assert not is_hu(measure_calibration(volume.with_values(stretched)))


@pytest.mark.parametrize(("shift", "is_right"), [(0, True), (-24, False), (24, False), (60, False)])
def test_fluid_is_no_fat_where_muscle_stands_beside_it(shift: int, is_right: bool, data_path: Callable[[str], Path]):
    volume = wasted(read_volume_file(data_path("ct/lungdx_a0002_B40f.nii.gz")))
    hu, rows = volume.voxels.copy(), volume.shape[1]
    back = hu[:, rows // 2 : int(0.7 * rows)]
    back[back < -600] = 12
    found = measure_calibration(volume.with_values(hu + np.int16(shift)))
    assert is_hu(found) == is_right, found


@pytest.mark.parametrize("value", [-1024, 0, 40, 3000])
def test_where_nothing_is_seen_nothing_is_hu(value: int):
    found = measure_calibration(Volume(np.full((30, 64, 64), value, np.int16), (1.0, 1.0, 1.0)))
    assert (found.shift_hu, found.slope) == (None, None)
    assert not is_hu(found)


def ingested(folder: Path, rules: IngestSettings) -> IngestedSeries:
    (series,) = group_series(scan_headers(list_files([folder]), [folder]))
    return read_series(series, rules, bytes(32))


def test_a_series_that_is_not_in_hu_is_excluded(tmp_path: Path, data_path: Callable[[str], Path]):
    image = nibabel.load(data_path("ct/cip_ct64.nii.gz"))
    voxels = np.asarray(image.dataobj) + 24
    nibabel.save(nibabel.Nifti1Image(voxels.astype(np.int16), image.affine), tmp_path / "a.nii.gz")
    rules = replace(RULES, accept_missing_kernel=True, max_slice_thickness_mm=9, min_slices=2)
    record = ingested(tmp_path, rules).record
    assert record.reasons == ("not_hu",)
    assert record.hu_shift == pytest.approx(22, abs=4)
    let_in = ingested(tmp_path, replace(rules, check_hu=False)).record
    assert let_in.included
    assert let_in.hu_shift == record.hu_shift
