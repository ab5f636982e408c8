"""One run at a time on a study, on a local disk as on an object store.

The lease is the file of the highest number in `runs/lease/`. Whoever wants it creates the next number, which only one
can; whoever has it rewrites the file every second. A file that another process sees move belongs to a living run, one
that stands still for :data:`WATCH_S` seconds of the watcher's own clock to a dead one. So nothing rests on process ids,
host names or two machines' clocks, and nobody has to clean up after a run that was killed.
"""

from __future__ import annotations

import json
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from errno import EDQUOT, ENOSPC, EROFS
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from popclust import storage
from popclust.errors import InputError, SurroundingsError
from popclust.study import Study

log = logging.getLogger(__name__)

BEAT_S = 1.0
"""The holder rewrites its file this often."""
WATCH_S = 12.0
"""A file that does not move for so long belongs to a dead run."""
_LOOK_S = 0.25
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # goes on while the machine sleeps, cannot be set
_creating = threading.Lock()  # in memory, creating is no single step


@dataclass
class Lease:
    """The right to write into a study; made by :func:`hold`."""

    study: Study
    generation: int
    token: str
    """Random; tells this holder's file from another's of the same number, on stores that cannot create exclusively."""
    beaten_at: float
    """When the last beat that arrived was begun."""
    counter: int = 0
    is_taken: bool = False
    """Another run has it now."""
    _ended: threading.Event = field(default_factory=threading.Event)
    _beating: threading.Lock = field(default_factory=threading.Lock)

    @property
    def file(self) -> tuple[str, ...]:
        """Where it lies in the study; it holds the token for as long as nobody else has the lease."""
        return (*_FOLDER, _name(self.generation))

    def check(self) -> None:
        """Ask before anything is published.

        Raises
        ------
        SurroundingsError
            Another run has taken the lease, or this one could not reach the study for so long that another may.
        """
        # The holder gives up a little before a watcher may: the watcher's wait began after the last beat arrived.
        if not self.is_taken and _now() - self.beaten_at > WATCH_S - 2 * BEAT_S:
            self._try_to_beat()  # the process stood still, not the store: it may well go on
        if self.is_taken:
            raise SurroundingsError(f"{self.study.url}: another run has taken this study over")
        if (silent := _now() - self.beaten_at) > WATCH_S - 2 * BEAT_S:
            raise SurroundingsError(f"{self.study.url}: the study could not be written to for {silent:.0f} s")

    def beat_until_ended(self) -> None:
        """The heart's life."""
        while not self._ended.wait(BEAT_S) and not self.is_taken:
            self._try_to_beat()

    def release(self, heart: threading.Thread) -> None:
        """Let the next run have it at once."""
        self._ended.set()
        heart.join(WATCH_S)
        if self.is_taken or heart.is_alive():  # a heart that hangs in the store: the next run waits for WATCH_S
            return
        try:
            self._write(is_released=True)
        except Exception as error:  # noqa: BLE001  (the run itself is over; the next one takes the lease after a wait)
            log.warning("the lease could not be released: %s", type(error).__name__)

    def _try_to_beat(self) -> None:
        if not self._beating.acquire(timeout=BEAT_S):
            return
        try:
            self._beat()
        except Exception as error:  # noqa: BLE001  (a store has its moments; check() tells when they get too long)
            log.warning("the lease could not be renewed: %s", type(error).__name__)
        finally:
            self._beating.release()

    def _beat(self) -> None:
        started = _now()
        seen = _look(self.study)
        is_other = seen.generation == self.generation and seen.token not in ("", self.token)
        if seen.generation > self.generation or is_other:
            self.is_taken = True
            return
        self._write()
        self.beaten_at = started

    def _write(self, *, is_released: bool = False) -> None:
        self.counter += 1
        data = _content(self.token, self.counter, is_released)
        self.study.write_bytes(data, *_FOLDER, _name(self.generation))


@contextmanager
def hold(study: Study, say: Callable[[str], object] = log.info) -> Iterator[Lease]:
    """Have a study to oneself for as long as the context lasts.

    Parameters
    ----------
    study : Study
        What is to be written to.
    say : callable
        Given a line for a person where there is something to wait for.

    Yields
    ------
    Lease
        Ask its `check` before anything is published.

    Raises
    ------
    InputError
        Another run is at work on the study, or it cannot be written to.
    SurroundingsError
        Another run was quicker.
    """
    lease, is_disputed = _take(study, say)
    heart = threading.Thread(target=lease.beat_until_ended, daemon=True, name="popclust-lease")
    heart.start()
    try:
        _remove_older(study, lease.generation)
        if is_disputed:
            time.sleep(2 * BEAT_S)  # whoever else thinks that it has the lease finds out by its next beat
            lease.check()
        yield lease
    finally:
        lease.release(heart)


