"""Files at a URL: a local folder or anything that fsspec reaches, written whole or not at all, and their digests.

A local path is served by the operating system itself: a population has hundreds of thousands of small files, and the
way through fsspec costs several times the file.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import posixpath
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec

_BLOCK_BYTES = 2**22
_READERS = 16
"""Requests to an object store at once: reading is waiting there."""


_TRIES = 8
"""How often an object store is asked before a request has failed: one that throttles answers at last."""


def be_patient() -> None:
    """Ask S3 again with growing pauses, also where zarr asks, unless fsspec or AWS were told how often."""
    if not {"AWS_MAX_ATTEMPTS", "AWS_RETRY_MODE"} & set(os.environ):
        wanted = fsspec.config.conf.setdefault("s3", {}).setdefault("config_kwargs", {})
        wanted.setdefault("retries", {"mode": "standard", "max_attempts": _TRIES})


be_patient()


def is_local(url: str) -> bool:
    """Whether a URL is a path of this machine."""
    return "://" not in url


def absolute(url: str) -> str:
    """A URL as it is, a path made absolute; without a slash at the end."""
    return str(Path(url).expanduser().absolute()) if is_local(url) else url.rstrip("/")


def exists(url: str) -> bool:
    """Whether a file or folder is there."""
    if is_local(url):
        return os.path.exists(url)  # noqa: PTH110  (a Path costs more than the question)
    fs, path = fsspec.core.url_to_fs(url)
    return bool(fs.exists(path))


def read_bytes(url: str) -> bytes:
    """Contents of a file.

    Raises
    ------
    FileNotFoundError
        It is not there.
    """
    if is_local(url):
        with open(url, "rb") as file:  # noqa: PTH123
            return file.read()
    fs, path = fsspec.core.url_to_fs(url)
    return bytes(fs.cat_file(path))


def write_bytes(url: str, data: bytes) -> None:
    """Write a file whole or not at all."""
    if not is_local(url):  # an object store publishes a put at once
        fs, path = fsspec.core.url_to_fs(url)
        fs.makedirs(posixpath.dirname(path), exist_ok=True)
        fs.pipe_file(path, data)
        return
    path = Path(url)
    aside = path.with_name(f"{path.name}.{os.getpid()}.aside")
    try:
        file = aside.open("wb")
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = aside.open("wb")
    with file:
        file.write(data)
    aside.replace(path)


def make_private(folder: Path) -> None:
    """Make a local folder for the owner's eyes alone, with all above it that is missing."""
    missing = [p for p in (folder, *folder.parents) if not p.exists()]
    for path in reversed(missing):
        path.mkdir(mode=0o700, exist_ok=True)
    if stat.S_IMODE(folder.stat().st_mode) != 0o700:
        folder.chmod(0o700)


def write_private(path: Path, data: bytes) -> None:
    """Write a local file for the owner's eyes alone, whole or not at all."""
    aside = path.with_name(f"{path.name}.{secrets.token_hex(4)}.aside")
    try:
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def remove(url: str) -> None:
    """Remove a file or folder if it is there."""
    if is_local(url):
        try:
            os.unlink(url)  # noqa: PTH108
        except FileNotFoundError:
            return
        except (IsADirectoryError, PermissionError):
            if not Path(url).is_dir():
                raise
            shutil.rmtree(url)
        return
    fs, path = fsspec.core.url_to_fs(url)
    if fs.exists(path):
        fs.rm(path, recursive=True)


def names(url: str) -> list[str]:
    """Names of what a folder holds, sorted; empty where there is no folder."""
    if is_local(url):
        try:
            return sorted(os.listdir(url))  # noqa: PTH208
        except FileNotFoundError:
            return []
    fs, path = fsspec.core.url_to_fs(url)
    fs.invalidate_cache(path)
    try:
        return sorted(posixpath.basename(p.rstrip("/")) for p in fs.ls(path, detail=False))
    except FileNotFoundError:
        return []


def read_many(folder: str, wanted: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """Names and contents of files in one folder; those that are not there are left out."""
    if is_local(folder):
        for name in wanted:
            try:
                yield name, read_bytes(f"{folder}/{name}")
            except FileNotFoundError:
                continue
        return

    def read(name: str) -> tuple[str, bytes | None]:
        try:
            return name, read_bytes(f"{folder}/{name}")
        except FileNotFoundError:
            return name, None

    with ThreadPoolExecutor(_READERS) as pool:
        for name, data in pool.map(read, wanted):
            if data is not None:
                yield name, data


def files_below(url: str) -> list[str]:
    """Every file at or below a URL, as paths relative to it ("" for a file itself), sorted."""
    if is_local(url):
        if os.path.isfile(url):  # noqa: PTH113
            return [""]
        found = [
            os.path.relpath(os.path.join(parent, name), url)  # noqa: PTH118
            for parent, _, files in os.walk(url)
            for name in files
        ]
        return sorted(found)
    fs, path = fsspec.core.url_to_fs(url)
    fs.invalidate_cache(path)
    if fs.isfile(path):
        return [""]
    return sorted(p.removeprefix(path).lstrip("/") for p in fs.find(path))


def digest_of(urls: Iterable[str], base: str) -> tuple[str, int]:
    """SHA-256 over the names (relative to `base`) and contents of all files at or below some URLs, and their bytes.

    Parameters
    ----------
    urls : iterable of str
        Files and folders; those that are missing are left out.
    base : str
        URL that they lie below.
    """
    total, size = hashlib.sha256(), 0
    for url in sorted(urls):
        for name in files_below(url):
            whole = posixpath.join(url, name) if name else url
            digest, n_bytes = _digest_file(whole)
            total.update(f"{whole.removeprefix(base)}\0{digest}\n".encode())
            size += n_bytes
    return total.hexdigest(), size


def sync(url: str) -> None:
    """Wait until the disk holds what was written below a local URL: a marker must not outlive what it vouches for.

    One call for the whole file system: fsync of every small file of a store takes ten times as long.
    """
    if not is_local(url):
        return
    descriptor = os.open(url, os.O_RDONLY)
    try:
        syncfs = getattr(ctypes.CDLL(None), "syncfs", None)
        if syncfs is None or syncfs(descriptor) != 0:
            os.sync()
    finally:
        os.close(descriptor)


def size_of(urls: Iterable[str]) -> int:
    """Bytes of all files at or below some URLs, without reading them."""
    total = 0
    for url in urls:
        for name in files_below(url):
            whole = posixpath.join(url, name) if name else url
            if is_local(whole):
                total += os.stat(whole).st_size  # noqa: PTH116
            else:
                fs, path = fsspec.core.url_to_fs(whole)
                total += int(fs.size(path) or 0)
    return total


def copy_tree(source: str, target: str) -> None:
    """Copy a file or folder from one URL to another."""
    for name in files_below(source):
        write_bytes(posixpath.join(target, name) if name else target, read_bytes(posixpath.join(source, name)))


def _digest_file(url: str) -> tuple[str, int]:
    digest, n_bytes = hashlib.sha256(), 0
    with open(url, "rb") if is_local(url) else fsspec.open(url, "rb").open() as file:  # noqa: PTH123
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
            n_bytes += len(block)
    return digest.hexdigest(), n_bytes
