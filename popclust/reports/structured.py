"""Reports as DICOM structured reports."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from popclust.errors import InputError
from popclust.reports.tables import Row


def structured_row(path: Path) -> Row | None:
    """The report of a DICOM file; None where it is none.

    Raises
    ------
    InputError
        The file is no DICOM.
    """
    try:
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
    except (InvalidDicomError, OSError, ValueError, KeyError):
        raise InputError(f"reports: {path.name} is none of CSV, Parquet, Excel, JSON and DICOM") from None
    if "ContentSequence" not in dataset:
        return None
    # Lines are put together with headings in front, as a written report has them.
    found = {column: str(dataset.get(keyword, "") or "") for column, keyword in _DICOM_COLUMNS.items()}
    return {"text": "\n".join(_structured_text(dataset, "")), **{c: v for c, v in found.items() if v}}


_DICOM_COLUMNS = {"study_instance_uid": "StudyInstanceUID", "accession_number": "AccessionNumber"}


def _structured_text(item: Dataset, heading: str) -> Iterator[str]:
    """Text of a content tree (PS3.3 C.17.3): containers head their text items."""
    for child in item.get("ContentSequence", None) or []:
        names = child.get("ConceptNameCodeSequence", None) or []
        name = str(names[0].get("CodeMeaning", "")) if names else ""
        kind = child.get("ValueType", "")
        if kind == "CONTAINER":
            yield f"\n{name.upper()}:" if name else ""
            yield from _structured_text(child, name)
        elif kind in _VALUES:
            value = _VALUES[kind](child)
            is_new = name and name.lower() not in heading.lower() and kind == "TEXT"
            yield f"\n{name.upper()}:\n{value}" if is_new else value
            yield from _structured_text(child, heading)


def _code_meaning(item: Dataset) -> str:
    codes = item.get("ConceptCodeSequence", None) or []
    return f"{codes[0].get('CodeMeaning', '')}." if codes else ""


_VALUES: dict[str, Callable[[Dataset], str]] = {
    "TEXT": lambda item: str(item.get("TextValue", "") or ""),
    "CODE": _code_meaning,
}
