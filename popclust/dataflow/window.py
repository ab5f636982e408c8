"""A sliding window of Dask tasks: many volumes, few in flight, each future let go at once.

Submitting a whole population in one graph would cost the scheduler memory for every volume, never returned.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count, islice
from pickle import PicklingError
from typing import Any
from uuid import uuid4

from distributed import Client, Future, KilledWorker, as_completed
from distributed.client import FutureCancelledError
from distributed.comm import CommClosedError
from distributed.protocol import pickle as protocol

from popclust.dataflow.failure import disk_trouble, place_of
from popclust.dataflow.isolation import IsolatedError
from popclust.dataflow.usage import Meter, Usage
from popclust.dataflow.workers import Patience
from popclust.errors import DamagedError, InputError, SurroundingsError, VolumeError
from popclust.settings import ComputeSettings

log = logging.getLogger(__name__)

LOST = "the Dask cluster was lost: its scheduler is gone, or was started again"
_SHORT_S, _CALL_S, _MAX_TASKS, _FORGETTING = 0.02, 0.2, 64, 0.05
"""Tasks shorter than this go together into calls of about so many seconds, so many at most; the share of the latest."""
_LONG_CALL_S = 1.0
"""A call that lasts longer hands back what it has not begun."""
_THREADS_S = 2.0
"""The number of worker threads is asked for no more often than this: every answer is a round trip."""


@dataclass(frozen=True)
class Task:
    """One call for one volume."""

    key: str
    """The volume it is for; no other task of the same stage and window has it."""
    args: tuple[Any, ...]
    """Arguments of the function: names, never things."""
    stage: str = ""
    """Stage that it is of, where it is not the window's."""


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
    usage: Usage | None = None
    """What the last attempt took, where it came to an end."""
    stage: str = ""
    """Stage of the task, where it is not the window's."""


def run_window(
    client: Client | None,
    stage: str,
    function: Callable[..., Any],
    tasks: Iterable[Task],
    *,
    compute: ComputeSettings | None = None,
    follow: Callable[[Outcome], Task | None] = lambda outcome: None,
) -> Iterator[Outcome]:
    """Run `function(*task.args)` for every task; yield outcomes as they come.

    A `VolumeError` is final. Any other failure (a killed worker, a crashed child, an unforeseen exception) is tried
    `[compute] attempts` times in all before it counts.

    Parameters
    ----------
    client : distributed.Client or None
        Where tasks run; None runs them in this process, one after the other.
    stage : str
        Names the tasks on Dask's dashboard.
    function : callable
        Module-level, or a partial of one; what it holds travels with every task, but Dask does not walk through it.
    tasks : iterable of Task
        Taken as there is room.
    compute : ComputeSettings
        Tasks in flight per worker thread (a quarter of them is one graph), attempts at one task, and how long a wait
        may be.
    follow : callable
        Told of every outcome; what it hands back goes before all tasks that are still waiting.

    Raises
    ------
    SurroundingsError
        Disk full, the Dask cluster is lost, or nobody is there to work. Nothing published is lost.
    """
    compute = compute or ComputeSettings()
    attempts = compute.attempts
    if client is None:
        yield from _run_serially(function, tasks, attempts, follow)
        return
    window = _Window(client, stage, function, iter(tasks), compute)
    try:
        window.fill()
        while window.running:
            for task, outcome in window.finished():
                if outcome.error and not outcome.is_final and outcome.attempts < attempts:
                    log.warning("%s %s: %s; trying again", stage, task.key, outcome.message)
                    window.again.append((task, outcome.attempts + 1))
                else:
                    if (next_task := follow(outcome)) is not None:
                        window.again.append((next_task, 1))
                    yield outcome
            window.fill()
    finally:
        window.abandon()


