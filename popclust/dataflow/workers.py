"""Whether the workers of a Dask cluster can do the work: asked before the first task, and by each before its own first.

Workers come and go: jobs of a batch system start late and end at their walltime. So those that are there at the start
are looked at from here, and every process looks at itself before its first task.
"""

from __future__ import annotations

import logging
import multiprocessing
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import distributed.system
from distributed import Client, Worker, get_worker
from distributed.comm import CommClosedError
from distributed.versions import get_versions

import popclust
from popclust import storage
from popclust.errors import InputError, SurroundingsError
from popclust.settings import ComputeSettings
from popclust.study import Study

log = logging.getLogger(__name__)

SAY_S = 60.0
"""A wait for workers that is longer is said, and said again."""
ASK_S = 30.0
"""Longest wait for an answer of all workers; who does not answer looks at itself before its first task."""
ALONE = (
    "the run goes on as soon as one comes: look whether their jobs wait or ended (squeue, kubectl get pods), start some"
)
SEEN_S = 60.0
"""What one host has written, a network file system may show to another only after so long."""

_SOURCE = popclust.source_digest()
"""Taken when this code was loaded: files may change under a process that lives long."""


@dataclass(frozen=True)
class Ticket:
    """What a worker must have and see before it does anything for a run."""

    study: Study | None = None
    """The study; None: only what holds for every study."""
    beacon: tuple[str, ...] = ()
    """File of the study that this run wrote; empty: nothing is looked for."""
    content: str = ""
    """What stands in it, and in no other run's."""
    compute: ComputeSettings = field(default_factory=ComputeSettings)
    """Memory and room on disk that a worker needs."""
    source: str = _SOURCE
    """Digest of popclust's source."""


def wait_for_first(client: Client, compute: ComputeSettings) -> None:
    """Wait until a worker has done something: an adaptive cluster starts one only when there is work.

    Raises
    ------
    SurroundingsError
        None came for as long as `[compute] no_worker_s`.
    """
    probe = client.submit(socket.gethostname, pure=False, key=f"is-anybody-there-{secrets.token_hex(4)}")
    patience = Patience("start", compute.no_worker_s)
    try:
        while probe.status == "pending":
            time.sleep(0.05)
            patience.look(0)
        if probe.status != "finished":
            raise SurroundingsError("the Dask cluster was lost before its first worker was there")
    finally:
        probe.release()


@dataclass
class Patience:
    """How long nobody has been there to work: said every minute, and not for ever."""

    stage: str
    limit_s: float

    def __post_init__(self) -> None:
        self._since = self._said = time.monotonic()

    def look(self, n_workers: int) -> None:
        """Say, or give up, if it is time to.

        Raises
        ------
        SurroundingsError
            No worker for `limit_s` seconds.
        """
        now = time.monotonic()
        if n_workers:
            self._since = self._said = now
        if now - self._since >= self.limit_s:
            raise SurroundingsError(
                f"{self.stage}: no worker for {now - self._since:.0f} s ([compute] no_worker_s): see that some start"
            )
        if now - self._said >= SAY_S:
            self._said = now
            log.error("%s: no worker for %.0f s; %s", self.stage, now - self._since, ALONE)


def check_scheduler(client: Client) -> None:
    """The scheduler must speak as this process does.

    Raises
    ------
    InputError
        It has another version of dask, distributed or Python's minor version.
    """
    here, there = _versions(get_versions()), _versions(client.sync(client.scheduler.versions, callback_timeout=ASK_S))
    if differ := {n: (there.get(n), v) for n, v in here.items() if there.get(n) != v}:
        said = ", ".join(f"{name} {theirs} (here {ours})" for name, (theirs, ours) in sorted(differ.items()))
        raise InputError(
            f"Dask scheduler {client.scheduler.address} has {said}: install the same there, and start it again"
        )


def _versions(of: Mapping[str, Any]) -> dict[str, str]:
    packages = {name: str(of["packages"].get(name)) for name in ("dask", "distributed")}
    return {**packages, "Python": ".".join(str(of["host"]["python"]).split(".")[:2])}


