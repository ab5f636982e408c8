"""What a run asks of scheduler and workers before it gives them anything, and what it does when they are gone."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask
import psutil
import pytest
from distributed import Client, LocalCluster

from popclust.dataflow import workers
from popclust.dataflow.client import connect
from popclust.dataflow.failure import STOPPED
from popclust.dataflow.window import Task, run_window, threads_of
from popclust.dataflow.workers import Patience, Ticket, check_workers, trouble
from popclust.errors import InputError, SurroundingsError
from popclust.settings import ComputeSettings
from popclust.study import Study


@pytest.fixture
def study(tmp_path: Path) -> Study:
    made = Study.create(str(tmp_path / "s"))
    key = Path(made.secret_path("key"))
    key.parent.mkdir()
    key.write_text("11" * 32)
    made.write_bytes(b'{"token": "this run"}', "runs", "lease", "00000001.json")
    return made


def _ticket(study: Study, **changes: Any) -> Ticket:
    return replace(Ticket(study, ("runs", "lease", "00000001.json"), "this run", study.settings.compute), **changes)


def _worker(folder: Path, n_threads: int = 1, memory_mb: int = 4000) -> Any:
    memory = SimpleNamespace(memory_limit=memory_mb * 10**6)
    return SimpleNamespace(state=SimpleNamespace(nthreads=n_threads), memory_manager=memory, local_directory=folder)


def test_a_worker_that_is_fit_has_no_trouble(study: Study, tmp_path: Path):
    assert trouble(_worker(tmp_path), _ticket(study)) is None


@pytest.mark.parametrize(
    ("worker", "ticket", "words", "is_input"),
    [
        ({}, {"source": "other"}, "install the same", True),
        ({"n_threads": 4}, {}, "has 4 threads: start workers with --nthreads 1", True),
        ({"memory_mb": 900}, {}, "has 900 MB of memory, [compute] worker_memory_mb asks for 1500", True),
        ({}, {"compute": ComputeSettings(min_free_disk_mb=10**12)}, "left on its scratch disk", False),
        ({}, {"content": "another run"}, "does not see the study", True),
        ({}, {"beacon": ("runs", "lease", "00000002.json")}, "does not see the study", True),
    ],
    ids=["source", "threads", "memory", "scratch", "another study", "no study"],
)
def test_what_a_worker_lacks_is_said(
    study: Study, tmp_path: Path, worker: dict[str, int], ticket: dict[str, Any], words: str, is_input: bool
):
    found = trouble(_worker(tmp_path, **worker), _ticket(study, **ticket))
    assert found is not None and words in found.words
    error = found.error("tls://10.0.0.3:40001")
    assert str(error).startswith("Dask worker tls://10.0.0.3:40001 ")
    assert isinstance(error, InputError if is_input else SurroundingsError)


def test_a_worker_without_the_key_is_told_so(study: Study, tmp_path: Path):
    Path(study.secret_path("key")).unlink()
    found = trouble(_worker(tmp_path), _ticket(study))
    assert found is not None and "folder of secrets" in found.words


def test_patience_ends(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    now = [0.0]
    monkeypatch.setattr(workers.time, "monotonic", lambda: now[0])
    patience = Patience("extract", 150.0)
    for now[0] in (30.0, 61.0, 100.0, 122.0):
        patience.look(0)
    assert [r.getMessage().partition(";")[0] for r in caplog.records] == [
        "extract: no worker for 61 s",
        "extract: no worker for 122 s",
    ]
    now[0] = 151.0
    with pytest.raises(SurroundingsError, match="extract: no worker for 151 s"):
        patience.look(0)
    patience.look(2)
    now[0] = 300.0
    patience.look(0)


# -- on a real cluster ---------------------------------------------------------------------------------------------


def _slowly(x: int, seconds: float) -> tuple[int, int]:
    time.sleep(seconds)
    return x * x, os.getpid()


@pytest.fixture
def empty() -> Iterator[LocalCluster]:
    with LocalCluster(n_workers=0, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0") as cluster:
        yield cluster


def test_a_scheduler_of_another_version_is_refused(empty: LocalCluster):
    real = empty.scheduler.handlers["versions"]

    def another(packages: Any = None) -> Any:
        found = real(packages)
        return {**found, "packages": {**found["packages"], "distributed": "2020.1.0"}}

    empty.scheduler.handlers["versions"] = another
    with (
        pytest.raises(InputError, match=r"scheduler tcp://127.* has distributed 2020.1.0 \(here 20.*start it again"),
        connect(empty.scheduler_address),
    ):
        pass


def test_a_scheduler_that_stands_still_is_given_up(empty: LocalCluster):
    async def never() -> None:
        await asyncio.sleep(60)

    with Client(empty.scheduler_address) as client:
        assert threads_of(client, 30.0) == {}
        empty.scheduler.handlers["ncores"] = never
        with pytest.raises(SurroundingsError, match="scheduler did not answer for 1 s"):
            threads_of(client, 1.0)


def test_an_adaptive_cluster_of_nobody_is_asked_for_work(empty: LocalCluster):
    empty.adapt(minimum=0, maximum=1, interval="200ms")
    with connect(empty.scheduler_address) as client:
        assert client is not None
        assert [o.value[0] for o in run_window(client, "t", _slowly, [Task("a", (3, 0.0))])] == [9]


def test_a_worker_whose_job_has_ended_gets_a_successor(empty: LocalCluster):
    compute = ComputeSettings(no_worker_s=60.0)
    with dask.config.set({"distributed.deploy.lost-worker-timeout": "1s"}):
        empty.adapt(minimum=0, maximum=1, interval="200ms")
        with connect(empty.scheduler_address, compute) as client:
            assert client is not None
            seen = set()
            for outcome in run_window(
                client, "t", _slowly, [Task(str(i), (i, 0.2)) for i in range(30)], compute=compute
            ):
                seen.add(outcome.value[1])
                if len(seen) == 1 and int(outcome.key) == 3:
                    empty.sync(next(iter(empty.workers.values())).close)
    assert len(seen) == 2


@pytest.mark.full
def test_a_worker_that_stands_still_gives_up_its_tasks():
    with connect("", ComputeSettings(n_workers=2, silent_s=10.0)) as client:
        assert client is not None
        client.wait_for_workers(2)
        pid = next(iter(client.cluster.workers.values())).pid
        threading.Timer(1.0, os.kill, (pid, signal.SIGSTOP)).start()
        tasks = [Task(str(i), (i, 0.3)) for i in range(48)]
        found = {o.key: o.value for o in run_window(client, "t", _slowly, tasks)}
        assert {k: v[0] for k, v in found.items()} == {str(i): i * i for i in range(48)}
        assert pid not in {p for k, (_, p) in found.items() if int(k) > 40}


RUN = """
import sys, time
from popclust.dataflow.client import WORKER_CONFIG, connect
from popclust.dataflow.failure import exit_code, plain_console
from popclust.dataflow.window import Task, run_window, threads_of