@dataclass
class _Window:
    """Tasks in flight, and those to come."""

    client: Client
    stage: str
    function: Callable[..., Any]
    waiting: Iterator[Task]
    compute: ComputeSettings
    again: deque[tuple[Task, int]] = field(default_factory=deque)
    running: dict[Future, list[tuple[Task, int]]] = field(default_factory=dict)
    """What each call is for: one task, or several short ones."""

    def __post_init__(self) -> None:
        # Results come along with the futures: asked for one by one, each would be a round trip.
        self._pool = as_completed(with_results=True, raise_errors=False)
        # The function is bound, not passed: Dask would walk through every setting of a study for every task.
        self._call = partial(attempt_each, self.function)
        self._token, self._numbers = uuid4().hex[:8], count()
        self._asked_at = -_THREADS_S
        self._n_threads = 0
        self._seconds = _SHORT_S
        """What a task takes, lately."""

    def fill(self) -> None:
        """Submit what there is room for, a quarter of the window at a time: a graph costs more than its tasks."""
        room = self._room_now()
        if room - len(self.running) < room // 4:
            return
        calls: list[list[tuple[Task, int]]] = []
        while len(self.running) + len(calls) < room and (call := self._next_call()):
            calls.append(call)
        if not calls:
            return
        futures = self.client.map(  # by name, one graph for all: half the cost of as many Delayed objects
            self._call,
            [tuple(task.args for task, _ in call) for call in calls],
            key=[self._name_of(call[0][0]) for call in calls],
            pure=False,
        )
        self.running.update(zip(futures, calls, strict=True))
        self._pool.update(futures)

    def _name_of(self, task: Task) -> str:
        """A name that was never given before: Dask would answer one that it has seen with the old result."""
        return f"{task.stage or self.stage}-{task.key}-{next(self._numbers)}-{self._token}"

    def _next_call(self) -> list[tuple[Task, int]]:
        """The next task, or several where they are short; one that failed before goes alone."""
        if self.again:
            return [self.again.popleft()]
        size = 1 if self._seconds >= _SHORT_S else min(_MAX_TASKS, int(_CALL_S / max(self._seconds, 1e-6)))
        return [(task, 1) for task in islice(self.waiting, size)]

    def finished(self) -> Iterator[tuple[Task, Outcome]]:
        """Tasks that have ended, those of one call at least, each with its outcome."""
        self._wait()
        first = next(self._pool)
        for future, result in [first, *(self._pool.next_batch(block=False) if self._pool.has_ready() else [])]:
            call = self.running.pop(future)
            outcomes = _outcomes(future, result, call)
            future.release()
            self.again.extend(call[len(outcomes) :])
            for (task, _), outcome in zip(call, outcomes, strict=False):
                if outcome.usage is not None:
                    self._seconds += (outcome.usage.seconds - self._seconds) * _FORGETTING
                yield task, outcome

    def abandon(self) -> None:
        """Let go of what is still in flight; there is nobody to tell where the cluster is lost."""
        if self.running and self.client.status == "running":
            with suppress(TimeoutError, OSError):
                self.client.sync(
                    self.client._cancel, list(self.running), force=True, callback_timeout=self.compute.silent_s
                )

    def _wait(self) -> None:
        """Until a future has ended; that nobody is there to work is said, and that nobody answers is the end."""
        patience = Patience(self.stage, self.compute.no_worker_s)
        while not self._pool.has_ready() and not self._pool.is_empty():
            with self._pool.thread_condition:
                self._pool.thread_condition.wait(timeout=0.1)
            self._ask()
            patience.look(self._n_threads)

    def _room_now(self) -> int:
        self._ask()
        return max(1, self.compute.in_flight_per_thread * self._n_threads)

    def _ask(self) -> None:
        """How many threads there are, if it is time to ask: workers come and go."""
        if time.monotonic() - self._asked_at >= _THREADS_S:
            self._n_threads = sum(threads_of(self.client, self.compute.silent_s).values())
            self._asked_at = time.monotonic()


def threads_of(client: Client, silent_s: float) -> dict[str, int]:
    """Worker threads of the Dask cluster now, by worker.

    Raises
    ------
    SurroundingsError
        The scheduler is gone, or does not answer within `silent_s` seconds.
    """
    if client.status != "running":
        raise SurroundingsError(LOST)
    try:
        return dict(client.sync(client.scheduler.ncores, callback_timeout=silent_s))
    except TimeoutError:
        raise SurroundingsError(f"the Dask scheduler did not answer for {silent_s:.0f} s") from None
    except (OSError, CommClosedError):
        raise SurroundingsError(LOST) from None


@contextmanager
def watched(client: Client, stage: str, compute: ComputeSettings) -> Iterator[None]:
    """Watch over a computation that Dask itself waits for: it would do so in silence, and for ever.

    Raises
    ------
    SurroundingsError
        The scheduler is gone or silent, or nobody is there to work.
    """
    ended, given_up = threading.Event(), []

    def watch() -> None:
        patience = Patience(stage, compute.no_worker_s)
        while not ended.wait(_THREADS_S):
            try:
                patience.look(len(threads_of(client, compute.silent_s)))
            except SurroundingsError as error:
                given_up.append(error)
                client.close(timeout=1)  # whoever waits for a result hears of it
                return

    watcher = threading.Thread(target=watch, daemon=True, name="popclust-watch")
    watcher.start()
    try:
        yield
    except Exception:
        if given_up:
            raise given_up[0] from None
        raise
    finally:
        ended.set()
        watcher.join()


