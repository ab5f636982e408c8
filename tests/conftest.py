"""Fixtures shared by all tests: the real data, small volumes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from made_study import MadeStudy, run_card, shared_study
from made_study import make_study as made_up
from small_study import N_VOLUMES, make_study

from popclust.dataflow.client import connect
from popclust.dataflow.flow import Flow
from popclust.dataflow.pipeline import run
from popclust.dataflow.simulate import simulate
from popclust.presentation.figures import map_of_population
from popclust.presentation.summary import write_summary
from popclust.presentation.topic_figures import draw_words
from popclust.presentation.view import StudyView, read_view
from popclust.settings import ComputeSettings
from popclust.study import Study


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs a whole run of the flow is slow."""
    for item in items:
        if {"finished", "population", "base"} & set(getattr(item, "fixturenames", ())):
            item.add_marker("slow")


@pytest.fixture(scope="session")
def data_path() -> Callable[[str], Path]:
    """Path of a real test file; skips, naming it, where it is absent."""
    root = Path(os.environ.get("POPCLUST_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))

    def find(name: str) -> Path:
        path = root / name
        if not path.exists():
            pytest.skip(f"test data is missing: {name} (set POPCLUST_TEST_DATA)")
        return path

    return find


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeStudy:
    """A made-up study of 40 volumes with figures, for tests that only read it."""
    return shared_study(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="session")
def worded(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study with words that tests only read: even ones live in the upper half of the lungs, odd ones below."""
    few = {"associate": {"n_permutations": 0, "min_term_count": 2}, "cluster": {"seeds": [0, 1]}}
    folder = tmp_path_factory.mktemp("worded") / "s"
    study = made_up(folder, 24, with_words=True, overrides=few, numbers_of_clusters=range(3, 6)).study
    next(iter(draw_words(read_view(study))))  # tables of places are written before the first figure
    place = map_of_population(read_view(study)).to_csv(index=False)
    study.write_bytes(place.encode(), "figures", "map.csv")
    return study


@pytest.fixture(scope="session")
def page(made: MadeStudy) -> str:
    """Its summary page."""
    write_summary(made.study, run_card())
    return made.study.read_bytes("summary", "index.html").decode()


@pytest.fixture
def view(made: MadeStudy) -> StudyView:
    """Its tables."""
    return read_view(made.study)


@pytest.fixture(scope="session")
def population(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small simulated population on disk."""
    folder = tmp_path_factory.mktemp("population") / "people"
    with connect("", ComputeSettings(n_workers=2)) as client:
        return simulate(client, str(folder), N_VOLUMES, 7, n_templates=1)


@pytest.fixture(scope="session")
def finished(population: Path, tmp_path_factory: pytest.TempPathFactory) -> Flow:
    """Its study, run to the end on two workers; tests that change it make a copy."""
    study = make_study(tmp_path_factory.mktemp("finished") / "study", population)
    with connect("", ComputeSettings(n_workers=2)) as client:
        return run(study, client)
