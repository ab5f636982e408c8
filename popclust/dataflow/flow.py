"""Run a stage: find what is missing, do it on the cluster, publish it, keep failures apart."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from distributed import Client

from popclust.dataflow.progress import Progress
from popclust.dataflow.quarantine import Quarantine
from popclust.dataflow.runcard import RunCard
from popclust.dataflow.stages import stage_named
from popclust.dataflow.volume_tasks import VolumeTask, perform
from popclust.dataflow.window import Outcome, Task, run_window
from popclust.errors import InputError, SurroundingsError
from popclust.study import WHOLE, Study


@dataclass(frozen=True)
class Need:
    """One volume's part of a stage: what it reads, and the further arguments of its task."""

    read: tuple[str, ...]
    """Markers of what it reads."""
    args: tuple[Any, ...] = ()
    """Passed to the task after the study and the volume."""


@dataclass
class Flow:
    """A run at work."""

    study: Study
    client: Client | None
    progress: Progress
    card: RunCard
    quarantine: Quarantine
    active: frozenset[str]
    """Stages that may compute; the others must be complete already."""
    parts: dict[str, dict[str, str]] = field(default_factory=dict)
    """Markers of the parts that later stages may read: stage -> volume_id -> marker."""

    def volumes(self, name: str, task: VolumeTask, needs: Mapping[str, Need]) -> dict[str, str]:
        """Bring a stage's per-volume parts up to date.

        Returns
        -------
        dict
            Markers of the finished parts by sorted volume_id; volumes in quarantine are missing from it.

        Raises
        ------
        InputError
            The stage may not compute but has parts to do, or no volume is left.
        SurroundingsError
            Disk full, or the Dask cluster is lost.
        """
        stage = stage_named(name)
        there = self.study.markers(name)
        wanted = {v: stage.marker(self.study.settings, need.read) for v, need in sorted(needs.items())}
        held = {v for v, m in wanted.items() if there.get(v) != m and self.quarantine.holds(v, name, m)}
        todo = [v for v, m in wanted.items() if there.get(v) != m and v not in held]
        self._refuse_idle(name, len(todo))
        done = {v: m for v, m in wanted.items() if there.get(v) == m}
        self.progress.start(name, len(wanted) - len(held), len(done))
        if held:
            self.progress.line(f"[yellow]{len(held)} volumes stay in quarantine[/] (`popclust retry` lets them out)")
        self._check_disk()
        tasks = (Task(v, (task, self.study, name, v, wanted[v], *needs[v].args)) for v in todo)
        for outcome in self._window(name, perform, tasks):
            self.progress.advance(outcome)
            if outcome.error:
                self.quarantine.add(name, outcome, wanted[outcome.key])
            else:
                done[outcome.key] = wanted[outcome.key]
                self.quarantine.release(outcome.key, name)
        if wanted and not done:
            reasons = {str(r["message"]) for k, r in self.quarantine.rows.items() if k[1] == name}
            raise InputError(f"{name}: no volume is left, all are in quarantine; the first reason: {min(reasons)}")
        return {v: done[v] for v in wanted if v in done}

    def population(self, name: str, read: Iterable[str], work: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        """Bring a stage over the population up to date; returns its record."""
        stage = stage_named(name)
        marker = stage.marker(self.study.settings, read)
        is_done = self.study.marker(name) == marker
        self._refuse_idle(name, int(not is_done))
        self.progress.start(name, 1, int(is_done))
        if not is_done:
            self._check_disk()
            self.study.begin(name)
            self.study.publish(name, marker, work())
            self.progress.advance(Outcome(WHOLE))
        record = self.study.record(name)
        self.card.records[name] = record
        self.parts[name] = {WHOLE: marker}
        return record

    def map(self, name: str, function: Callable[..., Any], calls: Mapping[str, tuple[Any, ...]]) -> dict[str, Any]:
        """Results of `function(*args)` by key, each a task on the cluster; a failure ends the run.

        Raises
        ------
        SurroundingsError
            A worker died, or the cluster is lost.
        RuntimeError
            A task failed in a way nobody foresaw.
        """
        results = {}
        for outcome in self._window(name, function, (Task(k, a) for k, a in calls.items())):
            if outcome.error == "worker_died":
                raise SurroundingsError(f"{name}: {outcome.message}; give the workers more memory and run again")
            if outcome.error:
                raise RuntimeError(f"{name} {outcome.key}: {outcome.message}")
            results[outcome.key] = outcome.value
        return {k: results[k] for k in calls}

    def outcomes(self, name: str, function: Callable[..., Any], calls: Mapping[str, tuple[Any, ...]]) -> list[Outcome]:
        """What came of `function(*args)` in the order of the calls, each a task on the cluster; failures included."""
        found = {outcome.key: outcome for outcome in self._window(name, function, (Task(*c) for c in calls.items()))}
        return [found[key] for key in calls]

    def once(self, name: str, function: Callable[..., Any], *args: Any) -> Any:
        """One call as a task on the cluster."""
        return self.map(name, function, {WHOLE: args})[WHOLE]

    def marker(self, name: str) -> str:
        """Marker of a stage over the population that this run has passed."""
        return self.parts[name][WHOLE]

    @property
    def n_workers(self) -> int:
        """Worker processes of the Dask cluster; 0 where the tasks run in this process."""
        return len(self.client.scheduler_info(n_workers=-1)["workers"]) if self.client else 0

    def _window(self, name: str, function: Callable[..., Any], tasks: Iterable[Task]) -> Iterable[Outcome]:
        compute = self.study.settings.compute
        return run_window(
            self.client,
            name,
            function,
            tasks,
            in_flight_per_thread=compute.in_flight_per_thread,
            attempts=compute.attempts,
        )

    def _refuse_idle(self, name: str, n_todo: int) -> None:
        if n_todo and name not in self.active:
            url = self.study.url
            raise InputError(
                f"{url}: stage {name} is not up to date ({n_todo} parts to do); "
                f"`popclust run {url} --until {name}` brings it there"
            )

    def _check_disk(self) -> None:
        """Stop while there is room to stop in good order."""
        if "://" in self.study.url:
            return
        free_mb = shutil.disk_usage(self.study.url).free / 1e6
        if free_mb < self.study.settings.compute.min_free_disk_mb:
            raise SurroundingsError(
                f"{self.study.url}: {free_mb:.0f} MB of disk are left, "
                f"compute.min_free_disk_mb asks for {self.study.settings.compute.min_free_disk_mb}: "
                "make room and run again, nothing is lost"
            )
