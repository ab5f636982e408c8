"""Rows of headers settled into a table of series: which rows count, and what each series is known by."""

from __future__ import annotations

import itertools
import os
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from popclust.imaging.header_rows import ROWS
from popclust.imaging.headers import FileHeader
from popclust.imaging.joining import joined
from popclust.imaging.listing import as_text
from popclust.imaging.pseudonyms import keyed_digest, pseudonym
from popclust.imaging.series import identity_of

SERIES = pa.schema(
    [
        ("volume_id", pa.string()),
        ("patient_id", pa.string()),
        ("study_identity", pa.string()),
        ("series_instance_uid", pa.string()),
        ("folder", pa.string()),
        ("format", pa.string()),
        ("n_images", pa.int64()),
        ("fingerprint", pa.string()),
        ("missing", pa.bool_()),
        ("batches", pa.list_(pa.string())),
        ("members", pa.list_(pa.string())),
    ]
)
"""One row per series, in the order of volume_id. `batches` are the files of the index that hold its headers, `members`
the names under which its rows stand there if it is joined from series of one slice each."""

_FIRST = ["volume_id", "patient_id", "identity", "study_uid", "series_uid", "format", "path", "joint"]


@dataclass(frozen=True)
class SeriesTable:
    """All series that the index knows."""

    table: pa.Table
    """With the columns of `SERIES`."""

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def n_missing(self) -> int:
        """Series that are no longer in the sources."""
        return len(self.missing())

    @property
    def n_images(self) -> int:
        """Images of all series, the missing ones too."""
        return int(pc.sum(self.table["n_images"]).as_py() or 0)

    def fingerprints(self) -> dict[str, str]:
        """What changes when an image of a series is added, taken away, replaced or mended, by volume_id.

        It is keyed, and neither the order of reading nor the folder that the export lies in plays a part.
        """
        return dict(zip(self._column("volume_id"), self._column("fingerprint"), strict=True))

    def missing(self) -> list[str]:
        """The volume_id of each series that is no longer in the sources."""
        return list(self.table.filter(self.table["missing"])["volume_id"].to_pylist())

    def frame(self) -> pd.DataFrame:
        """The columns of `SERIES` but `batches` and `members`, as a frame."""
        return self.table.drop_columns(["batches", "members"]).to_pandas()

    def _column(self, name: str) -> list[Any]:
        return list(self.table[name].to_pylist())


@dataclass(frozen=True)
class Piece:
    """Rows of one batch: a file of the index, or a table that is not to be written."""

    name: str
    """Later batches have greater names."""
    held: Path | pa.Table
    """The file, or the rows."""

    def read(self, columns: list[str] | None = None) -> pa.Table:
        """Some columns of the rows."""
        if isinstance(self.held, Path):
            with pq.ParquetFile(self.held) as file:
                return file.read(columns=columns, use_threads=False)
        return self.held.select(columns) if columns else self.held

    def rows_of(self, names: Sequence[str]) -> pa.Table:
        """The rows under some names of volumes; row groups without any are not read."""
        wanted = pa.array(names, pa.string())
        if not isinstance(self.held, Path):
            return self.held.filter(pc.is_in(self.held["volume_id"], value_set=wanted))
        with pq.ParquetFile(self.held) as file:
            groups = sorted({group for name in names for group in row_groups_with(file, name)})
            table = file.read_row_groups(groups, use_threads=False)
        return table.filter(pc.is_in(table["volume_id"], value_set=wanted))


def row_groups_with(file: pq.ParquetFile, volume_id: str) -> list[int]:
    """Row groups of a file, sorted by volume_id (its first column), that may hold a volume."""
    found = []
    for number in range(file.num_row_groups):
        known = file.metadata.row_group(number).column(0).statistics
        if known is None or not known.has_min_max or known.min <= volume_id <= known.max:
            found.append(number)
    return found


