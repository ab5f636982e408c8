"""A process that has a study's lease and goes through a stage, until it is killed or told to end."""

from __future__ import annotations

import sys

from rich.console import Console

from popclust.dataflow import lease
from popclust.dataflow.lease import hold
from popclust.dataflow.progress import Progress
from popclust.dataflow.quarantine import Quarantine
from popclust.dataflow.window import Outcome
from popclust.study import Study


def run(url: str, run_id: str) -> None:
    """Make one part of ten, keep one out, say so, and wait for a line."""
    study = Study.open(url)
    lease.BEAT_S = 0.2
    with hold(study), Progress(study, run_id, Console(quiet=True)) as progress:
        progress.start("normalize", 10, 0)
        progress.advance(Outcome("v1"))
        failed = Outcome("v2", error="flat", message="no lung in <b>this</b> volume")
        progress.advance(failed)
        Quarantine.open(study).add("normalize", failed, "00")
        print("at work", flush=True)
        sys.stdin.readline()


if __name__ == "__main__":
    run(*sys.argv[1:3])
