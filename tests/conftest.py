"""Fixtures shared by all tests: the real data, small volumes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from small_study import N_VOLUMES, make_study

from popclust.dataflow.client import connect
from popclust.dataflow.flow import Flow
from popclust.dataflow.pipeline import run
from popclust.dataflow.simulate import simulate
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
