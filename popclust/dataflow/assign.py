"""Put new volumes on a frozen model: the stages that a volume passes, with what the model learnt; nothing is learnt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from distributed import Client
from rich.console import Console
from rich.table import Table

from popclust import storage
from popclust.dataflow.flow import Flow
from popclust.dataflow.frozen import STAGES, FrozenModel, open_model
from popclust.dataflow.inputs import HandedIn, study_key
from popclust.dataflow.lease import hold
from popclust.dataflow.pipeline import go_through
from popclust.dataflow.progress import Progress
from popclust.dataflow.quarantine import Quarantine
from popclust.dataflow.runcard import RunCard
from popclust.dataflow.stages.encode import counts_of, far_of
from popclust.dataflow.state import State
from popclust.errors import InputError
from popclust.settings import ComputeSettings
from popclust.study import Study

NONE_OF_THESE = -1
"""The cluster of a volume that is too strange for every group."""
_COLUMNS = ("cluster", "nearest", "distance", "margin", "p_value", "far")


@dataclass(frozen=True)
class NewVolumes:
    """What is to be placed, and where the work is done."""

    sources: Sequence[str]
    """Folders, files or URLs with series."""
    workspace: str = ""
    """Folder that the parts go to; its secrets lie beside it. Empty: beside the model or study, named after it."""
    masks: str = ""
    """Folder with lung masks of another tool, one per series."""
    transforms: str = ""
    """Folder with known transforms, where the model was made with such."""


@dataclass(frozen=True)
class Assigned:
    """Where new volumes fall."""

    rows: pd.DataFrame
    """One per new series: volume_id, cluster (-1: none of these, missing: not placed), nearest, distance, margin (how
    much farther the second nearest is), p_value (of belonging to the nearest; none of these at error_rate or below),
    far (its features from the words, over what one in twenty volumes has), reasons (why it was not placed)."""
    n_quarantined: int
    """New volumes that ended in quarantine."""
    workspace: str
    """Where their parts are; which series each is stands in sources.parquet beside it."""
    model_digest: str
    """Digest of the model."""

    def as_table(self) -> Table:
        """For the terminal."""
        table = Table("volume", "group", "nearest", "distance", "margin", "p of belonging", "why not")
        for row in self.rows.itertuples():
            is_none = not pd.isna(row.cluster) and row.cluster == NONE_OF_THESE
            group = "" if pd.isna(row.cluster) else "none of these" if is_none else str(row.cluster)
            near = "" if pd.isna(row.nearest) else str(row.nearest)
            numbers = ["" if pd.isna(v) else f"{v:.4f}" for v in (row.distance, row.margin, row.p_value)]
            table.add_row(str(row.volume_id), group, near, *numbers, ", ".join(row.reasons))
        return table


def assign(
    model_url: str,
    new: NewVolumes,
    client: Client | None,
    compute: ComputeSettings | None = None,
    console: Console | None = None,
) -> Assigned:
    """Ingest, normalize, extract and encode new series, and find their nearest groups.

    Nothing but the model is read, neither study.toml nor the study's vocabularies of today, and the study is not
    written to.

    Parameters
    ----------
    model_url : str
        A study, or a copy of its model/ folder.
    new : NewVolumes
        What is to be placed.
    client : distributed.Client or None
        Where tasks run; None runs them in this process.
    compute : ComputeSettings
        How tasks are run.
    console : rich.console.Console
        Where bars and lines go; none by default.

    Raises
    ------
    InputError
        There is no whole model of this popclust's versions, or nothing new is to be found.
    """
    model = open_model(model_url)
    work = _workspace(model, model_url, new, compute or ComputeSettings())
    return _placed(pass_through(work, model, client, console or Console(quiet=True)), model)


def pass_through(
    work: Study,
    model: FrozenModel,
    client: Client | None,
    console: Console,
    names: tuple[str, ...] = STAGES,
    has_population: bool = False,
) -> Flow:
    """Bring a study of new volumes up to date with what a model learnt, through these stages; raises as `assign`.

    With `has_population` the volumes make a population of their own, with a cohort and reports.
    """
    with hold(work, say=lambda text: console.print(text, markup=False, highlight=False)) as lease:
        card = RunCard(work)
        progress = Progress(work, card.run_id, console)
        state = State(work, Quarantine.open(work), HandedIn(work, study_key(work)))
        for name, marker in model.markers.items():
            state.take_over(name, marker)
        flow = Flow(work, client, progress, card, state, lease, frozenset(names), has_population=has_population)
        with progress:
            go_through(flow, names)
        flow.lease = None  # given back; what is computed after the run writes nothing
    return flow


def _workspace(model: FrozenModel, model_url: str, new: NewVolumes, compute: ComputeSettings) -> Study:
    """A study of the new volumes alone, with the model's settings and a key of its own."""
    url = storage.absolute(new.workspace or f"{storage.absolute(model_url)}.assigned")
    if not new.workspace and not storage.is_local(url):
        raise InputError(
            f"{model_url}: name a local folder to work in (--workspace): keys do not belong in an object store"
        )
    masks = storage.absolute(new.masks) if new.masks else ""
    transforms = storage.absolute(new.transforms) if new.transforms else ""
    is_given = model.settings.normalize.transforms == "given"
    if is_given and not transforms:
        raise InputError(f"{model_url}: the model was made with known transforms: name their folder (--transforms)")
    chosen = replace(
        model.settings,
        ingest=replace(model.settings.ingest, sources=tuple(storage.absolute(s) for s in new.sources)),
        normalize=replace(model.settings.normalize, given_folder=transforms),
        masks=replace(model.settings.masks, folder=masks),
        compute=compute,
    )
    return Study(url, chosen, model_url=model.url, model_digest=model.digest)


