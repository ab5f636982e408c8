"""The index of headers is the same whatever happens in between, and forgets what it is told to forget."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from dicom_writer import KEY, numbered, save, series_datasets, uid
from header_export import (
    FIRST,
    OTHER,
    SECOND,
    holding,
    index_in,
    make_export,
    opened,
    prints,
    run,
    volume_id,
    write_mhd,
)

from popclust.errors import InputError
from popclust.imaging import header_index, survey
from popclust.imaging.pseudonyms import patient_pseudonym


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_export(tmp_path / "here" / "export")


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


def test_forgotten_patient(source: Path, tmp_path: Path) -> None:
    index = index_in(tmp_path)
    run(index, source)
    secret = tmp_path / "study.secret"
    assert holding(secret, uid(1, 1), "IM07919")
    (source / "b").rename(tmp_path / "b")
    index.survey([str(source)])
    assert index.drop([patient_pseudonym(KEY, "", "Secret-4711", "")]) == sorted([FIRST, SECOND])
    assert not holding(secret, uid(1, 1), uid(1, 2), "export/a", FIRST, SECOND)
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
    assert not holding(secret, uid(1, 1), uid(7, 1), FIRST, "export/new", "elsewhere/IM")


def test_forgotten_volume(source: Path, tmp_path: Path) -> None:
    index = index_in(tmp_path)
    run(index, source)
    raw = volume_id("export/c/ct.mhd")
    assert index.drop([SECOND, raw]) == sorted([SECOND, raw])
    assert not holding(tmp_path / "study.secret", uid(1, 2), "ct.mhd")
    with pytest.raises(InputError, match="no such series"):
        index.series_files(SECOND)
    assert set(index.series().fingerprints()) == {FIRST, OTHER, volume_id("export/c/ct.nii.gz")}
    assert set(prints(tmp_path, source)) == {FIRST, OTHER, volume_id("export/c/ct.nii.gz")}
    image = source / "a" / "S00000"
    image.write_bytes(image.read_bytes() + bytes(2))
    assert SECOND not in prints(tmp_path, source)
    assert not holding(tmp_path / "study.secret", uid(1, 2))


def test_forgetting_goes_on_where_it_was_stopped(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    run(index_in(tmp_path), source)
    with monkeypatch.context() as patch:
        patch.setattr(header_index, "blank", stop)
        with pytest.raises(KeyboardInterrupt):
            index_in(tmp_path).drop([FIRST])
    assert FIRST not in prints(tmp_path, source)
    assert not holding(tmp_path / "study.secret", uid(1, 1), FIRST)


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
