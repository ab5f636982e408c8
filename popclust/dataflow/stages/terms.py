"""Reports -> terms of volumes, joined to the cohort by pseudonyms. Texts stay beside the key."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import xarray as xr

from popclust import schema
from popclust.dataflow.stage import Known, Stage, Work
from popclust.imaging.pseudonyms import report_pseudonym
from popclust.parts import Made
from popclust.reports.concepts import LANGUAGES
from popclust.reports.input import read_reports
from popclust.reports.join import Join
from popclust.reports.lexicon import Lexicon, load_lexicon
from popclust.reports.terms import counted_terms, find_mentions, term_matrix
from popclust.study import Study

_BATCH_REPORTS = 1000
_LAID_OUT = pa.schema([("text", pa.large_string()), ("language", pa.string()), ("volumes", pa.list_(pa.string()))])


@dataclass(frozen=True)
class Found:
    """What a batch of reports says; no text."""

    mentions: pd.DataFrame
    """Rows of mentions.parquet."""
    reports: pd.DataFrame
    """Rows of reports.parquet: one per report and volume it is of."""
    n_other_language: int
    """Reports in a language that there are no tables for."""


def needs(known: Known) -> list[str]:
    """The reports, the lexicon, and who is in the cohort."""
    return [*_handed_in(known).values(), known.output("ingest")]


def _handed_in(known: Known) -> dict[str, str]:
    settings, study = known.study.settings.terms, known.study
    if not settings.reports:
        return {}
    paths = {"reports": settings.reports, "lexicon": settings.lexicon}
    return {name: f"{name} {known.digest(study.resolve(path))}" for name, path in paths.items() if path}


def build(work: Work) -> Made:
    """Write mentions.parquet, reports.parquet and terms.zarr."""
    study, lexicon = work.study, _handed_in(work).get("lexicon", "")
    try:
        batches, join = lay_out(study, work.key) if study.settings.terms.reports else (0, None)
        found = work.map(find_terms, {f"{i:08}": (study, i, lexicon) for i in range(batches)})
    finally:
        _laid_out(study).unlink(missing_ok=True)
    return Made({**gather(study, list(found.values()), lexicon), **_said_of(join)})


def lay_out(study: Study, key: bytes) -> tuple[int, Join]:
    """Put the cohort's reports beside the key as tasks read them, a batch to a row group.

    Returns
    -------
    tuple of int and Join
        The number of batches, and what joined.

    Raises
    ------
    InputError
        The reports cannot be read, or are those of others.
    """
    settings, join = study.settings.terms, Join.to_cohort(study.read_table("cohort"))
    path = _laid_out(study)
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    batches, rows = 0, []
    with pq.ParquetWriter(path, _LAID_OUT, compression="zstd") as writer:
        for report in read_reports(study.resolve(settings.reports), settings):
            volumes = join.volumes_of(report_pseudonym(key, report.keys), has_text=bool(report.text))
            if not volumes:
                continue
            rows.append({"text": report.text, "language": report.language, "volumes": volumes})
            if len(rows) == _BATCH_REPORTS:
                writer.write_table(pa.Table.from_pylist(rows, _LAID_OUT))
                batches, rows = batches + 1, []
        if rows:
            writer.write_table(pa.Table.from_pylist(rows, _LAID_OUT))
            batches += 1
    join.check(settings.min_joined)
    return batches, join


def _said_of(join: Join | None) -> dict[str, int]:
    return {
        "n_reports": join.n_reports if join else 0,
        "n_reports_without_text": join.n_empty if join else 0,
        "n_reports_without_volume": join.n_without_volume if join else 0,
        "n_reports_contradictory": join.n_contradictory if join else 0,
    }


def find_terms(study: Study, number: int, lexicon_digest: str) -> Found:
    """Mentions in a batch of reports, for every volume that a report is of."""
    rows = pq.ParquetFile(_laid_out(study)).read_row_group(number).to_pylist()
    texts, languages, volumes = ([row[name] for row in rows] for name in ("text", "language", "volumes"))
    known = [not spoken or spoken in LANGUAGES for spoken in languages]
    kept = [i for i, is_known in enumerate(known) if is_known]
    mentions = find_mentions(
        [texts[i] for i in kept],
        [languages[i] for i in kept],
        lexicon_of(study, lexicon_digest),
        study.settings.terms,
    )
    of_report = pd.DataFrame(
        [(report, v) for report, i in enumerate(kept) for v in volumes[i]], columns=["report", "volume_id"]
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
        len(rows) - len(kept),
    )


def gather(study: Study, parts: Sequence[Found], lexicon_digest: str) -> Mapping[str, Any]:
    """Write the tables; several reports of a volume are taken together."""
    mentions = _together([p.mentions for p in parts], "mentions")
    reports = _together([p.reports for p in parts], "reports")
    cohort = study.read_table("cohort").set_index("volume_id")
    reports["patient_id"] = reports["volume_id"].map(cohort["patient_id"])
    study.write_table("mentions", mentions.sort_values(["volume_id", "start", "end", "term_id"]))
    study.write_table("reports", reports.sort_values(["volume_id", "language", "n_mentions"]))
    lexicon, settings = lexicon_of(study, lexicon_digest), study.settings.terms
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
        "n_reports_other_language": sum(p.n_other_language for p in parts),
        "n_volumes_with_report": len(with_report),
        "n_volumes_without_report": int((~included.isin(with_report)).sum()),
        "n_terms": int(dataset.sizes["term"]),
    }


def say(record: Mapping[str, Any], line: Callable[..., None]) -> None:
    """Say what joined and what did not."""
    if not any(record[name] for name in record if name.startswith("n_reports")):
        line("there are no reports")
        return
    lost = record["n_reports_without_volume"]
    line(f"{record['n_reports']} reports with {record['n_terms']} terms, {lost} of no volume in the cohort")
    if n := record["n_reports_without_text"]:
        line(f"{n} rows have no text: they count as no report", "yellow")
    if n := record["n_reports_contradictory"]:
        line(f"{n} reports name the study of one volume and the accession number of another: left out", "yellow")
    if n := record["n_reports_other_language"]:
        line(f"{n} reports are in a language without tables (there are en, de): they count as no report", "yellow")
    without = record["n_volumes_without_report"]
    line(f"{record['n_volumes_with_report']} volumes with a report, {without} without (grouped, but not tested)")


def lexicon_of(study: Study, digest: str) -> Lexicon:
    """The study's lexicon, read once per process for as long as its file stays the same."""
    settings = study.settings.terms
    path = study.resolve(settings.lexicon) if settings.lexicon else ""
    return _lexicon(path, settings.roots, settings.builtin_synonyms, digest)


@lru_cache(maxsize=2)
def _lexicon(path: str, roots: tuple[str, ...], builtin_synonyms: bool, digest: str) -> Lexicon:
    return load_lexicon(path, roots, builtin_synonyms=builtin_synonyms)


def _laid_out(study: Study) -> Path:
    return Path(study.secret_path("reports_at_work.parquet"))


def _together(frames: Sequence[pd.DataFrame], table: str) -> pd.DataFrame:
    full = [f for f in frames if len(f)]
    return pd.concat(full, ignore_index=True) if full else schema.empty_table(table)


STAGE = Stage(
    name="terms",
    version=4,
    title="find report terms",
    sections=("terms",),
    reads=("ingest",),
    build_needs=needs,
    build=build,
    results=("mentions.parquet", "reports.parquet", "terms.zarr"),
    say=say,
)
