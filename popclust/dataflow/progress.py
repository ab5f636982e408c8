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
from rich.text import Text

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
    n_steps: int = 0
    """Tasks of the part over the population, as far as they are known."""
    steps_done: int = 0
    """Of these, the finished ones."""
    moved_at: float = 0.0
    """Wall time at which something was finished last."""

    @property
    def left(self) -> int:
        """Parts still to come."""
        return self.total - self.reused - self.done - self.failed

    @property
    def bar(self) -> tuple[int, int]:
        """Done, and of how much: parts that this run has to make, or the tasks of the one part that it is making."""
        if self.n_steps and self.total == 1 and self.left:
            return self.steps_done, self.n_steps
        return self.done + self.failed, self.total - self.reused

    @property
    def seconds_left(self) -> float | None:
        """Estimate from this run's own pace; None before something is finished."""
        finished, of = self.bar
        if not finished:
            return None
        since = self.seconds - self.moved_at
        return max(0.0, self.moved_at / finished * (of - finished) - since)

    @property
    def percent(self) -> float:
        """Share of the stage that is done, parts of earlier runs counted in."""
        if not self.total:
            return 100.0
        own, of = self.bar
        parts = self.reused + (self.total - self.reused) * (own / of if of else 0.0)
        return 100.0 * parts / self.total

    def move(self, seconds: float) -> None:
        """Something was finished at this wall time."""
        self.seconds = self.moved_at = seconds

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "stage": self.name,
            "total": self.total,
            "done": self.reused + self.done,
            "reused": self.reused,
            "quarantined": self.failed,
            "left": self.left,
            "steps": [self.steps_done, self.n_steps] if self.n_steps else None,
            "percent": round(self.percent, 1),
            "seconds": round(self.seconds, 1),
            "seconds_left": None if self.seconds_left is None else round(self.seconds_left, 1),
        }


class _TimeLeft(rich.progress.ProgressColumn):
    """What `status` says is left of the stage."""

    max_refresh = 0.5

    def render(self, task: rich.progress.Task) -> Text:
        return Text(duration(task.fields["stage"].seconds_left) or "-:--", style="progress.remaining")


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
            _TimeLeft(),
        )
        self._bars = rich.progress.Progress(*columns, console=self.console)
        self._bars.start()
        self._run_started = self._started = time.monotonic()
        self._bar: rich.progress.TaskID | None = None
        self._at_work: StageProgress | None = None
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
        stage = self._at_work = StageProgress(name, total, reused)
        self.stages.append(stage)
        title = stage_named(name).title
        # The parts that were there already are no measure of the pace, so the bar counts only what is to do.
        self._bar = self._bars.add_task(title, total=total - reused, stage=stage) if total > reused else None
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
        stage.move(time.monotonic() - self._started)
        self._draw(stage)

    def expect(self, n_steps: int) -> None:
        """So many tasks more belong to the part over the population that the stage is making."""
        if self._at_work is not None:  # what prepares a stage runs before it begins
            self._at_work.n_steps += n_steps
            self._draw(self._at_work)

    def step(self) -> None:
        """One of them is finished."""
        stage = self._at_work
        if stage is not None:
            stage.steps_done += 1
            stage.move(time.monotonic() - self._started)
            self._draw(stage)

    def rest(self) -> None:
        """The stage is over; what comes until the next begins is not its time."""
        self._at_work = None

    def _draw(self, stage: StageProgress) -> None:
        if self._bar is not None:
            done, total = stage.bar
            self._bars.update(self._bar, completed=done, total=total)

    def credit(self, earlier: str, n_done: int, n_failed: int, seconds: float) -> None:
        """Parts of the current stage were made while an earlier one went on, whose time theirs was until now."""
        stage = self.stages[-1]
        stage.done += n_done
        stage.failed += n_failed
        self._started -= seconds
        stage.move(time.monotonic() - self._started)
        for other in self.stages:
            if other.name == earlier:
                other.seconds = max(0.0, other.seconds - seconds)
                other.moved_at = min(other.moved_at, other.seconds)  # else it would say that time is left
        self._draw(stage)

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
        now, at_work = time.monotonic(), self._at_work
        if at_work is not None:
            at_work.seconds = now - self._started
        stages = [s.as_dict() for s in list(self.stages)]
        spent = round(now - self._run_started, 1)
        names = {"run_id": self.run_id, "state": state, "dashboard": self.dashboard}
        value = {**names, "seconds": spent, "stages": stages}
        self.study.write_json(value, *_ACTIVE)


