"""Real series of several vendors and transfer syntaxes."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray

from popclust.imaging.dicom import read_stack
from popclust.imaging.headers import list_files, scan_headers
from popclust.imaging.ingest import IngestedSeries, read_series
from popclust.imaging.series import group_series
from popclust.settings import IngestSettings

# ITK's SWIG modules warn when they are imported, and crash if the warning is an error.
pytestmark = pytest.mark.filterwarnings("ignore:builtin type:DeprecationWarning")

KEY = bytes(range(32))
RELAXED = IngestSettings(max_slice_thickness_mm=8, min_slices=20, kernel_pattern=".", accept_missing_kernel=True)


@pytest.fixture
def extracted(data_path: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    def extract(name: str) -> Path:
        with tarfile.open(data_path(f"dicom/{name}.tar.xz")) as archive:
            archive.extractall(tmp_path, filter="data")
        return tmp_path

    return extract


def ingest(*sources: Path, rules: IngestSettings = RELAXED) -> list[IngestedSeries]:
    return [
        read_series(series, rules, KEY) for series in group_series(scan_headers(list_files(sources), list(sources)))
    ]


@pytest.mark.parametrize(("kernel", "sharp"), [("B70f", True), ("B40f", False)])
def test_lung_pet_ct(kernel: str, sharp: bool, extracted, data_path) -> None:
    folder = extracted(f"lungdx_a0002_{kernel}")
    (series,) = ingest(folder)
    assert series.volume is not None
    assert series.record.kernel == kernel
    assert (series.record.manufacturer, series.record.model) == ("SIEMENS", "Sensation 10")
    assert (series.record.slice_thickness_mm, series.record.slice_distance_mm) == (8.0, 8.0)
    assert series.volume.shape == (30, 512, 512)
    # The NIfTI of the same series is the 2 x 2 mean within each slice, on the grid between those pixels.
    path = str(data_path(f"ct/lungdx_a0002_{kernel}.nii.gz"))
    (halved,) = ingest(Path(path))
    assert halved.volume is not None
    mean = series.volume.voxels.reshape(30, 256, 2, 256, 2).mean(axis=(2, 4))
    np.testing.assert_allclose(halved.volume.voxels, mean, atol=1)
    np.testing.assert_allclose(
        np.array(halved.volume.origin_mm) - series.volume.origin_mm,
        [0, series.volume.spacing_mm[1] / 2, series.volume.spacing_mm[2] / 2],
        atol=1e-4,
    )
    (paper,) = ingest(folder, rules=IngestSettings())
    expected = ["too_few_slices", "thickness_above_limit", "distance_above_limit"]
    assert list(paper.record.reasons) == expected + ([] if sharp else ["kernel_not_sharp"])


def test_copd_gene(extracted, data_path) -> None:
    (series,) = ingest(extracted("cip_ct64Dicom"))
    assert series.record.kernel is None
    (same,) = ingest(data_path("ct/cip_ct64.nii.gz"))
    assert series.volume is not None
    assert same.volume is not None
    np.testing.assert_array_equal(series.volume.voxels, same.volume.voxels)
    np.testing.assert_allclose(series.volume.origin_mm, same.volume.origin_mm, atol=1e-3)
    assert series.record.content_hash == same.record.content_hash


def test_abdomen_in_jpeg_2000(extracted) -> None:
    (series,) = ingest(extracted("totalseg_abdomen_j2k"))
    assert series.record.reasons == ("no_lung",)
    assert (series.record.kernel, series.record.contrast) == ("Br38f", True)
    assert (series.record.slice_thickness_mm, series.record.slice_distance_mm) == (3.0, 2.0)


EXACT = ["1.2", "1.2.1", "1.2.1.99", "1.2.2", "1.2.5", "1.2.4.57", "1.2.4.70", "1.2.4.80", "1.2.4.90"]
LOSSY = {"1.2.4.50": 70, "1.2.4.51": 36, "1.2.4.53": 36, "1.2.4.55": 36, "1.2.4.81": 1, "1.2.4.91": 5}


def test_every_transfer_syntax(extracted) -> None:
    """One slice in each of them; the lossy ones differ by so many HU at most."""
    paths = sorted((extracted("one_slice_all_ts") / "one_slice_all_ts").glob("CTImage*"))
    reference = _slice(next(path for path in paths if path.name == "CTImage.dcm"))
    found = {}
    for path in paths:
        syntax = str(pydicom.dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID)
        difference = int(np.abs(_slice(path).astype(int) - reference).max())
        found[syntax.removeprefix("1.2.840.10008.")] = difference
    assert sorted(found) == sorted([*EXACT, *LOSSY])
    assert {syntax: found[syntax] for syntax in EXACT} == dict.fromkeys(EXACT, 0)
    assert {syntax: found[syntax] for syntax in LOSSY if found[syntax] > LOSSY[syntax]} == {}


def _slice(path: Path) -> NDArray[np.int16]:
    return read_stack(scan_headers([str(path)]))[0]


@pytest.mark.parametrize("syntax", ["51", "53", "55"])
def test_an_element_of_another_kind_does_not_end_the_process(extracted, tmp_path: Path, syntax: str) -> None:
    """What gdcm alone decodes it is given without the elements that it would stumble over."""
    wanted = f"1.2.840.10008.1.2.4.{syntax}"
    for path in (extracted("one_slice_all_ts") / "one_slice_all_ts").glob("CTImage*"):
        ds = pydicom.dcmread(path)
        if ds.file_meta.TransferSyntaxUID == wanted:
            break
    before = _slice(path)
    ds.add_new("RescaleIntercept", "LT", str(ds.RescaleIntercept))
    ds.save_as(tmp_path / "changed.dcm")
    assert np.array_equal(_slice(tmp_path / "changed.dcm"), before)
