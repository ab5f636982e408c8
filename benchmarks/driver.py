"""What the process that drives a run costs: submitting, scanning, finding a study finished, keeping volumes out.

    python benchmarks/driver.py [--files 200000] [--volumes 20000] [--failures 5000] [--tasks 2000] --json

Nothing is computed in the tasks: what is timed is the driver's own work, through the code of a real run. CPU seconds
are those of the driving process; the scheduler and the workers are processes of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
from distributed import Client
from driver_scan import measure
from own_cluster import own_cluster

from popclust.dataflow.client import ONE_THREAD
from popclust.dataflow.inputs import HandedIn
from popclust.dataflow.quarantine import Quarantine
from popclust.dataflow.stages import stage_named
from popclust.dataflow.state import State
from popclust.dataflow.window import Outcome, Task, run_window
from popclust.parts import Done, dump_done, marker_of, recipe_digest
from popclust.study import Study

VOLUME_STAGES = ("ingest", "normalize", "extract", "encode")


def trivial(study: Study, stage: str, recipe: str, volume_id: str, marker: str) -> int:
    """A task of a real run's shape that does nothing."""
    return len(volume_id)


def ms_per_task(study: Study, n_tasks: int) -> dict[str, float]:
    """CPU milliseconds of the driver for one task of ingest, from its submission to its outcome."""
    os.environ |= ONE_THREAD
    with (
        own_cluster() as cluster,
        Client(cluster) as client,
    ):
        call = partial(trivial, study, "ingest", "0" * 64)
        for number in (50, n_tasks):  # the first are to warm up
            tasks = (Task(f"v{i:016x}", (f"v{i:016x}", "0" * 64)) for i in range(number))
            cpu, wall = time.process_time(), time.perf_counter()
            outcomes = list(run_window(client, "ingest", call, tasks))
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            if any(o.error for o in outcomes):
                raise RuntimeError(outcomes[0].message)
    return {"ms_per_task": 1e3 * cpu / n_tasks, "tasks_per_second": n_tasks / wall}


def finished_seconds(folder: Path, n_volumes: int) -> float:
    """Seconds to find that a study of so many volumes, with trivial parts, has nothing to do for any of them."""
    study = Study.create(str(folder / "finished"))
    ids = [f"v{i:016x}" for i in range(n_volumes)]
    needs = {v: ["read"] for v in ids}
    for name in VOLUME_STAGES:
        _publish_trivially(study, name, ids)
    started = time.perf_counter()
    state = State(study, Quarantine.open(study), HandedIn(study, bytes(32)))
    for name in VOLUME_STAGES:
        stage = stage_named(name)
        due = state.survey(type(stage)(**{**vars(stage), "needs": lambda _: needs, "unmakeable": None}))
        if due.todo:
            raise RuntimeError(f"{name}: {len(due.todo)} parts to do, {next(iter(due.todo.items()))}")
        state.settle(due, {})
    return time.perf_counter() - started


def _publish_trivially(study: Study, name: str, ids: list[str]) -> None:
    """What `publish` leaves, without waiting for the disk at every part."""
    stage = stage_named(name)
    recipe = study.write_recipe(stage.recipe(study.settings))
    marker = marker_of(recipe_digest(stage.recipe(study.settings)), ["read"])
    data = dump_done(Done(marker, recipe, marker, True, "0" * 64, 1))
    markers = Path(study.path("markers", name))
    markers.mkdir(parents=True)
    for volume_id in ids:
        (markers / f"{volume_id}.json").write_bytes(data)
    for file in stage.files:
        folder = Path(study.path(file)).parent
        folder.mkdir(parents=True, exist_ok=True)
        for volume_id in ids:
            (folder / Path(file).name.format(volume_id=volume_id)).touch()


def quarantine_exponent(folder: Path, n_failures: int) -> dict[str, float]:
    """How the time for n failures grows with n (1: every one costs the same), and milliseconds for one."""
    sizes = [n_failures // 4, n_failures // 2, n_failures]
    seconds = []
    for size in sizes:
        quarantine = Quarantine.open(Study.create(str(folder / f"kept-out-{size}")))
        started = time.perf_counter()
        for i in range(size):
            quarantine.add("ingest", Outcome(f"v{i:016x}", None, "unreadable_pixels", "one image is cut"), "0" * 64)
        quarantine.write()
        seconds.append(time.perf_counter() - started)
    exponent = float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])
    return {"quarantine_exponent": exponent, "quarantine_ms": 1e3 * seconds[-1] / sizes[-1]}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=200_000)
    parser.add_argument("--volumes", type=int, default=20_000)
    parser.add_argument("--failures", type=int, default=5_000)
    parser.add_argument("--tasks", type=int, default=2_000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = {
            **ms_per_task(Study.create(str(folder / "study")), arguments.tasks),
            **measure(arguments.files, folder),
            "finished_seconds": finished_seconds(folder, arguments.volumes),
            **quarantine_exponent(folder, arguments.failures),
        }
    found = {k: round(v, 3) for k, v in found.items() if isinstance(v, int | float)}
    print(json.dumps(found) if arguments.json else "\n".join(f"{k:<24} {v}" for k, v in found.items()))


if __name__ == "__main__":
    main()