@dataclass(frozen=True)
class Rows:
    """What is needed of all rows at once, as columns; a later row of a file stands behind an earlier one."""

    file: NDArray[np.int64]
    """The file's number."""
    stamp: NDArray[np.int64]
    """As it was when it was read."""
    piece: NDArray[np.int32]
    """Index of the piece that holds the row."""
    volume: NDArray[np.int32]
    """Index into `volume_ids`, -1 for what is no image."""
    is_image: NDArray[np.bool_]
    """False for files that can be no volume, unreadable ones among them."""
    is_unreadable: NDArray[np.bool_]
    """True for what could not be opened: it may be another time."""
    has_companions: NDArray[np.bool_]
    """True for volume files whose voxels lie in other files."""
    volume_ids: tuple[str, ...]
    """All volumes, sorted."""

    @classmethod
    def load(cls, pieces: Sequence[Piece]) -> Rows:
        """Read them."""
        columns = ["file", "stamp", "volume_id", "format", "problem", "companions_stamp"]
        tables = [piece.read(columns) for piece in pieces]
        lengths = [len(table) for table in tables]
        table = pa.concat_tables([pa.schema([ROWS.field(name) for name in columns]).empty_table(), *tables])
        del tables
        names = pc.unique(table["volume_id"]).drop_null().sort()
        codes = pc.fill_null(pc.index_in(table["volume_id"], value_set=names), -1)
        unreadable = pa.array(["unreadable_file", "unreadable_folder"])
        return cls(
            file=table["file"].to_numpy(),
            stamp=table["stamp"].to_numpy(),
            piece=np.repeat(np.arange(len(pieces), dtype=np.int32), lengths),
            volume=codes.to_numpy().astype(np.int32),
            is_image=pc.is_in(table["format"], value_set=pa.array(["dicom", "volume"])).to_numpy(),
            is_unreadable=pc.is_in(table["problem"], value_set=unreadable).to_numpy(),
            has_companions=pc.is_valid(table["companions_stamp"]).to_numpy(),
            volume_ids=tuple(names.to_pylist()),
        )

    def newest(self, among: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
        """Rows of the newest piece that holds their file, of those asked for."""
        chosen = np.ones(len(self.file), dtype=bool) if among is None else among
        indices = np.flatnonzero(chosen)
        order = indices[np.lexsort((self.piece[indices], self.file[indices]))]
        files, pieces = self.file[order], self.piece[order]
        ends = np.flatnonzero(np.r_[files[1:] != files[:-1], True]) if len(files) else np.zeros(0, dtype=np.int64)
        newest = np.repeat(pieces[ends], np.diff(np.r_[-1, ends]))
        result = np.zeros(len(self.file), dtype=bool)
        result[order[pieces == newest]] = True
        return result

    def n_pieces_of_volume(self, among: NDArray[np.bool_]) -> float:
        """In how many pieces the rows of one volume lie, on average."""
        chosen = among & (self.volume >= 0)
        pairs = np.unique(self.volume[chosen].astype(np.int64) << 32 | self.piece[chosen])
        return len(pairs) / max(1, len(np.unique(pairs >> 32)))


@dataclass(frozen=True)
class Listed:
    """The files that a survey found, by number, and those that it could not look for."""

    file: NDArray[np.int64]
    """Numbers, sorted."""
    stamp: NDArray[np.int64]
    """As they are now."""
    is_held: NDArray[np.bool_]
    """Their source cannot be listed: what is known of them stays."""

    @classmethod
    def of(cls, file: NDArray[np.int64], stamp: NDArray[np.int64], is_held: NDArray[np.bool_]) -> Listed:
        """Sort them."""
        order = np.argsort(file, kind="stable")
        return cls(file[order], stamp[order], is_held[order])

    def find(self, file: NDArray[np.int64]) -> NDArray[np.int64]:
        """Index of each file, -1 for one that was not found."""
        if not len(self.file):
            return np.full(len(file), -1)
        index = np.minimum(np.searchsorted(self.file, file), len(self.file) - 1)
        return np.where(self.file[index] == file, index, -1)


@dataclass(frozen=True)
class Standing:
    """Which rows count."""

    keep: NDArray[np.bool_]
    """Per row."""
    is_missing: NDArray[np.bool_]
    """Per volume: at least one of its images could not be found, and what is known of it stays."""
    n_unread: int
    """Files that were found but have no row that counts."""


def standing(rows: Rows, listed: Listed) -> Standing:
    """Find the rows that count, given what was found.

    A row counts if its file was found as it was read, and no later row of that file does. Rows of files that are gone
    stay as long as their series has no others: a series that lost all its images is missing, one that lost some is
    another series. What lies in a source that cannot be listed stays as it is.
    """
    index = listed.find(rows.file)
    found = index >= 0
    if len(listed.file):
        found &= listed.stamp[index] == rows.stamp
    keep = rows.newest(found)
    n_unread = len(np.setdiff1d(listed.file, rows.file[keep]))
    is_held = np.zeros(len(rows.file), dtype=bool)
    is_held[keep] = listed.is_held[index[keep]] if len(listed.file) else False
    of_volume = rows.volume >= 0
    n = len(rows.volume_ids)
    has_rows = np.bincount(rows.volume[keep & of_volume], minlength=n) > 0
    gone = (index < 0) & of_volume & rows.is_image
    gone[of_volume] &= ~has_rows[rows.volume[of_volume]]
    gone = rows.newest(gone)
    is_missing = np.bincount(rows.volume[(gone | is_held) & of_volume], minlength=n) > 0
    return Standing(keep | gone, is_missing, n_unread)


def series_of(pieces: Sequence[Piece], rows: Rows, stands: Standing, key: bytes) -> SeriesTable:
    """The table of series, from the rows that count; of each piece only a few columns are in memory at a time."""
    begin = 0
    firsts, prints = [], [np.zeros((0, 2), dtype=np.int64)]
    for piece in pieces:
        table = piece.read([*_FIRST, "print_high", "print_low"])
        part = slice(begin, begin := begin + len(table))
        counts = stands.keep[part] & (rows.volume[part] >= 0)
        table = table.filter(pa.array(counts))
        prints.append(np.stack([table["print_high"].to_numpy(), table["print_low"].to_numpy()], axis=1))
        firsts.append(table.select(_FIRST).filter(pa.array(_is_first(rows.volume[part][counts]))))
        if sum(map(len, firsts)) > 2 * len(rows.volume_ids) + 1_000:  # files of series that are scattered
            firsts = [_first_of_each(firsts)]
            pa.default_memory_pool().release_unused()
    chosen = stands.keep & (rows.volume >= 0)
    if not chosen.any():
        return SeriesTable(SERIES.empty_table())
    first = _first_of_each(firsts)
    names = [piece.name for piece in pieces]
    return _table(first, rows.volume[chosen], rows.piece[chosen], np.concatenate(prints), stands.is_missing, names, key)


def _table(
    first: pa.Table,
    volume: NDArray[np.int32],
    piece: NDArray[np.int32],
    prints: NDArray[np.int64],
    is_missing: NDArray[np.bool_],
    names: Sequence[str],
    key: bytes,
) -> SeriesTable:
    """The table of series from its series' first rows, and of all their rows the volume, the piece and the print."""
    order = np.lexsort((prints[:, 1], prints[:, 0], volume))
    volume, piece, prints = volume[order], piece[order], prints[order]
    begins = np.flatnonzero(_is_first(volume)).tolist()
    parts = [slice(begin, end) for begin, end in itertools.pairwise([*begins, len(volume)])]
    identities = [
        identity_of(FileHeader("", row["identity"], row["format"], series_uid=row["series_uid"]))
        for row in first.select(["identity", "format", "series_uid"]).to_pylist()
    ]
    columns = {
        "volume_id": first["volume_id"],
        "patient_id": first["patient_id"],
        "study_identity": [s or i for s, i in zip(first["study_uid"].to_pylist(), identities, strict=True)],
        "series_instance_uid": identities,
        "folder": [as_text(posixpath.dirname(os.fsdecode(path))) for path in first["path"].to_pylist()],
        "format": first["format"],
        "n_images": [part.stop - part.start for part in parts],
        "fingerprint": [_fingerprint(key, i, prints[part]) for i, part in zip(identities, parts, strict=True)],
        "missing": is_missing[volume[begins]],
        "batches": [[names[index] for index in np.unique(piece[part])] for part in parts],
        "members": [[]] * len(parts),
    }
    table = pa.table(columns, schema=SERIES)
    singles = pc.and_(pc.equal(table["n_images"], 1), pc.is_valid(first["joint"]))
    together = joined(zip(*(c.filter(singles).to_pylist() for c in (table["volume_id"], first["joint"])), strict=True))
    return SeriesTable(_with_joined(table, together, key) if together else table)


def _with_joined(table: pa.Table, together: Mapping[str, Sequence[Any]], key: bytes) -> pa.Table:
    """The table with one row for all series of one slice that belong together."""
    members = {name for names in together.values() for name in names}
    is_member = pc.is_in(table["volume_id"], value_set=pa.array(sorted(members), pa.string()))
    rows = {row["volume_id"]: row for row in table.filter(is_member).to_pylist()}
    made = []
    for joint, names in together.items():
        parts = [rows[name] for name in sorted(names)]
        made.append(
            {
                **parts[0],
                "volume_id": pseudonym(key, "volume", joint),
                "series_instance_uid": joint,
                "n_images": len(parts),
                "fingerprint": keyed_digest(key, "series", "".join([joint, *(part["fingerprint"] for part in parts)])),
                "missing": any(part["missing"] for part in parts),
                "batches": sorted({batch for part in parts for batch in part["batches"]}),
                "members": [part["volume_id"] for part in parts],
            }
        )
    joined_rows = pa.Table.from_pylist(made, schema=SERIES)
    return pa.concat_tables([table.filter(pc.invert(is_member)), joined_rows]).sort_by("volume_id")


def _first_of_each(tables: Sequence[pa.Table]) -> pa.Table:
    """The first row of each volume by its identity."""
    table = pa.concat_tables(tables).sort_by([(name, "ascending") for name in ("volume_id", "identity", "path")])
    return table.filter(pa.array(_is_first(table["volume_id"].to_numpy()))).combine_chunks()


def _is_first(values: NDArray) -> NDArray[np.bool_]:
    """Whether a value of a sorted array is not yet there before."""
    return np.r_[True, values[1:] != values[:-1]] if len(values) else np.zeros(0, dtype=bool)


def _fingerprint(key: bytes, identity: str, prints: NDArray[np.int64]) -> str:
    return keyed_digest(key, "series", identity.encode() + b"\0" + prints.astype("<i8").tobytes())
