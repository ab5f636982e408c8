"""Watching a study from a notebook: a picture that follows its runs while the cells below go on.

A thread reads what the run leaves in the study, and draws in place. It needs no cluster and disturbs no run, so any
number of watchers may look, and a run that dies or starts later is seen like any other.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from html import escape
from io import StringIO
from typing import Any

from distributed import Client
from rich.console import Console, Group
from rich.live import Live

from popclust import storage
from popclust.dataflow.client import refuse_plain_tcp
from popclust.dataflow.progress import as_table, duration, headline, row_of, snapshot
from popclust.study import Study

log = logging.getLogger(__name__)

EVERY_S = 1.0
"""A watcher looks this often."""
_FIRST_LOOK_S = 0.5
_CONNECT_S = 5
_MAX_REASONS = 12


@dataclass(frozen=True)
class Seen:
    """What a watcher saw last."""

    state: dict[str, Any]
    """As `popclust status --json`."""
    failures: dict[tuple[str, str, str], int]
    """Volumes kept out by (stage, code, message), the most frequent first."""
    workers: list[dict[str, Any]] | None
    """Of each: address, threads, tasks, memory and limit in bytes; None where no scheduler was given."""
    trouble: str = ""
    """Why something could not be read; empty for none."""


class Watch:
    """A watcher at work; made by :func:`watch`."""

    def __init__(self, study: Study, scheduler: str = "", every_s: float = EVERY_S) -> None:
        self._study = study
        self._scheduler = scheduler
        self._every_s = every_s
        self._failures = _Failures(study)
        self._ended = threading.Event()
        self._looked = threading.Event()
        self._views: list[Any] = []
        self._cell: int | None = None
        self.seen: Seen | None = None
        """What was seen last; None before the first look."""
        self._thread = threading.Thread(target=self._follow, daemon=True, name="popclust-watch")

    def start(self) -> Watch:
        """Begin to look and to draw."""
        self._cell = _cell()
        self._thread.start()
        self._looked.wait(_FIRST_LOOK_S)  # most often it is there at once, and nothing has to flicker
        self._show()
        return self

    def stop(self) -> None:
        """Look no longer; what was drawn stays. The run goes on."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(10)

    @property
    def is_watching(self) -> bool:
        """Whether it still looks."""
        return self._thread.is_alive()

    @property
    def state(self) -> dict[str, Any]:
        """The study as it was seen last, as `popclust status --json`; waits for the first look."""
        self._looked.wait()
        if self.seen is None:
            raise RuntimeError("the watcher was stopped before it saw anything")
        return self.seen.state

    def __repr__(self) -> str:
        said = headline(self.seen.state) if self.seen else "not looked yet"
        return f"<Watch of {self._study.url}: {said}{'' if self.is_watching else ' (stopped)'}>"

    def _ipython_display_(self) -> None:
        if self._cell != _cell():  # its own cell shows it already
            self._show()

    def _show(self) -> None:
        display = _display()
        if display is not None:
            self._views.append(display(self._mime(), raw=True, display_id=True))

    def _follow(self) -> None:
        with ExitStack() as stack:
            draw = stack.enter_context(_terminal()) if self._cell is None else None
            workers = stack.enter_context(_Workers(self._scheduler)) if self._scheduler else None
            while not self._ended.is_set():
                self.seen = self._look(workers)
                self._looked.set()
                if draw is not None:
                    draw.update(Group(as_table(self.seen.state), *_lines(self.seen)), refresh=True)
                for view in list(self._views):
                    view.update(self._mime(), raw=True)
                self._ended.wait(self._every_s)
        self._looked.set()

    def _look(self, workers: _Workers | None) -> Seen:
        try:
            return Seen(snapshot(self._study), self._failures.counted(), workers.now() if workers else None)
        except Exception as error:  # noqa: BLE001  (a store has its moments: the watcher says so and looks again)
            log.warning("the study could not be read: %s", type(error).__name__)
            before = self.seen or Seen(_nothing(), {}, None)
            return Seen(before.state, before.failures, before.workers, f"cannot be read now ({type(error).__name__})")

    def _mime(self) -> dict[str, str]:
        if self.seen is None:
            return {"text/plain": "looking ...", "text/html": "<p>looking ...</p>"}
        return {"text/plain": as_text(self.seen), "text/html": as_html(self.seen)}


def watch(study: Study | str, scheduler: str = "", every_s: float = EVERY_S) -> Watch:
    """Follow a study's runs, drawn in place; returns at once.

    Parameters
    ----------
    study : Study or str
        The study, its folder or its URL.
    scheduler : str
        Address of the Dask scheduler, to show its workers too.
    every_s : float
        Seconds between two looks.

    Returns
    -------
    Watch
        Its `stop` ends the watching, its `state` is what `popclust status --json` prints.

    Raises
    ------
    InputError
        There is no study, or the scheduler is open to the network without TLS.
    """
    opened = Study.open(study) if isinstance(study, str) else study
    if scheduler:
        refuse_plain_tcp(scheduler, opened.settings.compute.allow_plain_tcp)
    return Watch(opened, scheduler, every_s).start()


# -- what is seen ------------------------------------------------------------------------------------------------------


