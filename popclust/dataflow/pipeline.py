"""The whole flow on one page: the stages in their order, each brought up to date. Wiring only."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from distributed import Client
from rich.console import Console

from popclust.dataflow.events import EventLog
from popclust.dataflow.failure import disk_trouble
from popclust.dataflow.flow import Flow
from popclust.dataflow.inputs import HandedIn, study_key
from popclust.dataflow.lease import hold
from popclust.dataflow.progress import Progress
from popclust.dataflow.quarantine import Quarantine
from popclust.dataflow.runcard import RunCard
from popclust.dataflow.stages import ORDER, stage_named
from popclust.dataflow.state import State
from popclust.dataflow.workers import check_workers
from popclust.errors import InputError, SurroundingsError
from popclust.study import Study


def run(
    study: Study,
    client: Client | None,
    *,
    redo_from: str = "",
    until: str = "",
    only: str = "",
    rescan: bool = False,
    console: Console | None = None,
) -> Flow:
    """Run the flow, or a part of it; what is done already is not done again.

    Parameters
    ----------
    study : Study
        The study.
    client : distributed.Client or None
        Where tasks run; None runs them in this process, one after the other.
    redo_from : str
        Do this stage and all after it again, done or not.
    until : str
        End after this stage.
    only : str
        Do this stage alone; those before it must be up to date.
    rescan : bool
        Read the headers of all files again, changed or not.
    console : rich.console.Console
        Where bars and lines go; none by default.

    Returns
    -------
    Flow
        The finished run: its parts, card and quarantine.

    Raises
    ------
    InputError
        Bad input or settings, another run at work, or nothing left to go on with.
    SurroundingsError
        Disk full, Dask cluster lost, something stored damaged: run again to go on.
    """
    last = stage_named(until or only or ORDER[-1]).name
    names = ORDER[: ORDER.index(last) + 1]
    if redo_from and stage_named(redo_from).name not in names:
        raise InputError(f"--from {redo_from} comes after --until {last}: there is nothing to do")
    console = console or Console(quiet=True)
    with hold(study, say=lambda text: console.print(text, markup=False, highlight=False)) as lease:
        card = RunCard(study)
        progress = Progress(study, card.run_id, console, client.dashboard_link if client else "")
        with _lost_disk_is_said(study), progress:
            for name in ORDER[ORDER.index(redo_from) :] if redo_from else ():
                study.remove("markers", name)
                study.remove("records", name)
            state = State(study, Quarantine.open(study), HandedIn(study, study_key(study)))
            active = frozenset([only] if only else names)
            flow = Flow(
                study, client, progress, card, state, lease, active, rescan, events=EventLog(study, card.run_id)
            )
            if client is not None:
                check_workers(client, flow.ticket)
            go_through(flow, names)
            flow.lease = None  # given back; what is computed after the run writes nothing
    return flow


@contextmanager
def _lost_disk_is_said(study: Study) -> Iterator[None]:
    """A study that this run has written to, and cannot be written to any more, is no fault of who runs it."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        raise SurroundingsError(f"{study.url}: {disk_trouble(error)}") from error


def go_through(flow: Flow, names: tuple[str, ...]) -> None:
    """Carry out stages in order; the run card is written however it ends."""
    ending = "stopped"
    try:
        for name in names:
            flow.carry_out(stage_named(name))
        ending = "ended"
    finally:
        if flow.events is not None:
            flow.events.flush()
        try:
            n_workers = flow.n_workers
        except SurroundingsError:  # the card is about what was done, not about who is left
            n_workers = 0
        flow.card.write(ending, flow.progress.stages, n_workers)
