"""The slices of a stack as Hounsfield units."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, RLELossless, SecondaryCaptureImageStorage

from popclust.errors import VolumeError
from popclust.imaging.bits import Declared, settled
from popclust.imaging.elements import functional_group, numbers_of, values_of
from popclust.imaging.headers import FileHeader, without_warnings
from popclust.imaging.padding import padding_of
from popclust.imaging.places import is_of_the_place, open_image
from popclust.imaging.streams import stream_of
from popclust.imaging.volume import AIR_HU
from popclust.imaging.wholeness import check_rescale, check_whole, is_blank_in_part

_MAX_HU = np.iinfo(np.int16).max
_MAX_VOXELS = 2**31
"""More are a corrupt header: 8,000 slices of 512 x 512 are fewer."""
# Lossy JPEG of 12 bits: extended sequential, and the retired spectral selection and full progression.
_BEYOND_PYDICOM = frozenset(f"1.2.840.10008.1.2.4.{process}" for process in (51, 53, 55))
_NUMBERS = (
    "SamplesPerPixel",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
)
_USUAL = {
    "SamplesPerPixel": 1,
    "PhotometricInterpretation": "MONOCHROME2",
    "PixelRepresentation": 0,
    "BitsStored": None,
}


class UnreadableImagesError(VolumeError):
    """Images of a stack cannot be decoded."""

    def __init__(self, n_images: int, n_all: int, first: str) -> None:
        super().__init__("unreadable_pixels", f"{n_images} of {n_all} images cannot be decoded ({first})")
        self.n_images = n_images


@dataclass(frozen=True)
class Plane:
    """One image as it was read."""

    hu: NDArray[np.int16]
    """(row, column) HU."""
    stored: NDArray[np.int64]
    """(row, column) stored values."""
    rescale: tuple[float, float]
    """Slope and intercept."""


def read_stack(headers: Sequence[FileHeader], twins: Sequence[tuple[int, FileHeader]] = ()) -> NDArray[np.int16]:
    """Voxels of a stack in HU.

    Rescale slope and intercept are each slice's own. Padding and whatever lies below -1024 HU become air (-1024 HU);
    what is beyond the range of 16 bits stays at its end.

    Parameters
    ----------
    headers : sequence of FileHeader
        Slices or frames of equal size, in the order wanted.
    twins : sequence of (int, FileHeader)
        Copies of the stack's image of that index: one that can be decoded counts if the other cannot.

    Returns
    -------
    ndarray of int16
        (slice, row, column) HU.

    Raises
    ------
    VolumeError
        `unreadable_pixels`: a file is truncated, or its compression is not known; `duplicate_positions`: copies
        differ; `wrong_sign`; `mixed_rescale`.
    OSError
        A file is missing, or the disk or the network fails.
    """
    n, rows, columns = len(headers), headers[0].rows, headers[0].columns
    if n * rows * columns > _MAX_VOXELS:
        raise UnreadableImagesError(n, n, "too large")
    reader, failed = _Reader(), list[VolumeError]()
    hu = np.empty((n, rows, columns), dtype=np.int16) if n * rows * columns < 2**28 else None
    copies: dict[int, list[FileHeader]] = {}
    for index, header in twins:
        copies.setdefault(index, []).append(header)
    before: Plane | None = None
    for index, header in enumerate(headers):
        try:
            plane = reader.read_any([header, *copies.get(index, ())])
        except VolumeError as error:
            failed.append(error)
            continue
        if hu is None:  # the first was whole: the size is no fault of the header
            hu = np.empty((n, rows, columns), dtype=np.int16)
        if before is not None and before.rescale != plane.rescale:
            check_rescale(before.hu, plane.hu, _to_hu(plane.stored, before.rescale, None))
        hu[index], before = plane.hu, plane
    if failed:
        others = [error for error in failed if error.code != "unreadable_pixels"]
        raise others[0] if others else UnreadableImagesError(len(failed), n, failed[0].message)
    if hu is None:
        raise UnreadableImagesError(0, 0, "no image")
    check_whole(hu)
    return hu


class _Reader:
    """Reads images one after the other; the frames of one file follow each other, and it is decoded once."""

    def __init__(self) -> None:
        self._path = ""
        self._opened: tuple[Dataset, NDArray, NDArray | None] | None = None

    def read_any(self, headers: Sequence[FileHeader]) -> Plane:
        """The image that these are copies of."""
        found, failed = list[Plane](), list[VolumeError]()
        for header in headers:
            try:
                found.append(self.read(header))
            except VolumeError as error:
                failed.append(error)
        if not found:
            raise failed[0]
        if any(not np.array_equal(one.hu, found[0].hu) for one in found[1:]):
            raise VolumeError("duplicate_positions", "images at one position differ")
        return found[0]

    def read(self, header: FileHeader) -> Plane:
        """One image."""
        try:
            if self._opened is None or self._path != header.path:
                self._opened = None
                self._path, self._opened = header.path, _decoded(header.path)
            dataset, values, is_padding = self._opened
            frame = None if values.ndim == 2 else header.frame or 0
            stored = values if frame is None else values[frame]
            if stored.shape != (header.rows, header.columns):
                raise ValueError("another size than the header's")
            nothing = padding_of(stored, dataset, _to_hu(stored, _rescale_of(dataset, header.frame), None))
            if is_padding is not None:
                extra = is_padding if frame is None else is_padding[frame]
                nothing = extra if nothing is None else nothing | extra
            rescale = _rescale_of(dataset, header.frame)
            return Plane(_to_hu(stored, rescale, nothing), stored, rescale)
        except VolumeError:
            raise
        except Exception as error:  # decoders raise nearly anything on corrupt data
            if is_of_the_place(error):
                raise
            raise VolumeError("unreadable_pixels", type(error).__name__) from None


def _decoded(path: str) -> tuple[Dataset, NDArray[np.int64], NDArray | None]:
    """A file's elements, its stored values, and what of them is padding by its bits."""
    with open_image(path) as file, without_warnings():
        dataset: Dataset = pydicom.dcmread(file, force=True)
        syntax = _syntax_of(dataset)
        for keyword, usual in _USUAL.items():  # what decoders ask for, and archives lose
            if dataset.get(keyword) is None:
                setattr(dataset, keyword, usual if usual is not None else dataset.BitsAllocated)
        if syntax.is_encapsulated:
            stream = stream_of(dataset, syntax)
        else:
            stream = None
            _check_length(dataset)
        raw = _raw_values(dataset, syntax)
    bits = int(dataset.get("BitsStored") or 0)
    declared = Declared(
        bits=bits,
        high_bit=int(dataset.get("HighBit") or max(bits - 1, 0)),
        is_signed=dataset.get("PixelRepresentation") == 1,
        has_overlay=any(
            (group, 0x0102) in dataset and (group, 0x3000) not in dataset for group in range(0x6000, 0x6020, 2)
        ),
    )
    try:
        return dataset, *settled(raw, declared, stream)
    except VolumeError:
        if any(is_blank_in_part(plane) for plane in raw.reshape(-1, *raw.shape[-2:])):
            raise ValueError("a part of the image is blank") from None
        raise


