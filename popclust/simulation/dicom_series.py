"""A volume written as a DICOM series with the header of a routine CT."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, generate_uid

from popclust.imaging.volume import Volume
from popclust.simulation.population import VolumePlan
from popclust.simulation.scanner import SCANNERS

_STORED_OFFSET = -1024


def write_series(volume: Volume, plan: VolumePlan, folder: Path) -> None:
    """Write one file per slice, feet first in the file names, as `IM0001`, `IM0002`, ...

    Parameters
    ----------
    volume : Volume
        int16 HU; what lies below -1024 is padding.
    plan : VolumePlan
        The header's content.
    folder : pathlib.Path
        Where the files go; made if missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    header = _series_header(volume, plan)
    z0, y0, x0 = volume.origin_mm
    stored = _stored_values(volume.voxels, plan.exposure.padding_hu)
    n = volume.shape[0]
    for k in range(n):
        # Slices are numbered from the head, as most scanners do.
        number = n - k
        z = round(z0 + k * volume.spacing_mm[0], 4)
        header.InstanceNumber = number
        header.SOPInstanceUID = _uid(plan, "image", str(number))
        header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
        header.ImagePositionPatient = [x0, y0, z]
        header.SliceLocation = z
        header.PixelData = stored[k].tobytes()
        header.save_as(folder / f"IM{number:04d}", enforce_file_format=True)


def _stored_values(hu: NDArray[np.int16], padding_hu: int | None) -> NDArray[np.int16]:
    if padding_hu is None or padding_hu >= _STORED_OFFSET:
        return hu - np.int16(_STORED_OFFSET)
    # This make stores its padding unscaled: after the rescale it is no HU at all.
    return np.where(hu == padding_hu, np.int16(padding_hu), hu - np.int16(_STORED_OFFSET)).astype(np.int16)


def _uid(plan: VolumePlan, *names: str) -> str:
    return str(generate_uid(entropy_srcs=[plan.identity.series_instance_uid, *names]))


def _series_header(volume: Volume, plan: VolumePlan) -> Dataset:
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.MediaStorageSOPClassUID = CTImageStorage
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.file_meta.ImplementationClassUID = UID("1.2.826.0.1.3680043.8.498.1")
    header.SpecificCharacterSet = "ISO_IR 100"
    header.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    header.SOPClassUID = CTImageStorage
    _add_patient(header, plan)
    _add_equipment(header, plan)
    _add_pixels(header, volume, plan)
    return header


def _add_patient(header: Dataset, plan: VolumePlan) -> None:
    who = plan.identity
    header.StudyDate = header.SeriesDate = header.AcquisitionDate = header.ContentDate = who.study_date
    header.StudyTime = header.SeriesTime = "101500"
    header.AccessionNumber = who.accession_number
    header.Modality = "CT"
    header.PatientName = who.name
    header.PatientID = who.patient
    header.PatientBirthDate = f"{int(who.study_date[:4]) - who.age_years}0101"
    header.PatientSex = who.sex
    header.PatientAge = f"{who.age_years:03d}Y"
    header.PatientPosition = "HFS"
    header.StudyInstanceUID = who.study_instance_uid
    header.SeriesInstanceUID = who.series_instance_uid
    header.StudyID = who.accession_number[-6:]
    header.SeriesNumber = who.series_number
    header.StudyDescription = "CT Thorax"


def _add_equipment(header: Dataset, plan: VolumePlan) -> None:
    scanner = SCANNERS[plan.scanner]
    header.Manufacturer = scanner.manufacturer
    header.ManufacturerModelName = scanner.model
    header.ReferringPhysicianName = ""
    header.ConvolutionKernel = plan.exposure.kernel.name
    header.SeriesDescription = f"Thorax {plan.slice_thickness_mm:g} {plan.exposure.kernel.name}"
    header.BodyPartExamined = "ABDOMEN" if "no_lung" in plan.expected_reasons else "CHEST"
    header.SliceThickness = plan.slice_thickness_mm
    header.SpacingBetweenSlices = plan.exposure.grid.spacing_mm[0]
    header.KVP = 120
    header.AcquisitionNumber = 1
    if plan.exposure.contrast_hu > 0:
        header.ContrastBolusAgent = "Iodinated, intravenous"
    header.FrameOfReferenceUID = str(generate_uid(entropy_srcs=[plan.identity.study_instance_uid, "frame"]))
    header.PositionReferenceIndicator = ""


def _add_pixels(header: Dataset, volume: Volume, plan: VolumePlan) -> None:
    header.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    header.PixelSpacing = list(volume.spacing_mm[1:])
    header.SamplesPerPixel = 1
    header.PhotometricInterpretation = "MONOCHROME2"
    header.Rows, header.Columns = volume.shape[1:]
    header.BitsAllocated, header.BitsStored, header.HighBit = 16, 16, 15
    header.PixelRepresentation = 1
    if plan.exposure.padding_hu is not None and plan.exposure.padding_hu < _STORED_OFFSET:
        header.PixelPaddingValue = plan.exposure.padding_hu
    header.RescaleIntercept = _STORED_OFFSET
    header.RescaleSlope = 1
    header.RescaleType = "HU"
    header.WindowCenter, header.WindowWidth = -500, 1500
