"""Faults as PACS, archives and anonymizers make them, planted in a small series, each with the one right outcome.

The series has the header of a real one (a Siemens Sensation 10, sharp kernel) and a chest of few voxels. A fault edits
its data sets, or the files that were written. What is right follows from what became of the patient's data, not from
what the program does with it: `exact` is the undamaged volume, `split` the stated part of it with the rest set aside,
any other outcome the code of the reason for which nothing is taken in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from popclust.imaging.headers import list_files, scan_headers
from popclust.imaging.ingest import IngestedSeries, read_series
from popclust.imaging.series import group_series
from popclust.settings import IngestSettings

KEY = bytes(range(32))
# The chest is too small for tissues to be told by their peaks: that is tested with real ones.
RULES = IngestSettings(min_slices=4, min_lung_ml=0, check_hu=False)
N_SLICES, SIZE, STEP_MM, PIXEL_MM = 12, 32, 1.5, 2.0
ORIGIN = (-31.0, -162.0, -420.5)
_UID = "1.3.6.1.4.1.14519.5.2.1.9999"

Slices = list[Dataset]
Edit = Callable[[Slices, np.random.Generator], Slices | None]


@dataclass(frozen=True)
class Fault:
    """One fault, and what is right to make of it."""

    name: str
    outcome: str
    """`exact`, `split` or the code of a reason."""
    edit: Edit
    keep: tuple[int, ...]
    """Of `split`: the slices of the undamaged series that are the volume."""
    in_files: Callable[[list[Path], np.random.Generator], None] | None = None
    """What is done to the files once they are written."""

    def plant(self, folder: Path, seed: int = 0) -> None:
        """Write the series with the fault."""
        rng = np.random.default_rng(seed)
        slices = chest_slices()
        changed = self.edit(slices, rng)
        paths = write(slices if changed is None else changed, folder)
        if self.in_files is not None:
            self.in_files(paths, rng)


FAULTS: list[Fault] = []


def fault(outcome: str, keep: Iterable[int] = range(N_SLICES)) -> Callable[[Edit], Edit]:
    """Register a fault: the function edits the slices, or gives others."""

    def register(edit: Edit) -> Edit:
        FAULTS.append(Fault(edit.__name__.strip("_"), outcome, edit, tuple(keep)))
        return edit

    return register


def fault_in_files(outcome: str) -> Callable[[Callable], Callable]:
    """Register a fault of files: the function edits them on the disk."""

    def register(in_files: Callable) -> Callable:
        name = in_files.__name__.strip("_")
        FAULTS.append(Fault(name, outcome, lambda slices, rng: None, tuple(range(N_SLICES)), in_files))
        return in_files

    return register


def chest(seed: int = 7) -> NDArray[np.int16]:
    """(slice, row, column) HU: air, skin, fat, muscle, lungs, ribs, a spine, and noise."""
    rng = np.random.default_rng(seed)
    z, y, x = np.meshgrid(np.arange(N_SLICES), *[np.arange(SIZE) - SIZE / 2 + 0.5] * 2, indexing="ij")
    hu = np.full(z.shape, -995.0)

    def fill(value: float, cx: float, cy: float, rx: float, ry: float) -> None:
        hu[((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 < 1] = value

    fill(-100, 0, 0, 14, 11)
    fill(50, 0, 0, 13, 10)
    grow = 0.6 + 0.03 * z[:, :1, :1]
    for side in (-6, 6):
        fill(-860, side, -1, *(5 * grow, 7 * grow))
    fill(700, 0, 7, 2.5, 2)
    fill(1350, 0, 6, 1, 1)
    return np.clip(hu + rng.normal(0, 12, hu.shape), -1024, 3071).round().astype(np.int16)


def slice_of(hu: NDArray, index: int) -> Dataset:
    """One image of the undamaged series."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 SPI"]
    ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, f"{_UID}.3.{index + 1}"
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = "20100317"
    ds.StudyTime, ds.AcquisitionTime = "173011.406000", f"17351{index // 3}.{index:02}0000"
    ds.ContentTime, ds.AccessionNumber, ds.Modality = ds.AcquisitionTime, "2819497684894126", "CT"
    ds.Manufacturer, ds.ManufacturerModelName = "SIEMENS", "Sensation 10"
    ds.StudyDescription, ds.SeriesDescription = "Chest", "ThorRoutine  8.0  B70f"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate = "Mueller^Erika", "P0004711", "19470812"
    ds.PatientSex, ds.PatientAge = "F", "062Y"
    ds.SliceThickness, ds.KVP, ds.ReconstructionDiameter = STEP_MM, 120, SIZE * PIXEL_MM
    ds.GantryDetectorTilt, ds.TableHeight, ds.RotationDirection = 0, 151, "CW"
    ds.ConvolutionKernel, ds.PatientPosition = "B70f", "HFS"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = f"{_UID}.1", f"{_UID}.2"
    ds.SeriesNumber, ds.AcquisitionNumber, ds.InstanceNumber = 2, 2, index + 1
    ds.ImagePositionPatient = [ORIGIN[0], ORIGIN[1], round(ORIGIN[2] + index * STEP_MM, 4)]
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.FrameOfReferenceUID, ds.SliceLocation = f"{_UID}.4", round(ORIGIN[2] + index * STEP_MM, 4)
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = hu.shape[-2:]
    ds.PixelSpacing = [PIXEL_MM, PIXEL_MM]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.WindowCenter, ds.WindowWidth = [-600, 50], [1200, 350]
    ds.RescaleIntercept, ds.RescaleSlope = -1024, 1
    set_stored(ds, hu.astype(np.int32) + 1024)
    return ds


