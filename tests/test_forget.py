"""A withdrawn consent leaves no trace, and what was learnt from the person is learnt anew."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
from small_study import N_VOLUMES, copy_study, made_by, make_study

from popclust.cli import main
from popclust.dataflow.failure import BAD_INPUT, DONE
from popclust.dataflow.flow import Flow
from popclust.dataflow.pipeline import run
from popclust.parts import WHOLE
from popclust.study import Study


def _traces(study: Study, name: str) -> list[str]:
    """Files of the study and beside its key that hold a name, in themselves or in their path."""
    found = []
    for root in (study.url, f"{study.url}.secret"):
        for path in sorted(Path(root).rglob("*")):
            if not path.is_file():
                continue
            data = path.read_bytes()
            if path.suffix == ".parquet":
                data = pd.read_parquet(path).to_csv().encode()
            if name in str(path) or name.encode() in data:
                found.append(str(path))
    return found


def test_a_patient_is_gone_from_every_file_and_does_not_come_back(finished: Flow, population: Path, tmp_path: Path):
    study = copy_study(finished.study, tmp_path / "s")
    cohort = study.read_table("cohort")
    patient = cohort.loc[cohort["included"], "patient_id"].value_counts().index[0]
    volumes = sorted(cohort.loc[cohort["patient_id"] == patient, "volume_id"])
    series = pd.read_parquet(study.secret_path("sources.parquet")).set_index("volume_id")["series_instance_uid"]
    uids = [series[v] for v in volumes]
    assert _traces(study, volumes[0]) and _traces(study, patient)
    assert main(["forget", study.url, patient]) == DONE
    for name in (patient, *volumes, *uids):
        assert _traces(study, name) == []
    assert not study.exists("model") and not study.exists("topics.zarr") and not study.exists("summary")
    made = made_by(run(study, None))
    assert "extract" not in made
    assert made["normalize"] == {WHOLE}
    assert not set(volumes) & set(study.read_table("cohort")["volume_id"])
    for name in (patient, *volumes, *uids):
        assert _traces(study, name) == []


def test_what_remains_is_a_study_that_never_had_them(finished: Flow, population: Path, tmp_path: Path):
    study = copy_study(finished.study, tmp_path / "s")
    cohort = study.read_table("cohort")
    gone = sorted(cohort.loc[cohort["included"], "volume_id"])[1]
    folder = pd.read_parquet(study.secret_path("sources.parquet")).set_index("volume_id").loc[gone, "folder"]
    assert main(["forget", study.url, gone]) == DONE
    run(study, None)
    people = tmp_path / "people" / "DICOM"
    shutil.copytree(population / "DICOM", people, copy_function=shutil.copy2)
    shutil.rmtree(people / Path(folder).relative_to(population / "DICOM"))
    other = make_study(tmp_path / "other", population, ingest={"sources": [str(people)]})
    run(other, None)
    for name in ("cohort", "quality", "clusters", "associations", "criterion"):
        assert study.read_bytes(f"{name}.parquet") == other.read_bytes(f"{name}.parquet"), name


def test_unknown_names_are_refused(finished: Flow, tmp_path: Path, capsys: Any):
    study = copy_study(finished.study, tmp_path / "s")
    assert main(["forget", study.url, "v0000000000000000", "somebody"]) == BAD_INPUT
    assert "v0000000000000000, somebody is not in this study" in " ".join(capsys.readouterr().err.split())
    assert len(study.names_done("ingest")) >= N_VOLUMES
