"""The launch script and the cluster script, as a data engineer would use them."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import psutil
import pytest
import yaml
from small_study import copy_study, set_setting

from popclust.dataflow.flow import Flow

DEPLOY = Path(__file__).parents[1] / "deploy"
DATA = Path(__file__).parent / "data"


def test_the_launch_script_runs_a_study(finished: Flow, tmp_path: Path):
    shutil.copytree(finished.study.url, tmp_path / "s")
    shutil.copytree(f"{finished.study.url}.secret", tmp_path / "s.secret")
    command = [sys.executable, str(DEPLOY / "run_study.py"), str(tmp_path / "s"), "--scheduler", "serial"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    missing = subprocess.run([*command[:2], str(tmp_path / "none")], capture_output=True, text=True, check=False)
    assert missing.returncode == 2
    assert "no study here" in missing.stderr


needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="openssl makes the certificates; it is missing"
)


@needs_openssl
def test_a_cluster_with_tls_runs_a_study_and_plain_clients_stay_out(finished: Flow, tmp_path: Path):
    study = set_setting(copy_study(finished.study, tmp_path / "s"), "allow_plain_tcp", "true")
    study.remove("markers", "encode")
    host, port, folder = _own_address(), _free_port(), tmp_path / "cluster"
    environment = {**os.environ, "POPCLUST_SCHEDULER_PORT": str(port), "PATH": _path()}
    script = ["bash", str(DEPLOY / "start_cluster.sh"), str(folder), "2", host]
    cluster = subprocess.Popen(script, env=environment, start_new_session=True, stdout=subprocess.DEVNULL)
    try:
        _wait_for(host, port)
        assert (folder / "tls" / "key.pem").stat().st_mode & 0o077 == 0
        run = [sys.executable, "-m", "popclust", "run", study.url]
        tls = {**environment, "DASK_CONFIG": str(folder)}
        done = subprocess.run(run, env=tls, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        _no_plaintext_off_loopback(cluster.pid)
        plain = {**environment, "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "3s"}
        refused = subprocess.run([*run, "--scheduler", f"tcp://{host}:{port}"], env=plain, timeout=120, check=False)
        assert refused.returncode == 3
    finally:
        os.killpg(cluster.pid, signal.SIGTERM)
        cluster.wait(60)


def _no_plaintext_off_loopback(pid: int) -> None:
    """Every port of a process and its children: on loopback, or no answer without TLS."""
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    ports = {c.laddr for p in family for c in p.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    assert len(ports) >= 5  # scheduler and two workers, their nannies
    for ip, port in sorted(ports):
        if ip.startswith("127."):
            continue
        assert ip == _own_address(), f"{ip}:{port} listens on every interface"
        with socket.create_connection((ip, port), timeout=10) as plain:
            try:
                plain.sendall(b"GET / HTTP/1.0\r\n\r\n")
                answer = plain.recv(64)
            except ConnectionResetError:  # hung up on
                continue
        # what a TLS server says to plaintext is an alert record, or nothing
        assert answer == b"" or answer[0] == 0x15, f"{ip}:{port} answers in plaintext"


@needs_openssl
def test_the_key_that_signs_stays_nowhere(tmp_path: Path):
    subprocess.run([DEPLOY / "make_tls.sh", tmp_path / "c"], check=True, timeout=60)
    made = sorted(p.relative_to(tmp_path / "c").as_posix() for p in (tmp_path / "c").rglob("*") if p.is_file())
    assert made == ["dask.yaml", "tls/ca.pem", "tls/key.pem", "tls/node.pem"]
    assert {p.stat().st_mode & 0o077 for p in (tmp_path / "c").rglob("*")} == {0}
    names = ("ca.pem", "node.pem")
    verify = ["openssl", "verify", "-CAfile", *(str(tmp_path / "c" / "tls" / n) for n in names)]
    assert subprocess.run(verify, capture_output=True, check=False).returncode == 0
    public = {n: _public_key(tmp_path / "c" / "tls" / n) for n in names}
    own = ["openssl", "pkey", "-pubout", "-in", str(tmp_path / "c" / "tls" / "key.pem")]
    assert subprocess.run(own, capture_output=True, check=True).stdout == public["node.pem"] != public["ca.pem"]
    before = (tmp_path / "c" / "tls" / "key.pem").read_bytes()
    subprocess.run([DEPLOY / "make_tls.sh", tmp_path / "c"], check=True, timeout=60)
    assert (tmp_path / "c" / "tls" / "key.pem").read_bytes() == before


def _public_key(certificate: Path) -> bytes:
    command = ["openssl", "x509", "-pubkey", "-noout", "-in", str(certificate)]
    return subprocess.run(command, capture_output=True, check=True).stdout


# -- what cannot run here is held against its schema -----------------------------------------------------------------


def _operator() -> dict[str, Any]:
    """Schemas of the Dask operator's DaskCluster and DaskJob, and the names of its chart's values."""
    return dict(json.loads(gzip.decompress((DATA / "dask_operator_schemas.json.gz").read_bytes())))


def _strict(schema: Any) -> Any:
    """A schema that refuses fields it does not name: a cluster would drop them in silence."""
    if isinstance(schema, dict):
        out = {k: _strict(v) for k, v in schema.items()}
        if "properties" in out and not out.get("x-kubernetes-preserve-unknown-fields"):
            out.setdefault("additionalProperties", False)
        return out
    return [_strict(v) for v in schema] if isinstance(schema, list) else schema


@pytest.mark.parametrize("kind", ["daskcluster", "daskjob"])
def test_kubernetes_would_take_the_manifest(kind: str):
    schema = _strict(_operator()[kind])
    manifest = yaml.safe_load((DEPLOY / "kubernetes" / f"{kind}.yaml").read_text())
    schema["properties"].update(apiVersion={"const": "kubernetes.dask.org/v1"}, metadata={"type": "object"}, kind={})
    errors = [
        f"{'/'.join(map(str, e.absolute_path))}: {e.message}"
        for e in jsonschema.Draft7Validator(schema).iter_errors(manifest)
    ]
    assert errors == []
    spoilt = yaml.safe_load((DEPLOY / "kubernetes" / f"{kind}.yaml").read_text())
    cluster = spoilt["spec"]["cluster"]["spec"] if kind == "daskjob" else spoilt["spec"]
    cluster["worker"]["spec"]["containers"][0]["argz"] = []
    assert not jsonschema.Draft7Validator(schema).is_valid(spoilt)


def test_the_operator_s_values_are_ones_its_chart_has():
    known = _operator()["values"]
    ours = yaml.safe_load((DEPLOY / "kubernetes" / "values.yaml").read_text())
    assert set(ours) <= set(known)
    for name, value in ours.items():
        if isinstance(value, dict) and known[name]:
            assert set(value) <= set(known[name]), name


@pytest.mark.parametrize("unit", ["popclust-scheduler.service", "popclust-worker@.service"])
def test_systemd_would_take_the_unit(unit: str, tmp_path: Path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is missing")
    text = (DEPLOY / "systemd" / unit).read_text().replace("/opt/popclust/bin/dask", "/bin/true")
    file = tmp_path / unit.replace("@", "@1")
    file.write_text(text)
    done = subprocess.run(["systemd-analyze", "verify", file], capture_output=True, text=True, check=False)
    ours = [line for line in done.stderr.splitlines() if "popclust" in line]
    assert ours == []
    file.write_text(text.replace("Restart=always", "Restart=forever"))
    done = subprocess.run(["systemd-analyze", "verify", file], capture_output=True, text=True, check=False)
    assert "forever" in done.stderr


def test_every_http_port_of_deploy_is_on_loopback():
    """Dashboards, health and metrics are plain HTTP: whatever starts a scheduler or a worker says where they listen."""
    n_starts = 0
    for file in sorted(DEPLOY.rglob("*")):
        if file.suffix not in (".sh", ".yaml", ".service", ".py"):
            continue
        text = "\n".join(line for line in file.read_text().splitlines() if not line.lstrip().startswith("#"))
        for start in re.finditer(r"\bdask,? (scheduler|worker)\b|worker_extra_args=|scheduler_options=", text):
            n_starts += 1
            given = text[start.start() : start.start() + 250]
            assert re.search(r"dashboard[-_]address\W+127\.0\.0\.1:", given), f"{file.name}: {given[:60]}"
    assert n_starts >= 10


def _path() -> str:
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _own_address() -> str:
    """This machine's address for others; loopback where it has none."""
    for addresses in psutil.net_if_addrs().values():
        for one in addresses:
            if one.family == socket.AF_INET and not one.address.startswith("127."):
                return one.address
    return "127.0.0.1"


def _wait_for(host: str, port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex((host, port)) == 0:
                return
        time.sleep(0.2)
    pytest.fail("the cluster did not start within a minute")
