"""The analyst's notebook runs from top to bottom, with a Dask cluster and without."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import dask
import nbformat
import pytest
from distributed import LocalCluster
from made_study import MadeStudy, make_study
from nbclient import NotebookClient

from popclust.dataflow.client import WORKER_CONFIG

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "watch_and_explore.ipynb"


def executed(study_url: str, scheduler: str, monkeypatch: pytest.MonkeyPatch) -> list[list[Any]]:
    """Outputs of each code cell."""
    monkeypatch.setenv("POPCLUST_STUDY", study_url)
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", scheduler)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    # a loop of its own, closed at the end: execute() would leave one behind
    asyncio.run(NotebookClient(notebook, timeout=240, kernel_name="python3").async_execute())
    return [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]


def n_pictures(outputs: list[Any]) -> int:
    return sum("image/png" in output.get("data", {}) for output in outputs)


def all_text(outputs: list[Any]) -> str:
    return " ".join(o.get("text", "") + o.get("data", {}).get("text/plain", "") for o in outputs)


def test_a_finished_study(made: MadeStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    _, cluster, watched, cohort, criterion, findings, population = executed(made.study.url, "", monkeypatch)
    assert "no scheduler given" in all_text(cluster)
    assert "normalize" in all_text(watched)
    assert [n_pictures(o) for o in (cohort, criterion, findings, population)] == [1, 2, 1, 2]
    assert "pneumonia" in all_text(findings) or "emphysema" in all_text(findings)


def test_with_a_dask_cluster_and_without_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    study = make_study(tmp_path / "s", 24, with_reports=False, with_volumes=False).study
    with (
        dask.config.set(WORKER_CONFIG),
        LocalCluster(n_workers=1, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0") as cluster,
    ):
        outputs = executed(study.url, cluster.scheduler_address, monkeypatch)
    assert "1 workers, dashboard http://127.0.0.1" in all_text(outputs[1])
    assert "no reports, or not tested yet" in all_text(outputs[4])
    assert n_pictures(outputs[6]) == 2


def test_the_notebook_is_stored_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert all(not cell.outputs and cell.execution_count is None for cell in notebook.cells if cell.cell_type == "code")
