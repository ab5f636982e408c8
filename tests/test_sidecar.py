"""What a table says of volume files."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path

import pandas as pd
import pytest

from popclust.dataflow.pipeline import run
from popclust.errors import InputError
from popclust.imaging.sidecar import match_sidecar, read_sidecar
from popclust.study import Study

HEADER = "file,patient,kernel,manufacturer,model,age_years,sex,date,contrast"
ROW = "a/ct.nii.gz,4711,B70f,SIEMENS,Sensation 64,91,w,2011-07-31,yes"


def table(folder: Path, *lines: str, header: str = HEADER) -> str:
    path = folder / "sidecar.csv"
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return str(path)


def test_a_row_is_read(tmp_path: Path):
    (row,) = read_sidecar(table(tmp_path, ROW))
    told = row.told
    assert (row.file, told.patient_id, told.kernel, told.model) == ("a/ct.nii.gz", "4711", "B70f", "Sensation 64")
    assert (told.age_years, told.sex, told.acquired_on, told.contrast) == (90.0, "F", date(2011, 7, 31), True)


def test_parquet_says_the_same(tmp_path: Path):
    rows = read_sidecar(table(tmp_path, ROW))
    pd.read_csv(tmp_path / "sidecar.csv", dtype={"age_years": int}).to_parquet(tmp_path / "sidecar.parquet")
    assert read_sidecar(str(tmp_path / "sidecar.parquet")) == rows


@pytest.mark.parametrize(
    ("header", "lines", "message"),
    [
        (HEADER, [ROW, ROW], "rows 1 and 2 are of one file"),
        (HEADER, [ROW.replace("91", "old")], "row 1, age_years: must be a number of years"),
        (HEADER, [ROW.replace("91", "nan") + "x"], "row 1, contrast: must be yes or no"),
        (HEADER, [ROW.replace("2011-07-31", "31.7.2011")], "row 1, date: must be a date"),
        (HEADER, [ROW.replace("B70f", "B70f\x1b[2J")], "row 1, kernel: must be text"),
        (HEADER, [ROW.replace("B70f", "B" * 65)], "row 1, kernel: must be text"),
        (HEADER, [ROW.replace("w,", "x,")], "row 1, sex: must be M, F or O"),
        (HEADER, [ROW + ",more"], "row 1 has more or fewer cells"),
        (HEADER, [ROW.replace("a/ct.nii.gz", "")], "row 1, file: must name"),
        ("patient,kernel", ["1,B70f"], "there is no column file"),
        ("file,Patient's name", ["a,Doe"], "column 2 is not known"),
        ("file,kernel,kernel", ["a,b,c"], "one column is there twice"),
    ],
)
def test_hostile_tables_are_one_line_without_their_cells(tmp_path: Path, header: str, lines: list[str], message: str):
    with pytest.raises(InputError, match=message) as caught:
        read_sidecar(table(tmp_path, *lines, header=header))
    text = str(caught.value)
    assert "\n" not in text
    assert not any(secret in text for secret in ("4711", "ct.nii", "Doe", "old", "2011"))


def test_tables_that_are_none(tmp_path: Path):
    (tmp_path / "x.csv").write_bytes(b"\xff\xfe\x00file")
    for name in ("x.csv", "missing.csv", "missing.parquet"):
        with pytest.raises(InputError, match="the table cannot be read"):
            read_sidecar(str(tmp_path / name))


def test_rows_find_their_files(tmp_path: Path):
    rows = read_sidecar(table(tmp_path, "b\\ct.nii.gz,1", "c.mha,2", "gone.nrrd,3", header="file,patient"))
    found = match_sidecar(rows, ["src/a/ct.nii.gz", "src/b/ct.nii.gz", "src/deep/c.mha"])
    assert {name: row.number for name, row in found.row_of.items()} == {"src/b/ct.nii.gz": 1, "src/deep/c.mha": 2}
    assert found.unknown == (3,)


def test_a_row_of_two_files_and_two_rows_of_one(tmp_path: Path):
    files = ["src/a/ct.nii.gz", "src/b/ct.nii.gz"]
    with pytest.raises(InputError, match="row 1 is of 2 files"):
        match_sidecar(read_sidecar(table(tmp_path, "ct.nii.gz,1", header="file,patient")), files)
    twice = read_sidecar(table(tmp_path, "a/ct.nii.gz,1", "src/a/ct.nii.gz,1", header="file,patient"))
    with pytest.raises(InputError, match="rows 1 and 2 are of one file"):
        match_sidecar(twice, files)


def test_the_cohort_knows_what_the_table_says(tmp_path: Path, data_path: Callable[[str], Path]):
    source = tmp_path / "src"
    source.mkdir()
    for name in ("one", "two"):
        (source / f"{name}.nii.gz").symlink_to(data_path("ct/cip_ct64.nii.gz"))
    path = table(
        tmp_path, "one.nii.gz,4711,LUNG,GE", "two.nii.gz, 004711,STANDARD,GE", header="file,patient,kernel,manufacturer"
    )
    rules = {
        "sources": [str(source)],
        "sidecar": path,
        "max_slice_thickness_mm": 9.0,
        "min_slices": 2,
        "min_lung_ml": 1e6,
    }
    study = Study.create(str(tmp_path / "study"), {"ingest": rules})
    run(study, None, until="ingest")
    cohort = study.read_table("cohort").set_index("kernel")
    assert list(cohort.loc["LUNG", "reasons"]) == ["no_lung"]
    assert list(cohort.loc["STANDARD", "reasons"]) == ["kernel_not_sharp"]
    assert cohort["patient_id"].nunique() == 1
    Path(path).write_text(Path(path).read_text().replace("STANDARD", "EDGE"))
    run(study, None, until="ingest")
    assert set(study.read_table("cohort")["kernel"]) == {"LUNG", "EDGE"}
