"""Tables as CSV, and what every column of them means."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from popclust import schema
from popclust.study import Study

DICTIONARY = "data_dictionary.csv"
"""The file that says what the columns are."""


def write_tables(study: Study, folder: Path) -> list[str]:
    """Write every table of the study that is made, and a data dictionary; equal tables give equal bytes.

    Returns
    -------
    list of str
        Names of the tables, in the order of their declaration.
    """
    made = [name for name in schema.TABLES if study.exists(f"{name}.parquet")]
    for name in made:
        path = folder / f"{name}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(csv_of(study.read_table(name)))
    (folder / DICTIONARY).write_bytes(csv_of(dictionary(made)))
    return made


def dictionary(tables: list[str]) -> pd.DataFrame:
    """Columns file, row, column, type, unit, meaning: one row per column of these tables."""
    rows = [
        {"file": f"{name}.csv", "row": schema.DECLARED_TABLES[name].doc, "column": c.name, "type": c.dtype}
        | {"unit": c.unit, "meaning": c.doc}
        for name in tables
        for c in schema.TABLES[name]
    ]
    return pd.DataFrame(rows, columns=["file", "row", "column", "type", "unit", "meaning"])


def csv_of(frame: pd.DataFrame) -> bytes:
    """UTF-8 CSV; what is missing is empty, a list is JSON, a number reads back as the same number."""
    return with_lists_as_text(frame).to_csv(index=False, lineterminator="\n").encode()


def with_lists_as_text(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with every list as JSON text."""
    is_list = [c for c in frame if frame[c].dtype == object and any(map(_is_list, frame[c]))]
    return frame.assign(**{c: [_as_json(v) for v in frame[c]] for c in is_list})


def _is_list(value: object) -> bool:
    return isinstance(value, list | tuple | np.ndarray)


def _as_json(value: object) -> str:
    return json.dumps(np.asarray(value).tolist()) if _is_list(value) else ""