def is_held(study: Study, watch_s: float = 4.0) -> bool:
    """Whether a run is at work on a study; known as soon as its lease moves, else after `watch_s` seconds."""
    seen = _look(study)
    if not seen.generation or seen.is_released:
        return False
    later = _watch(study, seen, watch_s)
    return later != seen and not later.is_released


def _take(study: Study, say: Callable[[str], object]) -> tuple[Lease, bool]:
    """The next lease, and whether another may still think that it holds one."""
    while True:
        seen, is_dead = _look(study), False
        if seen.generation and not seen.is_released:
            say(f"a run has left its lease in this study: watching for up to {WATCH_S:g} s whether it is alive")
            later = _watch(study, seen, WATCH_S)
            if later.generation == seen.generation and later != seen and not later.is_released:
                raise InputError(f"{study.url}: another run is at work on this study; wait for it")
            if later != seen:
                continue
            say("that run is dead: going on in its place")
            is_dead = True
        lease = Lease(study, seen.generation + 1, secrets.token_hex(8), _now())
        if _create(lease):
            fs, _ = fsspec.core.url_to_fs(study.url)
            return lease, is_dead or not isinstance(fs, LocalFileSystem)


def _create(lease: Lease) -> bool:
    """Create the lease's file; False where another was quicker."""
    study = lease.study
    fs, path = fsspec.core.url_to_fs(study.path(*_FOLDER, _name(lease.generation)))
    try:
        _write_new(fs, path, _content(lease.token, 0, False))
    except FileExistsError:
        return _look(study).token == lease.token  # a put that was sent twice meets its own file
    except OSError as error:
        if isinstance(error, PermissionError) or error.errno == EROFS:
            raise InputError(f"{study.url}: the study cannot be written to; a run needs the right to") from None
        if error.errno in (ENOSPC, EDQUOT):
            raise
        time.sleep(_LOOK_S)  # stores have several words for "another is creating it"
        seen = _look(study)
        if seen.generation < lease.generation:
            raise
        return seen.token == lease.token
    return True


def _write_new(fs: Any, path: str, data: bytes) -> None:
    if not isinstance(fs, LocalFileSystem):
        with _creating:
            fs.pipe_file(path, data, mode="create")
        return
    file = Path(path)  # fsspec looks first and writes then, which two can do at once
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("xb") as new:
        try:
            new.write(data)
            new.flush()
        except OSError:  # a full disk: leave nothing that looks like a run
            file.unlink()
            raise


def _remove_older(study: Study, generation: int) -> None:
    for name in storage.names(study.path(*_FOLDER)):
        if name[:8].isdigit() and int(name[:8]) < generation:
            with suppress(FileNotFoundError):
                study.remove(*_FOLDER, name)


@dataclass(frozen=True)
class _Seen:
    """The lease at a moment."""

    generation: int
    """0: there has never been one."""
    data: bytes = b""
    """Empty where it could not be read."""

    @property
    def token(self) -> str:
        return str(self._values.get("token", ""))

    @property
    def is_released(self) -> bool:
        return self._values.get("released") is True

    @property
    def _values(self) -> dict[str, Any]:
        try:
            values = json.loads(self.data)
        except ValueError:
            return {}
        return values if isinstance(values, dict) else {}


def _look(study: Study) -> _Seen:
    generation = max(_generations(study), default=0)
    if not generation:
        return _Seen(0)
    try:
        return _Seen(generation, study.read_bytes(*_FOLDER, _name(generation)))
    except OSError:
        return _Seen(generation)


def _watch(study: Study, seen: _Seen, watch_s: float) -> _Seen:
    """The lease as soon as it is another than `seen`; `seen` itself where it does not move."""
    deadline = _now() + watch_s
    while True:
        is_late = _now() >= deadline  # asked before the last look: the watcher may have stood still itself
        later = _look(study)
        if later != seen or is_late:
            return later
        time.sleep(min(_LOOK_S, watch_s))


def _generations(study: Study) -> list[int]:
    names = storage.names(study.path(*_FOLDER))
    return [int(name[:-5]) for name in names if name.endswith(".json") and name[:-5].isdigit()]


def _content(token: str, counter: int, is_released: bool) -> bytes:
    return json.dumps({"counter": counter, "released": is_released, "token": token}).encode()


def _name(generation: int) -> str:
    return f"{generation:08}.json"


def _now() -> float:
    return time.clock_gettime(_CLOCK)


_FOLDER = ("runs", "lease")