@dataclass
class _Failures:
    """Why volumes are kept out; a file is read once."""

    study: Study
    _known: dict[tuple[str, str], tuple[str, str, str]] = field(default_factory=dict)

    def counted(self) -> dict[tuple[str, str, str], int]:
        folder = self.study.path("quarantine")
        there = {(stage, n) for stage in storage.names(folder) for n in storage.names(f"{folder}/{stage}")}
        new: dict[str, list[str]] = {}
        for stage, name in sorted(there - self._known.keys()):
            new.setdefault(stage, []).append(name)
        for stage, names in new.items():
            for name, data in storage.read_many(f"{folder}/{stage}", names):
                try:
                    row = json.loads(data)
                    self._known[stage, name] = (stage, str(row["error"]), str(row["message"]))
                except (ValueError, KeyError, TypeError):
                    continue
        self._known = {key: reason for key, reason in self._known.items() if key in there}
        return dict(Counter(self._known.values()).most_common())


class _Workers:
    """The workers of a Dask cluster, asked through a client of the watcher's own."""

    def __init__(self, scheduler: str) -> None:
        self._scheduler = scheduler
        self._client: Client | None = None

    def __enter__(self) -> _Workers:
        return self

    def __exit__(self, *_: object) -> None:
        if self._client is not None:
            self._client.close(timeout=2)

    def now(self) -> list[dict[str, Any]]:
        """The workers; none where the scheduler does not answer."""
        try:
            if self._client is None or self._client.status != "running":
                self._client = self._connected()
            workers = self._client.scheduler_info(n_workers=-1)["workers"]
            tasks = self._client.processing()
        except (OSError, TimeoutError, ValueError) as error:
            log.info("no scheduler answers: %s", type(error).__name__)
            return []
        return [
            {
                "address": address,
                "threads": worker["nthreads"],
                "tasks": len(tasks.get(address, ())),
                "memory": worker["metrics"].get("memory", 0),
                "limit": worker["memory_limit"],
            }
            for address, worker in sorted(workers.items())
        ]

    def _connected(self) -> Client:
        is_file = self._scheduler.endswith(".json")
        place = {"scheduler_file" if is_file else "address": self._scheduler}
        return Client(**place, timeout=_CONNECT_S, set_as_default=False)


def _nothing() -> dict[str, Any]:
    fields = {"run_id": "", "dashboard": "", "seconds": None, "seconds_left": None, "total": 0, "done": 0, "left": 0}
    return {"state": "new", **fields, "percent": 0.0, "quarantined": 0, "stages": []}


# -- how it is drawn ---------------------------------------------------------------------------------------------------


def as_text(seen: Seen) -> str:
    """What was seen, as plain text."""
    console = Console(width=110, file=StringIO(), color_system=None, force_jupyter=False)  # rich would show it itself
    console.print(Group(as_table(seen.state), *_lines(seen)), markup=False, highlight=False)
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def as_html(seen: Seen) -> str:
    """What was seen, as HTML that needs nothing else; nothing in it is taken for markup."""
    rows = "".join(_row(stage) for stage in seen.state["stages"])
    names = ("stage", "", "done", "of", "%", "kept out", "left", "elapsed", "time left", "a minute")
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    rest = "".join(f"<p>{escape(line)}</p>" for line in _lines(seen))
    return (
        f'<div class="popclust-watch" data-state="{escape(seen.state["state"])}"><p role="status"><strong>'
        f"{escape(headline(seen.state))}</strong></p><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
        f"{rest}</div>"
    )


def _row(stage: dict[str, Any]) -> str:
    name, *numbers = (escape(text) for text in row_of(stage))
    percent = stage.get("percent")
    bar = "" if percent is None else f'<progress max="100" value="{percent:.1f}" aria-label="{name}"></progress>'
    cells = "".join(f'<td style="text-align:right">{number}</td>' for number in (*numbers, _rate(stage)))
    return f'<tr><th scope="row" style="text-align:left">{name}</th><td>{bar}</td>{cells}</tr>'


def _rate(stage: dict[str, Any]) -> str:
    """Parts that this run makes in a minute."""
    made = stage["done"] - stage["reused"]
    rate = made / stage["seconds"] * 60 if made > 0 and stage["seconds"] else 0.0
    return "" if not rate else f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def _lines(seen: Seen) -> Iterator[str]:
    """What stands below the table."""
    if seen.trouble:
        yield seen.trouble
    if seen.state["seconds_left"] is not None:
        yield f"{duration(seen.state['seconds_left'])} left of the stage at work"
    reasons = list(seen.failures.items())
    for (stage, code, message), n in reasons[:_MAX_REASONS]:
        yield f"{n} kept out of {stage}: {message} ({code})"
    if len(reasons) > _MAX_REASONS:
        yield f"and {len(reasons) - _MAX_REASONS} more reasons, in quarantine.parquet"
    if seen.workers is not None and not seen.workers:
        yield "no worker: the scheduler does not answer, or has none"
    for worker in seen.workers or ():
        memory = f"{worker['memory'] / 2**30:.1f} of {worker['limit'] / 2**30:.1f} GiB"
        yield f"{worker['address']}: {worker['threads']} threads, {worker['tasks']} tasks, {memory}"


# -- where it is drawn -------------------------------------------------------------------------------------------------


def _shell() -> Any:
    """The kernel's shell where this is a notebook; IPython is there already, or this is none."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell if shell is not None and hasattr(shell, "kernel") else None


def _display() -> Any:
    return sys.modules["IPython"].display.display if _shell() is not None else None


def _cell() -> int | None:
    shell = _shell()
    return None if shell is None else int(shell.execution_count)


@contextmanager
def _terminal() -> Iterator[Live | None]:
    """A place in the terminal; None where there is none."""
    if not sys.stdout.isatty():
        yield None
        return
    with Live(auto_refresh=False, console=Console()) as live:
        yield live
