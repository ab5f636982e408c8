"""What a population of N volumes would take on W workers, from what a study's own parts have taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import pandas as pd
from rich.table import Table

from popclust.dataflow.events import DRIVER, read_events
from popclust.dataflow.meeting import Search
from popclust.dataflow.stage import Stage
from popclust.dataflow.stages import ORDER, stage_named
from popclust.errors import InputError
from popclust.parts import WHOLE
from popclust.study import Study

CONSTANT, LINEAR = 0, 1
"""How the cost of a stage's work over the population grows with the number of volumes."""
GROWTH = {"atlas": CONSTANT, "freeze": CONSTANT}
"""Stages whose work over the population does not grow linearly."""
SAMPLED = "vocabulary"
"""Its tasks that are named by volumes look at a sample, of as many volumes as ever."""
SPREAD = "duplicates"
"""Its tasks are of so many volumes at most: a larger population has more of them. Pairs grow with its square."""
WINDOW_PER_S = 500.0
"""Tasks per second that one launcher is taken to hand out; an assumption: benchmarks/scale.py measures a machine's."""
_MATRIX_BYTES = 16
"""Bytes per volume and visual word while topics are learnt: the counts in float64, and a second such array."""


@dataclass(frozen=True)
class StageEstimate:
    """One stage of the population to come."""

    stage: str
    """The stage."""
    n_parts: int
    """Parts of volumes."""
    core_hours: float
    """Of all its tasks."""
    serial_hours: float
    """What the launcher does alone, or one task after the other."""
    wall_hours: float
    """With all workers."""
    disk_gb: float
    """What its parts take."""
    peak_mb: float
    """The largest memory of one of its tasks for a volume, a worker with its child."""


