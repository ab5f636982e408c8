"""The files of the sources, listed without opening one, and by what name each is known."""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import count, islice

import fsspec

from popclust.errors import InputError
from popclust.imaging.places import is_url, local_path, stamp_of_info, stamp_of_stat

_SKIPPED_NAMES = frozenset({"DICOMDIR", "THUMBS.DB", "DESKTOP.INI"})
_SORTED_AT_ONCE = 20_000
"""Entries of one folder held at a time: a folder may hold millions."""


@dataclass(frozen=True, slots=True)
class Found:
    """A file of a source, or a folder that cannot be listed."""

    path: str
    """Where it is: a path, or a URL."""
    identity: str
    """What names it where it carries no UID: the name of its source, and the path below it with forward slashes.

    The name of a source is that of the folder itself (of a file named singly, the folder that holds it); of two
    sources with one name, the later bears the names of the folders above too. So volumes keep their identity when the
    export is moved into another folder, or when sources are added, but not when the source folder itself is renamed.
    """
    stamp: int
    """Changes when the file does; 0 where it cannot be told."""
    problem: str = ""
    """`unreadable_file` or `unreadable_folder`, else empty."""


@dataclass(frozen=True, slots=True)
class Source:
    """A folder or file that settings name."""

    written: str
    """As settings name it."""
    place: str
    """Absolute path without a scheme, or URL."""
    root: str
    """The folder that paths are relative to: the source itself, or the folder of a file named singly."""
    is_file: bool
    """Whether it is a single file."""
    absence: str = ""
    """Why it cannot be listed, if it cannot."""


@dataclass
class Listing:
    """The files of all sources, each once; to be gone through once, after which the rest is known.

    Parameters
    ----------
    sources : iterable of str or os.PathLike
        Folders, gone through at every depth, and single files; local paths or fsspec URLs. Hidden files and folders,
        DICOMDIR and the like are skipped. What is no plain file (a dangling link, a pipe, a device) is never opened.
    names : mapping of str to str
        Names that sources have already, by their root.

    Raises
    ------
    InputError
        None is named, or one is at a URL that fsspec does not understand.
    """

    sources: Iterable[str | os.PathLike[str]]
    names: Mapping[str, str] = field(default_factory=dict)
    set_aside: Counter[str] = field(default_factory=Counter)
    """How many entries are left out, by code: `dangling_link`, `not_a_file`."""
    absent: dict[str, str] = field(default_factory=dict)
    """Sources that are missing, cannot be listed, or are empty, as `place`: why."""
    unlisted: list[str] = field(default_factory=list)
    """Folders below a source that cannot be listed."""

    def __post_init__(self) -> None:
        found = [self._with_known_root(_source(os.fspath(one))) for one in self.sources]
        if not found:
            raise InputError("sources: none given; name the folders with the CT series in [ingest] sources")
        known = list(self.names)
        # A folder below two sources belongs to the one that is known for longer, so that no volume is renamed.
        found.sort(key=lambda one: known.index(one.root) if one.root in self.names else len(known))
        self._sources = found
        self.names = name_roots([one.root for one in found], self.names)
        self._walked: set[str] = set()
        self._taken: set[str] = set()
        self._is_empty = True

    def _with_known_root(self, source: Source) -> Source:
        """A source that is missing may have been a single file: its folder keeps its name meanwhile."""
        folder = posixpath.dirname(source.place)
        if source.absence and source.root not in self.names and folder in self.names:
            return replace(source, root=folder)
        return source

    def __iter__(self) -> Iterator[Found]:
        for source in self._sources:
            self._is_empty = True
            for one in self._of(source):
                self._is_empty = False
                yield one
            if self._is_empty:
                self.absent.setdefault(source.place, "the folder holds no files")

    def identity(self, path: str) -> str:
        """The identity of a file of the sources; its own name for one that is in none."""
        for source in self._sources:
            below = path.startswith(f"{source.root.rstrip('/')}/")
            if path == source.place if source.is_file else below:
                return self._found(source, path, 0).identity
        return posixpath.basename(path)

    def reason(self, place: str) -> str:
        """What is wrong with an absent source, as one line."""
        written = next(one.written for one in self._sources if one.place == place)
        return f"source {written!r}: {self.absent[place]}"

    def _of(self, source: Source) -> Iterator[Found]:
        if source.absence:
            self.absent[source.place] = source.absence
        elif is_url(source.place):
            yield from self._at_url(source)
        elif source.is_file:
            yield from self._single(source)
        else:
            yield from self._folders(source)

    def _found(self, source: Source, path: str, stamp: int, problem: str = "") -> Found:
        below = path[len(source.root.rstrip("/")) + 1 :]
        identity = f"{self.names[source.root]}/{below}" if below else self.names[source.root]
        return Found(path, identity if identity.isascii() else as_text(identity), stamp, problem)

    def _single(self, source: Source) -> Iterator[Found]:
        folder, name = os.path.split(source.place)
        if source.place in self._taken or (os.path.realpath(folder) in self._walked and not _is_skipped(name)):
            self._is_empty = False
            return
        self._taken.add(source.place)
        try:
            yield self._found(source, source.place, stamp_of_stat(os.stat(source.place)))  # noqa: PTH116
        except OSError as error:
            self.absent[source.place] = _why(error)

    def _folders(self, source: Source) -> Iterator[Found]:
        """All files at every depth; folders that are linked come last, so that a real path is the one that counts."""
        pending, linked = [source.place], list[str]()
        while pending or linked:
            folder = pending.pop() if pending else linked.pop()
            real = os.path.realpath(folder)
            if real in self._walked:  # a link to a folder above would be walked for ever
                self._is_empty = False
                continue
            self._walked.add(real)
            below: list[str] = []
            try:
                with os.scandir(folder) as entries:
                    while chunk := sorted(islice(entries, _SORTED_AT_ONCE), key=lambda entry: entry.name):
                        for entry in chunk:
                            if not _is_skipped(entry.name):
                                yield from self._entry(source, entry, below, linked)
            except FileNotFoundError as error:
                if folder == source.place:
                    self.absent[folder] = _why(error)
            except OSError as error:
                if folder == source.place:
                    self.absent[folder] = _why(error)
                    return
                self.unlisted.append(folder)
                yield self._found(source, folder, 0, "unreadable_folder")
            pending += reversed(below)

    def _entry(self, source: Source, entry: os.DirEntry[str], below: list[str], linked: list[str]) -> Iterator[Found]:
        try:
            if not entry.is_symlink() and entry.is_dir(follow_symlinks=False):
                below.append(entry.path)
                return
            state = entry.stat()
        except FileNotFoundError:
            if entry.is_symlink():
                self.set_aside["dangling_link"] += 1
            return
        except OSError as error:
            if error.errno == errno.ELOOP:
                self.set_aside["dangling_link"] += 1
            else:
                yield self._found(source, entry.path, 0, "unreadable_file")
            return
        if stat.S_ISDIR(state.st_mode):
            linked.append(entry.path)
        elif not stat.S_ISREG(state.st_mode):
            self.set_aside["not_a_file"] += 1
        elif entry.path in self._taken:
            self._is_empty = False
        else:
            yield self._found(source, entry.path, stamp_of_stat(state))

    def _at_url(self, source: Source) -> Iterator[Found]:
        fs, place = fsspec.core.url_to_fs(source.place)
        scheme = source.place.partition("://")[0]
        try:
            if source.is_file:
                self._is_empty = False
                if source.place not in self._taken and source.root not in self._walked:
                    self._taken.add(source.place)
                    yield self._found(source, source.place, stamp_of_info(fs.info(place)))
                return
            for folder, folders, files in fs.walk(place, detail=True, on_error="raise"):
                for name in [name for name in folders if name.startswith(".")]:
                    del folders[name]  # and so it is not walked
                if (url := _url(scheme, folder)) in self._walked:
                    folders.clear()
                    self._is_empty = False
                    continue
                self._walked.add(url)
                for name, info in sorted(files.items()):
                    path = _url(scheme, info["name"])
                    if info["type"] == "file" and name and not _is_skipped(name) and path not in self._taken:
                        yield self._found(source, path, stamp_of_info(info))
        except Exception as error:  # noqa: BLE001 - each store has errors of its own
            self.absent[source.place] = _why(error)


