"""Small CT series written as DICOM with every irregularity that tests ask for, and read back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian

from popclust.imaging.headers import list_files, scan_headers
from popclust.imaging.ingest import IngestedSeries, read_series
from popclust.imaging.series import SeriesFiles, group_series
from popclust.imaging.volume import Volume
from popclust.settings import IngestSettings

ROOT = "1.2.826.0.1.3680043.10.1338"
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
Edit = Callable[[int, Dataset], None]


def uid(*parts: int) -> str:
    return ".".join([ROOT, *map(str, parts)])


def slice_dataset(
    stored: NDArray,
    index: int,
    position_xyz_mm: Iterable[float],
    *,
    orientation: tuple[float, ...] = AXIAL,
    pixel_spacing_mm: tuple[float, float] = (0.7, 0.7),
    series: int = 1,
    study: int = 1,
) -> Dataset:
    """One CT image; stored values are HU + 1024 in unsigned 12 of 16 bits."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = CTImageStorage
    ds.SOPInstanceUID = uid(study, series, index + 1)
    ds.StudyInstanceUID = uid(study)
    ds.SeriesInstanceUID = uid(study, series)
    ds.Modality = "CT"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.PatientID = "Secret-4711"
    ds.PatientName = "Doe^Jane"
    ds.PatientSex = "F"
    ds.PatientAge = "061Y"
    ds.AccessionNumber = "ACC77"
    ds.StudyDate = "20200229"
    ds.Manufacturer = "SIEMENS"
    ds.ManufacturerModelName = "Sensation 10"
    ds.ConvolutionKernel = "B70f"
    ds.SeriesNumber = series
    ds.AcquisitionNumber = 1
    ds.InstanceNumber = index + 1
    ds.SliceThickness = 3.0
    ds.ImagePositionPatient = [float(value) for value in position_xyz_mm]
    ds.ImageOrientationPatient = list(orientation)
    ds.PixelSpacing = list(pixel_spacing_mm)
    ds.RescaleSlope, ds.RescaleIntercept = 1, -1024
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.SamplesPerPixel = 1
    set_pixels(ds, stored.astype(np.uint16))
    return ds


def set_pixels(ds: Dataset, stored: NDArray) -> None:
    ds.Rows, ds.Columns = stored.shape[-2:]
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit = 15
    ds.PixelRepresentation = int(stored.dtype.kind == "i")
    ds.PixelData = np.ascontiguousarray(stored).tobytes()
    ds["PixelData"].VR = "OW"


def series_datasets(
    hu: NDArray,
    *,
    origin_xyz_mm: Iterable[float] = (-10.0, -20.0, 30.0),
    distance_mm: float = 3.0,
    orientation: tuple[float, ...] = AXIAL,
    pixel_spacing_mm: tuple[float, float] = (0.7, 0.7),
    series: int = 1,
    study: int = 1,
) -> list[Dataset]:
    """A series of (slice, row, column) HU, slices going along the normal."""
    normal = np.cross(orientation[:3], orientation[3:])
    return [
        slice_dataset(
            plane + 1024,
            index,
            np.asarray(list(origin_xyz_mm)) + index * distance_mm * normal,
            orientation=orientation,
            pixel_spacing_mm=pixel_spacing_mm,
            series=series,
            study=study,
        )
        for index, plane in enumerate(hu.astype(np.int32))
    ]


def save(datasets: Iterable[Dataset], folder: Path, *, stem: str = "IM", edit: Edit | None = None) -> list[str]:
    """Write datasets under names that tell nothing of their order."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, ds in enumerate(datasets):
        if edit is not None:
            edit(index, ds)
        path = folder / f"{stem}{(index * 7919) % 10007:05d}"
        ds.save_as(path, enforce_file_format=True)
        paths.append(str(path))
    return paths


def enhanced_dataset(hu: NDArray, positions_xyz_mm: NDArray) -> Dataset:
    """One enhanced multi-frame CT, the rescale in the shared and the position in each frame's functional group."""
    ds = slice_dataset(hu[0] + 1024, 0, (0, 0, 0), series=9)
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope"):
        delattr(ds, keyword)
    del ds.RescaleIntercept, ds.SliceThickness, ds.ConvolutionKernel
    ds.SOPClassUID = EnhancedCTImageStorage
    ds.NumberOfFrames = len(hu)
    ds.SharedFunctionalGroupsSequence = [
        _group(
            PlaneOrientationSequence={"ImageOrientationPatient": list(AXIAL)},
            PixelMeasuresSequence={"PixelSpacing": [0.7, 0.7], "SliceThickness": 2.5},
            PixelValueTransformationSequence={"RescaleSlope": 2, "RescaleIntercept": -1000, "RescaleType": "HU"},
            CTReconstructionSequence={"ConvolutionKernel": "LUNG"},
        )
    ]
    ds.PerFrameFunctionalGroupsSequence = [
        _group(PlanePositionSequence={"ImagePositionPatient": [float(p) for p in position]})
        for position in positions_xyz_mm
    ]
    set_pixels(ds, ((hu + 1000) // 2).astype(np.uint16))
    return ds


def _group(**macros: dict[str, object]) -> Dataset:
    group = Dataset()
    for name, values in macros.items():
        item = Dataset()
        for keyword, value in values.items():
            setattr(item, keyword, value)
        setattr(group, name, [item])
    return group


KEY = bytes(range(32))
ANYTHING = IngestSettings(max_slice_thickness_mm=99, min_slices=2, min_lung_ml=0, kernel_pattern=".", check_hu=False)


def numbered(shape: tuple[int, int, int]) -> NDArray[np.int16]:
    """HU that are all different, so that each voxel can be found again."""
    return (np.arange(np.prod(shape)).reshape(shape) - 1000).astype(np.int16)


def grouped(folder: Path) -> list[SeriesFiles]:
    return group_series(scan_headers(list_files([folder]), [folder]))


def ingested(folder: Path, rules: IngestSettings = ANYTHING) -> IngestedSeries:
    (series,) = grouped(folder)
    return read_series(series, rules, KEY)


def volume_of(folder: Path) -> Volume:
    result = ingested(folder)
    assert result.record.reasons == ()
    assert result.volume is not None
    return result.volume


def reasons_of(folder: Path) -> tuple[str, ...]:
    result = ingested(folder)
    assert result.volume is None
    assert not result.record.included
    return result.record.reasons
