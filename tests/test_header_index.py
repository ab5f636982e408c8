"""The index of headers: what it says, and that a file is read once."""

from __future__ import annotations

import os
import shutil
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from dicom_writer import ANYTHING, KEY, enhanced_dataset, numbered, save, series_datasets, uid
from header_export import FIRST, OTHER, SECOND, holding, index_in, make_export, opened, prints, run, volume_id
from pydicom.dataset import Dataset

from popclust.errors import InputError
from popclust.imaging import header_index, survey
from popclust.imaging.header_index import HeaderIndex
from popclust.imaging.headers import list_files, scan_headers
from popclust.imaging.ingest import read_series, volume_id_of
from popclust.imaging.pseudonyms import patient_pseudonym
from popclust.imaging.series import group_series


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_export(tmp_path / "here" / "export")


def test_series_are_those_that_all_headers_make(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "BATCH_FILES", 3)
    save([enhanced_dataset(numbered((4, 2, 2)), numbered((4, 1, 3))[:, 0])], source / "d")
    save(series_datasets(numbered((3, 2, 2)))[:2], source / "again")
    (source / "notes.txt").write_text("nothing")
    (source / "b" / "cut").write_bytes(next((source / "b").glob("IM*")).read_bytes()[:400])
    index = index_in(tmp_path)
    found, table = run(index, source)
    assert (found.n_files, found.n_new, found.n_batches) == (20, 20, 7)
    expected = group_series(scan_headers(list_files([source]), [source]))
    assert {one.identity for one in expected} == set(table.frame()["series_instance_uid"])
    for one in expected:
        read = index.series_files(volume_id_of(one, KEY))
        assert (read.identity, read.study_identity, read.format) == (one.identity, one.study_identity, one.format)
        assert (read.n_set_aside, read.n_repeated, read.problems) == (one.n_set_aside, one.n_repeated, one.problems)
        unnamed = [replace(header, patient_id="", patient_issuer="") for header in one.headers]
        assert list(read.headers) == unnamed
    row = table.frame().set_index("volume_id").loc[FIRST]
    assert (row["n_images"], row["format"], row["study_identity"]) == (7, "dicom", uid(1))
    assert row["folder"] in (str(source / "a"), str(source / "again"))


def test_patients_are_those_of_the_cohort(source: Path, tmp_path: Path) -> None:
    index = index_in(tmp_path)
    patients = run(index, source)[1].frame().set_index("volume_id")["patient_id"]
    assert patients[FIRST] == patients[SECOND] == patient_pseudonym(KEY, "", "Secret-4711", "")
    assert patients[OTHER] == patient_pseudonym(KEY, "Clinic", "Other-1", "")
    for name in (FIRST, SECOND, OTHER):
        assert read_series(index.series_files(name), ANYTHING, KEY).record.patient_id == patients[name]


def test_map_from_pseudonyms_to_sources(source: Path, tmp_path: Path) -> None:
    run(index_in(tmp_path), source)
    path = tmp_path / "study.secret" / "sources.parquet"
    rows = pq.read_table(path).to_pylist()
    assert list(rows[0]) == ["volume_id", "series_instance_uid", "folder"]
    assert {"volume_id": FIRST, "series_instance_uid": uid(1, 1), "folder": str(source / "a")} in rows
    assert {row["series_instance_uid"] for row in rows} >= {"export/c/ct.nii.gz", "export/c/ct.mhd"}
    for one in (tmp_path / "study.secret").rglob("*"):
        assert stat.S_IMODE(one.stat().st_mode) == (0o700 if one.is_dir() else 0o600)


def test_files_of_the_index_that_one_series_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "BATCH_FILES", 10)
    for series in range(20):
        save(series_datasets(numbered((10, 2, 2)), series=series), tmp_path / "export" / f"{series:02}")
    index = index_in(tmp_path)
    found, table = run(index, tmp_path / "export")
    assert (found.n_batches, len(table)) == (20, 20)
    assert {len(names) for names in table.table["batches"].to_pylist()} == {1}
    assert len(index.series_files(volume_id(uid(1, 7))).headers) == 10
    with pytest.raises(InputError, match="knows no such series"):
        index.series_files("v0000000000000000")


