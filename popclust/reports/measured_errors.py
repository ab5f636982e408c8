"""The extractor's own errors, term by term, as measured on reports that people labelled."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from popclust.reports.package_tables import read_table


@cache
def measured_errors() -> Mapping[str, tuple[float, float]]:
    """Share of findings that are missed and share of mentions that are false, by term_id, where they were measured."""
    return {
        row["term_id"]: (float(row["miss_rate"]), float(row["false_mention_rate"]))
        for row in read_table("term_errors.csv")
    }