def _syntax_of(dataset: Dataset) -> pydicom.uid.UID:
    syntax = dataset.file_meta.get("TransferSyntaxUID") if hasattr(dataset, "file_meta") else None
    if syntax is None:
        implicit = dataset.original_encoding[0]
        syntax = pydicom.uid.ImplicitVRLittleEndian if implicit else pydicom.uid.ExplicitVRLittleEndian
        dataset.file_meta.TransferSyntaxUID = syntax
    return pydicom.uid.UID(syntax)


def _check_length(dataset: Dataset) -> None:
    """Refuse pixel data of which the header's size leaves rows over, or that are too short for it."""
    n_bytes = int(dataset.BitsAllocated) // 8 * int(dataset.get("SamplesPerPixel") or 1)
    row = int(dataset.Columns) * n_bytes
    expected = row * int(dataset.Rows) * int(dataset.get("NumberOfFrames") or 1)
    if n_bytes not in (1, 2, 4) or not 0 < expected <= len(dataset.PixelData) < expected + max(row, 2):
        raise ValueError("pixel data of another length than the header says")


def _raw_values(dataset: Dataset, syntax: pydicom.uid.UID) -> NDArray:
    if not syntax.is_encapsulated:
        # As they are: pydicom would clear the bits above BitsStored.
        order = ">" if syntax == pydicom.uid.ExplicitVRBigEndian else "<"
        values = np.frombuffer(dataset.PixelData, dtype=f"{order}u{int(dataset.BitsAllocated) // 8}")
        n_frames, size = int(dataset.get("NumberOfFrames") or 1), (int(dataset.Rows), int(dataset.Columns))
        values = values[: n_frames * size[0] * size[1]]
        return values.reshape(size if n_frames == 1 else (n_frames, *size))
    if syntax in _BEYOND_PYDICOM:
        return _gdcm_values(dataset)
    # One decoder for one syntax, whatever else is installed: lossy JPEG differs between decoders by a grey level.
    plugin = "pydicom" if syntax == RLELossless else "gdcm"
    dataset.pixel_array_options(decoding_plugin=plugin, correct_unused_bits=False)
    return np.asarray(dataset.pixel_array)


def _gdcm_values(dataset: Dataset) -> NDArray:
    import gdcm

    for switch in (gdcm.Trace.WarningOff, gdcm.Trace.ErrorOff, gdcm.Trace.DebugOff):
        switch()  # it prints names of files
    reader = gdcm.ImageReader()
    with tempfile.NamedTemporaryFile(suffix=".dcm") as near:
        _pixels_alone(dataset).save_as(near.name)
        reader.SetFileName(near.name)
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


def _pixels_alone(dataset: Dataset) -> Dataset:
    """What an image is decoded from and nothing else: gdcm ends the process at other elements of another kind."""
    out = Dataset()
    out.file_meta = FileMetaDataset()
    out.file_meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    out.file_meta.MediaStorageSOPClassUID = out.SOPClassUID = SecondaryCaptureImageStorage
    out.file_meta.MediaStorageSOPInstanceUID = out.SOPInstanceUID = UID("2.25.1")
    for keyword in _NUMBERS:
        if dataset.get(keyword) is not None:
            setattr(out, keyword, int(dataset[keyword].value))
    out.PhotometricInterpretation = str(dataset.PhotometricInterpretation)
    out.PixelData = dataset.PixelData
    return out


def _to_hu(stored: NDArray[np.int64], rescale: tuple[float, float], padding: NDArray | None) -> NDArray[np.int16]:
    slope, intercept = rescale
    if slope == int(slope) and intercept == int(intercept):
        hu = stored * int(slope) + int(intercept)
    else:
        hu = np.rint(stored * slope + intercept)
    hu = np.clip(hu, AIR_HU, _MAX_HU)
    if padding is not None:
        hu[padding] = AIR_HU
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
