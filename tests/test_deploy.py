"""The launch script and the cluster script, as a data engineer would use them."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from popclust.dataflow.flow import Flow

ROOT = Path(__file__).parents[1]


def test_the_launch_script_runs_a_study(finished: Flow, tmp_path: Path):
    shutil.copytree(finished.study.url, tmp_path / "s")
    shutil.copytree(f"{finished.study.url}.secret", tmp_path / "s.secret")
    command = [sys.executable, str(ROOT / "deploy" / "run_study.py"), str(tmp_path / "s"), "--scheduler", "serial"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    missing = subprocess.run([*command[:2], str(tmp_path / "none")], capture_output=True, text=True, check=False)
    assert missing.returncode == 2
    assert "no study here" in missing.stderr


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates; it is missing")
def test_a_cluster_with_tls_runs_a_study_and_plain_clients_stay_out(finished: Flow, tmp_path: Path):
    shutil.copytree(finished.study.url, tmp_path / "s")
    shutil.copytree(f"{finished.study.url}.secret", tmp_path / "s.secret")
    shutil.rmtree(tmp_path / "s" / "markers" / "encode")
    port, folder = _free_port(), tmp_path / "cluster"
    environment = {**os.environ, "POPCLUST_SCHEDULER_PORT": str(port), "PATH": _path()}
    script = ["bash", str(ROOT / "deploy" / "start_cluster.sh"), str(folder), "2"]
    cluster = subprocess.Popen(script, env=environment, start_new_session=True, stdout=subprocess.DEVNULL)
    try:
        _wait_for(port)
        assert (folder / "tls" / "key.pem").stat().st_mode & 0o077 == 0
        run = [sys.executable, "-m", "popclust", "run", str(tmp_path / "s")]
        tls = {**environment, "DASK_CONFIG": str(folder)}
        done = subprocess.run(run, env=tls, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        plain = {**environment, "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "3s"}
        refused = subprocess.run([*run, "--scheduler", f"tcp://127.0.0.1:{port}"], env=plain, timeout=120, check=False)
        assert refused.returncode == 3
    finally:
        os.killpg(cluster.pid, signal.SIGTERM)
        cluster.wait(60)


def _path() -> str:
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    pytest.fail("the cluster did not start within a minute")
