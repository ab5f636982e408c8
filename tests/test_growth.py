"""A population that grows by one costs that one, and ends as if it had been there from the start."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
from small_study import DERIVED, copy_study, made_by, make_study, set_setting

from popclust.dataflow.client import connect
from popclust.dataflow.flow import Flow
from popclust.dataflow.pipeline import run
from popclust.dataflow.simulate import simulate
from popclust.parts import WHOLE
from popclust.study import Study

LEARNT = {"vocabulary", "topics", "cluster", "repeat", "terms", "associate", "freeze", "summarize"}


def _keep_back(people: Path, study: Study) -> tuple[str, Path, Path]:
    """Move one included series of a study's population out of the way."""
    volume_id = sorted(study.reported.clusters["volume_id"])[1]
    folder = Path(pd.read_parquet(study.secret_path("sources.parquet")).set_index("volume_id").loc[volume_id, "folder"])
    away = people.parent / "kept-back"
    folder.rename(away)
    return volume_id, folder, away


def _equal(study: Study, other: Study) -> list[str]:
    return [t for t in DERIVED if study.read_bytes(f"{t}.parquet") != other.read_bytes(f"{t}.parquet")]


def test_one_more_volume_costs_its_own_parts(finished: Flow, population: Path, tmp_path: Path):
    people = tmp_path / "people" / "DICOM"
    shutil.copytree(population / "DICOM", people, copy_function=shutil.copy2)
    whole = set_setting(copy_study(finished.study, tmp_path / "whole"), "sources", f"['{people}']")
    run(whole, None)
    volume_id, place, away = _keep_back(people, whole)
    study = make_study(tmp_path / "grows", population, ingest={"sources": [str(people)]})
    run(study, None)
    assert volume_id not in set(study.read_table("cohort")["volume_id"])
    away.rename(place)
    made = made_by(run(study, None))
    for stage in ("ingest", "normalize", "extract"):
        assert made[stage] - {WHOLE} == {volume_id}, stage
    assert set(made) == {"ingest", "duplicates", "normalize", "extract", "encode", *LEARNT}
    assert _equal(study, whole) == []


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_forty_and_one_registered(tmp_path: Path):
    coarse = {
        "transforms": "register",
        "n_resolutions": 2,
        "n_iterations": 60,
        "n_samples": 1000,
        "grid_spacing_mm": 40.0,
    }
    with connect("") as client:
        population = simulate(client, str(tmp_path / "people"), 41, 21, n_templates=1)
        whole = make_study(tmp_path / "whole", population, normalize=coarse)
        run(whole, client)
        volume_id, place, away = _keep_back(population / "DICOM", whole)
        study = make_study(tmp_path / "grows", population, normalize=coarse)
        flow = run(study, client)
        assert len(flow.passing("ingest")) == 40
        away.rename(place)
        made = made_by(run(study, client))
    for stage in ("ingest", "normalize", "extract"):
        assert made[stage] - {WHOLE} == {volume_id}, stage
    assert _equal(study, whole) == []
