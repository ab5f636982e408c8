"""Where image files lie, on a disk or at a URL: opened, copied near, and known by what changes when they do."""

from __future__ import annotations

import errno
import gzip
import io
import os
import posixpath
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec

HEADER_SUFFIXES = (".mhd", ".mha", ".nhdr", ".nrrd")
"""Volume files that may name others which hold their voxels."""

_BLOCK_BYTES = 2**16
_BUFFER_BYTES = 2**13
_MAX_HEADER_BYTES = 2**24
_MAX_COMPANIONS = 100_000
_META_FILE = re.compile(r"^\s*ElementDataFile\s*=[ \t]*(.*?)\s*$", re.MULTILINE)
_NRRD_FILE = re.compile(r"^data ?file:[ \t]*(.*?)\s*$", re.MULTILINE | re.IGNORECASE)
_PATTERN = re.compile(r"^(.*?)(%0?\d{0,2}d)(\S*)\s+(-?\d{1,9})\s+(-?\d{1,9})(?:\s+(-?\d{1,9}))?(?:\s+\d)?$")
# On these a file's number and time of change are made up by the machine that looks, and differ after the next mount.
_MADE_UP = re.compile(r"fuse|cifs|smb|9p|vfat|exfat|ntfs|msdos|drvfs|virtiofs|vboxsf")


def is_url(path: str) -> bool:
    """Whether a path is reached through fsspec; `file://` and `local://` are local paths."""
    return "://" in path and not path.startswith(("file://", "local://"))


def local_path(path: str) -> str:
    """A path of this machine without its scheme."""
    return path.partition("://")[2] if path.startswith(("file://", "local://")) else path


class _Unnamed(io.BufferedReader):
    """A file whose name libraries do not see, and so cannot put into a warning."""

    name = "an image"


class _Remote(io.RawIOBase):
    """A file at a URL; whatever goes wrong on the way is an OSError, as it is with a disk."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._file: Any = io.BytesIO()  # is closed where nothing could be opened
        with _as_os_error():
            fs, remote = fsspec.core.url_to_fs(path)
            self._file = fs.open(remote, "rb", block_size=_BLOCK_BYTES, cache_type="readahead")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with _as_os_error():
            content = self._file.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


@contextmanager
def _as_os_error() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, "there is no such file") from None
    except PermissionError:
        raise PermissionError(errno.EACCES, "the file may not be read") from None
    except Exception as error:  # noqa: BLE001 - each store has errors of its own
        raise OSError(getattr(error, "errno", None) or errno.EIO, type(error).__name__) from None


def is_of_the_place(error: Exception) -> bool:
    """Whether an error in reading is the disk's or the network's, and may pass; else it is the content's."""
    return isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)


def open_image(path: str) -> BinaryIO:
    """Open a file of a source for reading; of one at a URL only what is read is fetched. `.gz` is unpacked on the way.

    Raises
    ------
    OSError
        It is missing, or cannot be read.
    """
    raw = _Unnamed(_Remote(path) if is_url(path) else io.FileIO(local_path(path)), _BUFFER_BYTES)
    if is_packed(path):
        return cast(BinaryIO, _Unpacked(raw))
    return cast(BinaryIO, raw)


def is_packed(path: str) -> bool:
    """Whether a file is one packed by gzip, other than a volume file, which its reader unpacks itself."""
    name = path.lower()
    return name.endswith(".gz") and not name.endswith(".nii.gz")


class _Unpacked(gzip.GzipFile):
    """The content of a packed file, which is closed with it; what is wrong with the packing is the content's fault."""

    def __init__(self, raw: io.BufferedReader) -> None:
        super().__init__(fileobj=raw, mode="rb")
        self._raw_file = raw

    def close(self) -> None:
        super().close()
        self._raw_file.close()


@contextmanager
def local_copy(path: str) -> Iterator[str]:
    """A path that libraries can open: the file's own, or for one at a URL that of a copy, which goes with the context.

    Parameters
    ----------
    path : str
        Local path or URL; the files that a detached header names are copied with it.

    Yields
    ------
    str
        A local path with the suffix of the file.

    Raises
    ------
    OSError
        It is missing, or cannot be fetched now.
    """
    if not is_url(path) and not is_packed(path):
        Path(local_path(path)).stat()
        yield local_path(path)
        return
    # The copy bears another name, since libraries print names; the folders above let it name files above its own.
    with tempfile.TemporaryDirectory(prefix="popclust-") as top:
        folder = Path(top, "1", "2", "3", "4")
        folder.mkdir(parents=True)
        copy = folder / f"volume{_suffix_of(path)}"
        _fetch(path, copy)
        for name in companion_names(str(copy)):
            target = Path(posixpath.normpath(posixpath.join(folder.as_posix(), name)))
            if target.is_relative_to(top) and target != copy:
                target.parent.mkdir(parents=True, exist_ok=True)
                # What is missing is the reader's to find: it says so of local files in the same way.
                with suppress(FileNotFoundError):
                    _fetch(_beside(path, name), target)
        yield str(copy)


