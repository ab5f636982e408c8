"""Gather the small records that per-volume parts leave into the study's tables."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from popclust.imaging.selection import REASONS, SeriesRecord, mark_duplicates
from popclust.population.vocabulary import VOCABULARIES
from popclust.schema import TABLES
from popclust.study import Study, canonical


def gather_cohort(study: Study, volume_ids: Sequence[str], same_person: Mapping[str, Sequence[str]]) -> None:
    """Write cohort.parquet: one row per series seen, repeats of one series and of one person marked."""
    records = study.records("ingest", volume_ids)
    fields = SeriesRecord.__dataclass_fields__
    rows = [SeriesRecord(**{k: _tuple(v) for k, v in r.items() if k in fields}) for r in records.values()]
    frame = pd.DataFrame([vars(r) for r in mark_duplicates(rows)])
    frame["spacing_zyx_mm"] = frame["spacing_zyx_mm"].map(lambda s: list(s) if s else None)
    frame["reasons"] = frame["reasons"].map(list)
    frame["same_person_as"] = [sorted(same_person.get(v, ())) for v in frame["volume_id"]]
    study.write_table("cohort", frame.sort_values("volume_id"))


def included_volumes(study: Study) -> dict[str, str]:
    """Marker of what later stages read of every included volume: its voxels and where they lie.

    It is not ingest's own marker, so that a changed rule of inclusion does not redo the volumes it leaves alone.
    """
    cohort = study.read_table("cohort")
    included = sorted(cohort.loc[cohort["included"], "volume_id"])
    records = study.records("ingest", included)
    return {v: _content(records[v]) for v in included}


def describe_cohort(study: Study) -> Mapping[str, Any]:
    """Counts for the run card."""
    cohort = study.read_table("cohort")
    reasons = Counter(r for rs in cohort["reasons"] for r in rs)
    return {
        "n_series": len(cohort),
        "n_included": int(cohort["included"].sum()),
        "n_patients": int(cohort.loc[cohort["included"], "patient_id"].nunique()),
        "reasons": dict(sorted(reasons.items())),
        "n_same_person": int(cohort["same_person_as"].map(len).gt(0).sum()),
    }


def print_cohort(record: Mapping[str, Any], line: Callable[[str], None]) -> None:
    """Say what is included, and why the rest is not."""
    line(f"{record['n_included']} of {record['n_series']} series included, {record['n_patients']} patients")
    for code, n in record["reasons"].items():
        line(f"  {n:>5} excluded: {REASONS.get(code, code)}")
    if n := record["n_same_person"]:
        line(f"[yellow]{n} volumes show a person who is in the cohort under another pseudonym too[/] (same_person_as)")


def gather_quality(study: Study, volume_ids: Sequence[str]) -> set[str]:
    """Write quality.parquet; returns the accepted volumes."""
    names = [c.name for c in TABLES["quality"]]
    rows = [{"volume_id": v, **r} for v, r in study.records("normalize", volume_ids).items()]
    frame = pd.DataFrame(rows, columns=names)
    study.write_table("quality", frame)
    return set(frame.loc[frame["accepted"].astype(bool), "volume_id"])


def gather_word_counts(study: Study, volume_ids: Sequence[str]) -> None:
    """Write word_counts.zarr."""
    records = study.records("encode", volume_ids)
    counts = [np.concatenate([np.asarray(r[v], np.uint32) for v in VOCABULARIES]) for r in records.values()]
    first = next(iter(records.values()))
    vocabulary_of_word = np.repeat(VOCABULARIES, [len(first[v]) for v in VOCABULARIES])
    dataset = xr.Dataset(
        {"counts": (("volume", "word"), np.stack(counts).astype(np.uint32))},
        coords={"volume": list(records), "vocabulary": ("word", vocabulary_of_word)},
    )
    study.write_dataset("word_counts", dataset)


def write_clusters(study: Study, frames: Sequence[pd.DataFrame]) -> Mapping[str, Any]:
    """Write clusters.parquet."""
    clusters = pd.concat(frames, ignore_index=True)
    study.write_table("clusters", clusters)
    return {
        "n_volumes": int(clusters["volume_id"].nunique()),
        "n_clusters_max": int(clusters["n_clusters"].max()),
        "n_groupings": len(clusters.drop_duplicates(["descriptor", "n_clusters", "seed"])),
    }


def _content(record: Mapping[str, Any]) -> str:
    values = [record["content_hash"], record["spacing_zyx_mm"], record["fingerprint"]]
    return hashlib.sha256(canonical(values)).hexdigest()


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
