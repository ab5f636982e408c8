"""Slurm on this machine alone, for as long as a test lasts: munge, a controller and one node, all in one folder."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROGRAMS = ("munged", "mungekey", "slurmctld", "slurmd", "sbatch", "squeue", "scancel")
CONFIGURATION = """
ClusterName=here
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
MpiDefault=none
KillWait=5
InactiveLimit=0
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=16000 State=UNKNOWN
PartitionName=short Nodes=ALL Default=YES MaxTime=60 State=UP OverSubscribe=NO
"""


def missing() -> str:
    """The first of Slurm's programs that is not here, or that it takes root; empty where all is well."""
    absent = [p for p in PROGRAMS if shutil.which(p, path=_path()) is None]
    return (
        f"{absent[0]} is missing (apt-get install slurm-wlm munge)"
        if absent
        else ""
        if os.geteuid() == 0
        else "no root"
    )


@contextmanager
def slurm(folder: Path) -> Iterator[dict[str, str]]:
    """Environment in which sbatch and squeue speak to a Slurm that lives below a folder."""
    munge = folder / "munge"
    for name in ("munge", "state", "spool"):
        (folder / name).mkdir(mode=0o700)
    environment = {**os.environ, "PATH": _path(), "SLURM_CONF": str(folder / "slurm.conf")}
    _call(["mungekey", "--create", f"--keyfile={munge}/key"], environment)
    text = CONFIGURATION.format(host=socket.gethostname().split(".")[0], folder=folder, ports=_free_ports(2))
    (folder / "slurm.conf").write_text(text)
    files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    daemons = (
        ["munged", "--foreground", "--force", *(f"--{option}={munge}/{name}" for option, name in files.items())],
        ["slurmctld", "-D"],
        ["slurmd", "-D"],
    )
    with ExitStack() as stack:
        for command in daemons:
            with (folder / f"{command[0]}.out").open("w") as out:
                process = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
            stack.callback(_end, process)
            time.sleep(1.0)
        deadline = time.monotonic() + 60
        while "idle" not in _call(["sinfo", "-h", "-o", "%t"], environment):
            if time.monotonic() > deadline:
                raise RuntimeError((folder / "slurmd.log").read_text() + (folder / "slurmctld.log").read_text())
            time.sleep(0.5)
        yield environment


def jobs(environment: dict[str, str]) -> dict[str, str]:
    """State of every job, those that ended lately among them."""
    listed = _call(["squeue", "-h", "-t", "all", "-o", "%i %T"], environment)
    return dict(line.split() for line in listed.splitlines())


def _call(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    return done.stdout


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _path() -> str:
    return f"{os.environ['PATH']}{os.pathsep}/usr/sbin{os.pathsep}/sbin"


def _free_ports(n: int) -> list[int]:
    probes = [socket.socket() for _ in range(n)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports
