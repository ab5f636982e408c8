"""The log of a run's events: one line of JSON for every part that was made, or was not.

``runs/<run_id>.events.<n>.jsonl``, each file written once. A line holds ``stage``, ``part`` (a volume's pseudonym, or
the name of a task over the population), ``ended_s`` (seconds since the run began, by the launcher's clock),
``seconds``, ``cpu_seconds``, ``peak_mb``, ``worker`` (a pseudonym; ``driver`` for what the launcher does itself),
``attempts`` and ``error`` (a code, or empty). No result rests on it: studies are equal to the byte without it.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from popclust import storage
from popclust.dataflow.usage import Usage
from popclust.dataflow.window import Outcome
from popclust.errors import InputError
from popclust.parts import canonical
from popclust.study import Study

DRIVER = "driver"
"""The worker of what the launcher does itself."""
COLUMNS = ("stage", "part", "ended_s", "seconds", "cpu_seconds", "peak_mb", "worker", "attempts", "error")
_FLUSH_S = 60.0
_FLUSH_LINES = 20_000


@dataclass
class EventLog:
    """Collects the events of one run; writes them once a minute."""

    study: Study
    run_id: str
    _lines: list[bytes] = field(default_factory=list)
    _n_files: int = 0
    _started: float = field(default_factory=time.monotonic)
    _flushed: float = field(default_factory=time.monotonic)

    def add(self, stage: str, outcome: Outcome) -> None:
        """A part is finished, or has failed."""
        usage, now = outcome.usage or Usage(), time.monotonic()
        values = (
            *(stage, outcome.key, round(now - self._started, 3), usage.seconds, usage.cpu_seconds),
            *(usage.peak_mb, usage.worker, outcome.attempts, outcome.error),
        )
        self._lines.append(canonical(dict(zip(COLUMNS, values, strict=True))))
        if now - self._flushed >= _FLUSH_S or len(self._lines) >= _FLUSH_LINES:
            self.flush()

    def flush(self) -> None:
        """Write what has come since the last time."""
        self._flushed = time.monotonic()
        if self._lines:
            name = f"{self.run_id}.events.{self._n_files:05}.jsonl"
            self.study.write_bytes(b"\n".join(self._lines) + b"\n", "runs", name)
            self._n_files += 1
            self._lines.clear()


def runs_with_events(study: Study) -> list[str]:
    """The runs that left events, the earliest first."""
    return sorted({n.partition(".events.")[0] for n in storage.names(study.path("runs")) if ".events." in n})


def read_events(study: Study, run_id: str = "") -> pd.DataFrame:
    """The events of a run, in the order in which they came.

    Parameters
    ----------
    study : Study
        The study.
    run_id : str
        A run; empty: all runs, one after the other, with the column ``run_id``.

    Raises
    ------
    InputError
        No such run has left events.
    """
    folder = study.path("runs")
    names = [
        n for n in storage.names(folder) if ".events." in n and n.startswith(f"{run_id}.events." if run_id else "")
    ]
    rows: list[dict[str, Any]] = []
    for name, data in storage.read_many(folder, names):
        run = name.partition(".events.")[0]
        rows += [{"run_id": run, **json.loads(line)} for line in data.splitlines()]
    if not rows:
        known = ", ".join(runs_with_events(study)) or "none"
        raise InputError(f"{study.url}: no events of run {run_id or '(any)'}; runs with events: {known}")
    return pd.DataFrame(rows, columns=["run_id", *COLUMNS])