def check_workers(client: Client, ticket: Ticket) -> None:
    """Every worker that is there must be fit, and see the study; the first that is not is named.

    Raises
    ------
    InputError
        One has another popclust, several threads, too little memory, may own no child, or does not see the study.
    SurroundingsError
        One has a full scratch disk.
    """
    deadline = time.monotonic() + SEEN_S
    look = partial(trouble, ticket=ticket)
    while True:
        try:
            answers = client.sync(client._run, look, on_error="return", callback_timeout=ASK_S)
        except TimeoutError:
            log.error("a worker does not answer; it looks at itself before its first task")
            return
        found = [(address, found) for address, answer in answers.items() if (found := _read(address, answer))]
        if not found:
            return
        address, first = min(found, key=lambda f: (f[1].is_passing, f[0]))
        if not first.is_passing or time.monotonic() >= deadline:
            raise first.error(address)
        time.sleep(1.0)


@lru_cache(maxsize=4)
def check_myself(ticket: Ticket) -> None:
    """The same of the process that this runs in, once; where it is no Dask worker there is nothing to look at.

    Raises
    ------
    InputError, SurroundingsError
        As :func:`check_workers`.
    """
    try:
        worker = get_worker()
    except ValueError:
        return
    deadline = time.monotonic() + SEEN_S
    while found := trouble(worker, ticket):
        if not found.is_passing or time.monotonic() >= deadline:
            raise found.error(worker.address)
        time.sleep(1.0)


@dataclass(frozen=True)
class Trouble:
    """What keeps a worker from the work."""

    words: str
    """What it has, what was wanted, how to mend it."""
    is_input: bool = True
    """A person must mend it, rather than its surroundings."""
    is_passing: bool = False
    """It may be over in a moment."""

    def error(self, address: str) -> InputError | SurroundingsError:
        """As an exception that names the worker."""
        return (InputError if self.is_input else SurroundingsError)(f"Dask worker {address} {self.words}")


def trouble(dask_worker: Worker, ticket: Ticket) -> Trouble | None:
    """What keeps a worker from the work; None where it is fit."""
    if ticket.source != _SOURCE:
        return Trouble(
            f"has popclust {popclust.__version__} (source {_SOURCE}), this is source {ticket.source}: "
            "install the same and start the workers again"
        )
    if multiprocessing.current_process().daemon:
        return Trouble(
            "is daemonic and may not own a child process: start workers with DASK_DISTRIBUTED__WORKER__DAEMON=False"
        )
    if (n := dask_worker.state.nthreads) > 1:
        return Trouble(f"has {n} threads: start workers with --nthreads 1, and as many (--nworkers) as cores")
    limit_mb = (dask_worker.memory_manager.memory_limit or distributed.system.MEMORY_LIMIT) / 1e6
    if limit_mb < (wanted_mb := ticket.compute.worker_memory_mb):
        return Trouble(
            f"has {limit_mb:.0f} MB of memory, [compute] worker_memory_mb asks for {wanted_mb}: "
            "start fewer workers, or with a larger --memory-limit"
        )
    for folder in (dask_worker.local_directory, tempfile.gettempdir()):
        if (free_mb := shutil.disk_usage(folder).free / 1e6) < ticket.compute.min_free_disk_mb:
            return Trouble(f"has {free_mb:.0f} MB left on its scratch disk {folder}: make room there", is_input=False)
    return _unseen(ticket)


def _unseen(ticket: Ticket) -> Trouble | None:
    """What the worker does not see of the study."""
    study = ticket.study
    if study is None or not ticket.beacon:
        return None
    try:
        is_seen = ticket.content.encode() in study.read_bytes(*ticket.beacon)
    except OSError:
        is_seen = False
    if not is_seen:
        words = f"does not see the study: {study.url} is not there, or is another; mount it under the same path"
        return Trouble(words, is_passing=True)
    key = study.secret_path("key")
    if not storage.exists(key):
        return Trouble(f"does not see {key}: it needs the folder of secrets under the same path", is_passing=True)
    return None


def _read(address: str, answer: object) -> Trouble | None:
    if isinstance(answer, Trouble) or answer is None:
        return answer
    if isinstance(answer, OSError | CommClosedError):  # it went while it was asked
        log.info("Dask worker %s did not answer (%s)", address, type(answer).__name__)
        return None
    return Trouble(f"has another popclust ({type(answer).__name__}): install the same and start the workers again")
