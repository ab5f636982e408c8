"""What comes from outside may change under a study: nothing that follows from the old is served as true."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest
from small_study import copy_study, digest, made_by, set_setting

from popclust.cli import main
from popclust.dataflow.client import connect
from popclust.dataflow.failure import BAD_INPUT, DONE
from popclust.dataflow.flow import Flow
from popclust.dataflow.pipeline import run
from popclust.dataflow.plan import plan
from popclust.parts import WHOLE
from popclust.settings import ComputeSettings
from popclust.study import Study

FILES = {"accept_missing_kernel": True, "min_lung_ml": 0.0, "min_slices": 2, "check_hu": False}


def _nifti(path: Path, value: int) -> None:
    voxels = np.full((20, 20, 20), value, np.int16)
    voxels[5:15, 5:15, 5:15] = -800
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([2.0, 2.0, 2.0, 1.0])), path)


def _study_of_files(folder: Path, *sources: Path) -> Study:
    return Study.create(str(folder), {"ingest": {"sources": [str(s) for s in sources], **FILES}})


def test_a_setting_of_ingest_changed_before_a_later_stage_alone(finished: Flow, tmp_path: Path, capsys: Any):
    study = set_setting(copy_study(finished.study, tmp_path / "s"), "min_slices", "100")
    assert main(["extract", study.url, "--scheduler", "serial"]) == BAD_INPUT
    assert "stage ingest is not up to date" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("haralick", "n_levels", "1"),
        ("topics", "doc_topic_prior", "-1.0"),
        ("cluster", "descriptors", "['haralick']"),  # without the one that associate reports
    ],
)
def test_a_setting_out_of_range_is_refused_before_any_task(
    finished: Flow, tmp_path: Path, capsys: Any, section: str, name: str, value: str
):
    study = copy_study(finished.study, tmp_path / "s")
    path = Path(study.path("study.toml"))
    lines = path.read_text().splitlines()
    (place,) = [i for i, line in enumerate(lines) if line.removeprefix("# ").startswith(f"{name} = ")]
    lines[place] = f"{name} = {value}"
    path.write_text("\n".join(lines) + "\n")
    assert main(["run", study.url, "--scheduler", "serial"]) == BAD_INPUT
    error = " ".join(capsys.readouterr().err.split())
    assert "study.toml" in error and section in error


def test_a_file_replaced_by_one_of_equal_size_is_noticed(tmp_path: Path):
    source = tmp_path / "files"
    source.mkdir()
    for name, value in (("a.nii", 40), ("b.nii", 50)):
        _nifti(source / name, value)
    study = _study_of_files(tmp_path / "s", source)
    first = made_by(run(study, None, until="ingest"))["ingest"] - {WHOLE}
    contents = {v: study.done("ingest", v).output for v in first}  # type: ignore[union-attr]
    state = (source / "a.nii").stat()
    _nifti(source / "a.nii", 45)
    os.utime(source / "a.nii", ns=(state.st_atime_ns, state.st_mtime_ns))
    assert (source / "a.nii").stat().st_size == state.st_size
    made = made_by(run(study, None, until="ingest"))["ingest"] - {WHOLE}
    assert len(made) == 1
    (changed,) = made
    assert study.done("ingest", changed).output != contents[changed]  # type: ignore[union-attr]


def test_a_second_source_with_equal_relative_paths_renames_nobody(tmp_path: Path):
    for folder, value in (("one", 40), ("two", 50)):
        (tmp_path / folder).mkdir()
        _nifti(tmp_path / folder / "a.nii", value)
    study = _study_of_files(tmp_path / "s", tmp_path / "one")
    (first,) = made_by(run(study, None, until="ingest"))["ingest"] - {WHOLE}
    sources = f"['{tmp_path / 'two'}', '{tmp_path / 'one'}']"
    study = set_setting(study, "sources", sources)
    (second,) = made_by(run(study, None, until="ingest"))["ingest"] - {WHOLE}
    assert first != second
    assert set(study.read_table("cohort")["volume_id"]) == {first, second}


def test_a_mended_intercept_redoes_the_volume_and_what_follows(finished: Flow, population: Path, tmp_path: Path):
    people = tmp_path / "DICOM"
    shutil.copytree(population / "DICOM", people, copy_function=shutil.copy2)
    study = set_setting(copy_study(finished.study, tmp_path / "s"), "sources", f"['{people}']")
    again = made_by(run(study, None))
    assert set(again) <= {"ingest", "duplicates", "summarize"}  # read anew, the same
    sources = pd.read_parquet(study.secret_path("sources.parquet")).set_index("volume_id")["folder"]
    cohort = study.read_table("cohort").set_index("volume_id")
    copied = set(cohort.index[cohort["n_images"] > cohort["n_slices"]])  # a copy that differs is refused
    volume_id = sorted(set(study.reported.clusters["volume_id"]) - copied)[0]
    for path in Path(sources[volume_id]).glob("*"):
        data = path.read_bytes()
        at = data.index(b"\x28\x00\x52\x10DS") + 8
        length = int.from_bytes(data[at - 2 : at], "little")
        new = f"{float(data[at : at + length]) + 1:g}".encode().ljust(length)
        path.write_bytes(data[:at] + new + data[at + length :])
        assert path.stat().st_size == len(data)
    made = made_by(run(study, None))
    for stage in ("ingest", "normalize", "extract"):
        assert made[stage] - {WHOLE} == {volume_id}
    assert {"vocabulary", "topics", "cluster", "associate", "freeze"} <= set(made)


def test_images_that_are_gone_keep_their_part_until_it_is_out_of_date(
    finished: Flow, population: Path, tmp_path: Path, capsys: Any
):
    people = tmp_path / "DICOM"
    shutil.copytree(population / "DICOM", people, copy_function=shutil.copy2)
    study = set_setting(copy_study(finished.study, tmp_path / "s"), "sources", f"['{people}']")
    run(study, None)
    sources = pd.read_parquet(study.secret_path("sources.parquet")).set_index("volume_id")["folder"]
    volume_id = sorted(study.reported.clusters["volume_id"])[1]
    shutil.rmtree(sources[volume_id])
    assert plan(study).missing == [volume_id]
    assert plan(study).n_todo == 0
    assert made_by(run(study, None)) == {}
    assert volume_id in set(study.reported.clusters["volume_id"])
    study = set_setting(study, "min_slices", "100")
    flow = run(study, None, until="normalize")
    assert [(r["volume_id"], r["error"]) for r in flow.state.quarantine.rows.values()] == [
        (volume_id, "source_missing")
    ]
    assert study.exists("volumes", f"{volume_id}.ome.zarr", "zarr.json")


def _radlex_terms(study: Study) -> list[str]:
    """The terms found, without the project's own below them."""
    return [t for t in study.read_dataset("terms").term.values.tolist() if not t.startswith("pc:")]


