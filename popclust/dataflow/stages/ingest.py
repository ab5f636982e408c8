"""Series -> volumes and the cohort: the sources are read by reference, through an index of headers beside the key."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from popclust.dataflow.stage import Known, Stage, Work, each
from popclust.errors import InputError
from popclust.imaging import deidentification
from popclust.imaging.header_index import HeaderIndex
from popclust.imaging.ingest import read_series
from popclust.imaging.ome_zarr import write_ome_zarr
from popclust.imaging.pseudonyms import load_key
from popclust.imaging.selection import REASONS, SeriesRecord, mark_duplicates, reasons_for_exclusion
from popclust.imaging.series_table import SeriesTable
from popclust.imaging.sidecar import Matched, match_sidecar, read_sidecar
from popclust.parts import Made, canonical
from popclust.population.duplicates import identifying_keypoints
from popclust.study import Study


def index_of(study: Study, key: bytes) -> HeaderIndex:
    """The index of headers beside the key."""
    return HeaderIndex(study.secret_path("index"), key)


def sources_of(study: Study) -> list[str]:
    """The sources that settings name.

    Raises
    ------
    InputError
        None is named.
    """
    if not study.settings.ingest.sources:
        raise InputError(f"{study.url}/study.toml: set [ingest] sources to the folders or files with the CT series")
    return [study.resolve(s) for s in study.settings.ingest.sources]


def prepare(work: Work) -> SeriesTable:
    """Look at the sources; read the headers that are new or changed, in tasks."""
    sources, index = sources_of(work.study), index_of(work.study, work.key)
    survey = index.survey(sources, rescan=work.rescan)
    if survey.n_batches:
        work.line(
            f"{survey.n_new} new and {survey.n_changed} changed of {survey.n_files} files: their headers are read"
        )
        work.map(read_headers, {f"{i:06}": (work.study, i) for i in range(survey.n_batches)})
    for text in survey.missing_sources:
        work.line(f"{text}; what is known of it stays", "yellow")
    for code, n in sorted(survey.set_aside.items()):
        work.line(f"  {n:>5} set aside unopened: {code}")
    table = index.settle()
    work.line(f"{len(table)} series in {survey.n_files} files")
    if not len(table):
        raise InputError(f"no image in {', '.join(sources)}: DICOM, NIfTI, MetaImage or NRRD files are wanted")
    if unknown := sidecar_rows(work.study, table).unknown:
        work.line(f"{len(unknown)} rows of the sidecar are of no volume file, the first is row {unknown[0]}", "yellow")
    if n := table.n_missing:
        work.line(f"{n} series are no longer in the sources: they stay until `popclust forget`", "yellow")
    return table


def preview(known: Known) -> SeriesTable:
    """The series as they would be, without writing anything."""
    return index_of(known.study, known.key).preview(sources_of(known.study))


def last_seen(known: Known) -> SeriesTable:
    """The series as they were last seen, without looking at the sources.

    Raises
    ------
    InputError
        They have never been looked at.
    """
    url = known.study.url
    if not known.study.names_done("ingest"):
        raise InputError(f"{url}: stage ingest has not been run; `popclust run {url} --until ingest` does it")
    return index_of(known.study, known.key).series()


def read_headers(study: Study, number: int) -> Mapping[str, int]:
    """Read one batch of headers into the index."""
    return index_of(study, key_of(study)).read_batch(number)


def needs(known: Known) -> dict[str, list[str]]:
    """Every series, by the pseudonym of its volume, and what the sidecar table says of it."""
    says = {v: [_keyed(known.key, repr(row.told))] for v, row in sidecar_rows(known.study, known.series).row_of.items()}
    return {v: [fingerprint, *says.get(v, [])] for v, fingerprint in known.series.fingerprints().items()}


def sidecar_rows(study: Study, table: SeriesTable) -> Matched:
    """The rows of the sidecar table, by volume_id.

    Raises
    ------
    InputError
        The table cannot be read, or does not fit the volume files.
    """
    if not study.settings.ingest.sidecar:
        return Matched({}, ())
    series = table.frame()
    files = series[series["format"] == "volume"]
    volume_of = dict(zip(files["series_instance_uid"], files["volume_id"], strict=True))
    found = match_sidecar(read_sidecar(study.resolve(study.settings.ingest.sidecar)), volume_of)
    return Matched({volume_of[identity]: row for identity, row in found.row_of.items()}, found.unknown)


def unmakeable(known: Known) -> dict[str, str]:
    """Series that are no longer in the sources: the parts they have stay, no other can be made."""
    return dict.fromkeys(known.series.missing(), "its images are no longer in the sources, and its part is out of date")


def ingest(study: Study, volume_id: str) -> Made:
    """Read one series into an OME-Zarr volume; the record is its row of the cohort."""
    key = key_of(study)
    series = index_of(study, key).series_files(volume_id, study.settings.ingest)
    told = None
    if study.settings.ingest.sidecar and series.format == "volume":
        rows = read_sidecar(study.resolve(study.settings.ingest.sidecar))
        row = match_sidecar(rows, [series.identity]).row_of.get(series.identity)
        told = None if row is None else row.told
    found = read_series(series, study.settings.ingest, key, told)
    if found.volume is None:
        return Made(dataclasses.asdict(found.record), passes=False)
    write_ome_zarr(study.path("volumes", f"{volume_id}.ome.zarr"), found.volume, volume_id)
    identifying_keypoints(found.volume).save(study.open_group("volumes", f"{volume_id}.keypoints.zarr", mode="w"))
    grid = [found.record.content_hash, found.volume.spacing_mm, found.volume.origin_mm]
    return Made(dataclasses.asdict(found.record), output=_keyed(key, grid))


def gather(work: Work) -> Made:
    """Write cohort.parquet, one row per series seen, repeats of one series marked; and what became of the headers."""
    study = work.study
    records = study.records("ingest", sorted(work.finished("ingest")))
    rows = mark_duplicates(_record_of(r) for r in records.values())
    frame = pd.DataFrame([vars(r) for r in rows])
    for name in ("spacing_zyx_mm", "reasons", "set_aside"):
        frame[name] = frame[name].map(lambda values: None if values is None else list(values))
    study.write_table("cohort", frame.sort_values("volume_id"))
    study.write_json(deidentification.deidentification_record(), deidentification.FILE)
    included = [r for r in rows if r.included]
    reasons = Counter(code for r in rows for code in r.reasons)
    counts = {
        "n_series": len(rows),
        "n_included": len(included),
        "n_patients": len({r.patient_id for r in included}),
        "reasons": dict(sorted(reasons.items())),
    }
    # Later stages depend on who is included and what is known of them, not on why the others are not.
    return Made(counts, output=_keyed(work.key, [vars(r) for r in included]))


def admitted(study: Study) -> list[str]:
    """Volumes taken into the population: no second copy of one that is there."""
    cohort = study.read_table("cohort")
    return sorted(cohort.loc[cohort["included"], "volume_id"])


def foresee_admitted(study: Study, volume_ids: Iterable[str]) -> list[str]:
    """Volumes that the present rules would take into the population, as far as their records tell."""
    rows = []
    for record in study.records("ingest", volume_ids).values():
        row = _record_of(record)
        reasons = reasons_for_exclusion(row, study.settings.ingest)
        rows.append(dataclasses.replace(row, included=not reasons, reasons=reasons))
    return [row.volume_id for row in mark_duplicates(rows) if row.included]


def say(record: Mapping[str, Any], line: Callable[..., None]) -> None:
    """Say what is included, and why the rest is not."""
    line(f"{record['n_included']} of {record['n_series']} series included, {record['n_patients']} patients")
    for code, n in record["reasons"].items():
        line(f"  {n:>5} excluded: {REASONS.get(code, code)}")


def _record_of(record: Mapping[str, Any]) -> SeriesRecord:
    fields = SeriesRecord.__dataclass_fields__
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in record.items() if k in fields}
    return SeriesRecord(**values)


def _keyed(key: bytes, value: Any) -> str:
    return hmac.new(key, canonical(value), hashlib.sha256).hexdigest()


def key_of(study: Study) -> bytes:
    """The key as a worker reads it, once per process for as long as its file stays."""
    path = study.secret_path("key")
    return _key(path, Path(path).stat().st_mtime_ns)


@lru_cache(maxsize=1)
def _key(path: str, changed_ns: int) -> bytes:
    return load_key(path)


STAGE = Stage(
    name="ingest",
    version=18,
    title="read series",
    sections=("ingest",),
    needs=needs,
    task=ingest,
    files=("volumes/{volume_id}.ome.zarr", "volumes/{volume_id}.keypoints.zarr"),
    unmakeable=unmakeable,
    build_needs=lambda known: each(known.finished("ingest")),
    build=gather,
    results=("cohort.parquet", deidentification.FILE),
    prepare=prepare,
    preview=preview,
    last_seen=last_seen,
    admitted=admitted,
    foresee_admitted=foresee_admitted,
    say=say,
)
