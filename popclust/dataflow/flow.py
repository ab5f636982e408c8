"""Run a stage: find what is missing, do it on the cluster, publish it, keep failures apart."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from distributed import Client

from popclust import storage
from popclust.dataflow.events import DRIVER, EventLog
from popclust.dataflow.follower import Follower
from popclust.dataflow.lease import Lease
from popclust.dataflow.perform import logged, perform
from popclust.dataflow.progress import Progress
from popclust.dataflow.runcard import RunCard
from popclust.dataflow.stage import Stage
from popclust.dataflow.stages import ORDER, stage_named
from popclust.dataflow.state import Due, State
from popclust.dataflow.usage import Meter
from popclust.dataflow.window import Outcome, Task, run_window, threads_of
from popclust.dataflow.workers import Ticket
from popclust.errors import DamagedError, InputError, SurroundingsError
from popclust.imaging.series_table import SeriesTable
from popclust.parts import WHOLE, Done, marker_of
from popclust.study import Study


@dataclass
class Flow:
    """A run at work; a :class:`popclust.dataflow.stage.Work`."""

    study: Study
    client: Client | None
    progress: Progress
    card: RunCard
    state: State
    lease: Lease | None
    active: frozenset[str]
    """Stages that may compute; the others must be complete already."""
    rescan: bool = False
    """Read all headers again."""
    has_population: bool = True
    """Whether the volumes make a population; False where they are put on a frozen model, one by one."""
    events: EventLog | None = None
    """Where events go; None: nowhere."""
    made: dict[str, list[str]] = field(default_factory=dict)
    """Parts that this run made, by stage."""
    _early: dict[str, Follower] = field(default_factory=dict)
    """Stages whose volumes went on to them already."""

    def carry_out(self, stage: Stage) -> None:
        """Bring a stage up to date: its volumes' parts, then the population's.

        Raises
        ------
        InputError
            The stage may not compute but has parts to do, or no volume is left.
        SurroundingsError
            Disk full, the Dask cluster is lost, or something stored is damaged (it is withdrawn then).
        """
        self._stage = stage
        self.state.series_table = self._series(stage)
        self._name_unreadable(stage)
        due = self.state.survey(stage)
        if stage.is_per_volume:
            self._do_volumes(due)
        if self.has_population:
            self._do_population(stage, has_bar=not stage.is_per_volume)
        self.progress.rest()
        self.state.handed_in.save()
        if self.events is not None:
            self.events.flush()

    @property
    def ticket(self) -> Ticket:
        """What a worker must have and see before it does anything for this run."""
        beacon = self.lease.file if self.lease else ()
        content = self.lease.token if self.lease else ""
        return Ticket(self.study, beacon, content, self.study.settings.compute)

    # -- what a stage may do (Work) ------------------------------------------------------------------------------

    @property
    def series(self) -> SeriesTable:
        """The series of the sources."""
        return self.state.series

    @property
    def key(self) -> bytes:
        """The key of the study's pseudonyms."""
        return self.state.key

    def passing(self, stage: str) -> Mapping[str, str]:
        """Outputs of a stage's parts of the volumes that go on."""
        return self.state.passing(stage)

    def finished(self, stage: str) -> Mapping[str, str]:
        """Markers of a stage's finished parts, whether the volumes go on or not."""
        return self.state.finished(stage)

    def marker(self, stage: str) -> str:
        """Marker of what a stage made of the population."""
        return self.state.marker(stage)

    def output(self, stage: str) -> str:
        """What later stages depend on of it."""
        return self.state.output(stage)

    def digest(self, path: str) -> str:
        """Keyed digest of something that a person hands in."""
        return self.state.digest(path)

    @property
    def run_card(self) -> Mapping[str, Any]:
        """The run card as far as it goes."""
        return self.card.as_dict("ended", self.progress.stages, self.n_workers)

    def line(self, text: str, style: str = "") -> None:
        """Say one line to a person."""
        self.progress.line(text, style)

    def map(self, function: Callable[..., Any], calls: Mapping[str, tuple[Any, ...]]) -> dict[str, Any]:
        """Results of `function(*args)` by key, each a task on the cluster; a failure ends the run.

        Raises
        ------
        SurroundingsError
            A worker died, or the cluster is lost.
        RuntimeError
            A task failed in a way nobody foresaw.
        """
        results = {}
        for outcome in self._steps(function, calls):
            if outcome.error == "worker_died":
                raise SurroundingsError(
                    f"{self._stage.name}: {outcome.message}; give the workers more memory and run again"
                )
            if outcome.error == "damaged":
                self._withdraw([outcome.value])
            if outcome.error:
                raise RuntimeError(f"{self._stage.name} {outcome.key}: {outcome.message}")
            results[outcome.key] = outcome.value
        return {k: results[k] for k in calls}

    def once(self, function: Callable[..., Any], *args: Any) -> Any:
        """One call as a task on the cluster."""
        return self.map(function, {WHOLE: args})[WHOLE]

    def outcomes(self, function: Callable[..., Any], calls: Mapping[str, tuple[Any, ...]]) -> list[Outcome]:
        """What came of each call, failures included, in the order of the calls."""
        found = {outcome.key: outcome for outcome in self._steps(function, calls)}
        return [found[key] for key in calls]

    def _steps(self, function: Callable[..., Any], calls: Mapping[str, tuple[Any, ...]]) -> Iterator[Outcome]:
        """Tasks within the part over the population, each a step of its bar."""
        self.progress.expect(len(calls))
        for outcome in self._window(function, (Task(*c) for c in calls.items())):
            self.progress.step()
            yield outcome

    @property
    def n_workers(self) -> int:
        """Worker processes of the Dask cluster; 0 where the tasks run in this process."""
        return len(threads_of(self.client, self.study.settings.compute.silent_s)) if self.client else 0

    @property
    def n_quarantined(self) -> int:
        """Volumes in quarantine."""
        return len(self.state.quarantine)

    # -- how -----------------------------------------------------------------------------------------------------

    def _series(self, stage: Stage) -> SeriesTable | None:
        if stage.prepare is None:
            return self.state.series_table
        if stage.name in self.active:
            return stage.prepare(self)
        return stage.last_seen(self) if stage.last_seen else None

    def _name_unreadable(self, stage: Stage) -> None:
        for volume_id, reason in self.state.markers(stage).withdrawn.items():
            self.line(f"{stage.name} of {volume_id} counts as not done: {reason}", "yellow")

    def _do_volumes(self, due: Due) -> None:
        stage, quarantine = due.stage, self.state.quarantine
        self._refuse_idle(stage, len(due.todo))
        early = self._early.pop(stage.name, None)
        n_early, n_failed = (len(early.made), len(early.failed)) if early else (0, 0)
        n_kept = len(due.wanted) - len(due.todo) - len(due.held) - len(due.lost) - n_early
        self.progress.start(stage.name, n_kept + len(due.todo) + n_early + n_failed, n_kept)
        for volume_id, reason in due.lost.items():
            quarantine.add(stage.name, Outcome(volume_id, None, "source_missing", reason), due.wanted[volume_id])
        if n_held := len(due.held) - n_failed:
            self.line(f"{n_held} volumes stay in quarantine (`popclust retry` lets them out)", "yellow")
        self._check_disk()
        if due.todo:
            self.study.write_recipe(stage.recipe(self.study.settings))
        made: dict[str, Done] = dict(early.made) if early else {}
        if early:
            self.progress.credit(stage.follows, n_early, n_failed, early.seconds / max(1, self.n_workers))
        follower = self._follower(stage) if due.todo else None
        damaged: list[DamagedError] = []
        for outcome in self._outcomes_of(due, follower):
            if outcome.error == "damaged":
                damaged.append(outcome.value)
                if outcome.value.volume_id == WHOLE:  # every other task would meet it too
                    break
                continue
            if follower is not None and outcome.stage == follower.stage.name:
                follower.take(outcome, self.line)
                continue
            self.progress.advance(outcome)
            if outcome.error:
                quarantine.add(stage.name, outcome, due.wanted[outcome.key])
            else:
                made[outcome.key] = outcome.value
                quarantine.release(outcome.key, stage.name)
        quarantine.write()
        if follower is not None:
            self.state.forget(follower.stage)
            self._early[follower.stage.name] = follower
        if damaged:
            self._withdraw(damaged)
        self.made[stage.name] = sorted(made)
        self.state.settle(due, made)
        if self.has_population and due.wanted and len(made) + n_kept == 0:
            first = min(str(r["message"]) for k, r in quarantine.rows.items() if k[1] == stage.name)
            raise InputError(f"{stage.name}: no volume is left, all are in quarantine; the first reason: {first}")

    def _follower(self, stage: Stage) -> Follower | None:
        """The stage that a volume goes on to at once, if it may compute."""
        name = next((n for n in ORDER[ORDER.index(stage.name) :] if stage_named(n).follows == stage.name), "")
        return Follower.of(stage_named(name), self.state) if name in self.active else None

    def _outcomes_of(self, due: Due, follower: Follower | None) -> Iterator[Outcome]:
        order = self.state.largest_first(due)
        tasks = (Task(v, (due.stage.name, due.recipe, v, due.wanted[v])) for v in order)
        return self._window(partial(perform, self.study), tasks, follower.task_after if follower else None)

    def _do_population(self, stage: Stage, has_bar: bool) -> None:
        if stage.build is None or stage.build_needs is None:
            return
        due = self.state.survey_population(stage)
        self._refuse_idle(stage, len(due.todo))
        if has_bar:
            self.progress.start(stage.name, 1, int(not due.todo))
        if due.todo:
            self._check_disk()
            self.study.write_recipe(stage.recipe(self.study.settings))
            self.study.begin(stage.name, WHOLE, stage.results)
            meter = Meter()
            made = stage.build(self)
            marker = marker_of(due.recipe, made.read) if made.read else due.wanted[WHOLE]
            self._check_lease()
            done = self.study.publish(stage.name, marker, made, recipe=due.recipe, files=stage.results)
            self.made.setdefault(stage.name, []).append(WHOLE)
            if self.events is not None:
                self.events.add(stage.name, Outcome(WHOLE, usage=replace(meter.read(), worker=DRIVER)))
            if has_bar:
                self.progress.advance(Outcome(WHOLE))
        else:
            done = self.state.markers(stage).done[WHOLE]
        self.state.settle_population(stage, done)
        record = self.study.record(stage.name)
        self.card.records[stage.name] = record
        self.card.inputs[stage.name] = done.marker
        if stage.say is not None and stage.name in self.active:
            stage.say(record, self.line)

    def _window(
        self,
        function: Callable[..., Any],
        tasks: Iterable[Task],
        follow: Callable[[Outcome], Task | None] | None = None,
    ) -> Iterator[Outcome]:
        call = partial(logged, self.study, self.ticket, function)
        compute = self.study.settings.compute
        after = follow or (lambda outcome: None)
        for outcome in run_window(self.client, self._stage.name, call, tasks, compute=compute, follow=after):
            self._check_lease()
            if self.events is not None:
                self.events.add(outcome.stage or self._stage.name, outcome)
            yield outcome

    def _withdraw(self, damaged: Sequence[DamagedError]) -> None:
        """Nothing damaged is served as true, nor does a volume pay for it.

        Raises
        ------
        DamagedError
            Always: the next run makes anew what was withdrawn.
        """
        for error in damaged:
            if error.stage:
                self.study.withdraw(error.stage, error.volume_id, error.what)
                self.line(f"{error.stage} of {error.volume_id} is withdrawn: {error.what}", "yellow")
        more = f" (and {len(damaged) - 1} more)" if len(damaged) > 1 else ""
        raise DamagedError(f"{damaged[0].what}{more}; it is withdrawn, the next run makes it anew") from damaged[0]

    def _check_lease(self) -> None:
        if self.lease is not None:
            self.lease.check()

    def _refuse_idle(self, stage: Stage, n_todo: int) -> None:
        if n_todo and stage.name not in self.active:
            url = self.study.url
            raise InputError(
                f"{url}: stage {stage.name} is not up to date ({n_todo} parts to do); "
                f"`popclust run {url} --until {stage.name}` brings it there, `popclust plan {url}` says why"
            )

    def _check_disk(self) -> None:
        """Stop while there is room to stop in good order."""
        if not storage.is_local(self.study.url):
            return
        free_mb = shutil.disk_usage(self.study.url).free / 1e6
        if free_mb < self.study.settings.compute.min_free_disk_mb:
            raise SurroundingsError(
                f"{self.study.url}: {free_mb:.0f} MB of disk are left, "
                f"[compute] min_free_disk_mb asks for {self.study.settings.compute.min_free_disk_mb}: "
                "make room; nothing is lost"
            )
