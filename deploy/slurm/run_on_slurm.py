"""Run a study on Slurm: workers are jobs that come when there is work and go when there is none.

    deploy/make_tls.sh ~/popclust-tls                             # once
    python deploy/slurm/run_on_slurm.py STUDY --tls ~/popclust-tls --jobs 20 --partition short --walltime 04:00:00

Runs where `sbatch` does: on a login node, or itself as a small job. The scheduler lives in this process; every port is
behind TLS or on loopback. A worker leaves in good order before its walltime, staggered so that not all leave at once,
and the next job takes over. A task that a job's end has cut short is done again by another. Exit codes are those of
`popclust run`: 0 all done; 1 some volumes are in quarantine; 2 bad input or settings; 3 run again to go on.

Needs dask-jobqueue (`pip install 'popclust[slurm]'`).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dask
from dask_jobqueue import SLURMCluster
from distributed.security import Security

from popclust.dataflow.client import WORKER_CONFIG, connect
from popclust.dataflow.failure import DONE, QUARANTINED, exit_code, log_folder_of, plain_console
from popclust.dataflow.pipeline import run
from popclust.errors import InputError
from popclust.study import Study

LEAVE_EARLY_S = 120
"""A worker leaves at least so long before its job's end (a quarter of it, if that is less)."""

GONE_S = 30
"""A worker that left and was not started again by its nanny for so long is gone: another job may take its place."""


def main() -> int:
    """Run the study; returns the exit code."""
    arguments = _arguments()
    console = plain_console()

    def work() -> int:
        study = Study.open(arguments.study)
        with _cluster(arguments) as address, connect(address, study.settings.compute) as client:
            flow = run(study, client, until=arguments.until, console=console)
        return QUARANTINED if flow.n_quarantined else DONE

    return exit_code(work, console, log_folder=lambda: log_folder_of(arguments.study))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study")
    parser.add_argument("--tls", required=True, help="folder of deploy/make_tls.sh, on a disk that the nodes see")
    parser.add_argument("--jobs", type=int, default=10, help="jobs at most (default: %(default)s)")
    parser.add_argument("--workers-per-job", type=int, default=1, help="each has one core (default: %(default)s)")
    parser.add_argument("--memory", default="4GB", help="of a worker (default: %(default)s)")
    parser.add_argument("--walltime", default="04:00:00", help="of a job, [D-]HH:MM:SS (default: %(default)s)")
    parser.add_argument("--partition", default=None)
    parser.add_argument("--account", default=None)
    parser.add_argument("--directive", action="append", default=[], help="further #SBATCH line, e.g. --qos=long")
    parser.add_argument("--interface", default=None, help="network interface that the nodes reach, e.g. ib0")
    parser.add_argument("--log-directory", default=str(Path.home() / "popclust-slurm"), help="default: %(default)s")
    parser.add_argument("--until", default="", help="end after this stage")
    return parser.parse_args()


@contextmanager
def _cluster(arguments: argparse.Namespace) -> Iterator[str]:
    """The address of a scheduler that starts jobs as there is work, and ends them."""
    folder = Path(arguments.tls).expanduser().absolute()
    if not (folder / "tls" / "node.pem").is_file():
        raise InputError(f"{folder}: no certificates here; `deploy/make_tls.sh {folder}` makes them")
    seconds = _seconds(arguments.walltime)
    stagger = seconds // 10  # Dask draws from lifetime - stagger to lifetime + stagger
    lifetime = seconds - min(LEAVE_EARLY_S, seconds // 4) - stagger
    n, amount = arguments.workers_per_job, dask.utils.parse_bytes(arguments.memory)
    dask.config.update(dask.config.config, dask.config.collect([str(folder)]))
    with (
        dask.config.set({**WORKER_CONFIG, "distributed.deploy.lost-worker-timeout": f"{GONE_S}s"}),
        SLURMCluster(
            cores=n,
            processes=n,
            memory=amount * n,
            walltime=arguments.walltime,
            queue=arguments.partition,
            account=arguments.account,
            interface=arguments.interface,
            protocol="tls://",
            security=Security(),
            local_directory=os.environ.get("POPCLUST_SCRATCH"),
            log_directory=arguments.log_directory,
            job_extra_directives=arguments.directive,
            job_script_prologue=[f"export DASK_CONFIG={folder}"],
            worker_extra_args=[
                *("--dashboard-address", "127.0.0.1:0"),  # health and metrics are plain HTTP even under TLS
                *("--lifetime", f"{lifetime}s", "--lifetime-stagger", f"{stagger}s"),
            ],
            scheduler_options={"dashboard_address": "127.0.0.1:0"},
            python=sys.executable,
        ) as cluster,
    ):
        # a job that waits between two stages is kept for two minutes: the next may queue for longer
        cluster.adapt(minimum_jobs=0, maximum_jobs=arguments.jobs, interval="5s", wait_count=24)
        yield cluster.scheduler_address


def _seconds(walltime: str) -> int:
    """Seconds of a walltime as Slurm writes it.

    >>> _seconds("1-02:00:00"), _seconds("00:05:00")
    (93600, 300)
    """
    days, _, clock = walltime.rpartition("-")
    parts = clock.split(":")
    if len(parts) != 3 or not all(p.isdigit() for p in (*parts, *([days] if days else []))):
        raise InputError(f"--walltime {walltime}: wanted [D-]HH:MM:SS")
    hours, minutes, seconds = map(int, parts)
    return int(days or 0) * 86400 + hours * 3600 + minutes * 60 + seconds


if __name__ == "__main__":
    sys.exit(main())
