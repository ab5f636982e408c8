"""A Dask cluster for benchmarks: scheduler and one worker are processes of their own, on loopback."""

from __future__ import annotations

from distributed.deploy.spec import SpecCluster
from distributed.deploy.subprocess import SubprocessScheduler, SubprocessWorker

_START_S = 600
"""What a busy machine may take to start the scheduler. Dask's own limit, 30 s, ends in a wait without end."""


def own_cluster() -> SpecCluster:
    """Start it; its worker has one thread."""
    scheduler = {"host": "127.0.0.1", "port": 0, "dashboard": False, "dashboard_address": "127.0.0.1:0"}
    worker = {"host": "127.0.0.1", "nthreads": 1, "dashboard_address": "127.0.0.1:0", "silence_logs": 50}
    return SpecCluster(
        scheduler={"cls": SubprocessScheduler, "options": {"scheduler_kwargs": scheduler, "timeout": _START_S}},
        workers={0: {"cls": SubprocessWorker, "options": {"worker_kwargs": worker}}},
        silence_logs=50,
    )
