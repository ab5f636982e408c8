"""How far a run is, as somebody sees it who has the study alone."""

from __future__ import annotations

import json
import threading
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from popclust import commands
from popclust.dataflow import lease, progress
from popclust.dataflow.flow import Flow
from popclust.dataflow.lease import hold
from popclust.dataflow.progress import Progress, StageProgress, as_table, duration, headline, snapshot
from popclust.dataflow.window import Outcome
from popclust.study import Study

_ACTIVE = ("runs", "active.json")


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.setattr(progress, "_HEARTBEAT_S", 0.1)
    monkeypatch.setattr(lease, "BEAT_S", 0.2)
    return Study.create(str(tmp_path / "s"))


def _progress(study: Study, run_id: str = "run") -> Progress:
    return Progress(study, run_id, Console(file=StringIO(), width=200))


def test_a_run_at_work_is_told_from_a_dead_one_by_its_lease(study: Study):
    assert snapshot(study)["state"] == "new"
    with hold(study), _progress(study):
        assert snapshot(study)["state"] == "running"
    assert snapshot(study)["state"] == "ended"
    left = {"counter": 9, "released": False, "token": "dead"}
    study.write_json(left, "runs", "lease", "00000007.json")
    study.write_json({**study.read_json(*_ACTIVE), "state": "running"}, *_ACTIVE)
    assert snapshot(study)["state"] == "killed"


def test_what_the_study_keeps_of_a_run_names_no_machine(study: Study):
    with _progress(study):
        assert set(study.read_json(*_ACTIVE)) == {"run_id", "state", "dashboard", "seconds", "stages"}


@pytest.mark.parametrize("left", [b"", b"{", b"[1]", b"\xff\xfe", b'{"state": "running"}', b'{"stages": 3}'])
def test_a_file_that_cannot_be_read_is_as_good_as_none(study: Study, left: bytes):
    study.write_bytes(left, *_ACTIVE)
    assert snapshot(study)["state"] == "new"


def test_an_overtaken_run_leaves_the_other_s_file_alone(study: Study):
    with _progress(study, "first") as first, _progress(study, "second"):
        first._write_unless_overtaken("running")
        assert study.read_json(*_ACTIVE)["run_id"] == "second"
    left = study.read_json(*_ACTIVE)
    assert left.pop("seconds") >= 0
    assert left == {"run_id": "second", "state": "ended", "dashboard": "", "stages": []}


def test_a_beat_that_fails_ends_no_run(study: Study):
    runs = Path(study.path("runs"))
    with _progress(study) as followed:
        runs.rename(runs.with_name("aside"))
        runs.write_text("")
        followed._ended.wait(0.3)
        runs.unlink()
        runs.with_name("aside").rename(runs)
        assert followed._heart.is_alive()
    assert json.loads(study.read_bytes(*_ACTIVE))["state"] == "ended"


def test_lines_are_never_read_as_markup(study: Study):
    with _progress(study) as followed:
        followed.start("ingest", 2, 0)
        followed.line("set [atlas] volume", style="yellow")
        followed.advance(Outcome("v1", error="flat", message="a [bold]message[/]"))
    assert isinstance(followed.console.file, StringIO)
    said = followed.console.file.getvalue()
    assert "set [atlas] volume\n" in said
    assert "v1 kept out: a [bold]message[/]\n" in said


def test_the_bar_and_the_status_agree_on_the_time_left(study: Study):
    with _progress(study) as followed:
        followed.start("normalize", 12, 2)
        followed.advance(Outcome("v1"))
        stage, (task,) = followed.stages[-1], followed._bars.tasks
        for seconds in (30.0, 47.0, 90.0):  # a part every 30 s, and the second is late
            followed._started = progress.time.monotonic() - seconds
            if seconds == 30.0:
                stage.move(seconds)
            followed._write("running")
            (row,) = study.read_json(*_ACTIVE)["stages"]
            shown = progress._TimeLeft().render(task).plain
            assert shown == duration(row["seconds_left"]) == duration(270 - (seconds - 30))
    assert (row["total"], row["done"], row["reused"], row["left"], row["percent"]) == (12, 3, 2, 9, 25.0)


