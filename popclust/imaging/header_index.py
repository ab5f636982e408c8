"""The index of headers beside the key: the sources are read once, later only what is new or has changed.

A folder of Parquet files, for the owner's eyes alone: one file of rows per batch of headers, and one table of series.
Every file is written aside and put in place whole. Whether a row counts follows from the rows and from what was listed
last, never from where a run was stopped: a killed one is gone on with by surveying again.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from popclust.errors import InputError
from popclust.imaging.header_rows import (
    FORGOTTEN,
    ROWS,
    WORK,
    blank,
    forgotten_digest,
    headers_of,
    read_rows,
)
from popclust.imaging.pseudonyms import keyed_digest
from popclust.imaging.series import SeriesFiles, group_series
from popclust.imaging.series_table import (
    SERIES,
    Listed,
    Piece,
    Rows,
    row_groups_with,
    series_of,
    standing,
)
from popclust.imaging.series_table import SeriesTable as SeriesTable
from popclust.imaging.survey import Survey as Survey
from popclust.imaging.survey import look_at
from popclust.settings import IngestSettings

_FORMAT = 2
"""Raised when rows of an earlier popclust cannot be used: then all headers are read again."""
_ROWS_AT_ONCE = 2_000
_SERIES_AT_ONCE = 1_000
_MAX_BATCHES_OF_SERIES = 16
"""On average; beyond, the rows of a series are brought together, so that its files are soon found."""
_GATHERED_ROWS = 5_000
_MAX_PARTS = 500
_LISTED = pa.schema([("file", pa.int64()), ("stamp", pa.int64()), ("is_held", pa.bool_())])


class HeaderIndex:
    """Headers of all files of the sources, and the series they make.

    Parameters
    ----------
    folder : str
        Where the index lies, beside the key; made when it is first written.
    key : bytes
        The study's key.
    """

    def __init__(self, folder: str, key: bytes) -> None:
        self._key = key
        self._folder = Path(folder)
        self._headers = self._folder / f"headers-{_FORMAT}"
        self._todo = self._folder / "todo.parquet"
        self._listed = self._folder / "listed.parquet"
        self._series = self._folder / "series.parquet"
        self._sources = self._folder.parent / "sources.parquet"

    # -- the run ---------------------------------------------------------------------------------------------------

    def survey(self, sources: Sequence[str], rescan: bool = False) -> Survey:
        """List the sources, compare with what is known, and write down what there is to read.

        Parameters
        ----------
        sources : sequence of str
            Folders and files, local or at fsspec URLs.
        rescan : bool
            Read the headers of all files again.

        Raises
        ------
        InputError
            A source is missing and nothing is known of it; or the index was made with another key.
        """
        self._make_folders()
        state = self._state()
        if not state["is_purged"]:  # `drop` was stopped on its way
            self._purge()
        pieces = self._pieces()
        run = self._next_run(pieces)
        with self._aside(self._todo) as file, pq.ParquetWriter(file, WORK) as writer:
            writer.add_key_value_metadata({"run": run})
            look = look_at(sources, state["names"], pieces, self._key, rescan, take=writer.write_table)
        columns = [look.listed.file, look.listed.stamp, look.listed.is_held]
        self._put(self._listed, pa.table(columns, schema=_LISTED))
        self._save_state({**state, "names": look.names})
        return look.survey

    def read_batch(self, number: int) -> dict[str, int]:
        """Read the headers of one batch; many processes may do so at once, and the same one twice.

        Returns
        -------
        dict of str to int
            Counts: `n_files`, `n_images` (frames are images), `n_other` files, `n_unreadable` and `n_forgotten` ones.
        """
        with pq.ParquetFile(self._todo) as todo:
            work = todo.read_row_group(number)
            run = todo.metadata.metadata[b"run"].decode()
        rows = read_rows(work, self._key, self._state()["forgotten"])
        self._put(self._headers / f"{run}-{number:06}.parquet", rows, row_group_size=_ROWS_AT_ONCE)
        problems = [p or "" for p in rows["problem"].to_pylist()]
        formats = rows["format"].to_pylist()
        return {
            "n_files": len(work),
            "n_images": sum(f in ("dicom", "volume") for f in formats),
            "n_other": problems.count("not_an_image"),
            "n_unreadable": sum(p.startswith("unreadable") for p in problems),
            "n_forgotten": formats.count(FORGOTTEN),
        }

    def settle(self) -> SeriesTable:
        """Drop rows that no longer count, and write the table of series and the map from pseudonyms to sources.

        Raises
        ------
        RuntimeError
            Batches of the last survey have not been read.
        """
        pieces, listed = self._pieces(), self._read_listed()
        state = self._state_of(pieces, listed)
        if self._sources.exists() and self._series_state() == state:
            self._todo.unlink(missing_ok=True)
            return self.series()
        rows = Rows.load(pieces)
        stands = standing(rows, listed)
        if stands.n_unread:
            raise RuntimeError(f"index: {stands.n_unread} files that were listed have not been read; read all batches")
        if rows.n_pieces_of_volume(stands.keep) > _MAX_BATCHES_OF_SERIES:
            self._keep(pieces, rows, stands.keep)
            pieces = self._gather(self._pieces(), int(stands.keep.sum()))
            rows = Rows.load(pieces)
            stands = standing(rows, listed)
        table = series_of(pieces, rows, stands, self._key)
        self._keep(pieces, rows, stands.keep)
        self._write_series(table, self._state_of(self._pieces(), listed))
        self._todo.unlink(missing_ok=True)  # it names files, those of forgotten patients too
        return table

    def preview(self, sources: Sequence[str], rescan: bool = False) -> SeriesTable:
        """The table of series as it would be; headers are read in this process, and nothing is written.

        Raises
        ------
        InputError
            As for `survey`.
        """
        state, pieces = self._state(), self._pieces()
        read: list[Piece] = []

        def take(work: pa.Table) -> None:
            read.append(Piece(f"~{len(read):06}", read_rows(work, self._key, state["forgotten"])))

        look = look_at(sources, state["names"], pieces, self._key, rescan, take)
        pieces += read
        rows = Rows.load(pieces)
        return series_of(pieces, rows, standing(rows, look.listed), self._key)

    # -- what it holds ---------------------------------------------------------------------------------------------

    def series(self) -> SeriesTable:
        """The table of series as last settled.

        Raises
        ------
        InputError
            There is none yet.
        """
        if not self._series.exists():
            raise InputError(f"{self._series}: the index of headers is not here; it stays where ingest ran")
        with pq.ParquetFile(self._series) as file:
            return SeriesTable(file.read().replace_schema_metadata())

    def series_files(self, volume_id: str, rules: IngestSettings | None = None) -> SeriesFiles:
        """The files of one series, and the stack that is read; only a few files of the index are looked at.

        Parameters are the series' pseudonym, and the rules by which the stack is chosen (see `group_series`).

        Raises
        ------
        InputError
            The index knows no such series.
        """
        with pq.ParquetFile(self._series) as file:
            columns = ["volume_id", "batches", "members"]
            table = file.read_row_groups(row_groups_with(file, volume_id), columns=columns)
        found = table.filter(pc.equal(table["volume_id"], volume_id)).to_pylist()
        if not found:
            raise InputError(f"{volume_id}: the index of headers knows no such series")
        names = found[0]["members"] or [volume_id]
        parts = [Piece(name, self._headers / name).rows_of(names) for name in found[0]["batches"]]
        (series,) = group_series(headers_of(pa.concat_tables(parts)), rules)
        return series

    def drop(self, names: Iterable[str]) -> list[str]:
        """Forget volumes or patients: their rows go, and the sources' files are not taken in again.

        Of their files only keyed numbers stay, by which they are known without being read, and keyed digests of the
        pseudonyms.

        Parameters
        ----------
        names : iterable of str
            Pseudonyms of volumes or patients.

        Returns
        -------
        list of str
            The volumes that the index held of them, sorted.
        """
        wanted = pa.array(sorted(set(names)), pa.string())
        self._make_folders()
        table = self.series().table if self._series.exists() else SERIES.empty_table()
        is_meant = pc.or_(*(pc.is_in(table[name], value_set=wanted) for name in ("volume_id", "patient_id")))
        dropped = table.filter(is_meant)["volume_id"].to_pylist()
        members = [name for names in table.filter(is_meant)["members"].to_pylist() for name in names]
        state = self._state()
        digests = {forgotten_digest(self._key, name) for name in {*wanted.to_pylist(), *dropped, *members}}
        self._save_state({**state, "forgotten": sorted({*state["forgotten"], *digests}), "is_purged": False})
        self._purge()
        return sorted(dropped)

    # -- how -------------------------------------------------------------------------------------------------------

    def _pieces(self) -> list[Piece]:
        names = sorted(path.name for path in self._headers.glob("*.parquet"))
        return [Piece(name, self._headers / name) for name in names]

    def _next_run(self, pieces: Sequence[Piece]) -> str:
        """How the names of batches begin: greater than those there are, and no other run's."""
        generation = 1 + max((int(piece.name.partition("-")[0]) for piece in pieces), default=0)
        return f"{generation:06}-{secrets.token_hex(4)}"

    def _keep(self, pieces: Sequence[Piece], rows: Rows, keep: NDArray) -> None:
        for index, piece in enumerate(pieces):
            chosen = keep[rows.piece == index]
            if not chosen.any():
                (self._headers / piece.name).unlink()
            elif not chosen.all():
                table = piece.read().filter(pa.array(chosen))
                self._put(self._headers / piece.name, table, row_group_size=_ROWS_AT_ONCE)

    def _gather(self, pieces: Sequence[Piece], n_rows: int) -> list[Piece]:
        """Bring the rows of each series together, where the names of files tell nothing of their series.

        Whoever is killed in between leaves rows twice, of which the later ones count.
        """
        volumes = pc.unique(pa.concat_tables([piece.read(["volume_id"]) for piece in pieces])["volume_id"]).drop_null()
        n_parts = min(max(1, n_rows // _GATHERED_ROWS), _MAX_PARTS)
        bounds = volumes.sort().to_numpy(False)[np.arange(1, n_parts) * len(volumes) // n_parts]
        run = self._next_run(pieces)
        with tempfile.TemporaryDirectory(dir=self._folder, suffix=".aside") as folder:
            parts = [Path(folder, f"{part:06}") for part in range(n_parts)]
            with ExitStack() as opened:
                writers = [opened.enter_context(pa.ipc.new_stream(path, ROWS)) for path in parts]
                for piece in pieces:
                    table = piece.read()
                    names = table["volume_id"].fill_null("").to_numpy()
                    part_of = np.searchsorted(bounds, names, "right")
                    # What is no image goes anywhere.
                    part_of = np.where(names == "", table["file"].to_numpy() % n_parts, part_of)
                    for part in np.unique(part_of):
                        writers[part].write_table(table.filter(pa.array(part_of == part)))
            for path in parts:
                with pa.ipc.open_stream(path.read_bytes()) as rows:
                    table = rows.read_all().sort_by([("volume_id", "ascending"), ("identity", "ascending")])
                self._put(self._headers / f"{run}-{path.name}.parquet", table, row_group_size=_ROWS_AT_ONCE)
                pa.default_memory_pool().release_unused()
        for piece in pieces:
            (self._headers / piece.name).unlink()
        return self._pieces()

    def _purge(self) -> None:
        """Take every trace of what is forgotten out of the index; done again if it was stopped on its way."""
        state = self._state()
        digests = frozenset(state["forgotten"])
        for path in (self._todo, self._listed):
            path.unlink(missing_ok=True)
        for piece in self._pieces():
            table = piece.read()
            meant = self._is_forgotten(table, digests)
            if pc.any(meant).as_py():
                gone = {
                    (row["file"], row["stamp"]) for row in table.filter(meant).select(["file", "stamp"]).to_pylist()
                }
                blanks = pa.Table.from_pylist([blank(*one) for one in sorted(gone)], schema=ROWS)
                rest = pa.concat_tables([table.filter(pc.invert(meant)), blanks])
                self._put(self._headers / piece.name, rest, row_group_size=_ROWS_AT_ONCE)
        if self._series.exists():
            table = self.series().table
            self._write_series(SeriesTable(table.filter(pc.invert(self._is_forgotten(table, digests)))), "")
        self._save_state({**state, "is_purged": True})

    def _is_forgotten(self, table: pa.Table, digests: frozenset[str]) -> pa.Array:
        """Whether a row is of a volume or patient that is forgotten."""
        masks = []
        for name in ("volume_id", "patient_id"):
            values = [v for v in pc.unique(table[name]).to_pylist() if v and forgotten_digest(self._key, v) in digests]
            masks.append(pc.is_in(table[name], value_set=pa.array(values, pa.string())))
        return pc.or_(*masks)

    # -- files -----------------------------------------------------------------------------------------------------

    def _write_series(self, series: SeriesTable, state: str) -> None:
        people = series.table.select(["volume_id", "series_instance_uid", "folder"])
        self._put(self._sources, people)
        table = series.table.replace_schema_metadata({"state": state})
        self._put(self._series, table, row_group_size=_SERIES_AT_ONCE)

    def _series_state(self) -> str:
        if not self._series.exists():
            return ""
        with pq.ParquetFile(self._series) as file:
            return (file.schema_arrow.metadata or {}).get(b"state", b"").decode()

    def _state_of(self, pieces: Sequence[Piece], listed: Listed) -> str:
        """What the table of series follows from: the batches, none written twice with other rows, and the list."""
        content = [piece.name.encode() + str((self._headers / piece.name).stat().st_size).encode() for piece in pieces]
        arrays = (listed.file, listed.stamp, listed.is_held)
        return keyed_digest(self._key, "state", b"\0".join([*content, *(array.tobytes() for array in arrays)]))

    def _read_listed(self) -> Listed:
        if not self._listed.exists():
            raise RuntimeError("index: nothing is listed; survey the sources before settling")
        with pq.ParquetFile(self._listed) as file:
            table = file.read()
        return Listed(*(table[name].to_numpy() for name in _LISTED.names))

    def _state(self) -> dict[str, Any]:
        """Names of the sources, and what is forgotten."""
        check = keyed_digest(self._key, "index", "")
        try:
            state = json.loads((self._folder / "state.json").read_bytes())
        except FileNotFoundError:
            return {"key": check, "names": {}, "forgotten": [], "is_purged": True}
        if state["key"] != check:
            raise InputError(f"{self._folder}: the index was made with another key; bring that key back, or remove it")
        return dict(state)

    def _save_state(self, state: Mapping[str, Any]) -> None:
        with self._aside(self._folder / "state.json") as file:
            file.write(json.dumps(state, indent=1).encode())

    def _make_folders(self) -> None:
        for folder in (self._folder.parent, self._folder, self._headers):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder.chmod(0o700)
        # Left by somebody who was killed.
        for folder in self._folder.glob("*.aside/"):
            shutil.rmtree(folder, ignore_errors=True)
        for left in (*self._folder.rglob("*.aside"), *self._folder.parent.glob("sources.parquet.*.aside")):
            left.unlink(missing_ok=True)

    def _put(self, path: Path, table: pa.Table, **options: int) -> None:
        with self._aside(path) as file:
            # Most columns hold another value in each row: a dictionary of them would cost the driver 60 MB.
            pq.write_table(table, file, compression="zstd", use_dictionary=False, **options)

    @contextmanager
    def _aside(self, path: Path) -> Iterator[IO[bytes]]:
        """A file for the owner's eyes that takes its place once it is whole and on the disk."""
        aside = path.with_name(f"{path.name}.{secrets.token_hex(4)}.aside")
        try:
            with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
