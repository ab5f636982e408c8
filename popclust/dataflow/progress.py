"""How far a run is: bars for a person at a terminal, a file in the study for everybody else.

A Dask client can run code on the scheduler, so a read-only view is not a client: it reads what the run wrote.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import rich.progress
from rich.console import Console
from rich.table import Table

from popclust.dataflow.lease import is_held
from popclust.dataflow.quarantine import count_quarantined
from popclust.dataflow.stages import ORDER, stage_named
from popclust.dataflow.window import Outcome
from popclust.study import Study

log = logging.getLogger(__name__)

_ACTIVE = ("runs", "active.json")
_FIELDS = ("state", "run_id", "dashboard")
_HEARTBEAT_S = 2.0


@dataclass
class StageProgress:
    """Counts of one stage."""

    name: str
    total: int
    """Parts that should exist."""
    reused: int
    """Parts that were there already."""
    done: int = 0
    """Parts made by this run."""
    failed: int = 0
    """Parts that went to quarantine."""
    seconds: float = 0.0
    """Wall time so far."""

    @property
    def left(self) -> int:
        """Parts still to come."""
        return self.total - self.reused - self.done - self.failed

    @property
    def seconds_left(self) -> float | None:
        """Estimate from this run's own pace; None before the first part is done."""
        finished = self.done + self.failed
        return self.seconds / finished * self.left if finished else None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "stage": self.name,
            "total": self.total,
            "done": self.reused + self.done,
            "reused": self.reused,
            "quarantined": self.failed,
            "left": self.left,
            "seconds": round(self.seconds, 1),
            "seconds_left": None if self.seconds_left is None else round(self.seconds_left, 1),
        }


@dataclass
class Progress:
    """Follows one run; use as a context manager."""

    study: Study
    run_id: str
    console: Console
    """Where bars and lines go; a quiet console for none."""
    dashboard: str = ""
    """Address of the Dask dashboard."""
    stages: list[StageProgress] = field(default_factory=list)
    """Stages so far, the last is the current one."""

    def __enter__(self) -> Progress:
        columns = (
            rich.progress.TextColumn("{task.description:<24}"),
            rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TimeElapsedColumn(),
            rich.progress.TextColumn("left"),
            rich.progress.TimeRemainingColumn(compact=True),
        )
        self._bars = rich.progress.Progress(*columns, console=self.console)
        self._bars.start()
        self._started = time.monotonic()
        self._bar: rich.progress.TaskID | None = None
        self._ended = threading.Event()
        self._write("running")
        self._heart = threading.Thread(target=self._beat, daemon=True, name="popclust-heartbeat")
        self._heart.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._ended.set()
        self._heart.join()
        self._bars.stop()
        self._write_unless_overtaken("ended" if kind is None else "stopped")

    def start(self, name: str, total: int, reused: int) -> None:
        """A stage begins."""
        self._started = time.monotonic()
        self.stages.append(StageProgress(name, total, reused))
        title = stage_named(name).title
        # The parts that were there already are no measure of the pace, so the bar counts only what is to do.
        self._bar = self._bars.add_task(title, total=total - reused) if total > reused else None
        if self._bar is None:
            self.line(f"{title:<24} nothing to do, {reused} done before")

    def advance(self, outcome: Outcome) -> None:
        """A part is finished, or has failed."""
        stage = self.stages[-1]
        if outcome.error:
            stage.failed += 1
            self.line(f"{outcome.key} kept out: {outcome.message}", "yellow")
        else:
            stage.done += 1
        stage.seconds = time.monotonic() - self._started
        if self._bar is not None:
            self._bars.advance(self._bar)

    def line(self, text: str, style: str = "") -> None:
        """One line for a person, above the bars; it is never read as markup."""
        self._bars.console.print(text, style=style or None, markup=False, highlight=False)

    def _beat(self) -> None:
        while not self._ended.wait(_HEARTBEAT_S):
            try:
                self._write_unless_overtaken("running")
            except Exception as error:  # noqa: BLE001  (who watches waits for the next beat; the run goes on)
                log.warning("how far the run is could not be written: %s", type(error).__name__)

    def _write_unless_overtaken(self, state: str) -> None:
        active = _active(self.study)
        if active is None or active["run_id"] == self.run_id:  # else another run has the study, as the lease will say
            self._write(state)

    def _write(self, state: str) -> None:
        stages = [s.as_dict() for s in list(self.stages)]
        value = {"run_id": self.run_id, "state": state, "dashboard": self.dashboard, "stages": stages}
        self.study.write_json(value, *_ACTIVE)


def snapshot(study: Study) -> dict[str, Any]:
    """How far the study is, from the study alone.

    Returns
    -------
    dict
        ``state`` (``running``, ``ended``, ``stopped``, ``killed`` or ``new``), ``run_id``, ``dashboard``,
        ``quarantined`` (volumes kept out, in all), ``groups`` (what is reported, in a line) and ``stages``: for each,
        in order, ``stage``, ``total``, ``done``, ``reused``, ``quarantined``, ``left``, ``seconds``, ``seconds_left``.
    """
    active = _active(study) or {"state": "new", "run_id": "", "dashboard": "", "stages": []}
    if active["state"] == "running" and not is_held(study):
        active["state"] = "killed"
    known = {s["stage"]: s for s in active["stages"]}
    stages = [known.get(name) or _untouched(study, name) for name in ORDER]
    kept_out, groups = count_quarantined(study), _said_of_groups(study)
    return {**{k: active[k] for k in _FIELDS}, "quarantined": kept_out, "groups": groups, "stages": stages}


def _said_of_groups(study: Study) -> str:
    """What is reported, in a line; empty where nothing is yet."""
    if study.done("associate") is None:
        return ""
    record = study.record("associate")
    found = f"{record['n_clusters']} groups of {record['descriptor']} are reported"
    if record.get("has_groups") is False:
        return f"no groups: {found}, but one population cut into as many is as compact"
    n_unstable = record.get("n_unstable", 0)
    return found + (f", {n_unstable} of them unstable" if n_unstable else "")


def as_table(state: dict[str, Any]) -> Table:
    """A snapshot for the terminal or a notebook."""
    table = Table(title=f"run {state['run_id'] or '-'}: {state['state']}, {state['quarantined']} volumes in quarantine")
    for column in ("stage", "done", "quarantined", "left", "time left"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for stage in state["stages"]:
        left = "" if stage["left"] is None else str(stage["left"])
        table.add_row(
            stage["stage"], str(stage["done"]), str(stage["quarantined"]), left, _duration(stage["seconds_left"])
        )
    return table


def _untouched(study: Study, name: str) -> dict[str, Any]:
    """A stage that the last run did not come to: what is there, nobody knows how many should be."""
    fields = ("total", "left", "seconds", "seconds_left")
    return {
        "stage": name,
        "done": study.n_done(name),
        "reused": 0,
        "quarantined": 0,
        **dict.fromkeys(fields),
    }


def _active(study: Study) -> dict[str, Any] | None:
    """What the last run wrote; None where that is missing, cut off or something else."""
    try:
        active = study.read_json(*_ACTIVE)
        return {**{k: active[k] for k in _FIELDS}, "stages": [dict(s) for s in active["stages"] if s["stage"]]}
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