def snapshot(study: Study) -> dict[str, Any]:
    """How far the study is, from the study alone.

    Returns
    -------
    dict
        ``state`` (``running``, ``ended``, ``stopped``, ``killed`` or ``new``), ``run_id``, ``dashboard``,
        ``quarantined`` (volumes kept out, in all), ``groups`` (what is reported, in a line) and ``stages``: for each,
        in order, ``stage``, ``total``, ``done``, ``reused``, ``quarantined``, ``left``, ``steps`` (done and known
        tasks of a part over the population, or None),
        ``percent``, ``seconds``, ``seconds_left``. Over all stages: ``total``, ``done`` and ``left`` (parts, of the
        stages that the run has come to), ``percent`` (every stage counts the same), ``seconds`` since the run began,
        ``seconds_left`` of the stage at work.
    """
    active = _active(study) or {"state": "new", "run_id": "", "dashboard": "", "seconds": None, "stages": []}
    if active["state"] == "running" and not is_held(study):
        active["state"] = "killed"
    if active["state"] in ("killed", "stopped"):
        active["stages"] = [{**stage, "seconds_left": None} for stage in active["stages"]]
    known = {s["stage"]: s for s in active["stages"]}
    stages = [known.get(name) or _untouched(study, name) for name in ORDER]
    return {
        **{k: active[k] for k in (*_FIELDS, "seconds")},
        **{k: sum(s[k] for s in known.values()) for k in ("total", "done", "left")},
        "percent": round(sum(float(s.get("percent") or 0) for s in stages) / len(stages), 1),
        "seconds_left": active["stages"][-1]["seconds_left"] if active["state"] == "running" and known else None,
        "quarantined": count_quarantined(study),
        "groups": _said_of_groups(study),
        "stages": stages,
    }


def headline(state: dict[str, Any]) -> str:
    """One line of a snapshot."""
    said = {"killed": "no longer alive: its lease stands still; run again to go on"}.get(state["state"], state["state"])
    spent = f", {duration(state['seconds'])} so far" if state["seconds"] is not None else ""
    parts = f", {state['done']} of {state['total']} parts" if state["total"] else ""
    kept_out = f"{state['quarantined']} volumes in quarantine"
    return f"run {state['run_id'] or '-'}: {said}, {state['percent']:.0f} %{parts}{spent}, {kept_out}"


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
    table = Table(title=headline(state))
    for column in ("stage", "done", "of", "%", "quarantined", "left", "elapsed", "time left"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for stage in state["stages"]:
        table.add_row(*row_of(stage))
    return table


def row_of(stage: dict[str, Any]) -> tuple[str, ...]:
    """A stage of a snapshot as text: stage, done, of, %, quarantined, left, elapsed, time left."""
    done, total, left = str(stage["done"]), stage["total"], stage["left"]
    if stage.get("steps") and left:  # one part, in many tasks
        done, total, left = str(stage["steps"][0]), stage["steps"][1], stage["steps"][1] - stage["steps"][0]
    percent = stage.get("percent")
    return (
        stage["stage"],
        done,
        "" if total is None else str(total),
        "" if percent is None else f"{percent:.0f}",
        str(stage["quarantined"]),
        "" if left is None else str(left),
        duration(stage["seconds"]),
        duration(stage["seconds_left"]),
    )


def _untouched(study: Study, name: str) -> dict[str, Any]:
    """A stage that the last run did not come to: what is there, nobody knows how many should be."""
    fields = ("total", "left", "steps", "percent", "seconds", "seconds_left")
    return {
        "stage": name,
        "done": len(study.names_done(name)),
        "reused": 0,
        "quarantined": 0,
        **dict.fromkeys(fields),
    }


def _active(study: Study) -> dict[str, Any] | None:
    """What the last run wrote; None where that is missing, cut off or something else."""
    try:
        active = study.read_json(*_ACTIVE)
        stages = [dict(s) for s in active["stages"] if s["stage"]]
        return {**{k: active[k] for k in _FIELDS}, "seconds": active.get("seconds"), "stages": stages}
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None


def duration(seconds: float | None) -> str:
    """Hours, minutes and seconds; empty for None."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
