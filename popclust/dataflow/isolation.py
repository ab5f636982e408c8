"""Run native code in a child process owned by the worker: its crash, hang or greed costs one task, not the worker.

elastix holds the GIL for a whole registration, so in a Dask worker's own thread the heartbeat would starve; a fault in
it would take innocent neighbours along. The child lives long (loading elastix costs seconds), is replaced after a
crash or a kill, and dies with its parent. What it prints may name a path or a person: it goes to an unnamed file, and
into the traceback of what it raises, never to a terminal.
"""

from __future__ import annotations

import ctypes
import faulthandler
import multiprocessing
import multiprocessing.util
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import psutil

from popclust.dataflow.failure import RemoteTraceback, place_of
from popclust.dataflow.usage import note_child

_POLL_S = 0.2
_GRACE_S = 2.0
_MAX_WORDS = 8192
"""Bytes that are kept of what a child printed."""
_MAX_TASKS = 200
"""A child is replaced after this many tasks: whatever native code leaks goes with it."""


class IsolatedError(RuntimeError):
    """The child did not give an answer; `code` says why."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return self.message


def run_isolated(
    function: Callable[..., Any], *args: Any, timeout_s: float, max_memory_mb: float, **kwargs: Any
) -> Any:
    """Call a module-level function in this thread's child process.

    Parameters
    ----------
    function, *args, **kwargs
        What to call; all of it must pickle.
    timeout_s : float
        Longest time for the call, in seconds.
    max_memory_mb : float
        Largest resident size of the child, in MB.

    Raises
    ------
    IsolatedError
        The child crashed (``crashed``), took too long (``timeout``) or too much memory (``out_of_memory``).
    Exception
        Whatever the function itself raised; the child's traceback and last words are its cause.
    """
    child = _child_of_this_thread()
    try:
        ok, value, origin = child.call((function, args, kwargs), timeout_s, max_memory_mb)
    except BaseException:
        child.kill()
        _local.child = None
        raise
    if child.n_calls >= _MAX_TASKS:
        child.end()
        _local.child = None
    if ok:
        return value
    raise value from origin


class _Child:
    """One spawned process and the pipe to it."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, far_end = context.Pipe()
        descriptor, self._name = tempfile.mkstemp(prefix="popclust-isolated-")  # the child takes the name away
        self._printed = os.fdopen(descriptor, "rb+", buffering=0)
        self._process: BaseProcess = context.Process(
            target=_serve, args=(far_end, os.getpid(), self._name), daemon=True, name="popclust-isolated"
        )
        self._process.start()
        far_end.close()
        self.n_calls = 0
        self._cpu_seconds = 0.0

    @property
    def is_alive(self) -> bool:
        return self._process.is_alive()

    def call(self, request: Any, timeout_s: float, max_memory_mb: float) -> tuple[bool, Any, RemoteTraceback | None]:
        """Whether it went well, what came of it, and where what it raised comes from."""
        self.n_calls += 1
        self._printed.truncate(0)
        deadline = time.monotonic() + timeout_s
        try:
            self._pipe.send(request)
            while not self._pipe.poll(_POLL_S):
                if time.monotonic() > deadline:
                    raise IsolatedError("timeout", f"took longer than {timeout_s:g} s") from self._last_words()
                if self._noted_memory_mb() > max_memory_mb:
                    words = self._last_words()
                    raise IsolatedError("out_of_memory", f"needed more than {max_memory_mb:g} MB") from words
            value, failure = self._pipe.recv()
            self._noted_memory_mb()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self._process.join(5)
            ending = f"native code ended with {_ending(self._process.exitcode)}"
            raise IsolatedError("crashed", ending) from self._last_words()
        if failure is None:
            return True, value, None
        text, place = failure
        return False, value, RemoteTraceback(f"{text}{self._last_words()}", place)

    def _last_words(self) -> RemoteTraceback:
        """The end of what this call printed."""
        end = self._printed.seek(0, os.SEEK_END)
        self._printed.seek(max(0, end - _MAX_WORDS))
        words = self._printed.read().decode(errors="replace")
        return RemoteTraceback(f"The child printed:\n{words}" if words else "The child printed nothing.", "native code")

    def _noted_memory_mb(self) -> float:
        """Its resident size; that and the processor time since the last look count for this thread's task."""
        try:
            process = psutil.Process(self._process.pid)
            memory_mb, times = float(process.memory_info().rss) / 1e6, process.cpu_times()
        except psutil.NoSuchProcess:
            return 0.0  # the pipe tells next
        before, self._cpu_seconds = self._cpu_seconds, float(times.user + times.system)
        note_child(memory_mb, self._cpu_seconds - before)
        return memory_mb

    def end(self) -> None:
        """Let it go in good order: it returns when the pipe closes."""
        self._pipe.close()
        self._process.join(_GRACE_S)
        if self._process.is_alive():
            self._process.kill()
        self._forget_words()

    def kill(self) -> None:
        self._process.kill()
        self._process.join(5)
        self._pipe.close()
        self._forget_words()

    def _forget_words(self) -> None:
        self._printed.close()
        Path(self._name).unlink(missing_ok=True)  # it may have died before it came to that


_local = threading.local()
_children: list[_Child] = []
# PR_SET_PDEATHSIG fires when the *thread* that made the child ends: children are made by one that never does.
_maker = ThreadPoolExecutor(1, thread_name_prefix="popclust-child-maker")


def _child_of_this_thread() -> _Child:
    child: _Child | None = getattr(_local, "child", None)
    if child is None or not child.is_alive:
        child = _maker.submit(_Child).result()
        _local.child = child
        _children[:] = [c for c in _children if c.is_alive] + [child]
    return child


def _end_children() -> None:
    for child in _children:
        if child.is_alive:
            child.end()


# A Dask worker is a multiprocessing child itself: those run no atexit handlers, only these.
multiprocessing.util.Finalize(None, _end_children, exitpriority=100)


def _ending(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return signal.Signals(-exitcode).name
    return f"exit code {exitcode}"


def _serve(pipe: Connection, parent: int, printed: str) -> None:
    """The child's life: answer calls until the parent goes."""
    _die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    _print_to(printed)
    while True:
        try:
            function, args, kwargs = pipe.recv()
        except EOFError:
            return
        try:
            answer = ForkingPickler.dumps((function(*args, **kwargs), None))
        except Exception as error:  # noqa: BLE001  (it is raised again in the parent)
            text = "".join(traceback.format_exception(error))
            answer = ForkingPickler.dumps((_picklable(error), (text, place_of(error))))
        sys.stdout.flush()
        pipe.send_bytes(answer)


def _print_to(path: str) -> None:
    """Send what Python and native code print to a file, and the Python lines of a crash."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND)
    Path(path).unlink()
    for standard in (1, 2):
        os.dup2(file, standard)
    os.close(file)
    faulthandler.enable(file=2)


def _die_with(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1 is PR_SET_PDEATHSIG
    if os.getppid() != parent:  # it went before we asked
        os._exit(1)


def _picklable(error: Exception) -> Exception:
    import pickle

    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301  (our own object, there and back)
    except Exception:  # noqa: BLE001
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