def _source(written: str) -> Source:
    if is_url(written):
        return _source_at_url(written)
    place = os.path.abspath(os.path.expanduser(local_path(written)))  # noqa: PTH100, PTH111
    try:
        mode = os.stat(place).st_mode  # noqa: PTH116
    except OSError as error:
        return Source(written, place, place, is_file=False, absence=_why(error))
    if stat.S_ISDIR(mode):
        return Source(written, place, place, is_file=False)
    if stat.S_ISREG(mode):
        return Source(written, place, posixpath.dirname(place), is_file=True)
    return Source(written, place, place, is_file=False, absence="it is neither a folder nor a file")


def _source_at_url(written: str) -> Source:
    try:
        fs, stripped = fsspec.core.url_to_fs(written)
    except (ValueError, ImportError) as error:
        raise InputError(f"source {written!r}: fsspec does not understand this URL ({error})") from None
    place = _url(written.partition("://")[0], stripped.rstrip("/"))
    try:
        fs.invalidate_cache()  # what this process listed an hour ago is not what is there
        if fs.info(stripped)["type"] == "file":
            return Source(written, place, posixpath.dirname(place), is_file=True)
    except Exception as error:  # noqa: BLE001 - as above
        return Source(written, place, place, is_file=False, absence=_why(error))
    return Source(written, place, place, is_file=False)


def name_roots(roots: Iterable[str], known: Mapping[str, str]) -> dict[str, str]:
    """A name for each root of a source: its own, preceded by those of the folders above where it is taken already.

    Parameters
    ----------
    roots : iterable of str
        Folders without a scheme, or URLs.
    known : mapping of str to str
        Names that roots have already; they keep them.
    """
    names = {root: known[root] for root in roots if root in known}
    for root in roots:
        if root not in names:
            candidates = _names_of(root)
            names[root] = next(name for name in candidates if not any(_overlap(name, n) for n in names.values()))
    return names


def _names_of(root: str) -> Iterator[str]:
    parts = [as_text(part) for part in root.replace("://", ":/").split("/") if part] or ["root"]
    yield from ("/".join(parts[-n:]) for n in range(1, len(parts) + 1))
    yield from (f"{parts[-1]}#{n}" for n in count(2))


def _overlap(a: str, b: str) -> bool:
    """Whether one name could be the other with a folder below it: then two files could bear one name."""
    return a == b or a.startswith(f"{b}/") or b.startswith(f"{a}/")


def as_text(path: str) -> str:
    r"""A path as text that can be written as UTF-8: bytes that are none appear as `\xff`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _is_skipped(name: str) -> bool:
    return name.startswith(".") or name.upper() in _SKIPPED_NAMES


def _url(scheme: str, name: str) -> str:
    return f"{scheme}://{name.removeprefix(f'{scheme}://')}"


def _why(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file or folder"
    return f"cannot be read ({getattr(error, 'strerror', None) or type(error).__name__})"
