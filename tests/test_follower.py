"""Volumes that go on to the next stage at once have there the very part that they would have had later."""

from __future__ import annotations

from pathlib import Path

import pytest

from popclust.dataflow.follower import Follower
from popclust.dataflow.inputs import HandedIn
from popclust.dataflow.quarantine import Quarantine
from popclust.dataflow.stages import stage_named
from popclust.dataflow.state import Due, State
from popclust.dataflow.usage import Usage
from popclust.dataflow.window import Outcome
from popclust.parts import Done, Made
from popclust.study import Study

EXTRACT = stage_named("extract")


def _done(output: str, passes: bool = True, n_bytes: int = 1) -> Done:
    return Done("marker", "recipe", output, passes, "digest", n_bytes)


@pytest.fixture
def state(tmp_path: Path) -> State:
    study = Study.create(str(tmp_path / "s"))
    state = State(study, Quarantine.open(study), HandedIn(study, bytes(32)))
    for name in ("ingest", "normalize"):
        due = Due(stage_named(name), "recipe", dict.fromkeys("abc", "marker"))
        state.settle(due, {v: _done(f"{name} of {v}") for v in "abc"})
    return state


def test_a_volume_goes_on_to_the_part_that_a_survey_would_ask_for(state: State):
    wanted = state.survey(EXTRACT).wanted
    follower = Follower.of(EXTRACT, state)
    tasks = [follower.task_after(Outcome(v, value=_done(f"normalize of {v}"))) for v in "abc"]
    assert [(t.key, t.stage, t.args) for t in tasks if t] == [
        (v, "extract", ("extract", follower.recipe, v, wanted[v])) for v in "abc"
    ]
    assert state.study.read_recipe(follower.recipe)["stage"] == "extract"


def test_who_does_not_go_on(state: State):
    wanted = state.survey(EXTRACT).wanted
    state.study.publish("extract", wanted["b"], Made({}), "b")
    state.forget(EXTRACT)
    state.quarantine.add("extract", Outcome("c", error="no_features", message="none is left"), wanted["c"])
    follower = Follower.of(EXTRACT, state)
    for outcome in (
        Outcome("a", value=_done("normalize of a", passes=False)),
        Outcome("a", error="no_lung", message="no lung is seen"),
        Outcome("a", value=_done("normalize of a"), stage="extract"),
        Outcome("b", value=_done("normalize of b")),
        Outcome("c", value=_done("normalize of c")),
    ):
        assert follower.task_after(outcome) is None
    assert follower.task_after(Outcome("b", value=_done("another map"))) is not None


def test_what_came_of_it_is_kept(state: State):
    said: list[str] = []
    follower = Follower.of(EXTRACT, state)
    for v in "ab":
        follower.task_after(Outcome(v, value=_done(f"normalize of {v}")))
    made = _done("features")
    follower.take(Outcome("a", value=made, usage=Usage(seconds=2.0)), lambda text, style: said.append(text))
    trouble = Outcome("b", error="no_features", message="none is left", usage=Usage(seconds=3.0))
    follower.take(trouble, lambda text, style: said.append(text))
    assert (follower.made, follower.failed, follower.seconds) == ({"a": made}, ["b"], 5.0)
    assert said == ["b kept out: none is left"]
    due = state.survey(EXTRACT)
    assert set(due.held) == {"b"}


def test_the_largest_are_begun_first_and_equal_ones_by_name(state: State):
    due = Due(stage_named("ingest"), "recipe", dict.fromkeys("abc", "marker"))
    state.settle(due, {v: _done(v, n_bytes=n) for v, n in (("a", 5), ("b", 9), ("c", 5))})
    order = state.largest_first(Due(stage_named("normalize"), "recipe", todo=dict.fromkeys("abc", "new")))
    assert order == ["b", "a", "c"]