@dataclass(frozen=True)
class Estimate:
    """The population to come."""

    n_volumes: int
    """Volumes."""
    n_workers: int
    """Worker processes, one core each."""
    stages: tuple[StageEstimate, ...]
    """In their order."""
    learning_memory_mb: float
    """Memory of the one task that holds the counts of the whole population (topics)."""
    notes: tuple[str, ...]
    """What it rests on."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "n_volumes": self.n_volumes,
            "n_workers": self.n_workers,
            **self.total,
            "learning_memory_mb": round(self.learning_memory_mb, 1),
            "stages": [{k: _rounded(v) for k, v in asdict(s).items()} for s in self.stages],
            "notes": list(self.notes),
        }

    @property
    def total(self) -> dict[str, float]:
        """Sums, and the largest memory."""
        sums = {
            n: sum(getattr(s, n) for s in self.stages) for n in ("core_hours", "serial_hours", "wall_hours", "disk_gb")
        }
        peak = max((s.peak_mb for s in self.stages), default=0.0)
        return {**{n: round(v, 4) for n, v in sums.items()}, "worker_memory_mb": round(peak, 1)}

    def as_table(self) -> Table:
        """For the terminal."""
        table = Table(
            "stage",
            *(_right(c) for c in ("parts", "core hours", "serial hours", "wall hours", "disk GB", "memory MB")),
            title=f"{self.n_volumes:,} volumes on {self.n_workers:,} workers",
        )
        for s in self.stages:
            hours = (f"{h:,.2f}" for h in (s.core_hours, s.serial_hours, s.wall_hours))
            table.add_row(s.stage, f"{s.n_parts:,}", *hours, f"{s.disk_gb:,.1f}", f"{s.peak_mb:,.0f}")
        total = self.total
        sums = (f"{total[n]:,.2f}" for n in ("core_hours", "serial_hours", "wall_hours"))
        table.add_row("all", "", *sums, f"{total['disk_gb']:,.1f}", f"{total['worker_memory_mb']:,.0f}", style="bold")
        return table


def estimate(study: Study, n_volumes: int, n_workers: int) -> Estimate:
    """Scale up what a study's parts have taken.

    A stage's parts are as many for each volume as in the study, and take as long each. Work over the population grows
    with the volumes. A stage's wall time is its core time over the workers, not less than the launcher needs for so
    many tasks or the longest task over the population, and what the launcher does alone.

    Raises
    ------
    InputError
        The study has not been run with this popclust: it has no events.
    """
    events = read_events(study)
    events = events[events["error"] == ""]
    n_known = sum(v != WHOLE and d.passes for v, d in study.markers("ingest").done.items())
    if n_known == 0:
        raise InputError(f"{study.url}: no volume was included; an estimate rests on volumes that were")
    grown = n_volumes / n_known
    stages, missing = [], []
    for name in ORDER:
        stage = stage_named(name)
        found = _scaled(study, stage, events[events["stage"] == name], n_volumes, grown, n_workers)
        if found is None:
            missing.append(name)
        else:
            stages.append(found)
    words = study.settings.vocabulary
    n_words = words.n_words_haralick + words.n_words_micro_sift + words.n_words_macro_sift
    notes = [
        f"from {n_known} volumes of this study, scaled by {grown:,.1f}; parts of volumes as they took, work over the "
        "population linearly",
        "volumes of another size, a slower disk or a shared store take otherwise: estimate from a sample of your own",
    ]
    if missing:
        notes.append(f"not in it, for no run left events of them: {', '.join(missing)}")
    return Estimate(n_volumes, n_workers, tuple(stages), n_volumes * n_words * _MATRIX_BYTES / 1e6, tuple(notes))


def _scaled(
    study: Study, stage: Stage, events: pd.DataFrame, n_volumes: int, grown: float, n_workers: int
) -> StageEstimate | None:
    """One stage, scaled; None where nothing is known of it."""
    if events.empty:
        return None
    done = study.markers(stage.name).done
    volumes = [v for v in done if v != WHOLE] if stage.is_per_volume else []
    latest = events.drop_duplicates(["part", "worker"], keep="last").assign(own=lambda e: e["worker"] == DRIVER)
    of_volumes = latest[latest["part"].isin(volumes) & ~latest["own"]].drop_duplicates("part", keep="last")
    n_parts = round(len(volumes) * grown)
    each_s = float(of_volumes["seconds"].mean()) if len(of_volumes) else 0.0
    tasks_s = each_s * n_parts
    factor = grown ** GROWTH.get(stage.name, LINEAR)
    whole = _population(latest[~latest.index.isin(of_volumes.index)], stage.name, factor)
    if stage.name == SPREAD:
        whole = _spread(whole, round(n_volumes / grown), n_volumes)
    wall_s = max(tasks_s / n_workers, n_parts / WINDOW_PER_S) + max(whole.core_s / n_workers, whole.longest_s)
    return StageEstimate(
        stage=stage.name,
        n_parts=n_parts,
        core_hours=(tasks_s + whole.core_s) / 3600,
        serial_hours=(whole.longest_s + whole.launcher_s) / 3600,
        wall_hours=(wall_s + whole.launcher_s) / 3600,
        disk_gb=_bytes(done, volumes, grown, factor) / 1e9,
        peak_mb=float(of_volumes["peak_mb"].max()) if len(of_volumes) else 0.0,
    )


@dataclass(frozen=True)
class _Population:
    """Work over the population, scaled."""

    core_s: float = 0.0
    """Seconds of its tasks."""
    longest_s: float = 0.0
    """The longest of them."""
    launcher_s: float = 0.0
    """What the launcher does beside them."""


def _population(events: pd.DataFrame, stage: str, factor: float) -> _Population:
    """Seconds of a stage's work over the population in the latest run that did it.

    The launcher's own time holds the wait for its tasks.
    """
    built = events[events["own"]]
    if built.empty:
        return _Population()
    tasks = events[~events["own"] & (events["run_id"] == built["run_id"].iloc[-1])]
    launcher_s = float(built["seconds"].iloc[-1])
    if tasks.empty:
        return _Population(launcher_s=launcher_s * factor)
    waited_s = float(tasks["ended_s"].max() - (tasks["ended_s"] - tasks["seconds"]).min())
    is_sample = (tasks["part"] != WHOLE) & (stage == SAMPLED)
    seconds = tasks["seconds"] * is_sample.map({True: 1.0, False: factor})
    return _Population(float(seconds.sum()), float(seconds.max()), max(0.0, launcher_s - waited_s) * factor)


def _spread(whole: _Population, n_known: int, n_volumes: int) -> _Population:
    """The same where tasks are cut by a size, and most of the close looks are at pairs that a small study has not."""
    known, wanted = Search.of(n_known), Search.of(n_volumes)
    looking_s, longest_look_s = wanted.looking_s
    each_s = whole.longest_s * n_known / n_volumes / known.volumes_of_largest
    longest_s = max(each_s * wanted.volumes_of_largest, longest_look_s)
    return replace(whole, core_s=whole.core_s + looking_s, longest_s=longest_s)


def _bytes(done: Mapping[str, Any], volumes: list[str], grown: float, factor: float) -> float:
    own = sum(done[v].n_bytes for v in volumes) * grown
    return own + (done[WHOLE].n_bytes * factor if WHOLE in done else 0.0)


def _rounded(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value


def _right(header: str) -> Any:
    from rich.table import Column

    return Column(header, justify="right")