@pytest.mark.parametrize(("n_rows", "n_parts"), [(4, 3), (20_000, 1)])
def test_series_whose_files_are_scattered_are_brought_together(
    n_rows: int, n_parts: int, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = prints(tmp_path, source, name="straight")
    for name, value in {"_MAX_BATCHES_OF_SERIES": 1, "_GATHERED_ROWS": n_rows, "_ROWS_AT_ONCE": 3}.items():
        monkeypatch.setattr(header_index, name, value)
    monkeypatch.setattr(survey, "BATCH_FILES", 2)
    index = index_in(tmp_path)
    for _ in range(2):
        _, table = run(index, source)
        assert table.fingerprints() == expected
        assert {len(names) for names in table.table["batches"].to_pylist()} == {1}
        assert len({name for names in table.table["batches"].to_pylist() for name in names}) == n_parts
        assert [len(index.series_files(name).headers) for name in (FIRST, SECOND, OTHER)] == [5, 3, 4]
    assert run(index, source)[0].n_unchanged == 15
    (source / "a" / "IM00000").unlink()
    assert len(run(index, source)[1]) == 5
    assert index.drop([FIRST]) == [FIRST]
    assert not holding(tmp_path / "study.secret", uid(1, 1), FIRST)
    assert run(index, source)[0].n_batches == 0


def test_rows_carry_no_name_of_a_patient(source: Path, tmp_path: Path) -> None:
    run(index_in(tmp_path), source)
    assert not holding(tmp_path / "study.secret", "Secret-4711", "Other-1", "Doe^Jane")


def test_nothing_is_opened_where_nothing_changed(source: Path, tmp_path: Path) -> None:
    index = index_in(tmp_path)
    _, table = run(index, source)
    opened.clear()
    found, again = run(index_in(tmp_path), source)
    assert not [path for path in opened if path.startswith(str(source))]
    assert (found.n_files, found.n_unchanged, found.n_new, found.n_changed, found.n_batches) == (15, 15, 0, 0, 0)
    assert again.table.equals(table.table)


def test_rescan_reads_everything(source: Path, tmp_path: Path) -> None:
    _, table = run(index_in(tmp_path), source)
    opened.clear()
    found, again = run(index_in(tmp_path), source, rescan=True)
    assert len({path for path in opened if path.startswith(str(source))}) == 14  # the NIfTI file is known by its name
    assert (found.n_unchanged, found.n_batches) == (15, 1)
    assert again.fingerprints() == table.fingerprints()
    assert len(list((tmp_path / "study.secret" / "index" / "headers-2").iterdir())) == 1


def test_fingerprints_follow_what_happens_to_the_images(source: Path, tmp_path: Path) -> None:
    def changed() -> set[str]:
        before.update(now)
        now.update(prints(tmp_path, source))
        for gone in before.keys() - index_in(tmp_path).series().fingerprints().keys():
            del now[gone]
        return {name for name in now if now[name] != before.get(name)}

    before: dict[str, str] = {}
    now = prints(tmp_path, source)
    assert changed() == set()
    image = source / "a" / "IM00000"
    content = image.read_bytes()
    save(series_datasets(numbered((6, 2, 2)))[5:], source / "a", stem="N")
    assert changed() == {FIRST}  # added
    (source / "a" / "N00000").unlink()
    assert changed() == {FIRST}  # taken away
    (source / "a" / "new").write_bytes(content[:-1] + b"\1")
    (source / "a" / "new").replace(image)
    assert changed() == {FIRST}  # replaced
    times = image.stat().st_atime_ns, image.stat().st_mtime_ns
    with image.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\2")
    os.utime(image, ns=times)
    assert changed() == {FIRST}  # mended in place: as long as before, and the same age
    (source / "c" / "ct.nii.gz").write_bytes(b"opened by nobody, ever")
    assert changed() == {volume_id("export/c/ct.nii.gz")}
    assert changed() == set()


def test_fingerprints_do_not_follow_the_folder_order_or_batches(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def anonymous(index: int, ds: Dataset) -> None:
        del ds.SeriesInstanceUID, ds.StudyInstanceUID

    save(series_datasets(numbered((3, 2, 2))), source / "none", edit=anonymous)
    expected = prints(tmp_path, source)
    assert volume_id("export/none") in expected
    shutil.move(tmp_path / "here", tmp_path / "there")
    moved = tmp_path / "there" / "export"
    assert prints(tmp_path, moved) == expected
    assert not index_in(tmp_path).series().missing()
    monkeypatch.setattr(survey, "BATCH_FILES", 2)
    assert prints(tmp_path, moved, name="other") == expected
    many = index_in(tmp_path, "third")
    for number in reversed(range(many.survey([str(moved / "b"), str(moved)]).n_batches)):
        many.read_batch(number)
    assert {v: p for v, p in many.settle().fingerprints().items() if v in (FIRST, OTHER)} == {
        v: expected[v] for v in (FIRST, OTHER)
    }


def test_fingerprints_are_keyed(source: Path, tmp_path: Path) -> None:
    other = HeaderIndex(str(tmp_path / "other.secret" / "index"), bytes(32))
    assert not set(prints(tmp_path, source).values()) & set(run(other, source)[1].fingerprints().values())
    with pytest.raises(InputError, match="another key"):
        HeaderIndex(str(tmp_path / "study.secret" / "index"), bytes(32)).survey([str(source)])


@pytest.mark.parametrize(
    ("header", "text", "data"),
    [
        ("v.mhd", "ElementDataFile = v.raw\n", "v.raw"),
        ("v.mhd", "ElementDataFile = below/v.zraw\n", "below/v.zraw"),
        ("v.mhd", "ElementDataFile = LIST\nv1.raw\nv2.raw\n", "v2.raw"),
        ("v.mhd", "ElementDataFile = v%02d.raw 1 3 1\n", "v03.raw"),
        ("v.mha", "ElementDataFile = v.raw\n", "v.raw"),
        ("v.nhdr", "NRRD0004\ndimension: 3\ndata file: v.raw.gz\n", "v.raw.gz"),
        ("v.nhdr", "NRRD0004\ndimension: 3\ndatafile: ./v.raw\n\n", "v.raw"),
        ("v.nhdr", "NRRD0004\r\ndata file: LIST\r\nv1.raw\r\nv2.raw\r\n", "v1.raw"),
        ("v.nhdr", "NRRD0004\ndata file: v%03d.raw 0 10 5 2\n", "v010.raw"),
    ],
)
def test_voxels_beside_a_header(header: str, text: str, data: str, tmp_path: Path) -> None:
    folder = tmp_path / "export"
    (folder / data).parent.mkdir(parents=True)
    (folder / header).write_text(text)
    voxels = folder / data
    voxels.write_bytes(bytes(8))
    name = volume_id(f"export/{header}")
    first = prints(tmp_path, folder)[name]
    opened.clear()
    assert prints(tmp_path, folder)[name] == first
    assert not [path for path in opened if path.startswith(str(folder))]
    times = voxels.stat().st_atime_ns, voxels.stat().st_mtime_ns
    voxels.write_bytes(bytes(7) + b"\1")
    os.utime(voxels, ns=times)
    mended = prints(tmp_path, folder)[name]
    assert mended != first
    voxels.unlink()
    assert prints(tmp_path, folder)[name] not in (first, mended)


def test_series_of_one_slice_each_are_one_series(tmp_path: Path) -> None:
    def own_uid(index: int, ds: Dataset) -> None:
        ds.SeriesInstanceUID, ds.FrameOfReferenceUID = uid(1, 70 + index), uid(1, 99)

    hu = numbered((5, 2, 2))
    save(series_datasets(hu), tmp_path / "export", edit=own_uid)
    index = index_in(tmp_path)
    _, table = run(index, tmp_path / "export")
    (name,) = table.frame()["volume_id"]
    assert table.frame()["n_images"].tolist() == [5]
    read = index.series_files(name)
    assert volume_id_of(read, KEY) == name
    volume = read_series(read, ANYTHING, KEY).volume
    assert volume is not None
    np.testing.assert_array_equal(volume.voxels, hu)
    assert index.drop([name]) == [name]
    assert not holding(tmp_path / "study.secret", uid(1, 72), name)
    assert len(run(index, tmp_path / "export")[1]) == 0
