"""What a run would do, and why; computes nothing and writes nothing."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from popclust import storage
from popclust.dataflow.inputs import HandedIn, has_key
from popclust.dataflow.quarantine import Quarantine
from popclust.dataflow.stages import ORDER, stage_named
from popclust.dataflow.state import State, reasons
from popclust.imaging.pseudonyms import load_key
from popclust.study import Study


@dataclass(frozen=True)
class StagePlan:
    """What one stage would do."""

    stage: str
    """The stage."""
    todo: Mapping[str, str]
    """Parts that would be made, by volume_id (or ``population``), each with the reason."""
    n_kept: int
    """Parts that stay as they are."""
    n_held: int
    """Volumes that stay in quarantine."""
    seconds: float | None
    """Estimated time, from what the parts took in earlier runs; None where there was none."""


@dataclass(frozen=True)
class Plan:
    """What a run would do."""

    stages: Sequence[StagePlan]
    """In their order."""
    missing: Sequence[str]
    """Volumes whose images are no longer in the sources: they stay until they are forgotten."""

    @property
    def n_todo(self) -> int:
        """Parts that would be made."""
        return sum(len(s.todo) for s in self.stages)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        stages = [
            {
                "stage": s.stage,
                "todo": dict(sorted(s.todo.items())),
                "reasons": reasons(s.todo),
                "kept": s.n_kept,
                "held": s.n_held,
                "seconds": s.seconds,
            }
            for s in self.stages
        ]
        return {"stages": stages, "missing_sources": list(self.missing), "todo": self.n_todo}

    def as_table(self) -> Table:
        """For the terminal."""
        table = Table("stage", "to do", "kept", "held", "time", "why")
        for s in self.stages:
            why = "; ".join(f"{n} {reason}" for reason, n in reasons(s.todo).items())
            time = "" if not s.todo else "?" if s.seconds is None else f"{s.seconds:.0f} s"
            table.add_row(s.stage, str(len(s.todo) or ""), str(s.n_kept), str(s.n_held or ""), time, why)
        return table


def plan(study: Study) -> Plan:
    """Go through the stages as a run would, foreseeing what each would make.

    New volumes count as included and accepted, and what a changed input makes of a volume as changed: where a run finds
    otherwise, it does less.

    Raises
    ------
    InputError
        What a run would refuse before its first task: a source, key or file that is missing.
    """
    # A study without a key has no parts yet: any key tells what there would be to do.
    key = load_key(study.secret_path("key")) if has_key(study) else secrets.token_bytes(32)
    state = State(study, Quarantine.open(study), HandedIn(study, key))
    pace = _seconds_per_part(study)
    stages = []
    for name in ORDER:
        stage = stage_named(name)
        if stage.preview is not None:
            state.series_table = stage.preview(state)
        due = state.survey(stage)
        if stage.is_per_volume:
            state.assume(due)
        whole = state.survey_population(stage)
        if stage.build is not None:
            state.assume_population(whole)
        todo = {**due.todo, **whole.todo}
        wanted = len(due.wanted) + len(whole.wanted)
        n_held = len(due.held) + len(due.lost)
        n_parts = len(due.todo) if stage.is_per_volume else len(whole.todo)
        seconds = round(pace[name] * n_parts, 1) if name in pace else None
        stages.append(StagePlan(name, todo, wanted - len(todo) - n_held, n_held, seconds))
    return Plan(stages, state.series.missing())


def _seconds_per_part(study: Study) -> dict[str, float]:
    """What a part of each stage took in the latest run that made one."""
    pace: dict[str, float] = {}
    folder = study.path("runs")
    cards = [n for n in storage.names(folder) if n.endswith(".json") and n != "active.json"]
    for _, data in storage.read_many(folder, cards):  # by name, which is by time
        try:
            stages = json.loads(data)["stages"]
        except (ValueError, KeyError):
            continue
        for row in stages:
            made = row["done"] - row["reused"]
            if made > 0:
                pace[row["stage"]] = row["seconds"] / made
    return pace
