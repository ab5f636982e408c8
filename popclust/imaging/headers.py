"""Headers of image files: what is needed to sort files into series, read without touching a voxel."""

from __future__ import annotations

import os
import posixpath
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import BinaryIO, Literal

import pydicom
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.tag import BaseTag

from popclust.errors import InputError
from popclust.imaging.elements import PADDING, finite, functional_group, numbers_of, values_of
from popclust.imaging.facts import KEYWORDS, Facts, facts_of, facts_of_frame
from popclust.imaging.listing import Listing
from popclust.imaging.places import is_of_the_place, open_image
from popclust.imaging.volume import Vector

# Vendors' headers break the rules of value representations daily; a warning per element helps nobody.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE

VOLUME_SUFFIXES = (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".nhdr")
"""Files that hold a whole volume each, read through ITK."""

_KEYWORDS = (
    "SpecificCharacterSet",
    "ImageType",
    "SOPClassUID",
    "SOPInstanceUID",
    "Modality",
    "PatientID",
    "IssuerOfPatientID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "AcquisitionNumber",
    "TemporalPositionIdentifier",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "PixelSpacing",
    "InstanceNumber",
    "AcquisitionDateTime",
    "AcquisitionTime",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    *KEYWORDS,
)
_TAGS = {keyword: BaseTag(tag) for keyword in _KEYWORDS if (tag := tag_for_keyword(keyword)) is not None}
_GEOMETRY = {
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
}
"""Where an image lies, and the functional group that says so of a frame."""
_TEXT_VRS = frozenset({"CS", "DS", "DT", "IS", "LO", "LT", "SH", "ST", "TM", "UI"})
_WORDS = frozenset(
    {"Rows", "Columns", "BitsAllocated", "BitsStored", "SamplesPerPixel", "NominalPercentageOfCardiacPhase"}
)
_MAX_FRAMES = 20_000
"""More than a file holds, whose pixels end at 4 GB (8,192 images of 512 x 512): the number is corrupt."""
_Elements = Mapping[int, RawDataElement | DataElement]
# Without the 128-byte preamble a file begins with an element of group 0002 or 0008, in either byte order.
_BARE_STARTS = (b"\x08\x00", b"\x02\x00", b"\x00\x08", b"\x00\x02")


_SAYS_NOTHING = Facts()


@dataclass(frozen=True, slots=True)
class FileHeader:
    """One image: a DICOM slice, a frame of a multi-frame DICOM file, or a volume file."""

    path: str
    """Where it is."""
    identity: str
    """What names a file that carries no UID: its source's name and the path below it, see :class:`Found`."""
    format: Literal["dicom", "volume", "none"]
    """`none`: nothing that can become a volume, and `problem` says why."""
    problem: str = ""
    """`not_an_image`, `unreadable_header`, `unreadable_file` or `unreadable_folder`, else empty."""
    series_uid: str = ""
    """SeriesInstanceUID."""
    study_uid: str = ""
    """StudyInstanceUID."""
    sop_uid: str = ""
    """SOPInstanceUID: equal for copies of one image."""
    sop_class: str = ""
    """SOPClassUID."""
    modality: str = ""
    """CT, MR, ..."""
    patient_id: str = ""
    """PatientID, in clear: never stored."""
    patient_issuer: str = ""
    """IssuerOfPatientID, in clear: never stored."""
    is_localizer: bool = False
    """ImageType says that it is a scout view."""
    position_mm: Vector | None = None
    """ImagePositionPatient (x, y, z) of the first voxel's centre."""
    orientation: tuple[float, ...] | None = None
    """ImageOrientationPatient: the direction of a row, then of a column."""
    pixel_spacing_mm: tuple[float, float] | None = None
    """PixelSpacing: distance between rows, then between columns."""
    rows: int = 0
    """Pixels along a column."""
    columns: int = 0
    """Pixels along a row."""
    acquisition: int | None = None
    """AcquisitionNumber."""
    temporal_position: int | None = None
    """TemporalPositionIdentifier."""
    frame: int | None = None
    """Index in a multi-frame file, else None."""
    instance: int | None = None
    """InstanceNumber."""
    acquired_at_s: float | None = None
    """Seconds since midnight, from AcquisitionTime, else AcquisitionDateTime; ContentTime is that of reconstruction."""
    facts: Facts = _SAYS_NOTHING
    """What it says of its series."""
    person: str = field(default="", compare=False)
    """Keyed digest of the PatientID, where that itself is not there any more."""


