"""Radiology reports as people have them: tables, DICOM structured reports, FHIR DiagnosticReport."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from popclust.errors import InputError
from popclust.reports.encoding import decoded
from popclust.reports.fhir import fhir_rows
from popclust.reports.structured import structured_row
from popclust.reports.tables import IDENTIFIERS, TABLE_ENDINGS, Row, cell_text, key_text, rows_of_table
from popclust.settings import TermsSettings

_MOJIBAKE = ("Ã¤", "Ã¶", "Ã¼", "ÃŸ", "Ã„", "Ã–", "Ãœ", "â€", "Â ")


class Report(NamedTuple):
    """One report as it was handed in."""

    text: str
    """Empty where nothing was written: then it is no report."""
    language: str | None
    """Two small letters; None where it is not said."""
    keys: dict[str, str]
    """Those of :data:`IDENTIFIERS` that are known."""


def read_reports(path: str | Path, settings: TermsSettings) -> Iterator[Report]:
    """Read reports one by one, in the order of the files' names and of their content.

    Parameters
    ----------
    path : str or Path
        A CSV, Parquet or Excel table with a column of texts and at least one of :data:`IDENTIFIERS`; a JSON file with
        a FHIR DiagnosticReport or a Bundle of them, or NDJSON; a DICOM structured report; or a folder of all these.
    settings : TermsSettings
        `language`, when it is not "auto", is that of every report that does not say another.

    Yields
    ------
    Report
        Several reports of one volume stay several.

    Raises
    ------
    InputError
        Nothing readable, a table without texts or identifiers, or one whose rows are not as wide as its header.
    """
    path = Path(path)
    if not path.exists():
        raise InputError("reports: the file or folder that the setting `reports` of [terms] names does not exist")
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    given = None if settings.language == "auto" else settings.language
    is_empty = True
    for file in files:
        for row in _rows_of(file, must_be_report=not path.is_dir()):
            is_empty = False
            keys = {name: key for name in IDENTIFIERS if (key := key_text(row.get(name)))}
            language = cell_text(row.get("language")).strip().lower()[:2]
            yield Report(_repaired(cell_text(row.get("text"))), language or given, keys)
    if is_empty:
        raise InputError("reports: no report found; wanted CSV, Parquet, Excel, DICOM SR or FHIR DiagnosticReport JSON")


def _rows_of(path: Path, *, must_be_report: bool) -> Iterator[Row]:
    """The reports of one file; none where a folder holds something else."""
    name = path.name.lower()
    if name.endswith(TABLE_ENDINGS):
        yield from rows_of_table(path)
    elif name.endswith((".json", ".ndjson")):
        yield from fhir_rows(decoded(path.read_bytes()), path.name)
    else:
        try:
            row = structured_row(path)
        except InputError:
            if must_be_report:
                raise
            return
        if row is not None:
            yield row


def _repaired(text: str) -> str:
    """UTF-8 that was once read as Windows-1252 is put right; white space alone is nothing."""
    if any(sign in text for sign in _MOJIBAKE):
        try:
            text = text.encode("cp1252").decode("utf-8")
        except UnicodeError:
            return text
    return text if text.strip() else ""
