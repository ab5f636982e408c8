"""deploy/'s Slurm script on a real Slurm: munge, a controller and one node, on this machine alone."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import slurm_here
from small_study import N_VOLUMES, digest, make_study

from popclust.dataflow.flow import Flow

DEPLOY = Path(__file__).parents[1] / "deploy"


@pytest.mark.full
def test_a_study_runs_from_no_job_on_and_on_when_jobs_end(finished: Flow, population: Path, tmp_path: Path):
    if lacking := slurm_here.missing():
        pytest.skip(lacking)
    pytest.importorskip("dask_jobqueue")
    study = make_study(tmp_path / "study", population)
    subprocess.run([DEPLOY / "make_tls.sh", tmp_path / "tls"], check=True)
    (tmp_path / "slurm").mkdir()
    with slurm_here.slurm(tmp_path / "slurm") as environment:
        options = {"--tls": tmp_path / "tls", "--jobs": 2, "--walltime": "00:01:00", "--memory": "2GB"}
        options |= {"--partition": "short", "--log-directory": tmp_path / "logs", "--interface": "lo"}
        command = [sys.executable, DEPLOY / "slurm" / "run_on_slurm.py", study.url]
        command += [part for option in options.items() for part in option]
        start = {"env": environment, "stderr": subprocess.PIPE, "text": True, "cwd": tmp_path}
        jobs: set[str] = set()
        with subprocess.Popen([str(c) for c in command], **start) as run:  # type: ignore[call-overload]
            while run.poll() is None:
                queue = ["squeue", "-h", "-o", "%i"]
                jobs |= set(subprocess.run(queue, env=environment, capture_output=True, text=True).stdout.split())
                time.sleep(1.0)
            err = run.stderr.read()
        left = subprocess.run(["squeue", "-h"], env=environment, capture_output=True, text=True, check=True).stdout
    assert run.returncode == 0, err
    assert left == "" or " CG " in left, "jobs stay behind"
    assert len(jobs) > 2, f"no job had to end: {err}"
    assert len(study.names_done("encode")) >= N_VOLUMES - 2
    ours, theirs = digest(study), digest(finished.study)
    assert [name for name in theirs if ours.get(name) != theirs[name]] == []