def attempt_each(function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> list[Outcome]:
    """:func:`attempt` several short tasks, one after the other: a task of Dask's costs its scheduler a millisecond.

    Where they turn out not to be short, those that are left are for somebody else: the answer ends before them.
    """
    started, outcomes = time.monotonic(), [_sendable(attempt(function, *calls[0]))]
    for args in calls[1:]:
        if time.monotonic() - started > _LONG_CALL_S:
            break
        outcomes.append(_sendable(attempt(function, *args)))
    return outcomes


def _sendable(outcome: Outcome) -> Outcome:
    """The outcome, or that it cannot be sent: Dask would try for ever, and the call's other tasks would wait."""
    try:
        protocol.dumps(outcome.value)
    except (TypeError, AttributeError, ValueError, RecursionError, PicklingError) as error:
        said = "what the task gives cannot be sent from one process to another"
        return Outcome("", error=type(error).__name__, message=said, is_final=False, usage=outcome.usage)
    return outcome


def attempt(function: Callable[..., Any], *args: Any) -> Outcome:
    """Call a function; turn what it raises into an outcome that carries nothing private.

    Raises
    ------
    InputError, SurroundingsError
        No fault of the volume's: wrong settings, a full disk, something damaged in the study.
    """
    meter = Meter()
    outcome = _attempted(function, *args)
    return replace(outcome, usage=meter.read())


def _attempted(function: Callable[..., Any], *args: Any) -> Outcome:
    try:
        return Outcome("", value=function(*args))
    except VolumeError as error:
        return Outcome("", error=error.code, message=error.message)
    except IsolatedError as error:
        return Outcome("", error=error.code, message=error.message, is_final=False)
    except DamagedError as error:  # the part that was read is at fault, not the volume
        return Outcome("", value=error, error="damaged", message=error.what)
    except (InputError, SurroundingsError):  # no fault of this volume's: the whole run hears of it
        raise
    except Exception as error:  # it goes to quarantine with its place; one bad volume stops nobody
        if said := disk_trouble(error):
            raise SurroundingsError(said) from None
        log.info("unforeseen failure", exc_info=True)  # it may quote private text; the log beside the key has it
        return Outcome("", error=type(error).__name__, message=f"{place_of(error)}, see the log", is_final=False)


def _run_serially(
    function: Callable[..., Any], tasks: Iterable[Task], attempts: int, follow: Callable[[Outcome], Task | None]
) -> Iterator[Outcome]:
    for first in tasks:
        task: Task | None = first
        while task is not None:
            n, outcome = 1, attempt(function, *task.args)
            while outcome.error and not outcome.is_final and n < attempts:
                n, outcome = n + 1, attempt(function, *task.args)
            outcome = _for_task(outcome, task, n)
            task = follow(outcome)
            yield outcome


def _outcomes(future: Future, result: Any, call: Sequence[tuple[Task, int]]) -> list[Outcome]:
    """What came of the tasks of a call that it came to; where the call itself failed, the same of all."""
    if future.status == "finished" and isinstance(result, list):
        return [_for_task(outcome, task, n) for outcome, (task, n) in zip(result, call, strict=False)]
    if future.status in ("cancelled", "lost"):
        raise SurroundingsError(LOST)
    error = future.exception()
    if isinstance(error, InputError | SurroundingsError):
        raise error
    if isinstance(error, CommClosedError | FutureCancelledError):
        raise SurroundingsError(LOST)
    if isinstance(error, KilledWorker):
        message = "the worker died each time (out of memory, or killed from outside)"
        outcome = Outcome("", error="worker_died", message=message, is_final=False)
    else:
        message = f"{place_of(error)}, see the log"
        outcome = Outcome("", error=type(error).__name__, message=message, is_final=False)
    # which of several killed the worker nobody knows: that attempt counts for one that was alone
    return [_for_task(outcome, task, n if len(call) == 1 else 0) for task, n in call]


def _for_task(outcome: Outcome, task: Task, n: int) -> Outcome:
    return replace(outcome, key=task.key, attempts=n, stage=task.stage)
