"""A Dask cluster of processes of its own, as on several hosts, whose parts can be stopped, killed and started again."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from distributed import Client

SILENT_S = 30
"""Who does not answer for so long is given up: a busy machine is silent for some ten seconds now and then."""
N_WORKERS = 2
LAUNCHER = """
import sys
from popclust.cli import main
from popclust.dataflow.client import WORKER_CONFIG
WORKER_CONFIG["distributed.comm.timeouts.connect"] = "10s"  # how long a lost scheduler is looked for
sys.exit(main())
"""


class Cluster:
    """A scheduler and workers, each a process group of its own."""

    def __init__(self, folder: Path, wait_s: float) -> None:
        self.folder, self.greedy = folder, folder / "greedy"
        hinder = str(Path(__file__).with_name("hindered_worker.py"))
        distributed = {
            "scheduler": {"worker-ttl": f"{SILENT_S}s"},
            "worker": {"daemon": False, "preload": [hinder], "memory": {"target": False, "spill": False}},
        }
        folder.mkdir()
        (folder / "dask.yaml").write_text(json.dumps({"distributed": distributed}))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = int(probe.getsockname()[1])
        self.address = f"tcp://127.0.0.1:{self._port}"
        self.environment = {**os.environ, "DASK_CONFIG": str(folder), "DASK_SCHEDULER_ADDRESS": self.address}
        self.environment |= {"POPCLUST_TEST_WAIT_S": str(wait_s), "POPCLUST_TEST_GREEDY": str(self.greedy)}
        self.scheduler: subprocess.Popen[bytes] | None = None
        self.workers: list[subprocess.Popen[bytes]] = []

    def make_whole(self) -> None:
        """Start what is not there, end what stands still; return when all workers are known."""
        self.greedy.unlink(missing_ok=True)
        if self.scheduler is None or not _is_well(self.scheduler):
            self.kill_all()
            self.start_scheduler()
        for worker in [w for w in self.workers if not _is_well(w)]:
            kill_group(worker)
        self.workers = [w for w in self.workers if w.poll() is None]
        self.start_workers(N_WORKERS - len(self.workers))
        with Client(self.address, timeout=120) as client:
            client.wait_for_workers(N_WORKERS, timeout=240)

    def start_scheduler(self) -> None:
        """At the same address as ever."""
        command = ["scheduler", "--host", "127.0.0.1", "--port", str(self._port), "--dashboard-address", "127.0.0.1:0"]
        self.scheduler = self._start(command)

    def start_workers(self, n: int) -> None:
        """So many more."""
        ways = ["--nthreads", "1", "--memory-limit", "3GB", "--dashboard-address", "127.0.0.1:0"]
        ways += ["--local-directory", str(self.folder / "scratch")]
        self.workers += [self._start(["worker", self.address, *ways]) for _ in range(n)]

    def processes(self, number: int) -> list[psutil.Process]:
        """A worker's process, as soon as its nanny has started it, and then the worker's own children."""
        nanny = psutil.Process(self.workers[number].pid)
        until(lambda: bool(_workers_below(nanny)))
        worker = _workers_below(nanny)[0]
        return [worker, *_workers_below(worker)]

    def kill_all(self) -> None:
        """Everything at once, as when a host is gone."""
        for process in (*self.workers, self.scheduler):
            if process is not None:
                kill_group(process)
        self.workers, self.scheduler = [], None

    def run(self, *arguments: str) -> subprocess.Popen[str]:
        """`popclust run ...` on this cluster."""
        command = [sys.executable, "-c", LAUNCHER, "run", *arguments]
        with (self.folder / "run.log").open("a") as log:
            return subprocess.Popen(command, env=self.environment, text=True, stdout=log, stderr=subprocess.PIPE)

    def _start(self, words: Sequence[str]) -> subprocess.Popen[bytes]:
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        command = [sys.executable, "-m", "dask", *words]
        return subprocess.Popen(command, env=self.environment, cwd=self.folder, start_new_session=True, **quiet)


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """A process and all that it started."""
    family = []
    with suppress(psutil.NoSuchProcess):
        family = psutil.Process(process.pid).children(recursive=True)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for child in family:  # a nanny's worker may have a group of its own
        with suppress(psutil.NoSuchProcess):
            child.kill()
    process.wait(30)


def until(is_so: Callable[[], bool], seconds: float = 240, said: str = "") -> None:
    """Wait for something that must come."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, said or "it did not come"
        time.sleep(0.1)


def _workers_below(process: psutil.Process) -> list[psutil.Process]:
    return [p for p in process.children() if "spawn_main" in " ".join(p.cmdline())]


def _is_well(process: subprocess.Popen[bytes]) -> bool:
    if process.poll() is not None:
        return False
    family = [psutil.Process(process.pid)]
    with suppress(psutil.NoSuchProcess):
        family += family[0].children(recursive=True)
    return all(_status(p) != psutil.STATUS_STOPPED for p in family)


def _status(process: psutil.Process) -> str:
    try:
        return process.status()
    except psutil.NoSuchProcess:
        return ""
