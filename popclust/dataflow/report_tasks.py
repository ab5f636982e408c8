"""Reports to terms: batches of texts as tasks, joined to the cohort by pseudonyms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from popclust.dataflow.inputs import hash_path, read_key
from popclust.imaging.pseudonyms import report_pseudonym
from popclust.reports.input import read_reports
from popclust.reports.lexicon import Lexicon, load_lexicon
from popclust.reports.terms import MENTION_COLUMNS, counted_terms, find_mentions, term_matrix
from popclust.study import Study

_BATCH_REPORTS = 1000
_NO_MENTIONS = pd.DataFrame(columns=["volume_id", *MENTION_COLUMNS[1:]])
_NO_REPORTS = pd.DataFrame(columns=["volume_id", "patient_id", "language", "n_mentions"])


@dataclass(frozen=True)
class Found:
    """What a batch of reports says; no text."""

    mentions: pd.DataFrame
    """Rows of mentions.parquet."""
    reports: pd.DataFrame
    """Rows of reports.parquet: one per report and volume it is of."""
    n_reports: int
    """Reports in the batch."""
    n_without_volume: int
    """Reports of no volume in the cohort."""


def report_inputs(study: Study) -> list[str]:
    """Hashes of the reports and the lexicon; empty where there are no reports."""
    settings = study.settings.terms
    paths = [p for p in (settings.reports, settings.lexicon) if p]
    return [hash_path(study.resolve(p)) for p in paths] if settings.reports else []


def report_batches(study: Study) -> dict[str, tuple[Any, ...]]:
    """Arguments of `find_terms` for all reports."""
    if not study.settings.terms.reports:
        return {}
    reports = read_reports(study.resolve(study.settings.terms.reports), study.settings.terms)
    key, cohort = read_key(study), _join_columns(study)
    rows = [{str(k): v for k, v in row.items()} for row in reports.to_dict("records")]
    volumes = [_volumes_of(report_pseudonym(key, row), cohort) for row in rows]
    texts = [row["text"] for row in rows]
    languages = [row.get("language") for row in rows]
    starts = range(0, len(rows), _BATCH_REPORTS)
    parts = {f"{s:08}": slice(s, s + _BATCH_REPORTS) for s in starts}
    return {k: (study, texts[p], languages[p], volumes[p]) for k, p in parts.items()}


def find_terms(
    study: Study, texts: Sequence[str], languages: Sequence[str | None], volumes: Sequence[Sequence[str]]
) -> Found:
    """Mentions in a batch of reports, for every volume that a report is of."""
    mentions = find_mentions(texts, languages, _lexicon(study), study.settings.terms)
    of_report = pd.DataFrame(
        [(report, v) for report, ids in enumerate(volumes) for v in ids], columns=["report", "volume_id"]
    ).astype({"report": np.int64, "volume_id": object})
    joined = of_report.merge(mentions, on="report", how="inner")
    counts = mentions.groupby("report").size()
    spoken = mentions.groupby("report")["language"].first()
    reports = of_report.assign(
        patient_id="",
        language=of_report["report"].map(spoken).fillna(""),
        n_mentions=of_report["report"].map(counts).fillna(0).astype(np.int64),
    )
    return Found(
        joined.drop(columns="report"),
        reports.drop(columns="report"),
        len(texts),
        sum(not ids for ids in volumes),
    )


def gather_terms(study: Study, parts: Sequence[Found]) -> Mapping[str, Any]:
    """Write mentions.parquet, reports.parquet and terms.zarr; several reports of a volume are taken together."""
    mentions = _together([p.mentions for p in parts], _NO_MENTIONS)
    reports = _together([p.reports for p in parts], _NO_REPORTS)
    cohort = study.read_table("cohort").set_index("volume_id")
    reports["patient_id"] = reports["volume_id"].map(cohort["patient_id"])
    study.write_table("mentions", mentions.sort_values(["volume_id", "start", "end", "term_id"]))
    study.write_table("reports", reports.sort_values(["volume_id", "language", "n_mentions"]))
    lexicon, settings = _lexicon(study), study.settings.terms
    with_report = sorted(reports["volume_id"].unique())
    matrix = term_matrix(counted_terms(mentions, settings, lexicon), with_report)
    labels = [lexicon.labels.get(t, t) for t in matrix.term.values]
    dataset = xr.Dataset(
        {"has_term": (("volume", "term"), matrix.values)},
        coords={
            "volume": np.asarray(with_report, object),
            "term": np.asarray(matrix.term.values, object),
            "label": ("term", np.asarray(labels, object)),
        },
        attrs={"notice": lexicon.notice},
    )
    study.write_dataset("terms", dataset)
    included = cohort.index[cohort["included"]]
    return {
        "n_reports": sum(p.n_reports for p in parts),
        "n_reports_without_volume": sum(p.n_without_volume for p in parts),
        "n_volumes_with_report": len(with_report),
        "n_volumes_without_report": int((~included.isin(with_report)).sum()),
        "n_terms": int(dataset.sizes["term"]),
    }


def print_terms(record: Mapping[str, Any], line: Callable[[str], None]) -> None:
    """Say what joined and what did not."""
    lost = record["n_reports_without_volume"]
    line(f"{record['n_reports']} reports with {record['n_terms']} terms, {lost} of no volume in the cohort")
    without = record["n_volumes_without_report"]
    line(f"{record['n_volumes_with_report']} volumes with a report, {without} without (grouped, but not tested)")


def _join_columns(study: Study) -> dict[str, dict[str, list[str]]]:
    """Included volumes by each pseudonym that a report may carry."""
    cohort = study.read_table("cohort")
    included = cohort[cohort["included"]]
    records = study.records("ingest", included["volume_id"])
    columns: dict[str, dict[str, list[str]]] = {"volume_id": {}, "study_id": {}, "accession_id": {}}
    for volume_id, record in records.items():
        for name, of in columns.items():
            if record.get(name):
                of.setdefault(record[name], []).append(volume_id)
    return columns


def _volumes_of(pseudonyms: Mapping[str, str], columns: Mapping[str, Mapping[str, list[str]]]) -> list[str]:
    """Volumes that a report is of: all of its examination, found by study, accession number or series."""
    for name in ("study_id", "accession_id", "volume_id"):
        found = columns[name].get(pseudonyms.get(name, ""), [])
        if found:
            return found
    return []


@lru_cache(maxsize=2)
def _lexicon(study: Study) -> Lexicon:
    """The lexicon, read once per process."""
    settings = study.settings.terms
    path = study.resolve(settings.lexicon) if settings.lexicon else ""
    return load_lexicon(path, settings.roots, builtin_synonyms=settings.builtin_synonyms)


def _together(frames: Sequence[pd.DataFrame], empty: pd.DataFrame) -> pd.DataFrame:
    full = [f for f in frames if len(f)]
    return pd.concat(full, ignore_index=True) if full else empty.copy()
