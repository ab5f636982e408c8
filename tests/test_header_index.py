"""The index of headers: read once, kept beside the key, the same after whatever happened in between."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import socket
import stat
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from dicom_writer import ANYTHING, KEY, enhanced_dataset, numbered, save, series_datasets, uid
from pydicom.dataset import Dataset

from popclust.errors import InputError
from popclust.imaging import header_index, survey
from popclust.imaging.header_index import HeaderIndex, SeriesTable, Survey
from popclust.imaging.headers import list_files, scan_headers
from popclust.imaging.ingest import read_series, volume_id_of
from popclust.imaging.pseudonyms import patient_pseudonym, pseudonym
from popclust.imaging.series import group_series

opened: list[str] = []
"""Every file that this process has opened since the list was last cleared."""


def _note(event: str, args: tuple[object, ...]) -> None:
    if event == "open" and isinstance(args[0], str):
        opened.append(args[0])


sys.addaudithook(_note)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two DICOM series of one patient, one of another, and two volume files, in a folder `export`."""
    folder = tmp_path / "here" / "export"
    save(series_datasets(numbered((5, 2, 2))), folder / "a")
    save(series_datasets(numbered((3, 2, 2)), series=2), folder / "a", stem="S")
    save(series_datasets(numbered((4, 2, 2)), study=2), folder / "b", edit=_somebody_else)
    (folder / "c").mkdir()
    (folder / "c" / "ct.nii.gz").write_bytes(b"not opened by the scan")
    write_mhd(folder / "c" / "ct.mhd", "ct.raw")
    (folder / "c" / "ct.raw").write_bytes(bytes(16))
    return folder


def _somebody_else(index: int, ds: Dataset) -> None:
    ds.PatientID, ds.IssuerOfPatientID = "Other-1", "Clinic"


def write_mhd(path: Path, data_file: str) -> None:
    lines = ("ObjectType = Image", "NDims = 3", "DimSize = 2 2 2", "ElementType = MET_SHORT")
    path.write_text("\n".join([*lines, f"ElementDataFile = {data_file}\n"]))


def index_in(tmp_path: Path, name: str = "study") -> HeaderIndex:
    return HeaderIndex(str(tmp_path / f"{name}.secret" / "index"), KEY)


def run(index: HeaderIndex, *sources: Path | str, rescan: bool = False) -> tuple[Survey, SeriesTable]:
    found = index.survey([str(one) for one in sources], rescan)
    for number in reversed(range(found.n_batches)):
        index.read_batch(number)
    return found, index.settle()


def prints(tmp_path: Path, *sources: Path | str, name: str = "study") -> dict[str, str]:
    return run(index_in(tmp_path, name), *sources)[1].fingerprints()


def volume_id(identity: str) -> str:
    return pseudonym(KEY, "volume", identity)


FIRST, SECOND, OTHER = (volume_id(uid(*parts)) for parts in ((1, 1), (1, 2), (2, 1)))


# -- what it says ----------------------------------------------------------------------------------------------------


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
    assert not _holding(tmp_path / "study.secret", uid(1, 1), FIRST)
    assert run(index, source)[0].n_batches == 0


def test_rows_carry_no_name_of_a_patient(source: Path, tmp_path: Path) -> None:
    run(index_in(tmp_path), source)
    assert not _holding(tmp_path / "study.secret", "Secret-4711", "Other-1", "Doe^Jane")


