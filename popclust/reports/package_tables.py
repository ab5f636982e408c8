"""The tables that stand beside this code as data."""

from __future__ import annotations

import csv
from importlib.resources import files


def read_table(name: str) -> list[dict[str, str]]:
    """The rows of one of the package's CSV tables; lines that begin with # are comments."""
    lines = files(__package__ or "popclust.reports").joinpath(name).read_text("utf-8").splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))
