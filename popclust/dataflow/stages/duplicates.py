"""The same person under two pseudonyms: volumes that share keys of their keypoints are compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from popclust import schema
from popclust.dataflow import meeting
from popclust.dataflow.stage import Stage, Work, each
from popclust.imaging.pseudonyms import keyed_digest
from popclust.parts import Made
from popclust.population.duplicates import one_id_per_person


def build(work: Work) -> Made:
    """Write duplicates.parquet: pairs of volumes under different patient_ids that show one person."""
    study = work.study
    patient = study.read_table("cohort").set_index("volume_id")["patient_id"]
    search = meeting.prepare(study, patient.loc[list(work.passing("ingest"))].to_dict())
    shares = range(search.n_shares)
    work.map(meeting.write_keys, {f"keys {s}": (study, search, s) for s in search.starts})
    work.map(meeting.meet, {f"meet {s}": (study, search, s) for s in shares})
    found = work.map(meeting.look, {f"look {s}": (study, search, s) for s in shares})
    study.remove(meeting.FOLDER)
    rows = sorted((row for part in found.values() for row in part), key=lambda r: (r["volume_a"], r["volume_b"]))
    table = pd.DataFrame(rows, columns=list(schema.names("duplicates")))
    table["same_person_as"] = table["volume_a"].map(one_id_per_person(patient, table))
    study.write_table("duplicates", table)
    pairs = [(row["volume_a"], row["volume_b"]) for row in rows]
    counts = {"n_pairs": len(pairs), "n_volumes": len({v for pair in pairs for v in pair})}
    # The tests depend on who is whom alone.
    return Made(counts, output=keyed_digest(work.key, "duplicates", repr(pairs)))


def say(record: Mapping[str, Any], line: Callable[..., None]) -> None:
    """Say how many volumes show somebody twice."""
    if n := record["n_volumes"]:
        line(
            f"{n} volumes show a person who is in the cohort under another pseudonym too (duplicates.parquet)", "yellow"
        )


STAGE = Stage(
    name="duplicates",
    version=5,
    title="look for one person twice",
    reads=("ingest",),
    build_needs=lambda known: [known.output("ingest"), *each(known.passing("ingest"))],
    build=build,
    results=("duplicates.parquet", meeting.FOLDER),
    say=say,
)
