"""A table that says of volume files what their format cannot: patient, kernel, scanner, age, date."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from popclust.errors import InputError
from popclust.imaging.dicom import SeriesDescription
from popclust.imaging.places import is_url, local_copy, local_path

MAX_TEXT = 64
"""Characters of a cell: what DICOM allows for the same."""
_NOTHING = frozenset({"", "NA", "N/A", "NAN", "NONE", "NULL", "UNKNOWN", "?", "-"})
_SEXES = {"M": "M", "MALE": "M", "F": "F", "FEMALE": "F", "W": "F", "O": "O", "OTHER": "O"}
_YES, _NO = frozenset({"1", "TRUE", "YES", "Y"}), frozenset({"0", "FALSE", "NO", "N"})


@dataclass(frozen=True)
class SidecarRow:
    """What one row says."""

    number: int
    """Of the row, the first below the header being 1."""
    file: str
    """Path below the source, or the end of it, with forward slashes."""
    told: SeriesDescription
    """In place of what a DICOM header would say; identifiers in clear, never stored."""


def read_sidecar(path: str) -> tuple[SidecarRow, ...]:
    """Read the table.

    Parameters
    ----------
    path : str
        CSV (with a header, UTF-8) or Parquet; a path or a URL. `file` is needed; `patient`, `issuer`,
        `accession_number`, `kernel`, `manufacturer`, `model`, `slice_thickness_mm`, `age_years`, `sex`, `date` and
        `contrast` may be there. Empty cells say nothing.

    Raises
    ------
    InputError
        It cannot be read, a column is not known, a cell is not what its column wants, or a file has two rows. Cells are
        named by row and column and never quoted, since they may hold names.
    """
    path = local_path(path)
    stamp = 0 if is_url(path) or not Path(path).exists() else Path(path).stat().st_mtime_ns
    return _read(path, stamp)


@lru_cache(maxsize=2)
def _read(path: str, stamp: int) -> tuple[SidecarRow, ...]:
    try:
        with local_copy(path) as near:
            cells = _parquet(near) if path.lower().endswith((".parquet", ".pq")) else _csv(near)
    except InputError:
        raise
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(
            f"[ingest] sidecar: the table cannot be read ({type(error).__name__}); wanted is a CSV in UTF-8 or Parquet"
        ) from None
    rows = tuple(_row(number, one) for number, one in enumerate(cells, 1))
    first: dict[str, int] = {}
    for row in rows:
        if row.file in first:
            raise InputError(f"[ingest] sidecar: rows {first[row.file]} and {row.number} are of one file; leave one")
        first[row.file] = row.number
    return rows


def _csv(path: str) -> list[Mapping[str, str]]:
    with Path(path).open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        _check_columns(reader.fieldnames or [])
        rows: list[Mapping[str, str]] = []
        for number, row in enumerate(reader, 1):
            if None in row or None in row.values():
                raise InputError(f"[ingest] sidecar: row {number} has more or fewer cells than the header")
            rows.append(row)
        return rows


def _parquet(path: str) -> list[Mapping[str, str]]:
    table = pq.read_table(path)
    _check_columns(table.column_names)
    return [{k: "" if v is None else str(v) for k, v in row.items()} for row in table.to_pylist()]


def _check_columns(names: Iterable[str]) -> None:
    names = list(names)
    known = ["file", *_COLUMNS]
    wrong = [number for number, name in enumerate(names, 1) if name not in known]
    if "file" not in names or wrong or len(set(names)) < len(names):
        what = f"column {wrong[0]} is not known" if wrong else "there is no column file, or one column is there twice"
        raise InputError(f"[ingest] sidecar: {what}; columns are {', '.join(known)}")


def _row(number: int, cells: Mapping[str, str]) -> SidecarRow:
    file = cells["file"].strip().replace("\\", "/").removeprefix("./").strip("/")
    if not file:
        raise InputError(f"[ingest] sidecar: row {number}, file: must name a volume file")
    values: dict[str, Any] = {}
    for name, (field, read, wanted) in _COLUMNS.items():
        text = cells.get(name, "").strip()
        if text.upper() in _NOTHING:
            continue
        try:
            if len(text) > MAX_TEXT or not text.isprintable():
                raise ValueError
            values[field] = read(text)
        except ValueError:
            raise InputError(f"[ingest] sidecar: row {number}, {name}: must be {wanted}, or empty") from None
    return SidecarRow(number, file, SeriesDescription(**values))


def _number(low: float, high: float) -> Callable[[str], float]:
    def read(text: str) -> float:
        value = float(text)
        if not low <= value <= high:
            raise ValueError
        return value

    return read


def _one_of(words: Mapping[str, Any]) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        if text.upper() not in words:
            raise ValueError
        return words[text.upper()]

    return read


_TEXT = f"text of at most {MAX_TEXT} printable characters"
_COLUMNS: dict[str, tuple[str, Callable[[str], Any], str]] = {
    "patient": ("patient_id", str, _TEXT),
    "issuer": ("patient_issuer", str, _TEXT),
    "accession_number": ("accession_number", str, _TEXT),
    "kernel": ("kernel", str, _TEXT),
    "manufacturer": ("manufacturer", str, _TEXT),
    "model": ("model", str, _TEXT),
    "slice_thickness_mm": ("slice_thickness_mm", _number(0.01, 100), "a number of mm from 0.01 to 100"),
    "age_years": ("age_years", lambda text: min(90.0, _number(0, 130)(text)), "a number of years from 0 to 130"),
    "sex": ("sex", _one_of(_SEXES), "M, F or O"),
    "date": ("acquired_on", date.fromisoformat, "a date as 2015-06-30"),
    "contrast": ("contrast", _one_of(dict.fromkeys(_YES, True) | dict.fromkeys(_NO, False)), "yes or no"),
}


@dataclass(frozen=True)
class Matched:
    """Which row is of which volume file."""

    row_of: Mapping[str, SidecarRow]
    """By the file's identity; files without a row are left out."""
    unknown: tuple[int, ...]
    """Numbers of the rows that are of no file."""


def match_sidecar(rows: Iterable[SidecarRow], identities: Iterable[str]) -> Matched:
    """Find the file of each row: the one whose path is, or ends with, what the row says.

    Parameters
    ----------
    rows : iterable of SidecarRow
        From `read_sidecar`.
    identities : iterable of str
        Of the volume files: the name of the source and the path below it.

    Raises
    ------
    InputError
        A row is of several files, or several rows are of one.

    Examples
    --------
    >>> rows = (SidecarRow(1, "b/ct.nii.gz", SeriesDescription()),)
    >>> list(match_sidecar(rows, ["export/a/ct.nii.gz", "export/b/ct.nii.gz"]).row_of)
    ['export/b/ct.nii.gz']
    """
    ends: dict[str, list[str]] = defaultdict(list)
    for identity in identities:
        parts = identity.split("/")
        for start in range(len(parts)):
            ends["/".join(parts[start:])].append(identity)
    row_of: dict[str, SidecarRow] = {}
    unknown = []
    for row in rows:
        found = ends.get(row.file, [])
        if len(found) > 1:
            raise InputError(
                f"[ingest] sidecar: row {row.number} is of {len(found)} files; write more of the path below the source"
            )
        if not found:
            unknown.append(row.number)
        elif found[0] in row_of:
            raise InputError(
                f"[ingest] sidecar: rows {row_of[found[0]].number} and {row.number} are of one file; leave one"
            )
        else:
            row_of[found[0]] = row
    return Matched(row_of, tuple(unknown))
