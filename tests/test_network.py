"""A worker on a host of its own, whose network is cut while it works: two network namespaces, and TLS between them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from small_study import N_VOLUMES, copy_study, digest, set_setting
from test_deploy import DEPLOY, _free_port, _path, _wait_for

from popclust.dataflow.flow import Flow

HERE, THERE = "10.213.77.1", "10.213.77.2"
CUT_S = 30


@pytest.fixture
def far() -> Iterator[tuple[str, str]]:
    """The name of a namespace that is another host, and the device here that leads to it."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("a network namespace wants root and iproute2")
    name, near, end = (f"{word}{os.getpid()}" for word in ("far", "pn", "pf"))
    steps = [
        f"netns add {name}", f"link add {near} type veth peer name {end}", f"link set {end} netns {name}",
        f"addr add {HERE}/30 dev {near}", f"link set {near} up", f"-n {name} addr add {THERE}/30 dev {end}",
        f"-n {name} link set {end} up", f"-n {name} link set lo up",
    ]  # fmt: skip
    try:
        for step in steps:
            done = subprocess.run(["ip", *step.split()], capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"no network namespaces here: {done.stderr.strip()}")
        yield name, near
    finally:
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


@pytest.mark.full
@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates; it is missing")
def test_a_cut_network_costs_time_and_nothing_else(finished: Flow, far: tuple[str, str], tmp_path: Path):
    name, near = far
    study = set_setting(copy_study(finished.study, tmp_path / "s"), "silent_s", "10.0")
    for stage in ("extract", "encode"):
        study.remove("markers", stage)
    port, folder = _free_port(), tmp_path / "cluster"
    environment = {**os.environ, "POPCLUST_SCHEDULER_PORT": str(port), "PATH": _path(), "DASK_CONFIG": str(folder)}
    alone = {"env": environment, "start_new_session": True}
    cluster = subprocess.Popen(["bash", str(DEPLOY / "start_cluster.sh"), str(folder), "1", HERE], **alone)
    worker = None
    try:
        _wait_for(HERE, port)
        ways = ["--host", THERE, "--nthreads", "1", "--dashboard-address", "127.0.0.1:0", "--local-directory"]
        command = ["ip", "netns", "exec", name, "dask", "worker", f"tls://{HERE}:{port}", *ways, str(tmp_path / "far")]
        worker = subprocess.Popen(command, **alone)
        _until(lambda: sum(c.raddr[:1] == (THERE,) for c in psutil.net_connections("tcp")) >= 2)  # nanny and worker
        run = subprocess.Popen([sys.executable, "-m", "popclust", "run", study.url], env=environment)
        _until(lambda: len(study.names_done("extract")) >= 1)
        subprocess.run(["ip", "link", "set", near, "down"], check=True)
        at_work = len(study.names_done("extract")) < N_VOLUMES
        time.sleep(CUT_S)
        subprocess.run(["ip", "link", "set", near, "up"], check=True)
        assert run.wait(400) == 0
    finally:
        for process in (worker, cluster):
            if process is not None:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait(60)
    assert at_work, "the network was cut too late"
    assert digest(study) == digest(finished.study)


def _until(is_so) -> None:
    deadline = time.monotonic() + 200
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)
