"""deploy/'s Slurm script on a real Slurm: munge, a controller and one node, on this machine alone."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import slurm_here
from small_study import N_VOLUMES, digest, make_study

from popclust.dataflow.flow import Flow

DEPLOY = Path(__file__).parents[1] / "deploy"
WAIT_S = 5
"""Every task waits so long: some hundred of them keep two workers for four minutes at least on the fastest machine.
Jobs of two minutes do not last for it, and a task of a slow machine still fits into one."""


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_a_study_runs_from_no_job_on_and_on_when_jobs_end(finished: Flow, population: Path, tmp_path: Path):
    if lacking := slurm_here.missing():
        pytest.skip(lacking)
    pytest.importorskip("dask_jobqueue")
    study = make_study(tmp_path / "study", population)
    subprocess.run([DEPLOY / "make_tls.sh", tmp_path / "tls"], check=True)
    preload = {"distributed": {"worker": {"preload": [str(Path(__file__).with_name("hindered_worker.py"))]}}}
    (tmp_path / "tls" / "hinder.yaml").write_text(json.dumps(preload))
    (tmp_path / "slurm").mkdir()
    with slurm_here.slurm(tmp_path / "slurm") as environment:
        environment["POPCLUST_TEST_WAIT_S"] = str(WAIT_S)
        options = {"--tls": tmp_path / "tls", "--jobs": 2, "--walltime": "00:02:00", "--memory": "2GB"}
        options |= {"--partition": "short", "--log-directory": tmp_path / "logs", "--interface": "lo"}
        command = [sys.executable, DEPLOY / "slurm" / "run_on_slurm.py", study.url]
        command += [part for option in options.items() for part in option]
        start = {"env": environment, "stderr": subprocess.PIPE, "text": True, "cwd": tmp_path}
        jobs: dict[str, str] = {}
        with subprocess.Popen([str(c) for c in command], **start) as run:  # type: ignore[call-overload]
            while run.poll() is None:
                jobs |= slurm_here.jobs(environment)
                time.sleep(1.0)
            err = run.stderr.read()
        left = set(slurm_here.jobs(environment).values()) & {"PENDING", "RUNNING"}
    assert run.returncode == 0, err
    assert not left, "jobs stay behind"
    ended = [number for number, state in jobs.items() if state in ("COMPLETED", "TIMEOUT")]
    assert len(jobs) > 2 and ended, f"no job had to end: {jobs} {err}"
    assert len(study.names_done("encode")) >= N_VOLUMES - 2
    ours, theirs = digest(study), digest(finished.study)
    assert [name for name in theirs if ours.get(name) != theirs[name]] == []
