"""How far a run is, as somebody sees it who has the study alone."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from popclust.dataflow import lease, progress
from popclust.dataflow.lease import hold
from popclust.dataflow.progress import Progress, snapshot
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
