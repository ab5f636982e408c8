"""The log of events, the page that is drawn from it, and what it foretells of a larger population."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from popclust import commands
from popclust.cli import main
from popclust.dataflow import events as log
from popclust.dataflow.estimate import WINDOW_PER_S, estimate
from popclust.dataflow.events import DRIVER, EventLog, read_events, runs_with_events
from popclust.dataflow.flow import Flow
from popclust.dataflow.stages import ORDER
from popclust.dataflow.usage import Meter, Usage, note_child
from popclust.dataflow.window import Outcome, attempt
from popclust.errors import InputError, VolumeError
from popclust.parts import WHOLE, Made
from popclust.presentation.performance import busy_workers, measure, overlapped, page
from popclust.study import Study

EVENTS = pd.DataFrame(
    [
        ("r", "normalize", "a", 10.0, 10.0, 9.0, 900.0, "w1", 1, ""),
        ("r", "normalize", "b", 20.0, 10.0, 9.0, 800.0, "w1", 1, ""),
        ("r", "normalize", "c", 16.0, 16.0, 15.0, 950.0, "w2", 2, "timeout"),
        ("r", "topics", WHOLE, 30.0, 8.0, 8.0, 500.0, "w1", 1, ""),
        ("r", "topics", WHOLE, 31.0, 10.0, 1.0, 0.0, DRIVER, 1, ""),
    ],
    columns=["run_id", *log.COLUMNS],
)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study.create(str(tmp_path / "s"))


def test_a_meter_sees_time_and_the_high_water_of_memory():
    meter = Meter()
    filled = np.ones(40_000_000)
    filled_mb = filled.nbytes / 1e6
    del filled
    note_child(50.0)
    note_child(70.0)
    note_child(30.0)
    usage = meter.read()
    again = Meter().read()
    assert usage.seconds > 0 and usage.worker == again.worker != ""
    if usage.peak_mb > 70.0:  # where the system tells
        assert usage.peak_mb > again.peak_mb + 0.9 * filled_mb + 70.0


def _no_lung() -> None:
    raise VolumeError("no_lung", "no lung is seen")


def test_an_attempt_is_measured_however_it_ends():
    for outcome in (attempt(len, "abc"), attempt(_no_lung)):
        assert outcome.usage is not None and outcome.usage.worker


def test_events_come_back_as_they_were_written(study: Study, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(log, "_FLUSH_LINES", 2)
    for run_id in ("run1", "run2"):
        events = EventLog(study, run_id)
        for part in "abc":
            events.add("extract", Outcome(part, usage=Usage("w1", 2.5, 2.0, 100.0)))
        events.add("extract", Outcome("d", error="no_lung", message="PRIVATE", attempts=2))
        events.flush()
        events.flush()
    assert runs_with_events(study) == ["run1", "run2"]
    found = read_events(study, "run2")
    assert found[["part", "seconds", "attempts", "error"]].to_numpy().tolist() == [
        *([p, 2.5, 1, ""] for p in "abc"),
        ["d", 0.0, 2, "no_lung"],
    ]
    assert len(read_events(study)) == 8
    assert b"PRIVATE" not in study.read_bytes("runs", "run2.events.00001.jsonl")
    with pytest.raises(InputError, match=r"no events of run run3; runs with events: run1, run2"):
        read_events(study, "run3")


def test_what_workers_did_is_summed_up():
    found = measure(EVENTS, DRIVER)
    assert (found.n_workers, found.wall_s) == (2, 31.0)
    assert found.utilisation == pytest.approx((10 + 10 + 16 + 8) / (30 + 16))
    assert found.idle_s == pytest.approx(2.0)
    stage = found.stages.loc["normalize"]
    assert (stage["n"], stage["n_failed"], stage["core_seconds"], stage["peak_mb"]) == (3, 1, 36.0, 950.0)
    assert stage["utilisation"] == pytest.approx(36 / 40)
    assert found.stages.loc["topics", "driver_s"] == 10.0
    assert found.longest["part"].tolist()[0] == "c"


def test_volumes_that_go_on_leave_no_worker_idle():
    assert np.isnan(measure(EVENTS, DRIVER).overlapped)  # nothing was extracted
    tasks = pd.DataFrame(
        [
            ("atlas", 5.0, 9.0, "w1"),  # its last second lies within
            ("normalize", 14.0, 10.0, "w2"),
            ("normalize", 10.0, 5.0, "w1"),
            ("extract", 16.0, 2.0, "w1"),
            ("vocabulary", 20.0, 4.0, "w3"),  # begins when all is over
        ],
        columns=["stage", "ended_s", "seconds", "worker"],
    )
    assert overlapped(tasks) == pytest.approx((1 + 10 + 5 + 2) / (2 * 12))


def test_busy_workers_are_those_between_two_moments():
    rng = np.random.default_rng(5)
    tasks = pd.DataFrame({"ended_s": rng.uniform(5, 50, 40), "seconds": rng.uniform(0, 5, 40)})
    edges = np.array([0.0, 3.0, 10.0, 30.0, 60.0])
    moments = np.linspace(0, 60, 600_001)[:-1]
    at_work = sum(
        ((moments >= t.ended_s - t.seconds) & (moments < t.ended_s)).astype(float) for t in tasks.itertuples()
    )
    wanted = [at_work[(moments >= a) & (moments < b)].mean() for a, b in pairwise(edges)]
    assert busy_workers(tasks, edges) == pytest.approx(wanted, abs=1e-3)


def test_the_page_is_whole_in_itself_and_always_the_same():
    html = page(EVENTS, "<run>", DRIVER)
    assert html == page(EVENTS, "<run>", DRIVER)
    assert b"<svg" in html and b"&lt;run&gt;" in html and b"src=" not in html and b'="https' not in html
    assert b"2 workers, 31 s; while they were there, 96% of their time went into tasks" in html


def _measured(study: Study) -> Study:
    for stage, n in (("ingest", 4), ("normalize", 4), ("extract", 3)):
        for i in range(n):
            study.publish(stage, "m", Made({}), f"v{i}")
    study.publish("topics", "m", Made({}))
    events = EventLog(study, "run")
    for i in range(4):
        events.add("ingest", Outcome(f"v{i}", usage=Usage("w1", 1.0, 1.0, 300.0)))
        events.add("normalize", Outcome(f"v{i}", usage=Usage("w1", 3600.0, 1.0, 1500.0 + i)))
    events.add("normalize", Outcome("v9", error="timeout", usage=Usage("w1", 9999.0, 1.0, 9000.0)))
    for i in range(3):
        events.add("extract", Outcome(f"v{i}", usage=Usage("w2", 40.0, 1.0, 700.0)))
    events.add("topics", Outcome(WHOLE, usage=Usage("w1", 2.0, 2.0, 100.0)))
    events.add("topics", Outcome(WHOLE, usage=Usage(DRIVER, 3.0, 0.1, 0.0)))
    events.flush()
    return study


def test_an_estimate_scales_what_was_measured(study: Study):
    found = estimate(_measured(study), 4000, 10)
    stages = {s.stage: s for s in found.stages}
    assert stages["normalize"].n_parts == 4000
    assert stages["normalize"].core_hours == pytest.approx(4000)
    assert stages["normalize"].wall_hours == pytest.approx(400)
    assert stages["normalize"].peak_mb == 1503.0
    assert stages["extract"].n_parts == 3000
    assert stages["extract"].core_hours == pytest.approx(3000 * 40 / 3600)
    assert stages["topics"].core_hours == pytest.approx(2000 / 3600)
    assert stages["topics"].serial_hours == pytest.approx(3000 / 3600)
    assert stages["ingest"].disk_gb == pytest.approx(4000 * study.markers("ingest").done["v0"].n_bytes / 1e9)
    many = {s.stage: s for s in estimate(study, 4000, 10**6).stages}
    assert many["ingest"].wall_hours == pytest.approx(4000 / WINDOW_PER_S / 3600)
    assert many["topics"].wall_hours == pytest.approx(3000 / 3600)
    assert "not in it, for no run left events of them: duplicates, atlas" in found.notes[-1]


def test_a_larger_population_has_more_tasks_of_the_search_for_one_person_twice_and_none_that_is_longer(study: Study):
    _measured(study)
    study.publish("duplicates", "m", Made({}))
    events = EventLog(study, "later")
    for i in range(4):
        events.add("duplicates", Outcome(f"keys {i}", usage=Usage("w1", 0.5, 0.5, 100.0)))
    events.add("duplicates", Outcome(WHOLE, usage=Usage(DRIVER, 0.5, 0.1, 0.0)))
    events.flush()
    few, many = (next(s for s in estimate(study, n, 1000).stages if s.stage == "duplicates") for n in (4_000, 200_000))
    assert few.serial_hours == pytest.approx(0.5 * 500 / 3600, rel=0.01)
    assert many.serial_hours == pytest.approx(0.5 * 512 / 3600, rel=0.01)
    looks_s = 0.017 * 9e-5 * 200_000**2 / 2
    assert many.core_hours == pytest.approx((0.5 * 200_000 + looks_s) / 3600, rel=0.01)


def test_the_commands_tell_people_and_programs(study: Study, capsys: pytest.CaptureFixture[str]):
    assert main(["estimate", study.url, "--volumes", "10", "--workers", "2", "--json"]) == 2
    assert "no events of run" in json.loads(capsys.readouterr().out)["error"]["message"]
    _measured(study)
    assert main(["estimate", study.url, "--volumes", "10000", "--workers", "64", "--json"]) == commands.DONE
    found = json.loads(capsys.readouterr().out)
    assert (found["n_volumes"], found["n_workers"], found["worker_memory_mb"]) == (10000, 64, 1503.0)
    assert found["wall_hours"] > found["serial_hours"] > 0
    assert main(["estimate", study.url, "--volumes", "10000", "--workers", "64"]) == commands.DONE
    assert main(["performance", study.url, "--json"]) == commands.DONE
    assert main(["performance", study.url]) == commands.DONE
    assert study.exists("runs", "run.performance.html")


def test_a_run_leaves_an_event_for_every_part(finished: Flow):
    found = read_events(finished.study, finished.card.run_id)
    for stage, parts in finished.made.items():
        assert set(parts) <= set(found.loc[found["stage"] == stage, "part"]), stage
    of_volumes = found[(found["stage"] == "normalize") & (found["part"] != WHOLE)]
    assert (of_volumes["seconds"] > 0).all() and of_volumes["worker"].nunique() == 2
    assert (of_volumes["peak_mb"] > 0).all()
    foretold = estimate(finished.study, 1000, 8)
    assert foretold.total["core_hours"] > 0 and [s.stage for s in foretold.stages] == list(ORDER)
