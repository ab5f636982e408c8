"""Radiology reports as people have them: CSV, Parquet, DICOM structured reports, FHIR DiagnosticReport."""

from __future__ import annotations

import base64
import binascii
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from popclust.errors import InputError
from popclust.settings import TermsSettings

IDENTIFIERS = ("volume_id", "series_instance_uid", "study_instance_uid", "accession_number")
"""Columns by which a report finds its volumes, the most exact first."""

_STUDY_UID_PREFIX = "urn:oid:"
_MOJIBAKE = ("Ã¤", "Ã¶", "Ã¼", "ÃŸ", "Ã„", "Ã–", "Ãœ", "â€", "Â ")


def read_reports(path: str | Path, settings: TermsSettings) -> pd.DataFrame:
    """Read reports.

    Parameters
    ----------
    path : str or Path
        A CSV or Parquet table with the column `text` and at least one of :data:`IDENTIFIERS`; a JSON file with one FHIR
        DiagnosticReport or a Bundle of them, or NDJSON; a DICOM structured report; or a folder of any of these.
    settings : TermsSettings
        `language`, when it is not "auto", fills the column where the table has none.

    Returns
    -------
    pandas.DataFrame
        `text` (str, never missing), `language` (str or None), and those of :data:`IDENTIFIERS` that are known (str or
        None), in the order of the files' names and of their content. Several reports of one volume stay several rows.

    Raises
    ------
    InputError
        Nothing readable, or a table without `text` or without an identifier.
    """
    path = Path(path)
    if not path.exists():
        raise InputError("reports: the file or folder that the setting `reports` of [terms] names does not exist")
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    frames = [frame for file in files if (frame := _read_file(file, must_be_report=not path.is_dir())) is not None]
    if not frames:
        raise InputError("reports: no report found; wanted CSV, Parquet, DICOM SR or FHIR DiagnosticReport JSON")
    return _tidy(pd.concat(frames, ignore_index=True), settings)


def _read_file(path: Path, *, must_be_report: bool) -> pd.DataFrame | None:
    """The reports of one file; None where a folder holds something else."""
    name = path.name.lower()
    if name.endswith((".csv", ".csv.gz", ".tsv")):
        return _read_csv(path)
    if name.endswith((".parquet", ".pq")):
        return _checked(pd.read_parquet(path))
    if name.endswith((".json", ".ndjson")):
        return _frame(_fhir_reports(_read_text(path)))
    return _read_dicom(path, must_be_report=must_be_report)


def _read_csv(path: Path) -> pd.DataFrame:
    """A table in UTF-8 or, failing that, Windows-1252, parted by commas, semicolons or tabs."""
    data = path.read_bytes()
    if path.name.lower().endswith(".gz"):
        import gzip

        data = gzip.decompress(data)
    text = _decoded(data).replace("\x00", " ")
    header = text.partition("\n")[0]
    separator = max(",;\t", key=header.count)
    try:
        frame = pd.read_csv(io.StringIO(text), sep=separator, dtype=str, keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError):
        raise InputError("reports: the CSV cannot be read; wanted a header and as many columns in every row") from None
    return _checked(frame)


def _checked(frame: pd.DataFrame) -> pd.DataFrame:
    """Only the known columns, by their names in small letters."""
    frame = frame.rename(columns={c: str(c).strip().lower() for c in frame.columns})
    if "text" not in frame.columns:
        raise InputError("reports: the table has no column `text`")
    if not set(IDENTIFIERS) & set(frame.columns):
        raise InputError(f"reports: the table needs one of the columns {', '.join(IDENTIFIERS)}")
    return frame[[c for c in ("text", "language", *IDENTIFIERS) if c in frame.columns]]


def _decoded(data: bytes) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")


def _read_text(path: Path) -> str:
    return _decoded(path.read_bytes())


def _tidy(frame: pd.DataFrame, settings: TermsSettings) -> pd.DataFrame:
    """Strings or None in every column."""
    given = None if settings.language == "auto" else settings.language
    tidy = pd.DataFrame({"text": [_repaired(t) for t in frame["text"]]}, dtype=object)
    languages = frame["language"] if "language" in frame else [None] * len(frame)
    tidy["language"] = pd.Series([_language(v) or given for v in languages], dtype=object)
    for column in IDENTIFIERS:
        if column in frame:
            tidy[column] = pd.Series([_text_or_none(v) for v in frame[column]], dtype=object)
    return tidy


def _language(value: object) -> str | None:
    text = _text_or_none(value)
    return text.lower()[:2] if text else None


