"""Elements of a DICOM data set as text and numbers, whatever a vendor or an archive has made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydicom.dataset import Dataset

PADDING = " \t\r\n\v\f\0"
"""What surrounds values to make their length even."""


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
    text = next((str(value).strip(PADDING) for value in values_of(dataset, keyword)), "")
    return text if text and text.upper() != "NONE" else None


def numbers_of(dataset: Dataset, keyword: str) -> tuple[float, ...]:
    """All values of an element as numbers, empty if any is not finite or beyond all measure."""
    return finite([str(value) for value in values_of(dataset, keyword)])


def finite(texts: Sequence[str]) -> tuple[float, ...]:
    """Texts as numbers, none if any is not finite or beyond all measure."""
    try:
        numbers = tuple(float(text) for text in texts)
    except ValueError:
        return ()
    return numbers if all(abs(number) < 1e12 for number in numbers) else ()


def functional_group(frame: Dataset, shared: Dataset, name: str) -> Dataset:
    """The item of a functional group macro: the frame's own, else the shared one, else empty."""
    for groups in (frame, shared):
        for item in groups.get(name) or ():
            return item
    return Dataset()
