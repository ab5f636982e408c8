"""Put new volumes on the frozen model: the same stages, the population's atlas and vocabularies, nothing learnt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from distributed import Client
from rich.console import Console
from rich.table import Table

from popclust.dataflow import pipeline
from popclust.dataflow.flow import Flow
from popclust.dataflow.progress import Progress
from popclust.dataflow.quarantine import Quarantine
from popclust.dataflow.runcard import RunCard
from popclust.errors import InputError
from popclust.population.model import Model
from popclust.population.vocabulary import VOCABULARIES
from popclust.study import WHOLE, Study

NONE_OF_THESE = -1
"""The cluster of a volume that is too far from every group."""
_NAMES = {NONE_OF_THESE: "none of these"}


@dataclass(frozen=True)
class Assigned:
    """Where new volumes fall."""

    rows: pd.DataFrame
    """volume_id, cluster (-1: none of these, missing: not placed), nearest, distance, limit, reasons."""
    n_quarantined: int
    """New volumes that ended in quarantine."""

    def as_table(self) -> Table:
        """For the terminal."""
        table = Table("volume", "group", "distance", "limit", "why not")
        for row in self.rows.itertuples():
            group = (
                "" if pd.isna(row.cluster) else "none of these" if row.cluster == NONE_OF_THESE else str(row.cluster)
            )
            distance = "" if pd.isna(row.distance) else f"{row.distance:.4f}"
            table.add_row(str(row.volume_id), group, distance, f"{row.limit:.4f}", ", ".join(row.reasons))
        return table


def assign(study: Study, client: Client | None, new: Sequence[str], console: Console) -> Assigned:
    """Ingest, normalize, extract and encode new series, and find their nearest groups.

    Their parts go to assigned/ in the study; the study itself stays as it is.

    Raises
    ------
    InputError
        The study has no frozen model yet, or nothing new is to be found.
    """
    if not study.exists("model", "groups.zarr"):
        raise InputError(f"{study.url}: there is no frozen model yet; `popclust run {study.url}` makes it")
    model = Model.load(study.open_group("model", "groups.zarr"))
    flow = _run(_study_of_new(study, new), study, client, console)
    cohort = flow.study.read_table("cohort").set_index("volume_id")
    reasons = {v: list(r) for v, r in cohort["reasons"].items()}
    for row in flow.study.read_table("quality").itertuples() if flow.study.exists("quality.parquet") else ():
        reasons.setdefault(str(row.volume_id), []).extend(row.reasons)
    for (volume_id, _), row in flow.quarantine.rows.items():
        reasons.setdefault(volume_id, []).append(str(row["error"]))
    placed = _placed(flow, model)
    ids = [v for v in cohort.index if v in placed.index or reasons.get(v)]
    frame = placed.reindex(ids).rename_axis("volume_id").reset_index()
    frame["cluster"] = frame["cluster"].astype("Int64")
    frame["nearest"] = frame["nearest"].astype("Int64")
    frame["limit"] = model.limit
    return Assigned(frame.assign(reasons=[reasons.get(v, []) for v in ids]), len(flow.quarantine))


def _study_of_new(study: Study, new: Sequence[str]) -> Study:
    sources = tuple(str(Path(n).absolute()) for n in new)
    ingest = replace(study.settings.ingest, sources=sources, key_file=study.secret_path("key"))
    given, folder = study.settings.normalize.given_folder, study.settings.masks.folder
    normalize = replace(study.settings.normalize, given_folder=study.resolve(given) if given else "")
    masks = replace(study.settings.masks, folder=study.resolve(folder) if folder else "")
    settings = replace(study.settings, ingest=ingest, normalize=normalize, masks=masks)
    return Study(study.path("assigned"), settings, reference_url=study.url)


def _run(new: Study, study: Study, client: Client | None, console: Console) -> Flow:
    card = RunCard(new)
    with Progress(new, card.run_id, console) as progress:
        steps = (pipeline.ingest, pipeline.normalize, pipeline.extract, pipeline.encode)
        flow = Flow(new, client, progress, card, Quarantine.open(new), frozenset(s.__name__ for s in steps))
        for learnt in ("atlas", "vocabulary"):
            flow.parts[learnt] = {WHOLE: study.marker(learnt)}
        for step in steps:
            step(flow)
            if not flow.parts[step.__name__]:
                flow.parts.setdefault("encode", {})
                break
        card.write("ended", progress.stages, flow.n_workers)
    return flow


def _placed(flow: Flow, model: Model) -> pd.DataFrame:
    records = flow.study.records("encode", flow.parts["encode"])
    if not records:
        return pd.DataFrame(columns=["cluster", "nearest", "distance"], dtype=float)
    counts = np.stack([np.concatenate([r[v] for v in VOCABULARIES]) for r in records.values()])
    found = model.assign(counts)
    columns = {"cluster": found.cluster, "nearest": found.nearest, "distance": found.distance}
    return pd.DataFrame(columns, index=list(records))
