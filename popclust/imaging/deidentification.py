"""What becomes of each DICOM attribute on its way into a study: kept, replaced, shifted, or read and dropped.

In the manner of DICOM PS3.15, Annex E: what is not named here is not read, and nothing of it is in the study.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydicom.datadict import tag_for_keyword

Action = Literal["kept", "replaced", "shifted", "reduced", "used", "dropped"]

FILE = "deidentification.json"
"""Where the record lies in the study."""

ACTIONS: dict[Action, str] = {
    "kept": "stored as it is",
    "replaced": "stored as a keyed hash (HMAC-SHA256, 64 bits) under the study's key, which lies outside the study",
    "shifted": "stored as a date moved by a secret number of days, 1 to 365 either way, one number per patient",
    "reduced": "stored only as far as `how` says",
    "used": "read to sort, choose or decode images; not stored",
    "dropped": "not stored; nothing is derived from it",
}

_UNLESS_KNOWN = "kept if it is of a known shape or among [ingest] known_texts, else a keyed hash"

# Keywords, and how and where the value is found again.
_ATTRIBUTES: tuple[tuple[Action, str, str], ...] = (
    ("replaced", "PatientID IssuerOfPatientID", "patient_id, of both together"),
    ("replaced", "StudyInstanceUID", "study_id"),
    ("replaced", "SeriesInstanceUID", "volume_id"),
    ("replaced", "AccessionNumber", "accession_id"),
    ("shifted", "AcquisitionDate SeriesDate StudyDate", "acquired_on, the first of them that is there"),
    ("reduced", "PatientAge", "age_years; 90 for everybody older than 89"),
    ("reduced", "PatientBirthDate", "age_years where PatientAge is missing"),
    ("reduced", "PatientSex", "sex: M, F, O or nothing"),
    ("reduced", "Manufacturer", f"manufacturer; {_UNLESS_KNOWN}"),
    ("reduced", "ManufacturerModelName", f"model; {_UNLESS_KNOWN}"),
    ("reduced", "ConvolutionKernel", f"kernel, its first value; {_UNLESS_KNOWN}"),
    ("reduced", "ContrastBolusAgent ContrastBolusAgentSequence", "contrast: whether there is one"),
    ("reduced", "SeriesNumber", "series_number, of at most six digits"),
    ("kept", "SliceThickness", "slice_thickness_mm"),
    ("kept", "ImagePositionPatient ImageOrientationPatient PixelSpacing", "the volume's grid, brought to z, y, x"),
    ("kept", "Rows Columns NumberOfFrames", "the volume's shape"),
    ("kept", "PixelData", "the volume's voxels, in HU; a face that is in the field of view stays recognisable"),
    ("used", "SpecificCharacterSet Modality SOPClassUID SOPInstanceUID ImageType FrameOfReferenceUID", ""),
    ("used", "AcquisitionNumber TemporalPositionIdentifier InstanceNumber AcquisitionDateTime AcquisitionTime", ""),
    ("used", "SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence", ""),
    ("used", "SeriesDescription KVP GantryDetectorTilt NominalPercentageOfCardiacPhase", ""),
    ("used", "RescaleSlope RescaleIntercept RescaleType ModalityLUTSequence BitsAllocated BitsStored HighBit", ""),
    ("used", "SamplesPerPixel PhotometricInterpretation PixelRepresentation PixelPaddingValue", ""),
    ("used", "PixelPaddingRangeLimit BurnedInAnnotation LossyImageCompression", ""),
    ("dropped", "PatientName OtherPatientIDsSequence OtherPatientNames PatientAddress PatientTelephoneNumbers", ""),
    ("dropped", "PatientComments AdditionalPatientHistory PatientSize PatientWeight EthnicGroup Occupation", ""),
    ("dropped", "InstitutionName InstitutionAddress InstitutionalDepartmentName StationName DeviceSerialNumber", ""),
    (
        "dropped",
        "ReferringPhysicianName PerformingPhysicianName PhysiciansOfRecord OperatorsName RequestingPhysician",
        "",
    ),
    ("dropped", "StudyDescription ProtocolName ImageComments BodyPartExamined StudyID StudyTime SeriesTime", ""),
    ("dropped", "ContentDate ContentTime RequestAttributesSequence SoftwareVersions", ""),
)


def attributes() -> Iterator[dict[str, str]]:
    """Keyword, tag, action and, where something is stored, how, of every attribute that is named."""
    for action, keywords, how in _ATTRIBUTES:
        for keyword in keywords.split():
            tag = tag_for_keyword(keyword)
            if tag is None:
                raise LookupError(f"{keyword} is in no dictionary")
            row = {"attribute": keyword, "tag": f"({tag >> 16:04X},{tag & 0xFFFF:04X})", "action": action}
            yield {**row, "how": how} if how else row


def deidentification_record() -> dict[str, Any]:
    """The record that lies in a study, the same for every study of one version of popclust.

    Its first names are those of DICOM PS3.3 C.7.1.1; `attributes` are the rows of :func:`attributes`.
    """
    return {
        "PatientIdentityRemoved": "YES",
        "DeidentificationMethod": "popclust: attributes named here are kept, replaced, shifted or reduced; no other is",
        "LongitudinalTemporalInformationModified": "MODIFIED",
        "actions": dict(ACTIONS),
        "attributes": sorted(attributes(), key=lambda row: row["tag"]),
        "all_other_attributes": "dropped, private ones among them",
        "names_of_files_and_folders": "dropped; of a file without a UID they make volume_id, as a keyed hash",
        "sidecar_table": "its columns as the attributes of the same meaning; file is dropped",
        "text_in_pictures": "series with BurnedInAnnotation, or with text found in the border of their images, are "
        "left out unless [ingest] let_in names them",
    }


def page() -> str:
    """The record as a table in Markdown, for docs/cohort.md."""
    rows = [f"| {r['attribute']} | {r['tag']} | {r['action']} | {r.get('how', '')} |" for r in attributes()]
    return "\n".join(["| attribute | tag | | stored as |", "|---|---|---|---|", *rows]) + "\n"
