"""A population whose headers, names and reports all carry secrets goes through the flow, and none comes out."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pydicom
import pytest
from identifying_export import MARK, ROOT, Search, Secrets, found_in, plant
from small_study import make_study

from popclust.dataflow.inputs import source_of_volumes
from popclust.study import Study


@pytest.fixture(scope="module")
def ran(population: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Secrets, str]:
    """The finished study, the secrets, and what the terminal said."""
    folder = tmp_path_factory.mktemp("identified")
    secrets = plant(population, folder)
    changes = {
        "ingest": {"sources": [str(next(folder.glob(f"*{MARK}*")))]},
        "normalize": {"given_folder": str(folder / "transforms")},
        "terms": {"reports": str(folder / "reports.csv")},
    }
    study = make_study(folder / "study", population, **changes)
    run = subprocess.run(
        [sys.executable, "-m", "popclust", "run", study.url],
        capture_output=True,
        text=True,
        preexec_fn=lambda: os.umask(0),
    )
    said = run.stdout + run.stderr
    assert run.returncode == 0, said
    return study, secrets, said


def test_no_identifier_is_in_any_byte_of_the_study(ran):
    study, secrets, _ = ran
    assert study.exists("summary", "index.html")
    assert found_in(Path(study.url), secrets, but=("study.toml",)) == []  # in which the user names the sources


def test_no_identifier_is_said(ran):
    _, secrets, said = ran
    assert "series included" in said
    assert Search(secrets)(said.encode()) == ""


def test_what_leads_back_is_for_the_owner_alone(ran):
    study, _, _ = ran
    modes = {
        p: stat.S_IMODE(p.stat().st_mode)
        for p in [Path(f"{study.url}.secret"), *Path(f"{study.url}.secret").rglob("*")]
    }
    assert [p for p, mode in modes.items() if mode != (0o700 if p.is_dir() else 0o600)] == []


def test_no_day_of_examination_is_its_own(ran):
    study, _, _ = ran
    sources = source_of_volumes(study)
    headers = {
        str(ds.SeriesInstanceUID): str(ds.StudyDate)
        for folder in map(Path, sources["folder"])
        for ds in [pydicom.dcmread(next(folder.glob("*.dcm")), stop_before_pixels=True)]
    }
    cohort = study.read_table("cohort").merge(sources, on="volume_id")
    true = cohort["series_instance_uid"].map(headers)
    assert true.notna().all()
    assert (cohort["acquired_on"].str.replace("-", "") != true).all()


def test_equal_texts_stay_equal_under_the_hash(ran):
    study, _, _ = ran
    cohort = study.read_table("cohort")
    hashed = cohort["manufacturer"].str.startswith("unlisted-", na=False)
    assert hashed.any()
    assert (~hashed).any()
    assert cohort.loc[hashed, "manufacturer"].nunique() == 1
    assert cohort["series_number"].isna().all()


def test_the_search_finds_what_is_planted(tmp_path: Path):
    import hashlib
    import zipfile

    import pandas as pd
    import zarr

    secrets = Secrets({MARK, ROOT}, {"a/b.dcm"})
    (tmp_path / "plain.json").write_text(f'"{MARK.upper()}"')
    (tmp_path / "hex.json").write_text("x" + hashlib.md5(b"a/b.dcm").hexdigest()[:14])
    (tmp_path / "raw.bin").write_bytes(b"00" + hashlib.sha256(b"a/b.dcm").digest())
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("a", f"{ROOT}.3" * 9)
    pd.DataFrame({"a": [f"{ROOT}.{n}" for n in range(9)]}).to_parquet(tmp_path / "a.parquet", compression="zstd")
    array = zarr.create_array(tmp_path / "a.zarr", shape=(len(MARK),), dtype="u1", zarr_format=3)
    array[:] = list(MARK.encode())
    (tmp_path / MARK).mkdir()
    (tmp_path / "clean.json").write_text("nothing")
    named = {hit.partition(":")[0] for hit in found_in(tmp_path, secrets)}
    expected = {"plain.json", "hex.json", "raw.bin", "a.npz", "a.parquet", f"name {MARK}"}
    assert expected <= named
    assert any(name.startswith("a.zarr") for name in named)
    assert "clean.json" not in named
