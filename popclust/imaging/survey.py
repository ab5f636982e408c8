"""A look at the sources: which files are new or have changed since their headers were read, without opening one."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from popclust.errors import InputError
from popclust.imaging.header_rows import file_number, work_of
from popclust.imaging.listing import Found, Listing
from popclust.imaging.places import companions_stamp
from popclust.imaging.series_table import Listed, Piece, Rows

BATCH_FILES = 500
"""Files whose headers one task reads."""


@dataclass(frozen=True)
class Survey:
    """What was found in the sources, compared with what the index knows."""

    n_files: int
    """Files that were found."""
    n_new: int
    """Files that the index does not know."""
    n_changed: int
    """Files that are not as they were read, or could not be opened then."""
    n_unchanged: int
    """Files that are as they were read."""
    n_missing_series: int
    """Series that the index knows and of which no image was found."""
    n_batches: int
    """Batches of headers to read."""
    set_aside: Mapping[str, int]
    """Entries that are no files and are never opened, by code: `dangling_link`, `not_a_file`."""
    missing_sources: tuple[str, ...]
    """Sources that cannot be listed, one line each; what is known of them stays."""


@dataclass(frozen=True)
class Look:
    """A survey, and what goes on from it."""

    survey: Survey
    """Its counts."""
    listed: Listed
    """All files that were found."""
    names: Mapping[str, str]
    """The names of the sources, by their roots."""


def look_at(
    sources: Sequence[str],
    names: Mapping[str, str],
    pieces: Sequence[Piece],
    key: bytes,
    rescan: bool,
    take: Callable[[pa.Table], None],
) -> Look:
    """List the sources, and hand on what is to be read.

    Parameters
    ----------
    sources : sequence of str
        Folders and files, local or at fsspec URLs.
    names : mapping of str to str
        Names that sources have already, by their roots.
    pieces : sequence of Piece
        What is known.
    key : bytes
        The study's key.
    rescan : bool
        Whether every file is to be read.
    take : callable
        Is given one batch of files at a time, as a table with the columns of `WORK`.

    Raises
    ------
    InputError
        A source cannot be listed, and nothing is known of it.
    """
    known = _Known.load(pieces)
    listing = Listing(sources, names)
    n_of = dict.fromkeys(("new", "changed", "unchanged", "batches"), 0)
    numbers, stamps = array("q"), array("q")
    waiting: list[tuple[Found, int]] = []

    def flush() -> None:
        take(work_of(waiting))
        waiting.clear()
        n_of["batches"] += 1

    found = iter(listing)
    while chunk := list(islice(found, BATCH_FILES)):
        now = [file_number(key, one.path, one.identity) for one in chunk]
        kinds = known.compare(now, [one.stamp for one in chunk])
        numbers.extend(now)
        stamps.extend(one.stamp for one in chunk)
        for one, number, kind in zip(chunk, now, kinds, strict=True):
            n_of[kind] += 1
            if rescan or kind != "unchanged":
                waiting.append((one, number))
            if len(waiting) == BATCH_FILES:
                flush()
    if waiting:
        flush()
    listed = known.listed(_as_array(numbers), _as_array(stamps), _held(pieces, listing))
    survey = Survey(
        n_files=len(numbers),
        n_new=n_of["new"],
        n_changed=n_of["changed"],
        n_unchanged=n_of["unchanged"],
        n_missing_series=known.n_missing(listed),
        n_batches=n_of["batches"],
        set_aside=dict(listing.set_aside),
        missing_sources=tuple(listing.reason(place) for place in listing.absent),
    )
    return Look(survey, listed, listing.names)


def _held(pieces: Sequence[Piece], listing: Listing) -> NDArray[np.int64]:
    """Files that are known from sources, or folders of them, that cannot be listed now."""
    places = [*listing.absent, *listing.unlisted]
    held: dict[str, list[NDArray[np.int64]]] = {place: [] for place in places}
    for piece in pieces if places else ():
        table = piece.read(["file", "path"])
        for place in places:
            whole = os.fsencode(place)
            below = pc.starts_with(table["path"], pattern=whole.rstrip(b"/") + b"/")
            inside = pc.fill_null(pc.or_(below, pc.equal(table["path"], whole)), False)
            held[place].append(table["file"].filter(inside).to_numpy())
    for place in listing.absent:
        if not sum(map(len, held[place])):
            raise InputError(listing.reason(place))
    return np.concatenate([np.zeros(0, dtype=np.int64), *(part for parts in held.values() for part in parts)])


@dataclass(frozen=True)
class _Known:
    """The files that the index knows, each once."""

    rows: Rows
    file: NDArray[np.int64]
    """Numbers, sorted."""
    stamp: NDArray[np.int64]
    """As they were read."""
    is_to_be_read: NDArray[np.bool_]
    """Files that could not be opened, or of which a companion has changed."""

    @classmethod
    def load(cls, pieces: Sequence[Piece]) -> _Known:
        rows = Rows.load(pieces)
        newest = np.flatnonzero(rows.newest())
        file, first = np.unique(rows.file[newest], return_index=True)
        chosen = newest[first]
        changed = _with_changed_companions([pieces[i] for i in np.unique(rows.piece[rows.has_companions])])
        return cls(rows, file, rows.stamp[chosen], rows.is_unreadable[chosen] | np.isin(file, changed))

    def compare(self, file: Sequence[int], stamp: Sequence[int]) -> list[str]:
        """`new`, `changed` or `unchanged`, for each file."""
        wanted = np.array(file, dtype=np.int64)
        if not len(self.file):
            return ["new"] * len(wanted)
        index = np.minimum(np.searchsorted(self.file, wanted), len(self.file) - 1)
        is_same = (self.stamp[index] == np.array(stamp, dtype=np.int64)) & ~self.is_to_be_read[index]
        kinds = np.where(self.file[index] != wanted, "new", np.where(is_same, "unchanged", "changed"))
        return list(kinds.tolist())

    def listed(self, file: NDArray[np.int64], stamp: NDArray[np.int64], held: NDArray[np.int64]) -> Listed:
        """What was found, and what is held of files that were not."""
        held = np.setdiff1d(held, file)
        of_held = self.stamp[np.searchsorted(self.file, held)]
        is_held = np.r_[np.zeros(len(file), dtype=bool), np.ones(len(held), dtype=bool)]
        return Listed.of(np.r_[file, held], np.r_[stamp, of_held], is_held)

    def n_missing(self, listed: Listed) -> int:
        """How many series have images, none of which was found."""
        rows = self.rows
        index = listed.find(rows.file)
        found = index >= 0
        if len(listed.file):
            found &= ~listed.is_held[index]
        images = rows.is_image & (rows.volume >= 0)
        return len(np.setdiff1d(rows.volume[images], rows.volume[images & found]))


def _with_changed_companions(pieces: Sequence[Piece]) -> NDArray[np.int64]:
    """Volume files whose voxels lie in other files that are not as they were."""
    changed: dict[int, bool] = {}
    for piece in pieces:
        table = piece.read(["file", "path", "companions", "companions_stamp"])
        for row in table.filter(pc.is_valid(table["companions_stamp"])).to_pylist():
            names = [os.fsdecode(name) for name in row["companions"]]
            stamp, _ = companions_stamp(os.fsdecode(row["path"]), names)
            changed[row["file"]] = stamp != row["companions_stamp"]
    return np.array([file for file, is_changed in changed.items() if is_changed], dtype=np.int64)


def _as_array(numbers: array[int]) -> NDArray[np.int64]:
    return np.frombuffer(numbers, dtype=np.int64) if numbers else np.zeros(0, dtype=np.int64)