def test_a_stage_whose_time_was_partly_another_s_has_none_left(study: Study, monkeypatch: pytest.MonkeyPatch):
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with _progress(study) as run:
        run.start("normalize", 2, 0)
        for clock[0] in (30.0, 60.0):
            run.advance(Outcome("v"))
        run.start("extract", 2, 0)
        run.credit("normalize", 2, 0, 50.0)
        earlier, later = (stage.as_dict() for stage in run.stages)
    assert (earlier["seconds"], earlier["seconds_left"]) == (10.0, 0.0)
    assert (later["seconds"], later["seconds_left"]) == (50.0, 0.0)


def test_a_part_over_the_population_moves_by_its_tasks(study: Study):
    with _progress(study) as followed:
        followed.start("atlas", 1, 0)
        followed.expect(4)
        followed.step()
        followed._write("running")
        (row,) = study.read_json(*_ACTIVE)["stages"]
        assert (row["steps"], row["percent"], row["left"]) == ([1, 4], 25.0, 1)
        assert (followed._bars.tasks[0].completed, followed._bars.tasks[0].total) == (1, 4)
        assert row["seconds_left"] is not None
        followed.expect(1)
        for _ in range(4):
            followed.step()
        followed.advance(Outcome("population"))
        assert (followed.stages[-1].bar, followed.stages[-1].percent) == ((1, 1), 100.0)


def test_what_prepares_a_stage_is_no_step_of_the_one_before(study: Study):
    with _progress(study) as followed:
        followed.expect(3)  # the sources are looked at before the first stage begins
        followed.step()
        followed.start("ingest", 1, 0)
        followed.rest()
        followed.expect(2)
        followed.step()
        assert (followed.stages[-1].n_steps, followed.stages[-1].steps_done) == (0, 0)


def test_the_time_between_stages_is_no_stage_s(study: Study):
    with _progress(study) as followed:
        followed.start("topics", 1, 0)
        followed.advance(Outcome("population"))
        followed.rest()
        spent = followed.stages[-1].seconds
        followed._started -= 100
        followed._write("running")
        assert followed.stages[-1].seconds == spent


def test_a_status_has_totals(study: Study):
    with hold(study), _progress(study) as followed:
        followed.start("ingest", 4, 4)
        followed.start("normalize", 4, 1)
        followed.advance(Outcome("v1"))
        followed._write("running")
        state = snapshot(study)
    assert (state["total"], state["done"], state["left"]) == (8, 6, 2)
    assert state["percent"] == round(150 / len(state["stages"]), 1)
    assert state["seconds"] >= 0 and state["seconds_left"] is not None
    assert "6 of 8 parts" in headline(state)
    console = Console(file=StringIO(), width=200)
    console.print(as_table(state))
    assert "50" in console.file.getvalue()  # type: ignore[attr-defined]


def test_watching_ends_with_the_run_that_starts_later(study: Study):
    with _progress(study, "earlier"):
        pass
    states: list[str] = []
    first, seen = threading.Event(), threading.Event()

    def look() -> None:
        for state in commands._watched(study):
            states.append(state["state"])
            first.set()
            if state["state"] == "running":
                seen.set()

    watching = threading.Thread(target=look, daemon=True)
    watching.start()
    assert first.wait(20)
    with hold(study), _progress(study, "later"):
        assert seen.wait(20)
    watching.join(20)
    assert not watching.is_alive()
    assert (states[0], states[-1]) == ("ended", "ended") and "running" in states


@pytest.mark.parametrize("total", [0, 3])
def test_a_stage_that_has_nothing_to_do_is_done(total: int):
    assert StageProgress("cluster", total, total).percent == 100.0
    assert StageProgress("cluster", total, total).seconds_left is None


def test_a_run_counts_the_tasks_of_its_parts_over_the_population(finished: Flow):
    rows = {s["stage"]: s for s in finished.study.read_json("runs", f"{finished.card.run_id}.json")["stages"]}
    assert {rows[name]["percent"] for name in rows} == {100.0}
    for name in ("atlas", "vocabulary", "topics", "cluster", "associate"):
        done, total = rows[name]["steps"]
        assert done == total >= 1