def list_files(sources: Iterable[str | os.PathLike[str]]) -> list[str]:
    """Every file of the sources, sorted.

    Parameters
    ----------
    sources : iterable of str or os.PathLike
        Folders and single files, as :class:`popclust.imaging.listing.Listing` takes them.

    Returns
    -------
    list of str
        Each path or URL once.

    Raises
    ------
    InputError
        If a source is missing, cannot be read, or holds no file at all.
    """
    listing = Listing(sources)
    found = sorted(one.path for one in listing if not one.problem)
    for place in listing.absent:
        raise InputError(listing.reason(place))
    return found


def scan_headers(paths: Sequence[str], sources: Sequence[str | os.PathLike[str]] = ()) -> list[FileHeader]:
    """Headers of a batch of files.

    Parameters
    ----------
    paths : sequence of str
        The files.
    sources : sequence of str or os.PathLike
        The folders they were found below, for their identity.

    Returns
    -------
    list of FileHeader
        One per file, in the files' order, and one per frame of a multi-frame file. A file that is no image, or cannot
        be read, has an entry that says so: nothing is raised for the sake of one file.
    """
    identities = Listing(sources).identity if sources else posixpath.basename
    with without_warnings():
        return [header for path in paths for header in scan_file(path, identities(path))]


@contextmanager
def without_warnings() -> Iterator[None]:
    """Read files without a library's warnings, in which values of headers and names of files appear."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def scan_file(path: str, identity: str) -> list[FileHeader]:
    """Headers of one file, as :func:`scan_headers` gives them."""
    if path.lower().endswith(VOLUME_SUFFIXES):
        return [FileHeader(path, identity, "volume")]
    try:
        with open_image(path) as file:
            dataset = _read_header(file)
    except Exception as error:  # noqa: BLE001 - corrupt bytes make pydicom raise nearly anything, and one file must not end the run
        problem = "unreadable_file" if is_of_the_place(error) else "unreadable_header"
        return [FileHeader(path, identity, "none", problem)]
    if dataset is None:
        return [FileHeader(path, identity, "none", "not_an_image")]
    try:
        elements = {int(raw.tag): raw for raw in dataset.values()}
        # Some archives lose the SOP class; that there are rows of pixels, and a modality, says as much.
        if _TAGS["Rows"] not in elements or not {_TAGS["SOPClassUID"], _TAGS["Modality"]} & elements.keys():
            return [FileHeader(path, identity, "none", "not_an_image")]
        return _headers_of(dataset, elements, path, identity)
    except Exception:  # noqa: BLE001 - as above
        return [FileHeader(path, identity, "none", "unreadable_header")]


def _read_header(file: BinaryIO) -> Dataset | None:
    start = file.read(132)
    if start[128:] != b"DICM" and start[:2] not in _BARE_STARTS:
        return None
    file.seek(0)
    try:
        return pydicom.dcmread(
            file, stop_before_pixels=True, specific_tags=list(_TAGS.values()), force=start[128:] != b"DICM"
        )
    except InvalidDicomError:
        return None


def _headers_of(dataset: Dataset, elements: _Elements, path: str, identity: str) -> list[FileHeader]:
    def texts(keyword: str) -> list[str]:
        return _texts(dataset, elements, keyword)

    def text(keyword: str) -> str:
        first = next(iter(texts(keyword)), "")
        # Interned: a series has hundreds of headers, and the text is the same in each.
        return "" if first.upper() == "NONE" else sys.intern(first)

    def integer(keyword: str) -> int | None:
        numbers = finite(texts(keyword))
        return int(numbers[0]) if numbers and numbers[0] == int(numbers[0]) else None

    rows, columns = integer("Rows"), integer("Columns")
    if rows is None or columns is None:
        return [FileHeader(path, identity, "none", "unreadable_header")]
    header = FileHeader(
        path,
        identity,
        "dicom",
        series_uid=text("SeriesInstanceUID"),
        study_uid=text("StudyInstanceUID"),
        sop_uid=text("SOPInstanceUID"),
        sop_class=text("SOPClassUID"),
        modality=text("Modality").upper(),
        patient_id=text("PatientID"),
        patient_issuer=text("IssuerOfPatientID"),
        is_localizer="LOCALIZER" in [part.upper() for part in texts("ImageType")],
        rows=rows,
        columns=columns,
        acquisition=integer("AcquisitionNumber"),
        temporal_position=integer("TemporalPositionIdentifier"),
        instance=integer("InstanceNumber"),
        acquired_at_s=_time_of(texts),
        facts=facts_of(texts, lambda keyword: _TAGS[keyword] in elements, _syntax_of(dataset)),
    )
    if (integer("NumberOfFrames") or 1) > _MAX_FRAMES:
        return [FileHeader(path, identity, "none", "unreadable_header")]
    if (integer("NumberOfFrames") or 1) > 1 or _TAGS["SharedFunctionalGroupsSequence"] in elements:
        return _frames_of(dataset, header)
    return [_placed(header, *(finite(texts(keyword)) for keyword in _GEOMETRY))]


def _texts(dataset: Dataset, elements: _Elements, keyword: str) -> list[str]:
    """All values of an element as text, straight from the bytes where they are plain, which halves the time."""
    raw = elements.get(_TAGS[keyword])
    value = None if raw is None else raw.value
    if raw is None or value is None:
        return []
    if isinstance(value, bytes) and (raw.VR in _TEXT_VRS or (raw.VR is None and keyword not in _WORDS)):
        if value.isascii() and b"\x1b" not in value:  # no other alphabet begins
            return [part.strip(PADDING) for part in value.decode("ascii").split("\\")] if value else []
    elif isinstance(value, bytes) and len(value) == 2 and raw.VR in ("US", None) and isinstance(raw, RawDataElement):
        return [str(int.from_bytes(value, "little" if raw.is_little_endian else "big"))]
    return [str(one).strip(PADDING) for one in values_of(dataset, keyword)]


def _time_of(texts: Callable[[str], list[str]]) -> float | None:
    """Seconds since midnight."""
    whole = next(iter(texts("AcquisitionDateTime")), "")
    for text in (*texts("AcquisitionTime")[:1], whole[8:].partition("+")[0]):
        digits = text.replace(":", "").partition(".")[0]
        if len(digits) >= 4 and digits.isascii() and digits.isdecimal():
            seconds = finite([f"{digits[4:6] or 0}.{text.partition('.')[2][:6] or 0}"])
            return int(digits[:2]) * 3600 + int(digits[2:4]) * 60 + seconds[0] if seconds else None
    return None


def _syntax_of(dataset: Dataset) -> str:
    return str(getattr(dataset, "file_meta", {}).get("TransferSyntaxUID") or "")


def _frames_of(dataset: Dataset, header: FileHeader) -> list[FileHeader]:
    """One header per frame of an enhanced image; without functional groups the frames have no position."""
    shared = next(iter(dataset.get("SharedFunctionalGroupsSequence") or ()), Dataset())
    per_frame = list(dataset.get("PerFrameFunctionalGroupsSequence") or ())
    n_frames = int(next(iter(numbers_of(dataset, "NumberOfFrames")), 1)) or 1
    if len(per_frame) != n_frames:
        return [replace(header, frame=index) for index in range(n_frames)]
    return [
        _placed(
            _frame_of(header, index, group, shared),
            *(numbers_of(functional_group(group, shared, macro), keyword) for keyword, macro in _GEOMETRY.items()),
        )
        for index, group in enumerate(per_frame)
    ]


def _frame_of(header: FileHeader, index: int, group: Dataset, shared: Dataset) -> FileHeader:
    content = functional_group(group, shared, "FrameContentSequence")
    acquisition = next(iter(numbers_of(content, "FrameAcquisitionNumber")), header.acquisition)
    phase = next(iter(numbers_of(content, "TemporalPositionIndex")), header.temporal_position)
    return replace(
        header,
        frame=index,
        acquisition=None if acquisition is None else int(acquisition),
        temporal_position=None if phase is None else int(phase),
        instance=index,
        facts=facts_of_frame(header.facts, group, shared),
    )


def _placed(
    header: FileHeader, position: tuple[float, ...], cosines: tuple[float, ...], spacing: tuple[float, ...]
) -> FileHeader:
    return replace(
        header,
        position_mm=(position[0], position[1], position[2]) if len(position) == 3 else None,
        orientation=cosines if len(cosines) == 6 else None,
        pixel_spacing_mm=(spacing[0], spacing[1]) if len(spacing) == 2 and min(spacing) > 0 else None,
    )
