"""Connect to a Dask cluster: the one named, the environment's, or a local one on loopback."""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import dask
from distributed import Client, LocalCluster

import popclust
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
    # A nanny starts its worker again however often it dies. Dask looks once, so long after a death, and closes the
    # nanny of a worker that is just then not there; with it goes the last worker, and every task waits for ever.
    "distributed.deploy.lost-worker-timeout": "365 days",
}

_SOURCE = popclust.source_digest()
"""Taken when this code was loaded: files may change under a process that lives long."""


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
        logging.getLogger("distributed").setLevel(logging.ERROR)
    scheduler = scheduler or dask.config.get("scheduler-address", "") or os.environ.get("DASK_SCHEDULER_ADDRESS", "")
    if scheduler == "serial":
        yield None
        return
    with dask.config.set(WORKER_CONFIG):
        if scheduler:
            with _existing(scheduler, compute) as client:
                yield client
            return
        n_workers = compute.n_workers or os.cpu_count() or 1
        with (
            LocalCluster(
                n_workers=n_workers,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                dashboard_address=f"127.0.0.1:{_free_port(8787)}",
                silence_logs=logging.CRITICAL,
            ) as cluster,
            Client(cluster) as client,
        ):
            yield client


@contextmanager
def _existing(scheduler: str, compute: ComputeSettings) -> Iterator[Client]:
    is_file = scheduler.endswith(".json")
    if not is_file:
        refuse_plain_tcp(scheduler, compute.allow_plain_tcp)
    try:
        client = Client(scheduler_file=scheduler) if is_file else Client(scheduler)
    except (OSError, TimeoutError) as error:
        raise SurroundingsError(f"no Dask scheduler answers at {scheduler}: {error}") from None
    with client:
        if is_file:
            refuse_plain_tcp(client.scheduler.address, compute.allow_plain_tcp)
        client.wait_for_workers(1, timeout=300)
        _check_workers(client)
        yield client


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


def _check_workers(client: Client) -> None:
    """Every worker must have this popclust and be allowed to own a child."""
    for address, (version, digest, is_daemon) in client.run(_worker_facts).items():
        if digest != _SOURCE:
            raise InputError(
                f"Dask worker {address} has popclust {version} (source {digest}), "
                f"this is {popclust.__version__} (source {_SOURCE}): install the same and start the workers again"
            )
        if is_daemon:
            raise InputError(
                f"Dask worker {address} is daemonic and may not own a child process: "
                "start workers with DASK_DISTRIBUTED__WORKER__DAEMON=False"
            )


def _worker_facts() -> tuple[str, str, bool]:
    import multiprocessing

    return popclust.__version__, _SOURCE, multiprocessing.current_process().daemon


def _free_port(wanted: int) -> int:
    """The wanted port on loopback, or 0 (any) if somebody has it."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            return 0
        return wanted
