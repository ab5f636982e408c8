"""The sliding window on a real Dask cluster of worker processes."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, LocalCluster, get_worker

from popclust.dataflow.client import WORKER_CONFIG, connect, refuse_plain_tcp
from popclust.dataflow.window import Outcome, Task, attempt_each, run_window
from popclust.errors import InputError, SurroundingsError, VolumeError
from popclust.settings import ComputeSettings


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with connect("", ComputeSettings(n_workers=2)) as client:
        assert client is not None
        yield client


@pytest.fixture(params=["serial", "cluster"])
def maybe_client(request: pytest.FixtureRequest) -> Client | None:
    return request.getfixturevalue("client") if request.param == "cluster" else None


def _square(x: int) -> int:
    return x * x


def _work(x: int, folder: str) -> int:
    """Each kind of trouble by its number; a file counts the attempts."""
    trace = Path(folder) / f"{x}-{time.monotonic_ns()}"
    trace.touch()
    n = len(list(Path(folder).glob(f"{x}-*")))
    if x == 1:
        raise VolumeError("flat", "the volume is flat")
    if x == 2:
        raise TypeError("Jane Doe, born 1950")
    if x == 3 and n == 1:
        raise OSError("a passing trouble")
    return x


def _full_disk(x: int) -> None:
    try:
        raise OSError(errno.ENOSPC, "No space left on device")
    except OSError as error:
        raise RuntimeError("zarr could not write") from error


def _kill_own_worker(x: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _in_flight(folder: str, x: int) -> int:
    trace = Path(folder) / str(x)
    trace.touch()
    time.sleep(0.05)
    n = len(list(Path(folder).iterdir()))
    trace.unlink()
    return n


def test_every_task_has_one_outcome(maybe_client: Client | None):
    outcomes = list(run_window(maybe_client, "t", _square, (Task(str(i), (i,)) for i in range(50))))
    assert {o.key: o.value for o in outcomes} == {str(i): i * i for i in range(50)}
    assert not any(o.error for o in outcomes)


def test_trouble_of_one_stops_nobody(maybe_client: Client | None, tmp_path: Path):
    tasks = [Task(str(i), (i, str(tmp_path))) for i in range(6)]
    outcomes = {o.key: o for o in run_window(maybe_client, "t", _work, tasks, compute=ComputeSettings(attempts=2))}
    assert len(outcomes) == 6
    assert (outcomes["1"].error, outcomes["1"].message, outcomes["1"].attempts) == ("flat", "the volume is flat", 1)
    assert (outcomes["2"].error, outcomes["2"].attempts) == ("TypeError", 2)
    assert "_work" in outcomes["2"].message
    assert "Jane" not in outcomes["2"].message
    assert (outcomes["3"].value, outcomes["3"].attempts) == (3, 2)


def test_a_full_disk_stops_the_run(maybe_client: Client | None):
    with pytest.raises(SurroundingsError, match="disk is full"):
        list(run_window(maybe_client, "t", _full_disk, [Task("a", (1,))]))


def test_a_task_that_kills_its_worker_fails_alone(client: Client):
    killer = list(run_window(client, "t", _kill_own_worker, [Task("a", (1,))], compute=ComputeSettings(attempts=1)))
    assert [o.error for o in killer] == ["worker_died"]
    client.wait_for_workers(2, timeout=30)
    others = list(run_window(client, "t", _square, [Task("b", (3,))]))
    assert others[0].value == 9


def test_the_only_worker_comes_back_however_often_it_dies():
    with connect("", ComputeSettings(n_workers=1)) as client:
        assert client is not None
        (nanny,) = client.cluster.workers.values()
        os.kill(nanny.pid, signal.SIGKILL)
        time.sleep(14.0)
        deadline = time.monotonic() + 3.0
        while time.monotonic() < deadline:  # Dask looks 15 s after a death, and gives up a worker that is away
            if nanny.pid:
                os.kill(nanny.pid, signal.SIGKILL)
            time.sleep(0.1)
        assert client.submit(_square, 3).result(timeout=60) == 9


def test_that_nobody_works_is_said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    monkeypatch.setattr("popclust.dataflow.workers.SAY_S", 3.0)
    with (
        LocalCluster(n_workers=0, processes=True, host="127.0.0.1", dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        threading.Timer(9.0, cluster.scale, [1]).start()
        assert [o.value for o in run_window(client, "s", _square, [Task("a", (3,))])] == [9]
    said = [r.getMessage() for r in caplog.records if r.name == "popclust.dataflow.workers"]
    assert len(said) >= 2 and said[0].startswith("s: no worker for 3 s; the run goes on as soon as one comes")


def test_the_window_bounds_what_is_in_flight(client: Client, tmp_path: Path):
    seen = []

    def tasks() -> Iterator[Task]:
        for i in range(40):
            seen.append(i)
            yield Task(str(i), (str(tmp_path), i))

    for n_done, _ in enumerate(
        run_window(client, "t", _in_flight, tasks(), compute=ComputeSettings(in_flight_per_thread=2)), 1
    ):
        assert len(seen) <= n_done + 4
    assert len(seen) == 40


def _key_and_value(x: int) -> tuple[str, Any]:
    return str(get_worker().get_current_task()), threading.Lock() if x == 250 else x


def test_short_tasks_go_together_and_a_call_that_fails_fails_for_one_alone(client: Client):
    tasks = [Task(str(i), (i,)) for i in range(600)]
    found = list(run_window(client, "t", _key_and_value, tasks, compute=ComputeSettings(in_flight_per_thread=4)))
    assert sorted(int(o.key) for o in found) == list(range(600))
    assert [(o.key, o.error, o.attempts) for o in found if o.error] == [("250", "TypeError", 2)]
    good = [o for o in found if not o.error]
    assert all(o.value[1] == int(o.key) and o.attempts <= 2 for o in good)
    assert len({o.value[0] for o in good}) < 500


def _naps(x: float) -> float:
    time.sleep(x)
    return x


def test_a_call_whose_tasks_turn_out_long_hands_back_the_rest():
    done = attempt_each(_naps, [(0.0,), (0.0,), (1.1,), (0.0,), (0.0,)])
    assert [o.value for o in done] == [0.0, 0.0, 1.1]
    assert [o.value for o in attempt_each(_naps, [(0.0,)] * 5)] == [0.0] * 5


def test_what_follows_a_task_goes_before_what_waits(maybe_client: Client | None):
    def follow(outcome: Outcome) -> Task | None:
        return None if outcome.stage else Task(outcome.key, (outcome.value,), "second")

    tasks = [Task(str(i), (i,)) for i in range(40)]
    compute = ComputeSettings(in_flight_per_thread=1)
    found = list(run_window(maybe_client, "t", _square, tasks, compute=compute, follow=follow))
    assert {o.key: o.value for o in found if not o.stage} == {str(i): i**2 for i in range(40)}
    assert {o.key: o.value for o in found if o.stage == "second"} == {str(i): i**4 for i in range(40)}
    first = [o.stage for o in found].index("second")
    assert first < 20


@pytest.mark.parametrize("address", ["tcp://10.0.0.1:8786", "10.0.0.1:8786", "tcp://scheduler:8786"])
def test_plain_tcp_beyond_loopback_is_refused(address: str):
    with pytest.raises(InputError, match="plain TCP"):
        refuse_plain_tcp(address, allowed=False)
    refuse_plain_tcp(address, allowed=True)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:8786", "localhost:8786", "tls://10.0.0.1:8786", "tcp://[::1]:1"])
def test_loopback_and_tls_are_taken(address: str):
    refuse_plain_tcp(address, allowed=False)


def test_no_scheduler_is_said_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(WORKER_CONFIG, "distributed.comm.timeouts.connect", "1s")
    with pytest.raises(SurroundingsError, match="no Dask scheduler"), connect("tcp://127.0.0.1:9"):
        pass
