"""Sources as they are: of one name, within each other, missing, forbidden, at URLs, full of what is no file."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from dicom_writer import ANYTHING, KEY, numbered, save, series_datasets, uid
from header_export import (
    FIRST,
    OTHER,
    SECOND,
    identities,
    index_in,
    make_export,
    opened,
    run,
    somebody_else,
    volume_id,
    write_mhd,
)

from popclust.errors import InputError
from popclust.imaging.ingest import read_series


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_export(tmp_path / "here" / "export")


def test_sources_with_one_name(tmp_path: Path) -> None:
    for place in ("x/ct", "y/ct", "z/ct"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "v.nii").write_bytes(place.encode())
    x, y, z = (tmp_path / place for place in ("x/ct", "y/ct", "z/ct"))
    index = index_in(tmp_path)
    assert identities(run(index, x)[1]) == {"ct/v.nii": str(x)}
    assert identities(run(index, y, x)[1]) == {"ct/v.nii": str(x), "y/ct/v.nii": str(y)}
    assert identities(run(index, y, z / "v.nii", x)[1]) == {
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
    expected = identities(run(index, x, y)[1])
    x.rename(tmp_path / "away")
    found, table = run(index, x, y)
    assert (identities(table), table.n_missing, len(found.missing_sources)) == (expected, 1, 1)
    (tmp_path / "away").rename(x)
    _, table = run(index, y, x)
    assert (identities(table), table.n_missing) == (expected, 0)


def test_folder_below_two_sources(tmp_path: Path) -> None:
    below = tmp_path / "all" / "part"
    below.mkdir(parents=True)
    (below / "v.nii").write_bytes(b"1")
    expected = {"all/part/v.nii": str(below)}
    index = index_in(tmp_path)
    for sources in ([tmp_path / "all"], [below, tmp_path / "all"], [below / "v.nii", tmp_path / "all", below]):
        found, table = run(index, *sources)
        assert (identities(table), found.n_files, found.missing_sources) == (expected, 1, ())
    assert identities(run(index_in(tmp_path, "b"), below / "v.nii", below, tmp_path / "all")[1]) == {
        "part/v.nii": str(below)
    }


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
    save(series_datasets(numbered((2, 2, 2)), study=2), source / "b", stem="N", edit=somebody_else)
    _, last = run(index, source)
    assert (last.missing(), len(index.series_files(OTHER).headers)) == ([], 2)


def test_file_of_another_kind_in_the_place_of_one(source: Path, tmp_path: Path) -> None:
    index = index_in(tmp_path)
    run(index, source)
    for path in (source / "b").iterdir():
        path.write_text("no image any more")
    found, table = run(index, source)
    assert (found.n_changed, found.n_missing_series, OTHER in table.fingerprints()) == (4, 0, False)


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
    assert "pacs/one.nii" in identities(run(index, "memory://pacs/one.nii")[1])
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