def _holding(folder: Path, *texts: str) -> list[str]:
    """Files whose columns hold one of the texts."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file():
            content = str(pq.read_table(path).to_pylist()) if path.suffix == ".parquet" else path.read_text()
            found += [path.name for text in texts if text in content]
    return found


# -- a second run ----------------------------------------------------------------------------------------------------


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
    assert len(list((tmp_path / "study.secret" / "index" / "headers-1").iterdir())) == 1


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


# -- sources ---------------------------------------------------------------------------------------------------------


def test_sources_with_one_name(tmp_path: Path) -> None:
    for place in ("x/ct", "y/ct", "z/ct"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "v.nii").write_bytes(place.encode())
    x, y, z = (tmp_path / place for place in ("x/ct", "y/ct", "z/ct"))
    index = index_in(tmp_path)
    assert _identities(run(index, x)[1]) == {"ct/v.nii": str(x)}
    assert _identities(run(index, y, x)[1]) == {"ct/v.nii": str(x), "y/ct/v.nii": str(y)}
    assert _identities(run(index, y, z / "v.nii", x)[1]) == {
        "ct/v.nii": str(x),
        "y/ct/v.nii": str(y),
        "z/ct/v.nii": str(z),
    }


def test_missing_file_keeps_its_name(tmp_path: Path) -> None:
    for place in ("x/ct", "y/ct"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "v.nii").write_bytes(place.encode())
    x, y = (tmp_path / place / "v.nii" for place in ("x/ct", "y/ct"))
    index = index_in(tmp_path)
    expected = _identities(run(index, x, y)[1])
    x.rename(tmp_path / "away")
    found, table = run(index, x, y)
    assert (_identities(table), table.n_missing, len(found.missing_sources)) == (expected, 1, 1)
    (tmp_path / "away").rename(x)
    _, table = run(index, y, x)
    assert (_identities(table), table.n_missing) == (expected, 0)


def test_folder_below_two_sources(tmp_path: Path) -> None:
    below = tmp_path / "all" / "part"
    below.mkdir(parents=True)
    (below / "v.nii").write_bytes(b"1")
    expected = {"all/part/v.nii": str(below)}
    index = index_in(tmp_path)
    for sources in ([tmp_path / "all"], [below, tmp_path / "all"], [below / "v.nii", tmp_path / "all", below]):
        found, table = run(index, *sources)
        assert (_identities(table), found.n_files, found.missing_sources) == (expected, 1, ())
    assert _identities(run(index_in(tmp_path, "b"), below / "v.nii", below, tmp_path / "all")[1]) == {
        "part/v.nii": str(below)
    }


def _identities(table: SeriesTable) -> dict[str, str]:
    frame = table.frame()
    return dict(zip(frame["series_instance_uid"], frame["folder"], strict=True))


def test_name_that_is_no_text(tmp_path: Path) -> None:
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / os.fsdecode(b"M\xfcller.nii")).write_bytes(b"1")
    index = index_in(tmp_path)
    _, table = run(index, folder)
    assert table.frame()["series_instance_uid"].tolist() == ["export/M\\xfcller.nii"]
    (name,) = table.fingerprints()
    assert Path(index.series_files(name).headers[0].path).read_bytes() == b"1"
    assert run(index, folder)[0].n_unchanged == 1


@pytest.mark.timeout(60)
def test_what_is_no_file_is_never_opened(source: Path, tmp_path: Path) -> None:
    os.mkfifo(source / "a" / "pipe.dcm")
    (source / "pipes.nii").symlink_to(source / "a" / "pipe.dcm")
    (source / "dangling.dcm").symlink_to(tmp_path / "nowhere")
    (source / "ring").symlink_to(source / "ring")
    (source / "null.dcm").symlink_to("/dev/zero")
    (source / "up").symlink_to(source.parent)
    (source / "linked.dcm").symlink_to(source / "a" / "IM00000")
    write_mhd(source / "waits.mhd", "a/pipe.dcm")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as listening:
        folder = os.open(source, os.O_RDONLY)
        listening.bind(f"/proc/self/fd/{folder}/socket")  # a longer path would not do
        os.close(folder)
        opened.clear()
        found, table = run(index_in(tmp_path), source)
    assert found.set_aside == {"not_a_file": 4, "dangling_link": 2}
    assert not [path for path in opened if "pipe" in path or "null" in path or "socket" in path]
    frame = table.frame().set_index("series_instance_uid")
    assert frame["n_images"][uid(1, 1)] == 6
    assert index_in(tmp_path).series_files(volume_id("export/waits.mhd")).problems == ("unreadable_file",)


@contextlib.contextmanager
def no_privileges() -> Iterator[None]:
    """Let modes of files count for root too: without the capabilities that override them."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, held = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if libc.capget(header, held):
        raise OSError(ctypes.get_errno(), "capget")
    less = (ctypes.c_uint32 * 6)(*held)
    less[0] &= ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    if libc.capset(header, less):
        raise OSError(ctypes.get_errno(), "capset")
    try:
        yield
    finally:
        libc.capset(header, held)