def _text_or_none(value: object) -> str | None:
    return value.strip() or None if isinstance(value, str) else None if value is None or value != value else str(value)


def _repaired(value: object) -> str:
    """The text of a report; UTF-8 that was once read as Windows-1252 is put right."""
    if not isinstance(value, str):
        return ""
    if any(sign in value for sign in _MOJIBAKE):
        try:
            return value.encode("cp1252").decode("utf-8")
        except UnicodeError:
            return value
    return value


def _frame(rows: list[dict[str, str]]) -> pd.DataFrame | None:
    return pd.DataFrame(rows, dtype=object) if rows else None


def _fhir_reports(text: str) -> list[dict[str, str]]:
    """The reports of a DiagnosticReport, a Bundle, a list or NDJSON."""
    try:
        resources = [json.loads(text)]
    except json.JSONDecodeError:
        try:
            resources = [json.loads(line) for line in text.splitlines() if line.strip()]
        except json.JSONDecodeError:
            raise InputError("reports: a JSON file is neither JSON nor NDJSON") from None
    return [_fhir_report(r) for r in _diagnostic_reports(resources)]


def _diagnostic_reports(value: Any) -> Iterator[dict[str, Any]]:
    for item in value if isinstance(value, list) else [value]:
        if not isinstance(item, dict):
            continue
        kind = item.get("resourceType")
        if kind == "DiagnosticReport":
            yield item
        elif kind == "Bundle":
            yield from _diagnostic_reports([e.get("resource") for e in item.get("entry", []) if isinstance(e, dict)])


def _fhir_report(report: dict[str, Any]) -> dict[str, str]:
    """Text and identifiers of one DiagnosticReport (FHIR R4 and R5).

    The text is that of `presentedForm`, or the narrative, with the conclusion.
    """
    parts = [_attachment(a) for a in report.get("presentedForm", []) if isinstance(a, dict)]
    if not any(parts) and isinstance(report.get("text"), dict):
        parts = [str(report["text"].get("div", ""))]
    if isinstance(report.get("conclusion"), str):
        parts.append("\n\nIMPRESSION:\n" + report["conclusion"])
    row = {"text": "\n\n".join(p for p in parts if p)}
    if isinstance(report.get("language"), str):
        row["language"] = report["language"]
    # R4 says imagingStudy, R5 study; accession numbers stand with the order (basedOn) or the study, as identifiers of
    # type ACSN.
    references = [report, *_references(report, "imagingStudy"), *_references(report, "study")]
    references += _references(report, "basedOn")
    for identifier in (i for r in references for i in _identifiers(r)):
        column = _identifier_column(identifier)
        if column and isinstance(identifier.get("value"), str):
            row.setdefault(column, identifier["value"].removeprefix(_STUDY_UID_PREFIX))
    return row


def _references(report: dict[str, Any], name: str) -> list[dict[str, Any]]:
    value = report.get(name, [])
    return [r for r in (value if isinstance(value, list) else [value]) if isinstance(r, dict)]


def _identifiers(resource: dict[str, Any]) -> list[dict[str, Any]]:
    value = resource.get("identifier", [])
    return [i for i in (value if isinstance(value, list) else [value]) if isinstance(i, dict)]


def _identifier_column(identifier: dict[str, Any]) -> str | None:
    kind = identifier.get("type")
    codings = kind.get("coding", []) if isinstance(kind, dict) else []
    if any(isinstance(c, dict) and c.get("code") == "ACSN" for c in codings):
        return "accession_number"
    is_uid = identifier.get("system") == "urn:dicom:uid" or str(identifier.get("value", "")).startswith("urn:oid:")
    return "study_instance_uid" if is_uid else None


def _attachment(attachment: dict[str, Any]) -> str:
    """Text of an attachment that is text."""
    if not str(attachment.get("contentType", "text/plain")).startswith("text/"):
        return ""
    try:
        return _decoded(base64.b64decode(str(attachment.get("data", "")), validate=False))
    except (binascii.Error, ValueError):
        return ""


def _read_dicom(path: Path, *, must_be_report: bool) -> pd.DataFrame | None:
    try:
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
    except (InvalidDicomError, OSError, ValueError, KeyError):
        if must_be_report:
            raise InputError("reports: the file is none of CSV, Parquet, JSON and DICOM") from None
        return None
    if "ContentSequence" not in dataset:
        return None
    # Lines are put together with headings in front, as a written report has them.
    row = {"text": "\n".join(_structured_text(dataset, ""))}
    for column, keyword in _DICOM_COLUMNS.items():
        value = str(dataset.get(keyword, "") or "")
        if value:
            row[column] = value
    return _frame([row])


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
