"""A withdrawn consent: every part, row and picture of a person is removed, and with them what was learnt from them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from popclust import storage
from popclust.dataflow.inputs import study_key
from popclust.dataflow.lease import hold
from popclust.dataflow.quarantine import Quarantine
from popclust.dataflow.stages import ORDER, stage_named
from popclust.dataflow.stages.ingest import index_of
from popclust.errors import InputError
from popclust.parts import WHOLE, canonical
from popclust.study import Study

_FORGOTTEN = "forgotten"
"""Stands in run cards where a pseudonym stood."""


@dataclass(frozen=True)
class Forgotten:
    """What was removed."""

    volumes: Sequence[str]
    """Pseudonyms of the volumes that are gone."""
    patients: Sequence[str]
    """Patients who are gone whole."""
    withdrawn: Sequence[str]
    """Stages whose results over the population were learnt from them, and are gone too."""


def forget(study: Study, names: Iterable[str], console: Console | None = None) -> Forgotten:
    """Remove every trace of patients or volumes.

    Their series are not taken in again, though their images stay in the sources: what stands in the way is a keyed
    digest beside the key, which tells nobody who they were.

    Parameters
    ----------
    study : Study
        The study.
    names : iterable of str
        Pseudonyms of patients (p...) or volumes (v...).
    console : rich.console.Console
        Where lines go; none by default.

    Raises
    ------
    InputError
        A name is not known, or another run is at work on the study.
    """
    console = console or Console(quiet=True)
    with hold(study, say=lambda text: console.print(text, markup=False, highlight=False)):
        patient_of, wanted = _patients(study), list(dict.fromkeys(names))
        known = {*patient_of, *patient_of.values()}
        if unknown := [n for n in wanted if n not in known]:
            raise InputError(
                f"{study.url}: {', '.join(unknown)} is not in this study; wanted the pseudonym of a patient (p...) or "
                "volume (v...), as in cohort.parquet"
            )
        patients = sorted({n for n in wanted if n in set(patient_of.values())})
        volumes = sorted(v for v, p in patient_of.items() if v in wanted or p in patients)
        series = _series_names(study, volumes)
        index_of(study, study_key(study)).drop([*volumes, *patients])
        withdrawn = _withdraw_learnt(study, volumes)
        _remove_parts(study, volumes)
        _remove_mentions(study, [*volumes, *patients], series)
    return Forgotten(volumes, patients, withdrawn)


def _patients(study: Study) -> dict[str, str]:
    """Patient of every volume that the study knows, whether it got as far as the cohort or not."""
    series = index_of(study, study_key(study)).series().frame()
    known = dict(zip(series["volume_id"], series["patient_id"], strict=True))
    ingested = [v for v in study.markers("ingest").done if v != WHOLE]
    known.update({v: str(r["patient_id"]) for v, r in study.records("ingest", ingested).items()})
    return known


def _series_names(study: Study, volumes: Sequence[str]) -> list[str]:
    path = Path(study.secret_path("sources.parquet"))
    if not path.exists():
        return []
    frame = pd.read_parquet(path)
    return [str(s) for s in frame.loc[frame["volume_id"].isin(volumes), "series_instance_uid"]]


def _withdraw_learnt(study: Study, volumes: Sequence[str]) -> list[str]:
    """Remove what stages made of a population that they were part of."""
    gone = []
    taught = set(volumes)
    for name in ORDER:
        stage, done = stage_named(name), study.done(name)
        if done is None or (name == "atlas" and not taught & set(study.record("atlas").get("chosen", []))):
            continue
        study.begin(name, WHOLE, stage.results)
        study.remove("records", name, f"{WHOLE}.json")
        gone.append(name)
    return gone


def _remove_parts(study: Study, volumes: Sequence[str]) -> None:
    quarantine = Quarantine.open(study)
    for volume_id in volumes:
        for name in ORDER:
            study.begin(name, volume_id, stage_named(name).files_of(volume_id))
            study.remove("records", name, f"{volume_id}.json")
        quarantine.release(volume_id)
    quarantine.write()


def _remove_mentions(study: Study, pseudonyms: Sequence[str], series: Sequence[str]) -> None:
    """Run cards name volumes, logs may name anybody, and masks handed in are remembered by their paths."""
    for name in storage.names(study.path("runs")):
        if name.endswith((".json", ".jsonl", ".html")):
            text = study.read_bytes("runs", name).decode("utf-8", errors="replace")
            for pseudonym in pseudonyms:
                text = text.replace(pseudonym, _FORGOTTEN)
            study.write_bytes(text.encode(), "runs", name)
    storage.remove(study.secret_path("log"))
    path = Path(study.secret_path("handed_in.json"))
    if path.exists():
        known: dict[str, Any] = json.loads(path.read_bytes())
        kept = {p: state for p, state in known.items() if not any(s in p for s in series)}
        storage.write_private(path, canonical(kept))