@pytest.mark.parametrize("target", ["a", "b/IM00000"])
def test_what_may_not_be_read_is_a_row_with_its_reason(target: str, source: Path, tmp_path: Path) -> None:
    index = index_in(tmp_path)
    mode = stat.S_IMODE((source / target).stat().st_mode)
    (source / target).chmod(0)
    with no_privileges():
        _, table = run(index, source)
        assert run(index, source)[1].fingerprints() == table.fingerprints()
    series = {one.identity: one for one in map(index.series_files, table.fingerprints())}
    refused = series[f"export/{target}"]
    assert refused.problems == (f"unreadable_{'folder' if target == 'a' else 'file'}",)
    assert read_series(refused, ANYTHING, KEY).record.reasons == refused.problems
    assert len(series[uid(2, 1)].headers) == (4 if target == "a" else 3)
    assert (uid(1, 1) in series) == (target != "a")
    # Once it can be read, it is; and what is known stays while it cannot.
    (source / target).chmod(mode)
    _, whole = run(index, source)
    assert (len(whole), whole.missing()) == (5, [])
    (source / "a").chmod(0)
    with no_privileges():
        _, table = run(index, source)
    (source / "a").chmod(0o755)
    assert set(table.missing()) == {FIRST, SECOND}
    assert {v: table.fingerprints()[v] for v in whole.fingerprints()} == whole.fingerprints()
    assert run(index, source)[1].table.equals(whole.table)


