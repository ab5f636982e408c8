"""Headers of image files: what is needed to sort files into series, read without touching a voxel."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from popclust.errors import InputError
from popclust.imaging.volume import Vector

# Vendors' headers break the rules of value representations daily; a warning per element helps nobody.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE

VOLUME_SUFFIXES = (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".nhdr")
"""Files that hold a whole volume each, read through ITK."""

_SKIPPED_NAMES = frozenset({"DICOMDIR", "THUMBS.DB", "DESKTOP.INI"})
_TAGS = [
    "SpecificCharacterSet",
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "Modality",
    "ImageType",
    "AcquisitionNumber",
    "TemporalPositionIdentifier",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
]
# Without the 128-byte preamble a file begins with an element of group 0002 or 0008, in either byte order.
_BARE_STARTS = (b"\x08\x00", b"\x02\x00", b"\x00\x08", b"\x00\x02")


@dataclass(frozen=True, slots=True)
class FileHeader:
    """One image: a DICOM slice, a frame of a multi-frame DICOM file, or a volume file."""

    path: str
    """Where it is."""
    identity: str
    """The path relative to its source, with forward slashes: what names a file that carries no UID."""
    format: Literal["dicom", "volume", "none"]
    """`none`: nothing that can become a volume, and `problem` says why."""
    problem: str = ""
    """`not_an_image` or `unreadable_header`, else empty."""
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


def list_files(sources: Iterable[str | os.PathLike[str]]) -> list[str]:
    """Every file below the sources, sorted; hidden files and folders, and DICOMDIR, are skipped.

    Parameters
    ----------
    sources : iterable of str or os.PathLike
        Folders, gone through at every depth, and single files.

    Returns
    -------
    list of str
        Each path once.

    Raises
    ------
    InputError
        If a source is missing, cannot be read, or holds no file at all.
    """
    found: set[str] = set()
    for source in [os.fspath(one) for one in sources]:
        if not Path(source).exists():
            raise InputError(f"source {source!r}: there is no such file or folder")
        files = [source] if Path(source).is_file() else list(_walk(source))
        if not files:
            raise InputError(f"source {source!r}: the folder holds no files")
        found.update(files)
    if not found:
        raise InputError("sources: none given; name the folders with the CT series in [ingest] sources")
    return sorted(found)


def _walk(folder: str) -> Iterator[str]:
    def fail(error: OSError) -> None:
        raise InputError(f"source {folder!r}: {error.filename} cannot be read ({error.strerror})")

    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        # A link to a folder above would be walked for ever.
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            if not name.startswith(".") and name.upper() not in _SKIPPED_NAMES:
                yield str(Path(parent) / name)


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
    roots = [Path(source) for source in sources]
    return [header for path in paths for header in _scan_file(path, _identity(Path(path), roots))]


def _identity(path: Path, roots: Iterable[Path]) -> str:
    below = [path.relative_to(root).as_posix() for root in roots if path != root and path.is_relative_to(root)]
    return min(below, key=len, default=path.name)


def _scan_file(path: str, identity: str) -> list[FileHeader]:
    if path.lower().endswith(VOLUME_SUFFIXES):
        return [FileHeader(path, identity, "volume")]
    try:
        dataset = _read_header(path)
        if dataset is None or "Rows" not in dataset or "SOPClassUID" not in dataset:
            return [FileHeader(path, identity, "none", "not_an_image")]
        return _headers_of(dataset, path, identity)
    except Exception:  # noqa: BLE001 - corrupt bytes make pydicom raise nearly anything, and one file must not end the run
        return [FileHeader(path, identity, "none", "unreadable_header")]


def _read_header(path: str) -> Dataset | None:
    with Path(path).open("rb") as file:
        start = file.read(132)
    if start[128:] != b"DICM" and start[:2] not in _BARE_STARTS:
        return None
    try:
        return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS), force=start[128:] != b"DICM")
    except InvalidDicomError:
        return None


def _headers_of(dataset: Dataset, path: str, identity: str) -> list[FileHeader]:
    image_type = [str(part).strip().upper() for part in values_of(dataset, "ImageType")]
    header = FileHeader(
        path,
        identity,
        "dicom",
        # Interned: a series has hundreds of headers, and the text is the same in each.
        series_uid=sys.intern(text_of(dataset, "SeriesInstanceUID") or ""),
        study_uid=sys.intern(text_of(dataset, "StudyInstanceUID") or ""),
        sop_uid=text_of(dataset, "SOPInstanceUID") or "",
        sop_class=sys.intern(text_of(dataset, "SOPClassUID") or ""),
        modality=sys.intern(text_of(dataset, "Modality") or ""),
        is_localizer="LOCALIZER" in image_type,
        rows=int(dataset.Rows),
        columns=int(dataset.Columns),
        acquisition=_integer_of(dataset, "AcquisitionNumber"),
        temporal_position=_integer_of(dataset, "TemporalPositionIdentifier"),
    )
    if (_integer_of(dataset, "NumberOfFrames") or 1) > 1 or "SharedFunctionalGroupsSequence" in dataset:
        return _frames_of(dataset, header)
    return [_with_geometry(header, dataset, dataset, dataset)]


def _frames_of(dataset: Dataset, header: FileHeader) -> list[FileHeader]:
    """One header per frame of an enhanced image; without functional groups the frames have no position."""
    shared = next(iter(dataset.get("SharedFunctionalGroupsSequence") or ()), Dataset())
    per_frame = list(dataset.get("PerFrameFunctionalGroupsSequence") or ())
    n_frames = _integer_of(dataset, "NumberOfFrames") or 1
    if len(per_frame) != n_frames:
        return [replace(header, frame=index) for index in range(n_frames)]
    return [
        _with_geometry(
            replace(header, frame=index),
            functional_group(group, shared, "PlanePositionSequence"),
            functional_group(group, shared, "PlaneOrientationSequence"),
            functional_group(group, shared, "PixelMeasuresSequence"),
        )
        for index, group in enumerate(per_frame)
    ]


def functional_group(frame: Dataset, shared: Dataset, name: str) -> Dataset:
    """The item of a functional group macro: the frame's own, else the shared one, else empty."""
    for groups in (frame, shared):
        for item in groups.get(name) or ():
            return item
    return Dataset()


