"""Where image files lie: at URLs as on a disk, and what goes wrong on the way."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import fsspec
import itk
import numpy as np
import pytest
from dicom_writer import numbered, save, series_datasets
from fsspec.implementations.memory import MemoryFile

from popclust.errors import VolumeError
from popclust.imaging.dicom import describe_dicom, read_stack
from popclust.imaging.files import read_file_header, read_file_voxels, read_volume_file
from popclust.imaging.headers import scan_headers
from popclust.imaging.listing import name_roots
from popclust.imaging.places import companion_names, local_copy, open_image

# ITK's SWIG modules warn when they are imported, and crash if the warning is an error.
pytestmark = pytest.mark.filterwarnings("ignore:builtin type:DeprecationWarning")


@pytest.fixture
def store() -> Iterator[fsspec.AbstractFileSystem]:
    memory = fsspec.filesystem("memory")
    yield memory
    memory.rm("/pacs", recursive=True)


def put(store: fsspec.AbstractFileSystem, folder: Path) -> None:
    for path in folder.iterdir():
        store.pipe_file(f"/pacs/{path.name}", path.read_bytes())


@pytest.mark.parametrize("name", ["ct.nii.gz", "ct.mha", "ct.mhd", "ct.nhdr", "ct.nrrd"])
def test_volume_files_at_urls(name: str, store: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    values = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    itk.imwrite(itk.image_from_array(values), str(tmp_path / name))
    put(store, tmp_path)
    url = f"memory://pacs/{name}"
    assert read_file_header(url).n_slices == 3
    np.testing.assert_array_equal(read_volume_file(url).voxels, read_volume_file(str(tmp_path / name)).voxels)
    with local_copy(url) as near:
        assert Path(near).name == f"volume.{name.partition('.')[2]}"
    assert not Path(near).exists()
    with local_copy(str(tmp_path / name)) as near, local_copy(f"file://{tmp_path / name}") as same:
        assert near == same == str(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        read_file_voxels("memory://pacs/none.nii.gz")
    with pytest.raises(FileNotFoundError):
        read_file_voxels(str(tmp_path / "none.nii.gz"))


def test_voxels_of_a_header_at_a_url_stay_below_its_copy(store: fsspec.AbstractFileSystem) -> None:
    names = ["below/1.raw", "../beside/2.raw", "../../../../../../etc/3.raw", "/pacs/4.raw", "none.raw"]
    store.pipe_file("/pacs/a/v.mhd", "\n".join(["ElementDataFile = LIST", *names]).encode())
    for place in ("a/below/1.raw", "beside/2.raw", "etc/3.raw", "4.raw"):
        store.pipe_file(f"/pacs/{place}", place.encode())
    with local_copy("memory://pacs/a/v.mhd") as near:
        folder = Path(near).parent
        assert (folder / names[0]).read_text() == "a/below/1.raw"
        assert (folder / names[1]).resolve().read_text() == "beside/2.raw"
        assert sum(path.is_file() for path in Path(near).parents[4].rglob("*")) == 3


def test_slices_at_urls(store: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    hu = numbered((3, 4, 4))
    save(series_datasets(hu), tmp_path)
    put(store, tmp_path)
    urls = [f"memory://pacs/{name}" for name in ("IM00000", "IM07919", "IM05831")]
    np.testing.assert_array_equal(read_stack(scan_headers(urls)), hu)
    assert describe_dicom(urls[0]).kernel == "B70f"


def test_what_may_pass_is_no_fault_of_the_images(
    store: fsspec.AbstractFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that fails says nothing of a volume: the next run tries again."""

    def fail(self: MemoryFile, n: int = -1) -> bytes:
        raise RuntimeError("connection to Doe_Jane lost")

    save(series_datasets(numbered((2, 4, 4))), tmp_path)
    put(store, tmp_path)
    url = "memory://pacs/IM00000"
    headers = scan_headers([url])
    monkeypatch.setattr(MemoryFile, "read", fail)
    assert scan_headers([url])[0].problem == "unreadable_file"
    for read in (lambda: describe_dicom(url), lambda: read_stack(headers), lambda: read_file_voxels(f"{url}.nii")):
        store.pipe_file("/pacs/IM00000.nii", b"1")
        with pytest.raises(OSError, match="RuntimeError") as caught:
            read()
        assert (caught.value.errno, "Doe" in str(caught.value)) == (errno.EIO, False)
    (tmp_path / "IM00000").unlink()
    with pytest.raises(FileNotFoundError):
        read_stack(scan_headers([str(tmp_path / "IM07919")]) + scan_headers([str(tmp_path / "IM00000")]))


def test_wrong_bytes_are_the_images_fault(tmp_path: Path) -> None:
    (path,) = save(series_datasets(numbered((1, 4, 4))), tmp_path)
    headers = scan_headers([path])
    Path(path).write_bytes(Path(path).read_bytes()[:-5])
    with pytest.raises(VolumeError, match="cannot be decoded"):
        read_stack(headers)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("v.mhd", "NDims = 3\nElementDataFile = v 1.raw\n", ["v 1.raw"]),
        ("v.mhd", "ElementDataFile = LOCAL\n\0\1", []),
        ("v.mhd", "ElementDataFile = LIST 2\r\na.raw\r\n\r\nb.raw", ["a.raw", "b.raw"]),
        ("v.mhd", "ElementDataFile = s%d.raw 8 10\n", ["s8.raw", "s9.raw", "s10.raw"]),
        ("v.mhd", "ElementDataFile = 100%_%03d.raw 1 5 2\n", ["100%_001.raw", "100%_003.raw", "100%_005.raw"]),
        ("v.mhd", "rubbish", []),
        ("v.nrrd", "NRRD0004\nencoding: raw\n\ndata file: no.raw\n", []),
        ("v.nhdr", "NRRD0004\nData File: v.raw\n", ["v.raw"]),
        ("v.nhdr", "NRRD0004\ndata file: s%02d 3 1 -1 2\n", ["s03", "s02", "s01"]),
        ("v.nhdr", "NRRD0004\ndata file: s%999999999d 1 2 1\n", ["s%999999999d 1 2 1"]),
        ("v.nii", "data file: v.raw\n", []),
    ],
)
def test_companion_names(name: str, text: str, expected: list[str], tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, newline="")
    assert companion_names(str(tmp_path / name)) == expected


def test_no_library_sees_the_name_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "Doe_Jane").write_bytes(b"1234")
    with open_image(str(tmp_path / "Doe_Jane")) as file:
        assert (file.name, file.read(3), file.seek(0), file.read()) == ("an image", b"123", 0, b"1234")


def test_names_of_sources() -> None:
    names = name_roots(["/x/ct", "/y/ct", "s3://ct", "/", "/q/y/ct", "/ct"], {})
    assert names == {
        "/x/ct": "ct",
        "/y/ct": "y/ct",
        "s3://ct": "s3:/ct",
        "/": "root",
        "/q/y/ct": "q/y/ct",
        "/ct": "ct#2",
    }
    assert name_roots(["/y/ct", "/x/ct"], names) == {"/x/ct": "ct", "/y/ct": "y/ct"}
    assert name_roots(["/z/ct"], names) == {"/z/ct": "ct"}