def test_a_changed_lexicon_is_read_by_workers_that_live_on(finished: Flow, tmp_path: Path):
    terms = finished.study.read_dataset("terms")
    ordered = terms.term.values[np.argsort(-terms.has_term.values.sum(axis=0))].tolist()
    first, second = [t for t in ordered if not t.startswith("pc:")][:2]
    lexicon = tmp_path / "lexicon.csv"
    lexicon.write_text(f"label,RID,parent\nroot,RID34785,\none,{first},RID34785\n")
    study = set_setting(copy_study(finished.study, tmp_path / "s"), "lexicon", f"'{lexicon}'")
    with connect("", ComputeSettings(n_workers=1)) as client:
        run(study, client, until="terms")
        assert _radlex_terms(study) == [first]
        lexicon.write_text(f"label,RID,parent\nroot,RID34785,\none,{second},RID34785\n")
        assert made_by(run(study, client, until="terms")) == {"terms": {WHOLE}}
        assert _radlex_terms(study) == [second]


def test_one_report_in_another_language_is_one_report_less(finished: Flow, population: Path, tmp_path: Path):
    reports = pd.read_csv(population / "reports.csv", dtype=str)
    reports["language"] = ""
    reports.loc[0, "language"] = "fr"
    path = tmp_path / "reports.csv"
    reports.to_csv(path, index=False)
    study = set_setting(copy_study(finished.study, tmp_path / "s"), "reports", f"'{path}'")
    run(study, None, until="terms")
    record = study.record("terms")
    assert record["n_reports_other_language"] == 1
    assert record["n_reports"] == len(reports)
    before = finished.study.record("terms")["n_volumes_with_report"]
    assert record["n_volumes_with_report"] in (before, before - 1, before - 2)


def test_no_place_is_printed_on_the_page_or_in_the_run_card(finished: Flow, population: Path, tmp_path: Path):
    study = copy_study(finished.study, tmp_path / "s")
    masks = tmp_path / "masks-of-somebody"
    masks.mkdir()
    study = set_setting(study, "folder", f"'{masks}'")
    flow = run(study, None)
    page = study.read_bytes("summary", "index.html").decode()
    card = study.read_bytes("runs", f"{flow.card.run_id}.json").decode()
    for text in (page, card):
        assert "masks-of-somebody" not in text
        assert str(population) not in text


def test_odd_entries_of_a_source_are_never_opened_and_private_paths_never_printed(tmp_path: Path, capfd: Any):
    source = tmp_path / "files"
    source.mkdir()
    _nifti(source / "a.nii", 40)
    (source / "dangling").symlink_to(tmp_path / "nowhere")
    os.mkfifo(source / "pipe.dcm")
    corrupt = source / "MUELLER^ERIKA.dcm"
    corrupt.write_bytes(bytes(128) + b"DICM" + b"\x08\x00\x16\x00UI\xff\xff" * 40)
    (source / "MUELLER^ERIKA.nii").write_bytes(b"\x5c\x01" + bytes(400))
    study = _study_of_files(tmp_path / "s", source)
    assert main(["run", study.url, "--until", "ingest", "--scheduler", "serial"]) == DONE
    out, err = capfd.readouterr()
    assert "MUELLER" not in out + err
    assert "dangling_link" in err and "not_a_file" in err
    assert study.read_table("cohort")["included"].sum() == 1


def test_a_radiologist_judges_a_sheet_of_mentions(finished: Flow, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    study = copy_study(finished.study, tmp_path / "s")
    before = digest(study)
    assert main(["terms", study.url, "--audited"]) == BAD_INPUT
    assert main(["terms", study.url, "--audit", "12"]) == DONE
    assert main(["terms", study.url, "--audit", "12"]) == BAD_INPUT  # somebody's work may be in it
    path = Path(f"{study.url}.secret", "audit.csv")
    assert path.stat().st_mode & 0o077 == 0
    sheet = pd.read_csv(path, dtype=str, keep_default_na=False)
    assert len(sheet) == 12 and (sheet["checked"] == "").all() and sheet["status"].nunique() > 1
    sheet["checked"] = sheet["status"]
    sheet.loc[0, "checked"] = "wrong_term"
    sheet.to_csv(path, index=False)
    capsys.readouterr()
    assert main(["terms", study.url, "--audited", "--json"]) == DONE
    found = json.loads(capsys.readouterr().out)
    assert (found["n_checked"], found["n_wrong_term"], found["accuracy"]) == (12, 1, 1.0)
    assert digest(study) == before
