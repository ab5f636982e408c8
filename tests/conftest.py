"""Fixtures shared by all tests: the real data, small volumes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from made_study import MadeStudy, run_card, shared_study
from small_study import N_VOLUMES, make_study

from popclust.dataflow.client import connect
from popclust.dataflow.flow import Flow
from popclust.dataflow.pipeline import run
from popclust.dataflow.simulate import simulate
from popclust.presentation.summary import write_summary
from popclust.presentation.view import StudyView, read_view
from popclust.settings import ComputeSettings


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
