"""Reports in tables: CSV, Parquet and Excel, read row by row, so that memory does not grow with the file."""

from __future__ import annotations

import csv
import gzip
import io
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from popclust.errors import InputError
from popclust.reports.encoding import decoded, encoding_of

Row = Mapping[str, object]
"""One report: cells by the names of :data:`COLUMNS`."""

IDENTIFIERS = ("volume_id", "series_instance_uid", "study_instance_uid", "accession_number")
"""Columns by which a report finds its volumes, the most exact first."""
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "text": ("text", "reporttext", "report", "befundtext", "befund", "narrative"),
    "language": ("language", "lang", "sprache"),
    "volume_id": ("volumeid",),
    "series_instance_uid": ("seriesinstanceuid", "seriesuid"),
    "study_instance_uid": ("studyinstanceuid", "studyuid"),
    "accession_number": ("accessionnumber", "accession", "accessionno", "accno", "anforderungsnummer"),
}
"""What a column may be called, in small letters without spaces and signs; the first name that is there counts."""
TABLE_ENDINGS = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet", ".pq", ".xlsx")

_MAX_CELL = 16_000_000
"""Characters; a longer cell is one whose quotation mark never closed."""
_BLOCK_ROWS = 1000
_BLOCK_BYTES = 1 << 20
_SPREADSHEET_TEXT = re.compile(r'^="(.*)"$')
_WHOLE_FLOAT = re.compile(r"^\d+\.0+$")


def rows_of_table(path: Path) -> Iterator[Row]:
    """The rows of a table of reports.

    Raises
    ------
    InputError
        The file is cut or none of its kind, has no column of texts or of identifiers, or a row has more or fewer cells
        than the header.
    """
    name = path.name.lower()
    if name.endswith((".parquet", ".pq")):
        return _parquet_rows(path)
    return _excel_rows(path) if name.endswith(".xlsx") else _csv_rows(path)


def cell_text(value: object) -> str:
    """A cell as text: numbers that are whole have no point, what is missing is empty."""
    if value is None or value != value:
        return ""
    if isinstance(value, bytes):
        return decoded(value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def key_text(value: object) -> str | None:
    """An identifier as it was before a spreadsheet had it: ``="0012"`` is 0012, 12345.0 is 12345; None if empty."""
    text = cell_text(value).replace("\0", "").strip()
    if found := _SPREADSHEET_TEXT.match(text):
        text = found[1].strip()
    if _WHOLE_FLOAT.match(text):
        text = text.partition(".")[0]
    return text or None


def _csv_rows(path: Path) -> Iterator[Row]:
    """A table parted by commas, semicolons or tabs, in UTF-8, UTF-16 or Windows-1252."""
    csv.field_size_limit(_MAX_CELL)
    with _opened(path) as file:
        encoding = encoding_of(iter(lambda: file.read(_BLOCK_BYTES), b""))
        file.seek(0)
        lines = io.TextIOWrapper(file, encoding, "replace", newline="")
        first = next(lines, "")
        separator = max(",;\t", key=first.count)
        reader = csv.reader(_without_nul(chain([first], lines)), delimiter=separator, strict=True)
        header = next(reader, [])
        places = _places(header, path)
        for number, row in enumerate(reader, start=2):
            if not row:
                continue
            if len(row) != len(header):
                raise InputError(
                    f"reports: {path.name}, row {number} (line {reader.line_num}): {len(row)} cells where the header "
                    f"has {len(header)}; put a text with the separator or a line break in it in quotation marks"
                )
            yield {column: row[place] for column, place in places.items()}


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a CSV; what is wrong with them is told with the file's name."""
    try:
        with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
            yield file  # type: ignore[misc]
    except csv.Error as error:
        raise InputError(
            f"reports: {path.name} cannot be read ({error}); wanted a header, and quotation marks that close"
        ) from None
    except (EOFError, OSError) as error:
        raise InputError(f"reports: {path.name} cannot be read ({error or 'cut'})") from None


def _without_nul(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        yield line.replace("\0", " ")


def _parquet_rows(path: Path) -> Iterator[Row]:
    try:
        with pq.ParquetFile(path) as file:
            names = [str(name) for name in file.schema_arrow.names]
            places = _places(names, path)
            wanted = sorted({names[place] for place in places.values()})
            for batch in file.iter_batches(_BLOCK_ROWS, columns=wanted):
                for row in batch.to_pylist():
                    yield {column: row[names[place]] for column, place in places.items()}
    except (pa.ArrowException, OSError):
        raise InputError(f"reports: {path.name} is no Parquet file that can be read; is it cut?") from None


def _excel_rows(path: Path) -> Iterator[Row]:
    """The first sheet, its first row the header."""
    import openpyxl  # is slow to load, and few need it
    from openpyxl.utils.exceptions import InvalidFileException

    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except (InvalidFileException, zipfile.BadZipFile, KeyError, OSError, ValueError):
        raise InputError(f"reports: {path.name} is no Excel file that can be read; is it cut?") from None
    try:
        rows = book.worksheets[0].iter_rows(values_only=True)
        header = [cell_text(cell) for cell in next(rows, ())]
        places = _places(header, path)
        for row in rows:
            if any(cell is not None for cell in row):
                yield {column: row[place] if place < len(row) else None for column, place in places.items()}
    finally:
        book.close()


def _places(header: Sequence[str], path: Path) -> dict[str, int]:
    """Where each known column is."""
    plain = [re.sub(r"[^a-z]", "", name.lower()) for name in header]
    places = {}
    for column, names in COLUMNS.items():
        name = next((n for n in names if n in plain), None)
        if name is None:
            continue
        if plain.count(name) > 1:
            raise InputError(f"reports: {path.name}: two columns are called `{name}`; wanted one for `{column}`")
        places[column] = plain.index(name)
    if "text" not in places:
        raise InputError(f"reports: {path.name} has no column `text`")
    if not set(IDENTIFIERS) & set(places):
        raise InputError(f"reports: {path.name} needs one of the columns {', '.join(IDENTIFIERS)}")
    return places