def _placed(flow: Flow, model: FrozenModel) -> Assigned:
    """A row for every series that is in the sources now: its group, or why it has none."""
    present = sorted(set(flow.series.fingerprints()) - set(flow.series.missing()))
    found = _nearest(flow, model)
    frame = found.reindex(present).rename_axis("volume_id").reset_index()
    for name in ("cluster", "nearest"):
        frame[name] = frame[name].astype("Int64")
    reasons = _reasons(flow)
    frame = frame.assign(error_rate=model.groups.error_rate, reasons=[reasons.get(v, []) for v in present])
    kept_out = {volume_id for volume_id, _ in flow.state.quarantine.rows}
    return Assigned(frame, len(kept_out & set(present)), flow.study.url, model.digest)


def _nearest(flow: Flow, model: FrozenModel) -> pd.DataFrame:
    records = flow.study.records("encode", sorted(flow.finished("encode")))
    if not records:
        return pd.DataFrame(columns=list(_COLUMNS), dtype=float)
    counts = counts_of(records)
    zones = np.asarray([r["zones"] for r in records.values()], np.uint32)
    found = model.groups.assign(counts, far_of(records), zones)
    columns = {name: getattr(found, name) for name in _COLUMNS}
    return pd.DataFrame(columns, index=list(records))


def _reasons(flow: Flow) -> dict[str, list[str]]:
    """Why volumes are not placed: not included, not accepted, or in quarantine."""
    reasons: dict[str, list[str]] = {}
    for stage in ("ingest", "normalize"):
        for volume_id, record in flow.study.records(stage, sorted(flow.finished(stage))).items():
            if not record.get("trusted"):  # a volume accepted in part has reasons and is placed all the same
                reasons.setdefault(volume_id, []).extend(record["reasons"])
    for (volume_id, _), row in flow.state.quarantine.rows.items():
        reasons.setdefault(volume_id, []).append(str(row["error"]))
    return reasons


def with_sources(assigned: Assigned) -> pd.DataFrame:
    """The rows with the series and folder that each volume is: identifying, for those who ask for it."""
    sources = pd.read_parquet(f"{assigned.workspace}.secret/sources.parquet")
    return assigned.rows.merge(sources[["volume_id", "series_instance_uid", "folder"]], on="volume_id", how="left")