def _fetch(url: str, target: Path) -> None:
    with open_image(url) as source, target.open("wb") as file:
        shutil.copyfileobj(source, file, 2**22)


def _suffix_of(path: str) -> str:
    name = posixpath.basename(path).lower()
    return next((s for s in (".nii.gz", *HEADER_SUFFIXES) if name.endswith(s)), posixpath.splitext(name)[1])


def _beside(path: str, name: str) -> str:
    """The place of a file that a header names."""
    if not is_url(path):
        return posixpath.join(posixpath.dirname(local_path(path)), name)
    protocol, _, place = path.partition("://")
    return f"{protocol}://{posixpath.normpath(posixpath.join(posixpath.dirname(place), name.lstrip('/')))}"


def companion_names(path: str) -> list[str]:
    """The files that hold a volume's voxels beside its header, as the header of a MetaImage or NRRD names them.

    Parameters
    ----------
    path : str
        Local path or URL of a file of any kind.

    Returns
    -------
    list of str
        Names relative to the header, or absolute; empty for a file that holds its own voxels.

    Raises
    ------
    OSError
        The file cannot be read.
    """
    if not path.lower().endswith(HEADER_SUFFIXES):
        return []
    expression = _META_FILE if path.lower().endswith((".mhd", ".mha")) else _NRRD_FILE
    with open_image(path) as file:
        text, ended = file.read(_BLOCK_BYTES).decode(errors="surrogateescape").replace("\r\n", "\n"), ""
        if expression is _NRRD_FILE:  # what follows an empty line is data
            text, ended, _ = text.partition("\n\n")
        found = expression.search(text)
        if found is None or found[1].upper() == "LOCAL":
            return []
        if not found[1].upper().startswith("LIST"):
            return _named(found[1])
        rest = "" if ended else file.read(_MAX_HEADER_BYTES).decode(errors="surrogateescape").replace("\r\n", "\n")
    names = (line.strip() for line in (text[found.end() :] + rest).split("\n"))
    return [name for name in names if name][:_MAX_COMPANIONS]


def _named(value: str) -> list[str]:
    """One name, or those of a pattern as in `slice%03d.raw 1 100 1`."""
    match = _PATTERN.match(value)
    if match is None:
        return [value] if value else []
    first, last, step = int(match[4]), int(match[5]), int(match[6] or 1)
    numbers = range(first, last + (1 if step > 0 else -1), step) if step else range(0)
    return [f"{match[1]}{match[2] % number}{match[3]}" for number in numbers[:_MAX_COMPANIONS]]


def companions_stamp(path: str, names: Sequence[str]) -> tuple[int, bool]:
    """Stamp over the files that a header names, and whether each that is there is a plain file."""
    parts: list[int] = []
    plain = True
    for name in names:
        place = _beside(path, name)
        try:
            if is_url(place):
                fs, remote = fsspec.core.url_to_fs(place)
                parts.append(stamp_of_info(fs.info(remote)))
            else:
                state = Path(local_path(place)).stat()
                plain &= stat.S_ISREG(state.st_mode)
                parts.append(stamp_of_stat(state))
        except (OSError, ValueError):
            parts.append(0)
    return _stamp(*parts), plain


def stamp_of_stat(state: os.stat_result) -> int:
    """What tells whether a local file is as it was: a number over size, times, and the file's number on the disk.

    Time of change and number are left out on file systems that make them up. A file that is copied with its times has
    another stamp; one whose folder is renamed keeps it.
    """
    if _is_made_up(state.st_dev):
        return _stamp(state.st_size, state.st_mtime_ns)
    return _stamp(state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino)


def stamp_of_info(info: Mapping[str, Any]) -> int:
    """What tells whether a file at a URL is as it was: size and content hash, or times where no hash is given."""
    hashes = [info[name] for name in ("ETag", "etag", "md5Hash", "content_md5", "crc32c") if info.get(name)]
    times = ("mtime", "LastModified", "last_modified", "updated", "modified", "created")
    return _stamp(info.get("size"), *(hashes or [str(info[name]) for name in times if info.get(name)]))


def _stamp(*values: object) -> int:
    return int.from_bytes(blake2b(repr(values).encode(), digest_size=8).digest(), "little", signed=True)


@lru_cache(maxsize=1024)
def _is_made_up(device: int) -> bool:
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    kinds = [line.partition(" - ")[2].split(" ")[0] for line in lines if line.split(" ")[2] == wanted]
    return any(_MADE_UP.match(kind) for kind in kinds)
