"""A sliding window of Dask tasks: many volumes, few in flight, each future let go at once.

Submitting a whole population in one graph would cost the scheduler memory for every volume, never returned.
"""

from __future__ import annotations

import errno
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import dask
from distributed import Client, Future, KilledWorker, as_completed
from distributed.client import FutureCancelledError
from distributed.comm import CommClosedError

from popclust.dataflow.isolation import IsolatedError
from popclust.errors import InputError, SurroundingsError, VolumeError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """One call for one volume."""

    key: str
    """The volume it is for."""
    args: tuple[Any, ...]
    """Arguments of the function; small, they pass through the scheduler."""


@dataclass(frozen=True)
class Outcome:
    """What came of a task."""

    key: str
    value: Any = None
    error: str = ""
    """Short stable code; empty when all went well."""
    message: str = ""
    attempts: int = 1
    is_final: bool = True
    """A failure that another attempt would repeat."""


def run_window(
    client: Client | None,
    stage: str,
    function: Callable[..., Any],
    tasks: Iterable[Task],
    *,
    in_flight_per_thread: int = 4,
    attempts: int = 2,
) -> Iterator[Outcome]:
    """Run `function(*task.args)` for every task; yield outcomes as they come.

    A `VolumeError` is final. Any other failure (a killed worker, a crashed child, an unforeseen exception) is tried
    `attempts` times in all before it counts.

    Raises
    ------
    SurroundingsError
        Disk full, or the Dask cluster is lost. Nothing published is lost.
    """
    if client is None:
        yield from _run_serially(function, tasks, attempts)
        return
    waiting = iter(tasks)
    again: deque[tuple[Task, int]] = deque()
    running: dict[Future, tuple[Task, int]] = {}
    call = dask.delayed(attempt, pure=False)
    pool = as_completed(raise_errors=False)
    token = uuid4().hex[:8]  # Dask would answer a name it has seen with the old result

    def submit() -> bool:
        task, n = again.popleft() if again else (next(waiting, None), 1)
        if task is None:
            return False
        name = f"{stage}-{task.key}-{n}-{token}"
        future = client.compute(call(function, *task.args, dask_key_name=name))
        running[future] = (task, n)
        pool.add(future)
        return True

    try:
        room = max(1, in_flight_per_thread * n_threads(client))
        while len(running) < room and submit():
            pass
        while running:
            future = next(pool)
            task, n = running.pop(future)
            outcome = _outcome(future, task, n)
            future.release()
            if outcome.error and not outcome.is_final and n < attempts:
                log.warning("%s %s: %s; trying again", stage, task.key, outcome.message)
                again.append((task, n + 1))
            else:
                yield outcome
            room = max(1, in_flight_per_thread * n_threads(client))  # workers come and go
            while len(running) < room and submit():
                pass
    finally:
        if running:
            client.cancel(list(running), force=True)


def n_threads(client: Client) -> int:
    """Worker threads of the Dask cluster now."""
    return sum(w["nthreads"] for w in client.scheduler_info(n_workers=-1)["workers"].values())


def attempt(function: Callable[..., Any], *args: Any) -> Outcome:
    """Call a function; turn what it raises into an outcome that carries nothing private.

    Raises
    ------
    InputError, SurroundingsError
        No fault of the volume's: wrong settings, a full disk.
    """
    try:
        return Outcome("", value=function(*args))
    except VolumeError as error:
        return Outcome("", error=error.code, message=error.message)
    except IsolatedError as error:
        return Outcome("", error=error.code, message=error.message, is_final=False)
    except (InputError, SurroundingsError):  # no fault of this volume's: the whole run hears of it
        raise
    except Exception as error:  # it goes to quarantine with its place; one bad volume stops nobody
        if is_disk_full(error):
            raise SurroundingsError("the disk is full") from None
        log.exception("unforeseen failure")
        return Outcome("", error=type(error).__name__, message=_place(error), is_final=False)


def is_disk_full(error: BaseException | None) -> bool:
    """Whether a full disk or quota is at the bottom of an exception."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False


def _run_serially(function: Callable[..., Any], tasks: Iterable[Task], attempts: int) -> Iterator[Outcome]:
    for task in tasks:
        n, outcome = 1, attempt(function, *task.args)
        while outcome.error and not outcome.is_final and n < attempts:
            n, outcome = n + 1, attempt(function, *task.args)
        yield _for_task(outcome, task, n)


def _outcome(future: Future, task: Task, n: int) -> Outcome:
    if future.status == "finished":
        return _for_task(future.result(), task, n)
    if future.status in ("cancelled", "lost"):
        raise SurroundingsError("the Dask cluster was lost")
    error = future.exception()
    if isinstance(error, InputError | SurroundingsError):
        raise error
    if isinstance(error, CommClosedError | FutureCancelledError):
        raise SurroundingsError("the Dask cluster was lost")
    if isinstance(error, KilledWorker):
        message = "the worker died each time (out of memory, or killed from outside)"
        return Outcome(task.key, error="worker_died", message=message, attempts=n, is_final=False)
    return Outcome(task.key, error=type(error).__name__, message=_place(error), attempts=n, is_final=False)


def _for_task(outcome: Outcome, task: Task, n: int) -> Outcome:
    return Outcome(task.key, outcome.value, outcome.error, outcome.message, n, outcome.is_final)


def _place(error: BaseException) -> str:
    """Where it happened. The exception's own words stay out of the study: they may quote a path or a header."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None:
        return f"{type(error).__name__}, see the log"
    code = last.tb_frame.f_code
    return f"{type(error).__name__} in {code.co_name} ({Path(code.co_filename).name}:{last.tb_lineno}), see the log"
