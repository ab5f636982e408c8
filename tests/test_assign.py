"""The frozen model is frozen: it needs nothing but itself, and gives every new series a row."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from small_study import copy_study, set_setting

from popclust.cli import main
from popclust.dataflow.failure import BAD_INPUT, DONE, QUARANTINED
from popclust.dataflow.flow import Flow
from popclust.dataflow.stages import encode, extract
from popclust.study import Study


def _bytes_of(folder: str) -> dict[str, str]:
    files = (p for p in Path(folder).rglob("*") if p.is_file())
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def _assign(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = DONE) -> list[dict[str, Any]]:
    assert main(["assign", *arguments, "--scheduler", "serial", "--json", "--show-sources"]) == code
    return list(json.loads(capsys.readouterr().out))


def _groups(study: Study) -> dict[str, int]:
    """Group of every series of the study, by its name in the source."""
    sources = pd.read_parquet(study.secret_path("sources.parquet")).set_index("volume_id")["series_instance_uid"]
    clusters = study.reported.clusters
    return {sources[v]: c for v, c in zip(clusters["volume_id"], clusters["cluster"], strict=True)}


def _by_series(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Every workspace has a key of its own, and so names of its own."""
    return {r["series_instance_uid"]: {k: v for k, v in r.items() if k != "volume_id"} for r in rows}


def test_a_copied_model_places_the_training_volumes_as_before(
    finished: Flow, population: Path, tmp_path: Path, capsys: Any
):
    study = copy_study(finished.study, tmp_path / "s")
    shutil.copytree(study.path("model"), tmp_path / "elsewhere" / "model")
    groups = _groups(study)
    cohort = study.read_table("cohort")
    shutil.rmtree(study.url)
    shutil.rmtree(f"{study.url}.secret")
    rows = _assign(
        capsys,
        str(tmp_path / "elsewhere" / "model"),
        str(population / "DICOM"),
        *("--transforms", str(population / "transforms")),
    )
    assert len(rows) == len(cohort)
    placed = {r["series_instance_uid"]: r for r in rows if not r["reasons"]}
    assert {uid: placed[uid]["nearest"] for uid in groups} == groups
    assert all(r["cluster"] in (r["nearest"], -1) for r in placed.values())
    assert all(r["cluster"] is None for r in rows if r["reasons"])
    assert len(placed) == len(groups) + 1  # a second copy of a volume has its place too


def test_an_edited_setting_and_a_vocabulary_of_today_change_nothing(
    finished: Flow, population: Path, tmp_path: Path, capsys: Any
):
    study = copy_study(finished.study, tmp_path / "s")
    sources = pd.read_parquet(study.secret_path("sources.parquet")).set_index("volume_id")["folder"]
    some = [str(sources[v]) for v in study.reported.clusters["volume_id"].iloc[:2]]
    transforms = ("--transforms", str(population / "transforms"))
    first = _assign(capsys, study.url, *some, *transforms, "--workspace", str(tmp_path / "one"))
    study = set_setting(study, "n_levels", "8")
    study = set_setting(study, "step_mm", "20.0")
    shutil.rmtree(study.path("vocabulary"))
    before = _bytes_of(study.url)
    second = _assign(capsys, study.url, *some, *transforms, "--workspace", str(tmp_path / "two"))
    assert _by_series(first) == _by_series(second)
    assert _bytes_of(study.url) == before
    # a second time nothing is done again
    assert (
        main(["assign", study.url, *some, *transforms, "--workspace", str(tmp_path / "two"), "--scheduler", "serial"])
        == DONE
    )
    assert "nothing to do" in capsys.readouterr().err


def test_every_new_series_has_a_row(finished: Flow, population: Path, tmp_path: Path, capsys: Any):
    study = finished.study
    sources = pd.read_parquet(study.secret_path("sources.parquet")).set_index("volume_id")
    volume_id = study.reported.clusters["volume_id"].iloc[0]
    transforms = tmp_path / "transforms"
    transforms.mkdir()
    (transforms / f"{sources.loc[volume_id, 'series_instance_uid']}.npz").write_bytes(b"nothing of the kind")
    excluded = study.read_table("cohort").query("not included").iloc[0]
    rows = _assign(
        capsys,
        study.url,
        *(str(sources.loc[v, "folder"]) for v in (volume_id, excluded["volume_id"])),
        *("--transforms", str(transforms), "--workspace", str(tmp_path / "w")),
        code=QUARANTINED,
    )
    assert sorted(len(r["reasons"]) > 0 for r in rows) == [True, True]
    assert all(r["cluster"] is None for r in rows)


def test_a_damaged_model_is_refused(finished: Flow, population: Path, tmp_path: Path, capsys: Any):
    model = tmp_path / "model"
    shutil.copytree(finished.study.path("model"), model)
    chunk = next(p for p in (model / "groups.zarr" / "centres" / "c").rglob("*") if p.is_file())
    data = bytearray(chunk.read_bytes())
    data[-1] ^= 1
    chunk.write_bytes(data)
    assert main(["assign", str(model), str(population / "DICOM"), "--json"]) == BAD_INPUT
    out, err = capsys.readouterr()
    assert "not as it was frozen" in " ".join(err.split())
    assert json.loads(out)["error"]["code"] == BAD_INPUT
    assert main(["assign", str(tmp_path / "none"), str(population / "DICOM")]) == BAD_INPUT
    assert "no frozen model" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("stage", [extract, encode])
def test_a_model_of_other_stage_versions_is_refused(
    finished: Flow, population: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, stage: Any
):
    import dataclasses

    monkeypatch.setattr(stage, "STAGE", dataclasses.replace(stage.STAGE, version=stage.STAGE.version + 1))
    assert main(["assign", finished.study.url, str(population / "DICOM")]) == BAD_INPUT
    assert f"version {stage.STAGE.version - 1} of stage {stage.STAGE.name}" in " ".join(capsys.readouterr().err.split())


def test_a_model_holds_no_place_and_no_name(finished: Flow, population: Path):
    manifest = finished.study.read_bytes("model", "model.json").decode()
    assert str(population) not in manifest
    volumes = set(finished.study.read_table("cohort")["volume_id"])
    assert not [v for v in volumes if v in manifest]
