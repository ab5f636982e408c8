"""What a population's size costs the launcher and the scheduler: no-op leaves through the code of a real run.

    python benchmarks/scale.py --volumes 20000 200000 --json

`tasks_per_second` counts the launcher's processor time (with `wall_per_second` beside it), `driver_mb` and
`scheduler_mb` are the largest resident sizes of the launcher and of the scheduler while the tasks went through the
window, `finished_seconds` and `finished_mb` what it takes to find a study of that size finished, stage by stage.
Every size runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from distributed import Client
from driver import finished_seconds
from own_cluster import own_cluster

from popclust.dataflow.client import ONE_THREAD, WORKER_CONFIG
from popclust.dataflow.events import EventLog
from popclust.dataflow.perform import logged
from popclust.dataflow.window import Task, run_window
from popclust.dataflow.workers import Ticket
from popclust.parts import Done
from popclust.study import Study


def leaf(study: Study, stage: str, recipe: str, volume_id: str, marker: str) -> Done:
    """A task of a real run's shape and answer that does nothing."""
    return Done(marker, recipe, marker, True, "0" * 64, len(volume_id))


def through_the_window(n_volumes: int) -> dict[str, float]:
    """Send so many tasks through; their outcomes go to the log of events, as a run's do."""
    import dask

    os.environ |= {**ONE_THREAD, "DASK_DISTRIBUTED__WORKER__DAEMON": "False"}
    with (
        tempfile.TemporaryDirectory() as name,
        dask.config.set(WORKER_CONFIG),
        own_cluster() as cluster,
        Client(cluster) as client,
    ):
        study = Study.create(f"{name}/study")
        events = EventLog(study, "run")
        scheduler = psutil.Process(int(client.run_on_scheduler(os.getpid)))
        call = partial(logged, study, Ticket(study, compute=study.settings.compute), partial(leaf, study))
        largest = 0.0
        for number in (200, n_volumes):  # the first are to warm up
            tasks = (Task(f"v{i:016x}", ("ingest", "0" * 64, f"v{i:016x}", "0" * 64)) for i in range(number))
            cpu, wall = time.process_time(), time.perf_counter()
            for i, outcome in enumerate(run_window(client, "ingest", call, tasks)):
                if outcome.error:
                    raise RuntimeError(outcome.message)
                events.add("ingest", outcome)
                if i % 1000 == 0:
                    largest = max(largest, scheduler.memory_info().rss / 1e6)
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        driver_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    return {
        "tasks_per_second": round(n_volumes / cpu, 1),
        "wall_per_second": round(n_volumes / wall, 1),
        "driver_mb": round(driver_mb, 1),
        "scheduler_mb": round(largest, 1),
    }


def found_finished(n_volumes: int) -> dict[str, float]:
    """Seconds, and the largest memory, to find a study of so many volumes finished."""
    with tempfile.TemporaryDirectory() as name:
        seconds = finished_seconds(Path(name), n_volumes)
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    return {"finished_seconds": round(seconds, 2), "finished_mb": round(largest, 1)}


MEASURES = {"window": through_the_window, "finished": found_finished}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--volumes", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--one", choices=MEASURES, help="this measure alone, in this process")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(MEASURES[arguments.one](arguments.volumes[0])))
        return
    found: dict[str, list[Any]] = {"volumes": arguments.volumes}
    for n in arguments.volumes:
        for name in MEASURES:
            command = [sys.executable, __file__, "--one", name, "--volumes", str(n)]
            answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            for key, value in json.loads(answer.splitlines()[-1]).items():
                found.setdefault(key, []).append(value)
    print(json.dumps(found) if arguments.json else "\n".join(f"{k:<18} {v}" for k, v in found.items()))


if __name__ == "__main__":
    main()
