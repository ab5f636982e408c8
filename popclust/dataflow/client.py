"""Connect to a Dask cluster: the one named, the environment's, or a local one on loopback."""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import dask.system
import distributed.system
from distributed import Client, LocalCluster
from distributed.client import FutureCancelledError
from distributed.comm import CommClosedError
from distributed.versions import VersionMismatchWarning

from popclust.dataflow.window import LOST
from popclust.dataflow.workers import Ticket, check_scheduler, check_workers, wait_for_first
from popclust.errors import InputError, SurroundingsError
from popclust.settings import ComputeSettings

log = logging.getLogger(__name__)

ONE_THREAD = dict.fromkeys(
    (
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
        "NUMBA_NUM_THREADS",
    ),
    "1",
)
"""Environment of a worker: Dask makes the parallelism, so that no library makes its own on top."""

WORKER_CONFIG = {
    # Workers own a child for elastix, and a daemonic process may have no children.
    "distributed.worker.daemon": False,
    "distributed.nanny.pre-spawn-environ": {
        **ONE_THREAD,
        "MALLOC_TRIM_THRESHOLD_": "65536",
        "DASK_LOGGING__DISTRIBUTED": "error",
    },
    "distributed.comm.timeouts.connect": "60s",
}

_LOCAL_CONFIG = {
    # A nanny starts its worker again however often it dies. Dask looks once, so long after a death, and closes the
    # nanny of a worker that is just then not there; with it goes the last worker, and every task waits for ever.
    # Not so where workers are jobs: one that has ended must be seen as gone, or no other is started in its place.
    "distributed.deploy.lost-worker-timeout": "365 days",
}


@contextmanager
def connect(scheduler: str = "", compute: ComputeSettings | None = None) -> Iterator[Client | None]:
    """A client of the Dask cluster to work on.

    Parameters
    ----------
    scheduler : str
        Address (``tls://host:8786``), scheduler file, ``serial`` for no cluster at all, or empty: then
        ``DASK_SCHEDULER_ADDRESS``, or a local cluster of worker processes on loopback.
    compute : ComputeSettings
        Number of local workers, and whether plain TCP beyond this machine is allowed.

    Yields
    ------
    distributed.Client or None
        None runs the same tasks serially in this process.

    Raises
    ------
    InputError
        An open scheduler without TLS, or workers that cannot do the work.
    SurroundingsError
        No scheduler answers.
    """
    compute = compute or ComputeSettings()
    if not log.isEnabledFor(logging.INFO):  # what Dask does is of interest to those who ask for it
        for name in [*logging.root.manager.loggerDict, "distributed", "tornado", "asyncio"]:
            if name.partition(".")[0] in ("distributed", "tornado", "asyncio"):  # a lost connection shows in each
                logging.getLogger(name).setLevel(logging.CRITICAL)
    scheduler = scheduler or dask.config.get("scheduler-address", "") or os.environ.get("DASK_SCHEDULER_ADDRESS", "")
    if scheduler == "serial":
        yield None
        return
    with dask.config.set({**WORKER_CONFIG, "distributed.scheduler.worker-ttl": f"{compute.silent_s}s"}):
        if scheduler:
            with _existing(scheduler, compute) as client:
                yield client
            return
        n_workers = compute.n_workers or _n_that_fit(compute)
        with (
            dask.config.set(_LOCAL_CONFIG),
            _local_cluster(n_workers) as cluster,
            Client(cluster) as client,
            lost_is_said(client),
        ):
            yield client


def _local_cluster(n_workers: int) -> LocalCluster:
    with warnings.catch_warnings():
        # somebody may take the port between the look and the start: Dask then takes another by itself
        warnings.filterwarnings("ignore", r"\s*Port \d+ is already in use", UserWarning)
        return LocalCluster(
            n_workers=n_workers,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=f"127.0.0.1:{_free_port(8787)}",
            worker_dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,
        )


@contextmanager
def _existing(scheduler: str, compute: ComputeSettings) -> Iterator[Client]:
    is_file = scheduler.endswith(".json")
    if not is_file:
        refuse_plain_tcp(scheduler, compute.allow_plain_tcp)
    elif not Path(scheduler).is_file():
        raise InputError(f"{scheduler}: there is no such scheduler file; the scheduler writes it when it is started")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VersionMismatchWarning)  # check_scheduler says it better
        try:
            client = Client(scheduler_file=scheduler) if is_file else Client(scheduler)
        except (OSError, TimeoutError) as error:
            raise SurroundingsError(f"no Dask scheduler answers at {scheduler}: {error}") from None
    with client, lost_is_said(client):
        if is_file:
            refuse_plain_tcp(client.scheduler.address, compute.allow_plain_tcp)
        check_scheduler(client)
        wait_for_first(client, compute)
        check_workers(client, Ticket(compute=compute))
        yield client


@contextmanager
def lost_is_said(client: Client) -> Iterator[None]:
    """A scheduler that is gone, or was started again, makes itself felt in many ways: say the one thing.

    Raises
    ------
    SurroundingsError
        The Dask cluster is lost.
    """
    try:
        yield
    except (InputError, SurroundingsError):
        raise
    except Exception as error:
        if client.status == "running" and not isinstance(error, CommClosedError | FutureCancelledError):
            raise
        raise SurroundingsError(LOST) from error


def refuse_plain_tcp(address: str, allowed: bool) -> None:
    """Refuse a scheduler that others on the network could use: whoever reaches it can run code on it.

    Raises
    ------
    InputError
        The address is plain TCP and not on loopback.
    """
    parts = urlsplit(address if "://" in address else f"tcp://{address}")
    if parts.scheme in ("tls", "wss", "inproc") or allowed or _is_loopback(parts.hostname or ""):
        return
    raise InputError(
        f"scheduler {address}: plain TCP beyond this machine; use tls:// (deploy/README.md), "
        "or set compute.allow_plain_tcp = true if the network is closed to others"
    )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _n_that_fit(compute: ComputeSettings) -> int:
    """One worker per core, fewer where the memory is short of that."""
    fit = int(distributed.system.MEMORY_LIMIT / 1e6 / compute.worker_memory_mb)
    return max(1, min(dask.system.CPU_COUNT, fit))


def _free_port(wanted: int) -> int:
    """The wanted port on loopback, or 0 (any) if somebody has it."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            return 0
        return wanted
