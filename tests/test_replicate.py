"""A study's associations on a second population: the command, and what it says where it cannot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from small_study import copy_study, set_setting

from popclust.cli import main
from popclust.dataflow.failure import BAD_INPUT, DONE
from popclust.dataflow.flow import Flow
from popclust.evaluation.replication import REPLICATED, REPLICATION, UNDERPOWERED
from popclust.study import Study


def _with_associations(finished: Flow, folder: Path) -> Study:
    """The finished study as if its three strongest tests had been significant: twelve people carry none."""
    study = copy_study(finished.study, folder)
    tests, grouping = study.read_table("associations"), study.reported.grouping
    strongest = tests[grouping.rows(tests)].sort_values("p_value").index[:3]
    tests.loc[strongest, "p_holm"] = 0.001
    study.write_table("associations", tests)
    return study


def _other(folder: Path, population: Path, reports: str) -> Study:
    places: dict[str, dict[str, object]] = {
        "ingest": {"sources": [str(population / "DICOM")]},
        "normalize": {"transforms": "given", "given_folder": str(population / "transforms")},
        "terms": {"reports": reports},
    }
    return Study.create(str(folder), places)


def test_a_second_population_is_placed_and_tested_by_its_own_reports(
    finished: Flow, population: Path, tmp_path: Path, capsys: Any
):
    study = _with_associations(finished, tmp_path / "s")
    other = _other(tmp_path / "other", population, str(population / "reports.csv"))
    assert main(["replicate", study.url, other.url, "--scheduler", "serial", "--json"]) == DONE
    found = json.loads(capsys.readouterr().out)
    assert found["n_units"] > 0 and found["n_volumes"] >= found["n_units"]
    assert len(found["associations"]) == 3
    # the same people under another key: the counts are those of the study
    first = study.reported.associations.set_index(["cluster", "term_id"])
    for row in found["associations"]:
        own = first.loc[(row["cluster"], row["term_id"])]
        assert (row["B"], row["C"], row["R"], row["V"]) == (own["B"], own["C"], own["R"], own["V"])
        assert row["outcome"] == (REPLICATED if row["p_value"] <= 0.05 else UNDERPOWERED)
    table = pd.read_parquet(f"{other.url}.replicated/replication.parquet")
    assert list(table) == REPLICATION
    assert not (Path(other.url) / "cohort.parquet").exists()  # the other's study.toml is read, nothing is written there
    strange = tmp_path / "strange.csv"
    reports = pd.read_csv(population / "reports.csv")
    reports.assign(text="Findings: nothing that anybody named.").to_csv(strange, index=False)
    again = _other(tmp_path / "again", population, str(strange))
    arguments = [study.url, again.url, "--workspace", f"{other.url}.replicated", "--scheduler", "serial"]
    assert main(["replicate", *arguments]) == BAD_INPUT
    assert "none of the" in " ".join(capsys.readouterr().err.split())


def test_what_cannot_be_replicated_is_said_in_a_line(finished: Flow, population: Path, tmp_path: Path, capsys: Any):
    study = _with_associations(finished, tmp_path / "s")
    without = _other(tmp_path / "without", population, "")

    def refused(first: Study, second: Study) -> str:
        assert main(["replicate", first.url, second.url, "--scheduler", "serial"]) == BAD_INPUT
        return " ".join(capsys.readouterr().err.split())

    assert "without reports nothing can be replicated" in refused(study, without)
    nothing = set_setting(_other(tmp_path / "none", population, str(population / "reports.csv")), "sources", "[]")
    assert "names no series" in refused(study, nothing)
    tests = study.read_table("associations")
    study.write_table("associations", tests.assign(p_holm=1.0))
    assert "nothing to replicate" in refused(study, without)


@pytest.mark.parametrize("name", ["gate", "replication"])
def test_every_reported_association_has_its_outcomes(finished: Flow, name: str):
    assert set(finished.study.read_table(f"validity/{name}").columns) >= {"cluster", "term_id"}
