"""Files at a URL: the same words for a local folder and for an object store."""

from __future__ import annotations

from pathlib import Path

import pytest

from popclust import storage


@pytest.fixture(params=["file", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "file" else f"memory://{tmp_path.name}"


def test_what_is_written_is_read_listed_and_removed(root: str):
    storage.write_bytes(f"{root}/a/b/one", b"1")
    storage.write_bytes(f"{root}/a/b/one", b"22")
    storage.write_bytes(f"{root}/a/two", b"333")
    assert storage.read_bytes(f"{root}/a/b/one") == b"22"
    assert storage.names(f"{root}/a") == ["b", "two"]
    assert storage.names(f"{root}/none") == []
    assert storage.files_below(f"{root}/a") == ["b/one", "two"]
    assert storage.files_below(f"{root}/a/two") == [""]
    assert storage.files_below(f"{root}/none") == []
    assert storage.size_of([f"{root}/a"]) == 5
    assert dict(storage.read_many(f"{root}/a", ["two", "three"])) == {"two": b"333"}
    storage.remove(f"{root}/a/b")
    storage.remove(f"{root}/a/none")
    assert storage.exists(f"{root}/a/two") and not storage.exists(f"{root}/a/b/one")
    storage.remove(f"{root}/a/two")
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(f"{root}/a/two")


def test_a_digest_is_of_names_and_contents_and_of_no_place(root: str):
    for copy in ("x", "y"):
        storage.write_bytes(f"{root}/{copy}/p/one", b"1")
        storage.write_bytes(f"{root}/{copy}/p/two", b"2")
    first = storage.digest_of([f"{root}/x/p"], f"{root}/x")
    assert first == storage.digest_of([f"{root}/y/p"], f"{root}/y")
    assert first[1] == 2
    storage.write_bytes(f"{root}/y/p/two", b"1")
    assert first != storage.digest_of([f"{root}/y/p"], f"{root}/y")
    assert first == storage.digest_of([f"{root}/x/p", f"{root}/x/none"], f"{root}/x")


def test_a_tree_is_copied_from_one_store_to_another(root: str, tmp_path: Path):
    storage.write_bytes(f"{root}/x/p/one", b"1")
    storage.copy_tree(f"{root}/x", f"{tmp_path}/copy")
    assert Path(tmp_path, "copy", "p", "one").read_bytes() == b"1"
    storage.sync(str(tmp_path))
