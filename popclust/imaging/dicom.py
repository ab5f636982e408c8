"""DICOM: what a series' header says about it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime

import pydicom
from pydicom.dataset import Dataset

from popclust.errors import VolumeError
from popclust.imaging.elements import functional_group, numbers_of, text_of, values_of
from popclust.imaging.headers import without_warnings
from popclust.imaging.pixels import read_stack as read_stack
from popclust.imaging.places import is_of_the_place, open_image

_OLDEST_YEARS = 90.0
_YEARS = range(1971, 2200)
"""In which there is CT; other dates are placeholders of somebody's anonymizer."""
_MAX_SERIES_NUMBER = 999_999
"""Longer ones may be somebody's number."""
_DESCRIPTION_TAGS = [
    "SpecificCharacterSet",
    "PatientID",
    "IssuerOfPatientID",
    "AccessionNumber",
    "SeriesNumber",
    "Manufacturer",
    "ManufacturerModelName",
    "ConvolutionKernel",
    "SliceThickness",
    "PatientAge",
    "PatientBirthDate",
    "PatientSex",
    "AcquisitionDate",
    "SeriesDate",
    "StudyDate",
    "ContrastBolusAgent",
    "ContrastBolusAgentSequence",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
]
_NO_CONTRAST = frozenset({"NO", "NATIVE", "UNENHANCED", "N/A", "WITHOUT", "NON-CONTRAST", "0"})


@dataclass(frozen=True)
class SeriesDescription:
    """What the header of a series says, with identifiers still in clear: never stored."""

    patient_id: str = ""
    """PatientID."""
    patient_issuer: str = ""
    """IssuerOfPatientID."""
    accession_number: str = ""
    """AccessionNumber."""
    series_number: int | None = None
    """SeriesNumber, of at most six digits."""
    manufacturer: str | None = None
    """Manufacturer."""
    model: str | None = None
    """ManufacturerModelName."""
    kernel: str | None = None
    """ConvolutionKernel, the first of its values."""
    slice_thickness_mm: float | None = None
    """SliceThickness."""
    age_years: float | None = None
    """PatientAge, or from the birth date; 90 for everybody older than 89."""
    sex: str | None = None
    """M, F or O."""
    acquired_on: date | None = None
    """AcquisitionDate, else SeriesDate, else StudyDate."""
    contrast: bool | None = None
    """Whether a contrast agent is named; None where the element is there but empty."""


def describe_dicom(path: str) -> SeriesDescription:
    """Read what the header of one image says about its series.

    Parameters
    ----------
    path : str
        A DICOM file.

    Raises
    ------
    VolumeError
        `unreadable_header`.
    OSError
        The file is missing, or the disk or the network fails.
    """
    tags = list(_DESCRIPTION_TAGS)
    try:
        with open_image(path) as file, without_warnings():
            return _describe(pydicom.dcmread(file, stop_before_pixels=True, specific_tags=tags, force=True))
    except Exception as error:  # corrupt bytes make pydicom raise nearly anything
        if is_of_the_place(error):
            raise
        raise VolumeError("unreadable_header", f"the header cannot be read ({type(error).__name__})") from None


def _describe(dataset: Dataset) -> SeriesDescription:
    shared = next(iter(values_of(dataset, "SharedFunctionalGroupsSequence")), Dataset())
    frame = next(iter(values_of(dataset, "PerFrameFunctionalGroupsSequence")), Dataset())
    reconstruction = functional_group(frame, shared, "CTReconstructionSequence")
    measures = functional_group(frame, shared, "PixelMeasuresSequence")
    thickness = numbers_of(dataset, "SliceThickness") or numbers_of(measures, "SliceThickness")
    number = numbers_of(dataset, "SeriesNumber")
    sex = (text_of(dataset, "PatientSex") or "").upper()
    days = [_date_of(dataset, name) for name in ("AcquisitionDate", "SeriesDate", "StudyDate")]
    return SeriesDescription(
        patient_id=text_of(dataset, "PatientID") or "",
        patient_issuer=text_of(dataset, "IssuerOfPatientID") or "",
        accession_number=text_of(dataset, "AccessionNumber") or "",
        series_number=int(number[0]) if number and abs(number[0]) <= _MAX_SERIES_NUMBER else None,
        manufacturer=text_of(dataset, "Manufacturer"),
        model=text_of(dataset, "ManufacturerModelName"),
        kernel=text_of(dataset, "ConvolutionKernel") or text_of(reconstruction, "ConvolutionKernel"),
        slice_thickness_mm=thickness[0] if thickness and thickness[0] > 0 else None,
        age_years=_age_of(dataset),
        sex=sex if sex in ("M", "F", "O") else None,
        acquired_on=next((day for day in days if day is not None and day.year in _YEARS), None),
        contrast=_contrast_of(dataset),
    )


def _date_of(dataset: Dataset, keyword: str) -> date | None:
    text = (text_of(dataset, keyword) or "").replace(".", "").replace("-", "")
    try:
        return datetime.strptime(text[:8], "%Y%m%d").date()
    except ValueError:
        return None


def _age_of(dataset: Dataset) -> float | None:
    text = (text_of(dataset, "PatientAge") or "").upper()
    per_year = {"Y": 1.0, "M": 12.0, "W": 52.1775, "D": 365.2425}.get(text[-1:], 1.0)
    born, studied = _date_of(dataset, "PatientBirthDate"), _date_of(dataset, "StudyDate")
    if (digits := text.rstrip("YMWD")).isdecimal():
        years = int(digits) / per_year
    elif born and studied and studied > born:
        years = float(studied.year - born.year - ((studied.month, studied.day) < (born.month, born.day)))
    else:
        return None
    return _OLDEST_YEARS if years >= _OLDEST_YEARS else round(years, 2)


def _contrast_of(dataset: Dataset) -> bool | None:
    if "ContrastBolusAgent" not in dataset:
        return bool(values_of(dataset, "ContrastBolusAgentSequence"))
    agent = " ".join(str(value) for value in values_of(dataset, "ContrastBolusAgent")).strip().upper()
    if not agent:
        return None
    return agent != "NONE" and agent not in _NO_CONTRAST
