"""DICOM: what a series' header says about it, and its slices as Hounsfield units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import RLELossless

from popclust.errors import VolumeError
from popclust.imaging.elements import functional_group, numbers_of, text_of, values_of
from popclust.imaging.headers import FileHeader, without_warnings
from popclust.imaging.places import is_of_the_place, local_copy, open_image
from popclust.imaging.volume import AIR_HU

_MAX_HU = np.iinfo(np.int16).max
_OLDEST_YEARS = 90.0
_FIRST_CT_YEAR = 1971
"""Earlier dates are placeholders of somebody's anonymizer."""
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
    "RescaleType",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
]
# "US" (unspecified) is what several scanners write for plain HU.
_HU_TYPES = frozenset({"HU", "HU_MOD", "US"})
# Lossy JPEG of 12 bits: extended sequential, and the retired spectral selection and full progression.
_BEYOND_PYDICOM = frozenset(f"1.2.840.10008.1.2.4.{process}" for process in (51, 53, 55))
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
    """SeriesNumber."""
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
    is_hu: bool = True
    """False if RescaleType names another quantity: iodine, effective atomic number, electron density."""


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
    transformation = functional_group(frame, shared, "PixelValueTransformationSequence")
    quantity = text_of(dataset, "RescaleType") or text_of(transformation, "RescaleType") or "HU"
    sex = (text_of(dataset, "PatientSex") or "").upper()
    days = [_date_of(dataset, name) for name in ("AcquisitionDate", "SeriesDate", "StudyDate")]
    return SeriesDescription(
        patient_id=text_of(dataset, "PatientID") or "",
        patient_issuer=text_of(dataset, "IssuerOfPatientID") or "",
        accession_number=text_of(dataset, "AccessionNumber") or "",
        series_number=int(number[0]) if number else None,
        manufacturer=text_of(dataset, "Manufacturer"),
        model=text_of(dataset, "ManufacturerModelName"),
        kernel=text_of(dataset, "ConvolutionKernel") or text_of(reconstruction, "ConvolutionKernel"),
        slice_thickness_mm=thickness[0] if thickness and thickness[0] > 0 else None,
        age_years=_age_of(dataset),
        sex=sex if sex in ("M", "F", "O") else None,
        acquired_on=next((day for day in days if day is not None and day.year >= _FIRST_CT_YEAR), None),
        contrast=_contrast_of(dataset),
        is_hu=quantity.upper() in _HU_TYPES,
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


def read_stack(headers: Sequence[FileHeader]) -> NDArray[np.int16]:
    """Voxels of a stack in HU.

    Rescale slope and intercept are each slice's own. Padding, whatever lies below -1024 HU, and what does not fit
    16 bits (padding written with the wrong sign) become air (-1024 HU).

    Parameters
    ----------
    headers : sequence of FileHeader
        Slices or frames of equal size, in the order wanted.

    Returns
    -------
    ndarray of int16
        (slice, row, column) HU.

    Raises
    ------
    VolumeError
        `unreadable_pixels`: a file is truncated, or its compression is not known.
    OSError
        A file is missing, or the disk or the network fails.
    """
    hu = np.empty((len(headers), headers[0].rows, headers[0].columns), dtype=np.int16)
    opened: tuple[str, Dataset, NDArray] | None = None
    for index, header in enumerate(headers):
        try:
            # The frames of one file follow each other: it is decoded once.
            if opened is None or opened[0] != header.path:
                opened = (header.path, *_decoded(header.path))
            _, dataset, stored = opened
            plane = stored if stored.ndim == 2 else stored[header.frame or 0]
            hu[index] = _to_hu(plane, dataset, header.frame)
        except Exception as error:  # decoders raise nearly anything on corrupt data
            if is_of_the_place(error):
                raise
            reason = f"image {index + 1} of {len(headers)} cannot be decoded ({type(error).__name__})"
            raise VolumeError("unreadable_pixels", reason) from None
    return hu


def _decoded(path: str) -> tuple[Dataset, NDArray]:
    """A file's elements, and its pixels as stored."""
    with open_image(path) as file, without_warnings():
        dataset: Dataset = pydicom.dcmread(file, force=True)
        return dataset, _stored_values(dataset, path)


def _stored_values(dataset: Dataset, path: str) -> NDArray:
    syntax = dataset.file_meta.get("TransferSyntaxUID") if hasattr(dataset, "file_meta") else None
    if syntax is None:
        dataset.file_meta.TransferSyntaxUID = (
            pydicom.uid.ImplicitVRLittleEndian if dataset.original_encoding[0] else pydicom.uid.ExplicitVRLittleEndian
        )
    elif syntax in _BEYOND_PYDICOM:
        return _gdcm_values(path, dataset)
    # One decoder for one syntax, whatever else is installed: lossy JPEG differs between decoders by a grey level.
    dataset.pixel_array_options(decoding_plugin="pydicom" if syntax == RLELossless else "gdcm")
    return np.asarray(dataset.pixel_array)


def _gdcm_values(path: str, dataset: Dataset) -> NDArray:
    import gdcm

    for switch in (gdcm.Trace.WarningOff, gdcm.Trace.ErrorOff, gdcm.Trace.DebugOff):
        switch()  # it prints names of files
    reader = gdcm.ImageReader()
    with local_copy(path) as near:
        reader.SetFileName(near)
        if not reader.Read():
            raise ValueError("gdcm cannot read the file")
    image = reader.GetImage()
    pixel = image.GetPixelFormat()
    if pixel.GetSamplesPerPixel() != 1:
        raise ValueError("colour images are no CT")
    signed, n_bytes = pixel.GetPixelRepresentation() == 1, pixel.GetPixelSize()
    buffer = image.GetBuffer().encode("utf-8", errors="surrogateescape")
    values = np.frombuffer(buffer, dtype=np.dtype(f"{'i' if signed else 'u'}{n_bytes}"))
    return values.reshape(-1, dataset.Rows, dataset.Columns).squeeze()


def _to_hu(stored: NDArray, dataset: Dataset, frame: int | None) -> NDArray[np.int16]:
    slope, intercept = _rescale_of(dataset, frame)
    if slope == int(slope) and intercept == int(intercept):
        hu = stored.astype(np.int32) * int(slope) + int(intercept)
    else:
        hu = np.rint(stored * slope + intercept)
    air = (hu < AIR_HU) | (hu > _MAX_HU)
    padding = _padding_of(stored, dataset)
    if padding is not None:
        air |= padding
    hu[air] = AIR_HU
    return hu.astype(np.int16)


def _rescale_of(dataset: Dataset, frame: int | None) -> tuple[float, float]:
    holder: Dataset = dataset
    if frame is not None:
        shared = next(iter(values_of(dataset, "SharedFunctionalGroupsSequence")), Dataset())
        per_frame = values_of(dataset, "PerFrameFunctionalGroupsSequence")
        group = per_frame[frame] if frame < len(per_frame) else Dataset()
        transformation = functional_group(group, shared, "PixelValueTransformationSequence")
        holder = transformation if "RescaleSlope" in transformation else dataset
    slope = numbers_of(holder, "RescaleSlope")
    intercept = numbers_of(holder, "RescaleIntercept")
    return (slope[0] if slope and slope[0] else 1.0), (intercept[0] if intercept else 0.0)


def _padding_of(stored: NDArray, dataset: Dataset) -> NDArray[np.bool_] | None:
    """Voxels with the padding value, or within the padding range."""
    value = numbers_of(dataset, "PixelPaddingValue")
    if not value:
        return None
    limit = numbers_of(dataset, "PixelPaddingRangeLimit") or value
    # Headers hold -2000 as 63536 and the other way round: what counts is the bit pattern in the image's own type.
    low, high = sorted(_as_stored(number[0], stored.dtype) for number in (value, limit))
    return (stored >= low) & (stored <= high)


def _as_stored(number: float, dtype: np.dtype) -> int:
    info = np.iinfo(dtype)
    n_values = int(info.max) - int(info.min) + 1
    return (int(number) - int(info.min)) % n_values + int(info.min)
