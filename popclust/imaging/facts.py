"""What all images of a sound series have in common, as each of their headers says it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import blake2b

import msgspec
from pydicom.dataset import Dataset

from popclust.imaging.elements import PADDING, finite, functional_group, numbers_of, values_of

KEYWORDS = (
    "PatientBirthDate",
    "FrameOfReferenceUID",
    "SeriesNumber",
    "SeriesDescription",
    "ConvolutionKernel",
    "SliceThickness",
    "KVP",
    "GantryDetectorTilt",
    "ContrastBolusAgent",
    "NominalPercentageOfCardiacPhase",
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    "ModalityLUTSequence",
    "BitsAllocated",
    "BitsStored",
    "SamplesPerPixel",
    "BurnedInAnnotation",
    "LossyImageCompression",
)
"""Elements that are read of every image beside those that say what and where it is."""

# Baseline and extended JPEG and their retired kin, near-lossless JPEG-LS, JPEG 2000 and HTJ2K with loss.
_LOSSY_SYNTAXES = frozenset({f"1.2.840.10008.1.2.4.{n}" for n in (*range(50, 57), *range(59, 65), 81, 91, 93, 203)})


@dataclass(frozen=True, slots=True)
class Facts:
    """What the header of one image says of the series it belongs to. Empty or None: it does not say."""

    born: str = ""
    """Digest of PatientBirthDate."""
    frame_of_reference: str = ""
    """FrameOfReferenceUID."""
    series_number: int | None = None
    """SeriesNumber."""
    described: str = ""
    """Digest of SeriesDescription, which is free text."""
    kernel: str = ""
    """ConvolutionKernel, all its values."""
    thickness_mm: float | None = None
    """SliceThickness."""
    kvp: float | None = None
    """KVP."""
    tilt_deg: float = 0.0
    """GantryDetectorTilt."""
    contrast: str = ""
    """Digest of ContrastBolusAgent, which is free text."""
    cardiac_percent: float | None = None
    """NominalPercentageOfCardiacPhase."""
    image_type: str = ""
    """ImageType in capitals, its values parted by a backslash; of a frame FrameType."""
    slope: float | None = None
    """RescaleSlope."""
    intercept: float | None = None
    """RescaleIntercept."""
    rescale_type: str = ""
    """RescaleType in capitals."""
    has_lut: bool = False
    """A modality lookup table stands there, for slope and intercept."""
    bits_allocated: int | None = None
    """BitsAllocated."""
    bits_stored: int | None = None
    """BitsStored."""
    n_samples: int = 1
    """SamplesPerPixel: 3 for colour."""
    is_burned_in: bool = False
    """BurnedInAnnotation says that text is part of the picture."""
    is_lossy: bool = False
    """LossyImageCompression, or the transfer syntax, says that grey levels are lost."""


def comparable_id(patient_id: str) -> str:
    """A PatientID as it is compared within a series: archives differ in its case, spaces and leading zeros."""
    return "".join(patient_id.split()).upper().lstrip("0")


def facts_of(texts: Callable[[str], list[str]], has: Callable[[str], bool], syntax: str) -> Facts:
    """Facts of one image.

    Parameters
    ----------
    texts : callable
        Gives all values of an element as text, by its keyword.
    has : callable
        Whether an element is there, without reading it.
    syntax : str
        The transfer syntax.
    """

    def number(keyword: str) -> float | None:
        return next(iter(finite(texts(keyword)[:1])), None)

    def integer(keyword: str) -> int | None:
        value = number(keyword)
        return None if value is None else int(value)

    def text(keyword: str) -> str:
        return "\\".join(texts(keyword)).strip(PADDING)

    def first(keyword: str) -> str:
        return next(iter(texts(keyword)), "").upper()

    found = Facts(
        born=_digest(text("PatientBirthDate")),
        frame_of_reference=text("FrameOfReferenceUID"),
        series_number=integer("SeriesNumber"),
        described=_digest(text("SeriesDescription")),
        kernel=text("ConvolutionKernel"),
        thickness_mm=number("SliceThickness"),
        kvp=number("KVP"),
        tilt_deg=number("GantryDetectorTilt") or 0.0,
        contrast=_digest(text("ContrastBolusAgent").upper()),
        cardiac_percent=number("NominalPercentageOfCardiacPhase"),
        image_type=text("ImageType").upper(),
        slope=number("RescaleSlope"),
        intercept=number("RescaleIntercept"),
        rescale_type=first("RescaleType"),
        has_lut=has("ModalityLUTSequence"),
        bits_allocated=integer("BitsAllocated"),
        bits_stored=integer("BitsStored"),
        n_samples=integer("SamplesPerPixel") or 1,
        is_burned_in=first("BurnedInAnnotation") == "YES",
        is_lossy=first("LossyImageCompression") == "01" or syntax in _LOSSY_SYNTAXES,
    )
    return shared_instance(found)


def facts_of_frame(facts: Facts, frame: Dataset, shared: Dataset) -> Facts:
    """Facts of a frame: what its functional groups say goes before what the file says."""

    def group(name: str) -> Dataset:
        return functional_group(frame, shared, name)

    def number(item: Dataset, keyword: str, otherwise: float | None) -> float | None:
        return next(iter(numbers_of(item, keyword)[:1]), otherwise)

    reconstruction, measures = group("CTReconstructionSequence"), group("PixelMeasuresSequence")
    rescale, kind = group("PixelValueTransformationSequence"), group("CTImageFrameTypeSequence")
    geometry, exposure = group("CTGeometrySequence"), group("CTXRayDetailsSequence")
    kernel = "\\".join(str(value).strip(PADDING) for value in values_of(reconstruction, "ConvolutionKernel"))
    quantity = "".join(str(value) for value in values_of(rescale, "RescaleType")[:1]).strip(PADDING).upper()
    frame_type = "\\".join(str(value).strip(PADDING).upper() for value in values_of(kind, "FrameType"))
    found = replace(
        facts,
        kernel=kernel or facts.kernel,
        thickness_mm=number(measures, "SliceThickness", facts.thickness_mm),
        slope=number(rescale, "RescaleSlope", facts.slope),
        intercept=number(rescale, "RescaleIntercept", facts.intercept),
        rescale_type=quantity or facts.rescale_type,
        # MIXED in the file says that its frames say.
        image_type=frame_type or facts.image_type,
        tilt_deg=number(geometry, "GantryDetectorTilt", facts.tilt_deg) or 0.0,
        kvp=number(exposure, "KVP", facts.kvp),
    )
    return shared_instance(found)


@lru_cache(4096)
def shared_instance(facts: Facts) -> Facts:
    """One instance for equal facts: a series has hundreds of headers that say the same."""
    return facts


def written(facts: Facts) -> str:
    """Facts as text, for a column of a table."""
    return _written(facts)


@lru_cache(4096)
def _written(facts: Facts) -> str:
    return msgspec.json.encode({n: v for n, v in msgspec.to_builtins(facts).items() if v != _PLAIN[n]}).decode()


@lru_cache(4096)
def read_back(text: str) -> Facts:
    """What :func:`written` gave, as facts again."""
    return msgspec.json.decode(text, type=Facts)


_PLAIN = msgspec.to_builtins(Facts())


@lru_cache(4096)
def _digest(text: str) -> str:
    return blake2b(text.encode(errors="replace"), digest_size=8).hexdigest() if text else ""