def set_stored(ds: Dataset, stored: NDArray, dtype: str = "<u2") -> None:
    """Put stored values into an image, whatever its header says of them."""
    ds.PixelData = np.ascontiguousarray(stored.astype(dtype)).tobytes()
    ds["PixelData"].VR = "OW"


def stored_of(ds: Dataset) -> NDArray[np.int32]:
    """Stored values of an uncompressed image."""
    return np.frombuffer(ds.PixelData, dtype="<u2").reshape(ds.Rows, ds.Columns).astype(np.int32)


def chest_slices(hu: NDArray | None = None) -> Slices:
    """The undamaged series."""
    return [slice_of(plane, index) for index, plane in enumerate(chest() if hu is None else hu)]


def on(slices: Iterable[Dataset], **values: Any) -> None:
    """Set elements; None takes one away."""
    for ds in slices:
        for keyword, value in values.items():
            if value is None:
                if keyword in ds:
                    delattr(ds, keyword)
            else:
                setattr(ds, keyword, value)


def others(slices: Sequence[Dataset], seed: int | None = 8, **values: Any) -> Slices:
    """Further images: copies with UIDs of their own and, but without a seed, other voxels at the same places."""
    copies = [deepcopy(ds) for ds in slices]
    for index, ds in enumerate(copies):
        ds.SOPInstanceUID = f"{ds.SOPInstanceUID}.{abs(hash(repr(sorted(values)))) % 997 if values else 5}.{index}"
        if seed is not None:
            noise = np.random.default_rng([seed, index]).integers(1, 9, (ds.Rows, ds.Columns))
            set_stored(ds, stored_of(ds) + noise)
    on(copies, **values)
    return copies


def write(slices: Sequence[Dataset], folder: Path) -> list[Path]:
    """Write images under names that tell nothing of their order."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    with pydicom.config.disable_value_validation():
        for index, ds in enumerate(slices):
            path = folder / f"{(index * 7919) % 10007:05}.dcm"
            ds.save_as(path, enforce_file_format=True)
            paths.append(path)
    return paths


def ingested(folder: Path) -> list[IngestedSeries]:
    """All series of a folder, as the flow takes them in."""
    headers = scan_headers(list_files([folder]), [folder])
    return [read_series(series, RULES, KEY) for series in group_series(headers, RULES)]


def is_part(volume: Any, keep: Sequence[int]) -> bool:
    """Whether a volume is, voxel by voxel and place by place, these slices of the undamaged one."""
    step = STEP_MM * (keep[1] - keep[0])
    return (
        np.array_equal(volume.voxels, chest()[list(keep)])
        and np.allclose(volume.spacing_mm, (step, PIXEL_MM, PIXEL_MM), atol=1e-3)
        and np.allclose(volume.origin_mm, (ORIGIN[2] + keep[0] * STEP_MM, ORIGIN[1], ORIGIN[0]), atol=1e-2)
    )


def outcome_of(planted: Fault, folder: Path) -> str:
    """What became of a fault: its right outcome, `silent`, or the codes of other reasons."""
    results = ingested(folder)
    taken = [result for result in results if result.volume is not None]
    if not taken:
        codes = {code for result in results for code in result.record.reasons}
        return planted.outcome if planted.outcome in codes else " ".join(sorted(codes)) or "no row"
    if len(taken) > 1 or not is_part(taken[0].volume, planted.keep):
        return "silent"
    if len(planted.keep) == N_SLICES and planted.outcome != "split":
        return "exact"
    return "split" if taken[0].record.n_set_aside else "exact"