def _with_geometry(header: FileHeader, position: Dataset, orientation: Dataset, measures: Dataset) -> FileHeader:
    where = numbers_of(position, "ImagePositionPatient")
    cosines = numbers_of(orientation, "ImageOrientationPatient")
    spacing = numbers_of(measures, "PixelSpacing")
    return replace(
        header,
        position_mm=(where[0], where[1], where[2]) if len(where) == 3 else None,
        orientation=cosines if len(cosines) == 6 else None,
        pixel_spacing_mm=(spacing[0], spacing[1]) if len(spacing) == 2 and min(spacing) > 0 else None,
    )


def values_of(dataset: Dataset, keyword: str) -> list[Any]:
    """All values of an element, empty if it is absent, empty or cannot be understood."""
    try:
        value = dataset.get(keyword)
    except Exception:  # noqa: BLE001 - one element of nonsense must not cost the file
        return []
    if value is None or value == "":
        return []
    many = isinstance(value, Sequence) and not isinstance(value, str | bytes)
    return list(value) if many else [value]


def text_of(dataset: Dataset, keyword: str) -> str | None:
    """The first value of an element as text, None if there is none."""
    text = next((str(value).strip().strip("\0") for value in values_of(dataset, keyword)), "")
    return text if text and text.upper() != "NONE" else None


def numbers_of(dataset: Dataset, keyword: str) -> tuple[float, ...]:
    """All values of an element as numbers, empty if any is not finite or beyond all measure."""
    try:
        numbers = tuple(float(value) for value in values_of(dataset, keyword))
    except (TypeError, ValueError):
        return ()
    return numbers if all(abs(number) < 1e12 for number in numbers) else ()


def _integer_of(dataset: Dataset, keyword: str) -> int | None:
    numbers = numbers_of(dataset, keyword)
    return int(numbers[0]) if numbers else None
