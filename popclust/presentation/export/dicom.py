"""A volume's lungs as DICOM Segmentation, its group as Structured Report (TID 1500), by highdicom.

The study holds pseudonyms alone, so these objects do: names are empty, and every UID is made from a pseudonym. They
join each other, and all of one patient's, but not the images in the archive that they came from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
from highdicom.sr import (
    CodedConcept,
    ComprehensiveSR,
    DeviceObserverIdentifyingAttributes,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    QualitativeEvaluation,
    TrackingIdentifier,
)
from pydicom.sr.codedict import codes
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from popclust.imaging.volume import Volume

_MAKER, _SCHEME = "popclust", "99POPCLUST"
_CT = {"Modality": "CT", "Manufacturer": _MAKER, "BodyPartExamined": "CHEST", "PatientOrientation": ["L", "P"]}
_AXIAL = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]


@dataclass(frozen=True)
class Grouped:
    """A volume as the objects name it."""

    volume_id: str
    """Pseudonym of the series."""
    patient_id: str
    """Pseudonym of the patient."""
    study_id: str
    """Pseudonym of the examination."""
    sex: str
    """M, F, O or empty."""
    acquired_on: str
    """ISO date, shifted; or empty."""
    group: Mapping[str, Any] | None
    """Its row of clusters.parquet; None where it is in no group."""


def write_objects(volume: Grouped, lungs: Volume, when: datetime, folder: Path) -> None:
    """Write `<volume_id>_lungs_seg.dcm` and, where the volume is in a group, `<volume_id>_group_sr.dcm`.

    `when` is the time they bear: equal studies give equal bytes.
    """
    segmentation = segmentation_of(volume, lungs)
    _date(segmentation, when)
    segmentation.save_as(folder / f"{volume.volume_id}_lungs_seg.dcm")
    if volume.group is not None:
        report = report_of(volume, segmentation)
        _date(report, when)
        report.save_as(folder / f"{volume.volume_id}_group_sr.dcm")


def segmentation_of(volume: Grouped, lungs: Volume) -> highdicom.seg.Segmentation:
    """The lungs as binary segmentation on the mask's own grid."""
    described = highdicom.seg.SegmentDescription(
        segment_number=1,
        segment_label="Lungs",
        segmented_property_category=codes.SCT.AnatomicalStructure,
        segmented_property_type=codes.SCT.Lung,
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name="popclust normalize", version=version(_MAKER), family=codes.DCM.ArtificialIntelligence
        ),
    )
    (dz, dy, dx), (z, y, x) = lungs.spacing_mm, lungs.origin_mm
    places = [highdicom.PlanePositionSequence("PATIENT", (x, y, z + i * dz)) for i in range(lungs.shape[0])]
    return highdicom.seg.Segmentation(
        source_images=[_image(volume)],
        pixel_array=lungs.voxels.astype(np.uint8),
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[described],
        plane_positions=places,
        plane_orientation=highdicom.PlaneOrientationSequence("PATIENT", _AXIAL),
        pixel_measures=highdicom.PixelMeasuresSequence((dy, dx), dz, spacing_between_slices=dz),
        omit_empty_frames=False,
        **_maker(volume, "seg", 100),
    )


def report_of(volume: Grouped, segmentation: highdicom.seg.Segmentation) -> ComprehensiveSR:
    """The volume's group, its distance to the group's centre and its stability."""
    if volume.group is None:
        raise ValueError(f"volume: {volume.volume_id} is in no group")
    group = volume.group
    ratio = CodedConcept("1", "UCUM", "no units")
    found = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(uid=_uid("tracking", volume.volume_id), identifier=volume.volume_id),
        measurements=[
            Measurement(_concept("distance", "Distance to the centre of the group"), float(group["distance"]), ratio),
            Measurement(_concept("stability", "Stability of the group"), float(group["stability"]), ratio),
        ],
        qualitative_evaluations=[
            QualitativeEvaluation(_concept("group", "Group of volumes"), _named_group(group)),
        ],
    )
    observer = ObserverContext(
        codes.DCM.Device,
        DeviceObserverIdentifyingAttributes(uid=_uid("device"), name=_MAKER, manufacturer_name=_MAKER),
    )
    content = MeasurementReport(
        observation_context=ObservationContext(observer_device_context=observer),
        procedure_reported=CodedConcept("77477000", "SCT", "Computed tomography"),
        imaging_measurements=[found],
    )
    return ComprehensiveSR(evidence=[segmentation], content=content[0], **_maker(volume, "sr", 101))


def _date(made: pydicom.Dataset, when: datetime) -> None:
    for name in ("ContentDate", "InstanceCreationDate"):
        setattr(made, name, when.strftime("%Y%m%d"))
    for name in ("ContentTime", "InstanceCreationTime"):
        setattr(made, name, when.strftime("%H%M%S"))
    for element in made.iterall():  # highdicom takes the clock and a random number
        if element.keyword == "ContributionDateTime":
            element.value = when.strftime("%Y%m%d%H%M%S")
        elif element.keyword == "DimensionOrganizationUID":
            element.value = _uid("dimensions", str(made.SOPInstanceUID))


def _named_group(group: Mapping[str, Any]) -> CodedConcept:
    name = f"{group['descriptor']} K={group['n_clusters']} seed={group['seed']} group {group['cluster']}"
    return _concept(f"group-{group['cluster']}", name)


def _maker(volume: Grouped, kind: str, number: int) -> dict[str, Any]:
    return {
        "series_instance_uid": _uid(kind, "series", volume.volume_id),
        "series_number": number,
        "sop_instance_uid": _uid(kind, "instance", volume.volume_id),
        "instance_number": 1,
        "manufacturer": _MAKER,
        "manufacturer_model_name": _MAKER,
        "software_versions": version(_MAKER),
        "device_serial_number": "0",
    }


def _image(volume: Grouped) -> pydicom.Dataset:
    """A header that stands for the series: what the objects say of patient, examination and space comes from it."""
    image = pydicom.Dataset()
    image.file_meta = pydicom.dataset.FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID = CTImageStorage
    image.PatientName = ""
    image.PatientID = volume.patient_id
    image.PatientSex = volume.sex
    image.PatientBirthDate = ""
    image.AccessionNumber = ""
    image.StudyID = ""
    image.ReferringPhysicianName = ""
    image.StudyDate = image.SeriesDate = image.ContentDate = volume.acquired_on.replace("-", "")
    image.StudyTime = image.SeriesTime = image.ContentTime = ""
    image.StudyInstanceUID = _uid("study", volume.study_id)
    image.SeriesInstanceUID = _uid("ct", "series", volume.volume_id)
    image.SOPInstanceUID = _uid("ct", "instance", volume.volume_id)
    image.FrameOfReferenceUID = _uid("frame", volume.volume_id)
    image.PositionReferenceIndicator = ""
    image.Rows = image.Columns = 1
    image.InstanceNumber = image.SeriesNumber = 1
    image.ImageOrientationPatient, image.ImagePositionPatient = _AXIAL, [0.0, 0.0, 0.0]
    image.PixelSpacing, image.SliceThickness = [1.0, 1.0], 1.0
    for name, value in _CT.items():
        setattr(image, name, value)
    return image


def _concept(value: str, meaning: str) -> CodedConcept:
    return CodedConcept(value, _SCHEME, meaning)


def _uid(*parts: str) -> str:
    """A UID that is always the same for the same parts: 2.25 and 128 bits of their SHA-256."""
    digest = hashlib.sha256("\0".join((_MAKER, *parts)).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"
