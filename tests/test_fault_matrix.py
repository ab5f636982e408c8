"""What goes wrong on a cluster of processes, at three stages each: the outcome as written, the bytes as ever."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from real_cluster import SILENT_S, Cluster, kill_group, until
from small_study import N_VOLUMES, copy_study, digest, make_study, set_setting

from popclust.dataflow.events import read_events
from popclust.dataflow.failure import BAD_INPUT, DONE, STOPPED
from popclust.dataflow.flow import Flow
from popclust.dataflow.progress import snapshot
from popclust.study import Study

STAGES = ("normalize", "extract", "repeat")
"""Parts of volumes, parts that follow them at once, and tasks over the population."""
WAIT_S = 2.0
KILLED = -signal.SIGKILL


@dataclass
class Scene:
    """A run at work, and what it works on."""

    cluster: Cluster
    study: Study
    run: subprocess.Popen[str]


def _worker_is_killed(scene: Scene) -> None:
    scene.cluster.processes(0)[0].kill()


def _worker_is_stopped(scene: Scene) -> None:
    scene.cluster.processes(0)[0].suspend()


def _host_of_a_worker_is_gone(scene: Scene) -> None:
    kill_group(scene.cluster.workers.pop(0))
    scene.cluster.start_workers(1)


def _walltime_is_over(scene: Scene) -> None:
    """As a batch system ends a job: first it asks, and a few seconds later it does not."""
    job = scene.cluster.workers.pop(0)
    os.killpg(job.pid, signal.SIGTERM)
    time.sleep(3)
    kill_group(job)
    scene.cluster.start_workers(1)


def _all_workers_go_and_come_back(scene: Scene) -> None:
    gone, scene.cluster.workers = scene.cluster.workers, []
    for worker in gone:
        kill_group(worker)
    time.sleep(10)
    scene.cluster.start_workers(len(gone))


def _worker_takes_too_much_memory(scene: Scene) -> None:
    scene.cluster.greedy.touch()
    until(lambda: not scene.cluster.greedy.exists(), said="nobody was greedy")


def _scheduler_is_killed(scene: Scene) -> None:
    kill_group(scene.cluster.scheduler)


def _scheduler_is_stopped(scene: Scene) -> None:
    os.kill(scene.cluster.scheduler.pid, signal.SIGSTOP)


def _scheduler_is_started_again(scene: Scene) -> None:
    kill_group(scene.cluster.scheduler)
    scene.cluster.start_scheduler()


def _cluster_is_started_anew(scene: Scene) -> None:
    scene.cluster.kill_all()


def _launcher_is_killed(scene: Scene) -> None:
    scene.run.kill()


def _launcher_is_told_to_end(scene: Scene) -> None:
    scene.run.terminate()


def _launcher_stands_still_and_is_overtaken(scene: Scene) -> None:
    """Its lease stays behind, and is taken over; when it goes on, it finds that it has lost the study."""
    scene.run.send_signal(signal.SIGSTOP)
    with scene.cluster.run(scene.study.url, "--until", "ingest") as second:
        assert second.wait(300) == DONE, second.stderr.read()
    scene.run.send_signal(signal.SIGCONT)


def _second_run_is_started(scene: Scene) -> None:
    with scene.cluster.run(scene.study.url) as second:
        assert second.wait(200) == BAD_INPUT
        assert "another run is at work" in " ".join(second.stderr.read().split())


def _disk_is_full(scene: Scene) -> None:
    with (Path(scene.study.url).parent / "filler").open("wb") as filler, pytest.raises(OSError, match="No space"):
        while True:
            filler.write(bytes(1 << 20))
            filler.flush()


def _disk_has_room(scene: Scene) -> None:
    (Path(scene.study.url).parent / "filler").unlink()


def _disk_turns_read_only(scene: Scene) -> None:
    disk = Path(scene.study.url).parent
    until(lambda: subprocess.run(["mount", "-o", "remount,ro", disk], capture_output=True).returncode == 0)


def _disk_is_writable(scene: Scene) -> None:
    subprocess.run(["mount", "-o", "remount,rw", Path(scene.study.url).parent], check=True)


@dataclass(frozen=True)
class Fault:
    """What goes wrong, and how the run ends."""

    act: Callable[[Scene], None]
    code: int = DONE
    mend: Callable[[Scene], None] = lambda scene: None
    on_a_disk: bool = False
    """Whether it needs a file system of its own."""


FAULTS = (
    Fault(_worker_is_killed),
    Fault(_worker_is_stopped),
    Fault(_host_of_a_worker_is_gone),
    Fault(_walltime_is_over),
    Fault(_all_workers_go_and_come_back),
    Fault(_worker_takes_too_much_memory),
    Fault(_scheduler_is_killed, STOPPED, _cluster_is_started_anew),
    Fault(_scheduler_is_stopped, STOPPED, _cluster_is_started_anew),
    Fault(_scheduler_is_started_again, STOPPED, _cluster_is_started_anew),
    Fault(_launcher_is_killed, KILLED),
    Fault(_launcher_is_told_to_end, STOPPED),
    Fault(_launcher_stands_still_and_is_overtaken, STOPPED),
    Fault(_second_run_is_started),
    Fault(_disk_is_full, STOPPED, _disk_has_room, on_a_disk=True),
    Fault(_disk_turns_read_only, STOPPED, _disk_is_writable, on_a_disk=True),
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("cluster") / "c", WAIT_S)
    try:
        yield made
    finally:
        made.kill_all()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300m", "tmpfs", folder], check=False).returncode:
        pytest.skip("this machine mounts no tmpfs")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.full
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("fault", FAULTS, ids=[f.act.__name__.strip("_") for f in FAULTS])
def test_the_outcome_is_as_written_and_the_bytes_as_ever(
    fault: Fault, finished: Flow, cluster: Cluster, tmp_path: Path, request: pytest.FixtureRequest
):
    folder = request.getfixturevalue("disk") if fault.on_a_disk else tmp_path
    study = set_setting(copy_study(finished.study, folder / "s"), "silent_s", f"{SILENT_S}.0")
    study = set_setting(study, "min_free_disk_mb", "0")
    for stage in STAGES:
        study.remove("markers", stage)
    cluster.make_whole()
    scene = Scene(cluster, study, cluster.run(study.url))
    try:
        for stage in STAGES:
            until(lambda stage=stage: _is_at_work(scene, stage), said=f"{stage} was never at work")
            fault.act(scene)
            if fault.code != DONE:
                _ends_with(scene.run, fault.code)
                fault.mend(scene)
                cluster.make_whole()
                scene.run = cluster.run(study.url)
        _ends_with(scene.run, DONE)
    finally:
        scene.run.kill()
        scene.run.communicate()
    ours, theirs = digest(study), digest(finished.study)
    assert [name for name in theirs if ours.get(name) != theirs[name]] == []


COARSE = {"n_resolutions": 2, "n_iterations": 30, "n_samples": 500, "grid_spacing_mm": 60.0}
LAX = {"min_ncc": -1.0, "max_failure_probability": 1.0, "min_lung_dice": 0.0, "transforms": "register"}


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_a_child_that_is_killed_or_stopped_costs_an_attempt(cluster: Cluster, population: Path, tmp_path: Path):
    sources = [str(p) for p in sorted((population / "DICOM").iterdir())[:3]]
    study = make_study(tmp_path / "s", population, ingest={"sources": sources}, normalize={**COARSE, **LAX})
    cluster.make_whole()
    with cluster.run(study.url, "--until", "normalize") as run:
        _ends_with(run, DONE)
    before, events = digest_of_registered(study), read_events(study)
    patience_s = 30 + 2 * float(events.loc[events["stage"] == "normalize", "seconds"].median())
    study = set_setting(study, "timeout_s", f"{patience_s:.1f}")
    for number in (signal.SIGKILL, signal.SIGSTOP):
        study.remove("markers", "normalize")
        idle_s = _seconds_of_child(cluster)
        with cluster.run(study.url, "--until", "normalize") as run:
            until(lambda idle_s=idle_s: _seconds_of_child(cluster) > idle_s + 1.0)
            cluster.processes(0)[1].send_signal(number)
            _ends_with(run, DONE)
        events = read_events(study)
        latest = events[events["run_id"] == events["run_id"].max()]
        assert latest["attempts"].max() == 2, "nobody had to try again"
        assert digest_of_registered(study) == before
    cluster.kill_all()


def _seconds_of_child(cluster: Cluster) -> float:
    return float(sum(child.cpu_times().user for child in cluster.processes(0)[1:2]))


def digest_of_registered(study: Study) -> dict[str, bytes]:
    """Bytes of what registration made."""
    folder = Path(study.path("normalized"))
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def _is_at_work(scene: Scene, stage: str) -> bool:
    """Some of the stage is done, not all; what follows at once is taken when its stage has its turn."""
    assert scene.run.poll() is None, f"the run is over: {scene.run.stderr.read()}"
    n_done = len(scene.study.names_done(stage))
    if stage == "normalize":
        return 1 <= n_done < N_VOLUMES
    if stage == "extract":
        return 4 <= n_done < N_VOLUMES
    return any(s["stage"] == stage and s["left"] and (s["steps"] or [0])[0] for s in snapshot(scene.study)["stages"])


def _ends_with(run: subprocess.Popen[str], code: int) -> None:
    _, err = run.communicate(timeout=900)
    assert run.returncode == code, err
    if code == STOPPED:
        (said,) = [line for line in err.splitlines() if line.startswith("stopped: ")]
        assert said.endswith("go on") or "go on" in said, said
    assert "Traceback" not in err, err