def test_missing_source(source: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    save(series_datasets(numbered((2, 2, 2)), study=3), other)
    with pytest.raises(InputError, match=r"source '.*nowhere': there is no such file"):
        run(index_in(tmp_path), source, tmp_path / "nowhere")
    index = index_in(tmp_path)
    _, table = run(index, source, other)
    source.rename(tmp_path / "away")
    for empty in (False, True):  # as a place where nothing is mounted
        if empty:
            source.mkdir()
        found, without = run(index, source, other)
        assert (found.n_files, found.n_missing_series) == (2, 5)
        assert len(found.missing_sources) == 1
        assert str(source) in found.missing_sources[0]
        assert without.fingerprints() == table.fingerprints()
        assert set(without.missing()) == set(table.fingerprints()) - {volume_id(uid(3, 1))}
    source.rmdir()
    (tmp_path / "away").rename(source)
    found, back = run(index, source, other)
    assert (found.n_unchanged, back.missing()) == (17, [])
    assert back.table.equals(table.table)
    with pytest.raises(InputError, match="none given"):
        run(index, *[])


def test_files_that_vanish(source: Path, tmp_path: Path) -> None:
    index = index_in(tmp_path)
    _, table = run(index, source)
    for path in (source / "b").iterdir():
        path.unlink()
    (source / "a" / "IM00000").unlink()
    found, after = run(index, source)
    assert (found.n_files, found.n_missing_series) == (10, 1)
    assert after.missing() == [OTHER]
    assert {v for v, one in after.fingerprints().items() if one != table.fingerprints()[v]} == {FIRST}
    assert len(index.series_files(FIRST).headers) == 4
    assert len(index.series_files(OTHER).headers) == 4
    # The images that are gone do not come back with others of their series.
    save(series_datasets(numbered((2, 2, 2)), study=2), source / "b", stem="N", edit=_somebody_else)
    _, last = run(index, source)
    assert (last.missing(), len(index.series_files(OTHER).headers)) == ([], 2)


def test_file_of_another_kind_in_the_place_of_one(source: Path, tmp_path: Path) -> None:
    index = index_in(tmp_path)
    run(index, source)
    for path in (source / "b").iterdir():
        path.write_text("no image any more")
    found, table = run(index, source)
    assert (found.n_changed, found.n_missing_series, OTHER in table.fingerprints()) == (4, 0, False)


# -- URLs ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def at_url(source: Path) -> Iterator[str]:
    import fsspec

    memory = fsspec.filesystem("memory")
    for path in (path for path in source.rglob("*") if path.is_file()):
        memory.pipe_file(f"/pacs/export/{path.relative_to(source)}", path.read_bytes())
    memory.pipe_file("/pacs/export/.hidden/IM1", b"")
    yield "memory://pacs/export"
    memory.rm("/pacs", recursive=True)


def test_sources_at_urls(source: Path, at_url: str, tmp_path: Path) -> None:
    import fsspec

    index = index_in(tmp_path)
    found, table = run(index, at_url)
    assert (found.n_files, len(table)) == (15, 5)
    local = run(index_in(tmp_path, "local"), f"file://{source}")[1]
    assert set(table.fingerprints()) == set(local.fingerprints())
    series = index.series_files(FIRST)
    assert series.headers[0].path.startswith("memory://")
    record = read_series(series, ANYTHING, KEY).record
    assert (record.n_slices, record.reasons) == (5, ())
    assert run(index, at_url)[0].n_unchanged == 15
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/pacs/export/a/IM00000", memory.cat_file("/pacs/export/a/IM00000"))
    memory.pipe_file("/pacs/export/c/ct.raw", bytes(15) + b"\1")
    found, again = run(index, at_url)
    assert found.n_changed == 3
    changed = {v for v, one in again.fingerprints().items() if one != table.fingerprints()[v]}
    assert changed == {FIRST, volume_id("export/c/ct.mhd")}
    memory.rm("/pacs", recursive=True)
    found, gone = run(index, at_url)
    assert (gone.n_missing, len(found.missing_sources)) == (5, 1)
    memory.pipe_file("/pacs/one.nii", b"1")
    assert "pacs/one.nii" in _identities(run(index, "memory://pacs/one.nii")[1])
    with pytest.raises(InputError, match="no such file"):
        run(index_in(tmp_path, "none"), "memory://nowhere")
    with pytest.raises(InputError, match="does not understand"):
        run(index_in(tmp_path, "none"), "nonsense://nowhere")


def test_only_the_head_of_a_file_at_a_url_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec
    from fsspec.implementations.memory import MemoryFile

    memory = fsspec.filesystem("memory")
    (path,) = save(series_datasets(numbered((1, 600, 600))), tmp_path / "big")
    memory.pipe_file("/big/IM1", Path(path).read_bytes())
    fetched = []
    read = MemoryFile.read
    monkeypatch.setattr(MemoryFile, "read", lambda self, n=-1: fetched.append(n) or read(self, n))
    try:
        assert len(run(index_in(tmp_path), "memory://big")[1]) == 1
    finally:
        memory.rm("/big", recursive=True)
    assert 0 < sum(fetched) < 20_000
    assert min(fetched) >= 0


# -- whatever happens in between -------------------------------------------------------------------------------------


def test_killed_at_any_point(source: Path, tmp_path: Path) -> None:
    """A run that is killed before each of its files is put in place, one after the other, and gone on with."""
    script = """
        import os, sys
        from pathlib import Path
        from popclust.imaging import header_index, survey
        from popclust.imaging.header_index import HeaderIndex
        source, folder = Path(sys.argv[1]), sys.argv[2]
        survey.BATCH_FILES = 4
        header_index._MAX_BATCHES_OF_SERIES, header_index._GATHERED_ROWS = 1, 4
        left = 0

        def kill(event, args):
            global left
            if event == "os.rename":
                left -= 1
                if left < 0:
                    os._exit(9)

        def run():
            index = HeaderIndex(folder, bytes(range(32)))
            for number in range(index.survey([str(source)]).n_batches):
                index.read_batch(number)
            index.settle()

        def killed_after(n_files):
            global left
            child = os.fork()
            if not child:
                left = n_files
                sys.addaudithook(kill)
                run()
                os._exit(0)
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

        n_killed = 0
        for change in (lambda: None, lambda: (source / "a" / "IM00000").unlink()):
            change()
            n_files = 0
            while killed_after(n_files):
                n_killed += 1
                n_files += 1
        print(n_killed)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(source), str(tmp_path / "study.secret" / "index")]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(result.stdout) >= 10
    table = index_in(tmp_path).series()
    assert table.fingerprints() == prints(tmp_path, source, name="straight")
    assert len(index_in(tmp_path).series_files(FIRST).headers) == 4
    assert run(index_in(tmp_path), source)[0].n_batches == 0
    assert not list((tmp_path / "study.secret").rglob("*.aside"))


def test_batches_are_read_by_many_at_once(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = prints(tmp_path, source, name="straight")
    monkeypatch.setattr(survey, "BATCH_FILES", 2)
    index = index_in(tmp_path)
    n_batches = index.survey([str(source)]).n_batches
    with pytest.raises(RuntimeError, match=r"15 files .* have not been read"):
        index.settle()
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        counts = list(pool.map(index.read_batch, [*range(n_batches), *range(n_batches)]))
    assert sum(one["n_images"] for one in counts) == 2 * 14
    assert sum(one["n_other"] for one in counts) == 2
    assert index.settle().fingerprints() == expected


def test_file_that_goes_or_changes_while_headers_are_read(source: Path, tmp_path: Path) -> None:
    index = index_in(tmp_path)
    assert index.survey([str(source)]).n_batches == 1
    (source / "a" / "IM00000").unlink()
    (source / "b" / "IM00000").write_bytes((source / "b" / "IM07919").read_bytes() + b"\0")
    index.read_batch(0)
    index.settle()
    assert prints(tmp_path, source) == prints(tmp_path, source, name="straight")


def test_preview_writes_nothing(source: Path, tmp_path: Path) -> None:
    index = index_in(tmp_path)
    expected = index.preview([str(source)])
    assert not (tmp_path / "study.secret").exists()
    _, table = run(index, source)
    assert expected.fingerprints() == table.fingerprints()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "study.secret").rglob("*")}
    (source / "a" / "IM00000").unlink()
    save(series_datasets(numbered((2, 2, 2)), study=5), source / "new")
    expected = index.preview([str(source)])
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "study.secret").rglob("*")} == before
    assert expected.fingerprints() == run(index, source)[1].fingerprints()


# -- forgetting ------------------------------------------------------------------------------------------------------


def test_forgotten_patient(source: Path, tmp_path: Path) -> None:
    index = index_in(tmp_path)
    run(index, source)
    secret = tmp_path / "study.secret"
    assert _holding(secret, uid(1, 1), "IM07919")
    (source / "b").rename(tmp_path / "b")
    index.survey([str(source)])
    assert index.drop([patient_pseudonym(KEY, "", "Secret-4711", "")]) == sorted([FIRST, SECOND])
    assert not _holding(secret, uid(1, 1), uid(1, 2), "export/a", FIRST, SECOND)
    opened.clear()
    found, table = run(index_in(tmp_path), source)
    assert (found.n_batches, found.n_unchanged) == (0, 11)
    assert not [path for path in opened if path.startswith(str(source))]
    assert not {FIRST, SECOND} & set(table.fingerprints())
    # Neither with new images, nor from another place, nor when all is read again.
    save(series_datasets(numbered((2, 2, 2)), study=7), source / "new")
    save(series_datasets(numbered((2, 2, 2))), tmp_path / "elsewhere")
    for rescan in (False, True):
        _, table = run(index, source, tmp_path / "elsewhere", rescan=rescan)
        assert set(table.frame()["study_identity"]) == {uid(2), "export/c/ct.mhd", "export/c/ct.nii.gz"}
    assert not _holding(secret, uid(1, 1), uid(7, 1), FIRST, "export/new", "elsewhere/IM")


def test_forgotten_volume(source: Path, tmp_path: Path) -> None:
    index = index_in(tmp_path)
    run(index, source)
    raw = volume_id("export/c/ct.mhd")
    assert index.drop([SECOND, raw]) == sorted([SECOND, raw])
    assert not _holding(tmp_path / "study.secret", uid(1, 2), "ct.mhd")
    with pytest.raises(InputError, match="no such series"):
        index.series_files(SECOND)
    assert set(index.series().fingerprints()) == {FIRST, OTHER, volume_id("export/c/ct.nii.gz")}
    assert set(prints(tmp_path, source)) == {FIRST, OTHER, volume_id("export/c/ct.nii.gz")}
    image = source / "a" / "S00000"
    image.write_bytes(image.read_bytes() + bytes(2))
    assert SECOND not in prints(tmp_path, source)
    assert not _holding(tmp_path / "study.secret", uid(1, 2))


def test_forgetting_goes_on_where_it_was_stopped(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    run(index_in(tmp_path), source)
    with monkeypatch.context() as patch:
        patch.setattr(header_index, "blank", stop)
        with pytest.raises(KeyboardInterrupt):
            index_in(tmp_path).drop([FIRST])
    assert FIRST not in prints(tmp_path, source)
    assert not _holding(tmp_path / "study.secret", uid(1, 1), FIRST)


# -- libraries -------------------------------------------------------------------------------------------------------


def test_no_library_prints_the_name_of_a_corrupt_file(source: Path, tmp_path: Path) -> None:
    named = tmp_path / "Doe_Jane" / "Doe_Jane"
    (whole,) = save(series_datasets(numbered((1, 4, 4)))[:1], tmp_path / "whole")
    content = Path(whole).read_bytes()
    named.mkdir(parents=True)
    for n_bytes in (150, 330, 400, 600, len(content) - 20):
        (named / f"Doe_Jane_{n_bytes}.dcm").write_bytes(content[:n_bytes])
    (named / "Doe_Jane_vr.dcm").write_bytes(content.replace(b"DS", b"XX").replace(b"CS", b"\0\0"))
    (named / "Doe_Jane_uid.dcm").write_bytes(content.replace(b"1.2.840.10008.1.2.1", b"1.2.840.Doe_Jane.2."))
    (named / "Doe_Jane_51.dcm").write_bytes(content.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.4.51"[:20]))
    (named / "Doe_Jane.nii").write_bytes(b"rubbish" * 100)
    (named / "Doe_Jane.nii.gz").write_bytes(b"rubbish" * 100)
    (named / "Doe_Jane.mha").write_bytes(b"rubbish" * 100)
    (named / "Doe_Jane.nrrd").write_bytes(b"NRRD0004\nDoe_Jane: Doe_Jane\ntype: Doe_Jane\n")
    write_mhd(named / "Doe_Jane.mhd", "Doe_Jane.raw")
    write_mhd(named / "Doe_Jane_2.mhd", "LIST\nDoe_Jane.1\nDoe_Jane.2")
    script = """
        import sys
        from popclust.imaging.dicom import describe_dicom, read_stack
        from popclust.imaging.files import read_file_header, read_file_voxels
        from popclust.imaging.header_index import HeaderIndex
        from popclust.errors import VolumeError
        index = HeaderIndex(sys.argv[2], bytes(range(32)))
        for number in range(index.survey([sys.argv[1]]).n_batches):
            index.read_batch(number)
        for name in index.settle().fingerprints():
            headers = index.series_files(name).headers
            for read in (
                lambda: describe_dicom(headers[0].path), lambda: read_stack(headers),
                lambda: read_file_header(headers[0].path), lambda: read_file_voxels(headers[0].path),
            ):
                try:
                    read()
                except VolumeError as error:
                    print(error.code, error)
    """
    command = [sys.executable, "-W", "always", "-c", textwrap.dedent(script)]
    result = subprocess.run(
        [*command, str(tmp_path / "Doe_Jane"), str(tmp_path / "study.secret" / "index")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.count("unreadable") > 10
    assert "Doe" not in result.stdout
    assert "Doe" not in result.stderr