WORKER_CONFIG["distributed.comm.timeouts.connect"] = "5s"  # how long a lost scheduler is looked for


def work(x):
    time.sleep(0.2)

def act():
    with connect(sys.argv[1]) as client:
        for n, _ in enumerate(run_window(client, "t", work, (Task(str(i), (i,)) for i in range(10**4)))):
            n or print("up", flush=True)
    return 0

sys.exit(exit_code(act, plain_console(), log_folder=lambda: None))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "comes_back", [True, pytest.param(False, marks=pytest.mark.full)], ids=["started again", "gone"]
)
def test_a_scheduler_that_is_lost_ends_the_run_in_one_line(tmp_path: Path, comes_back: bool):
    file, port = tmp_path / "scheduler.json", 18000 + os.getpid() % 2000
    own = {**os.environ, "DASK_DISTRIBUTED__WORKER__DAEMON": "False"}
    quiet: dict[str, Any] = {"env": own, "cwd": tmp_path, "stderr": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    dask = [sys.executable, "-m", "dask"]
    start = [*dask, "scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]
    schedulers = [subprocess.Popen([*start, "--scheduler-file", str(file)], **quiet)]
    worker = [*dask, "worker", f"tcp://127.0.0.1:{port}", "--no-dashboard", "--nthreads", "1"]
    script = tmp_path / "run.py"
    script.write_text(RUN)
    others = [subprocess.Popen(worker, **quiet)]
    try:
        while not file.exists():
            time.sleep(0.1)
        pipes: dict[str, Any] = {"env": own, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen([sys.executable, str(script), f"tcp://127.0.0.1:{port}"], **pipes) as run:
            assert run.stdout.readline() == "up\n", run.stderr.read()
            schedulers[0].kill()
            if comes_back:
                schedulers.append(subprocess.Popen(start, **quiet))
            _, err = run.communicate(timeout=200)
        assert run.returncode == STOPPED, err
        assert err.startswith("stopped: the Dask cluster was lost") and err.count("\n") == 1, err
    finally:
        for process in (*schedulers, *others):
            process.terminate()
            process.wait(30)


def test_no_scheduler_file_is_said(tmp_path: Path):
    with pytest.raises(InputError, match="no such scheduler file"), connect(str(tmp_path / "none.json")):
        pass


def test_workers_that_do_not_see_the_study_are_named_and_nobody_else_is_spoken_to(
    study: Study, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(workers, "SEEN_S", 0.0)
    with connect("", ComputeSettings(n_workers=1)) as client:
        assert client is not None
        client.wait_for_workers(1)
        check_workers(client, _ticket(study))
        family = [psutil.Process(), *psutil.Process().children(recursive=True)]
        open_to = {c.laddr.ip for p in family for c in p.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
        assert open_to == {"127.0.0.1"}, "something listens to other machines"
        with pytest.raises(InputError, match=r"Dask worker tcp://127.* does not see the study"):
            check_workers(client, _ticket(study, content="another"))
