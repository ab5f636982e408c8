"""The study on disk: a folder, or any fsspec URL, that holds all that a run has made.

A part is written, then published by its completion marker. Resuming is the list of parts that should exist minus
the markers that match. Nothing here knows what a stage computes.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import xarray as xr
import zarr

from popclust import schema, settings
from popclust.errors import InputError
from popclust.settings import Settings

WHOLE = "population"
"""The `volume_id` under which a stage over the whole population keeps its one marker."""


@dataclass(frozen=True)
class Study:
    """A handle on a study; it pickles to a few hundred bytes and is what a task is given.

    Parameters
    ----------
    url : str
        Folder or fsspec URL.
    settings : Settings
        The resolved study.toml.
    reference_url : str
        The study whose atlas and vocabulary are used; itself, but for new volumes put on a frozen model.
    """

    url: str
    settings: Settings
    reference_url: str = ""

    @classmethod
    def open(cls, url: str) -> Study:
        """Open a study by its folder or URL.

        Raises
        ------
        InputError
            No study.toml there, bad settings, or a folder of another format version.
        """
        url = _absolute(url)
        fs, root = fsspec.core.url_to_fs(url)
        path = posixpath.join(root, "study.toml")
        if not fs.exists(path):
            raise InputError(f"{url}: no study here (study.toml is missing); make one with `popclust init {url}`")
        text = fs.cat_file(path).decode()
        _check_version(text, url)
        return cls(url, settings.loads(text, f"{url}/study.toml"))

    @classmethod
    def create(cls, url: str, overrides: Mapping[str, Mapping[str, Any]] | None = None) -> Study:
        """Write a commented study.toml into a new folder.

        Raises
        ------
        InputError
            There is a study already.
        """
        url = _absolute(url)
        fs, root = fsspec.core.url_to_fs(url)
        path = posixpath.join(root, "study.toml")
        if fs.exists(path):
            raise InputError(f"{url}: there is a study here already (study.toml exists)")
        fs.makedirs(root, exist_ok=True)
        fs.pipe_file(path, settings.template({k: dict(v) for k, v in (overrides or {}).items()}).encode())
        return cls.open(url)

    # -- paths ---------------------------------------------------------------------------------------------------

    def path(self, *parts: str) -> str:
        """URL of something in the study."""
        return posixpath.join(self.url, *parts)

    def model_path(self, *parts: str) -> str:
        """URL of something learnt from a population: the study's own, or the frozen one's."""
        return posixpath.join(self.reference_url or self.url, *parts)

    def resolve(self, path: str) -> str:
        """A path named in study.toml: absolute, a URL, or relative to the folder of study.toml."""
        if "://" in path or path.startswith("/"):
            return path
        if path.startswith("~"):
            return str(Path(path).expanduser())
        return posixpath.normpath(posixpath.join(self.url, path))

    def secret_path(self, name: str) -> str:
        """A file beside the study, never in it: the key, and what maps pseudonyms back to their sources.

        Raises
        ------
        InputError
            The study is not on a local disk and settings name no key file.
        """
        chosen = self.settings.ingest.key_file
        if not chosen and "://" in self.url:
            raise InputError(f"{self.url}: set ingest.key_file to a local file: keys do not belong in an object store")
        folder = Path(self.resolve(chosen)).parent if chosen else Path(f"{self.url.rstrip('/')}.secret")
        if name == "key" and chosen:
            return self.resolve(chosen)
        return str(folder / name)

    # -- files ---------------------------------------------------------------------------------------------------

    def exists(self, *parts: str) -> bool:
        """Whether a file or folder is there."""
        fs, path = fsspec.core.url_to_fs(self.path(*parts))
        return bool(fs.exists(path))

    def read_bytes(self, *parts: str) -> bytes:
        """Contents of a file."""
        fs, path = fsspec.core.url_to_fs(self.path(*parts))
        return bytes(fs.cat_file(path))

    def write_bytes(self, data: bytes, *parts: str) -> None:
        """Write a file whole or not at all."""
        fs, path = fsspec.core.url_to_fs(self.path(*parts))
        fs.makedirs(posixpath.dirname(path), exist_ok=True)
        if "://" in self.url:  # an object store publishes a put at once
            fs.pipe_file(path, data)
            return
        aside = Path(f"{path}.aside")
        aside.write_bytes(data)
        aside.replace(path)

    def read_json(self, *parts: str) -> Any:
        """A JSON file."""
        return json.loads(self.read_bytes(*parts))

    def write_json(self, value: Any, *parts: str) -> None:
        """Write JSON with sorted keys: equal values give equal bytes."""
        self.write_bytes(canonical(value, indent=1), *parts)

    def remove(self, *parts: str) -> None:
        """Remove a file or folder if it is there."""
        fs, path = fsspec.core.url_to_fs(self.path(*parts))
        if fs.exists(path):
            fs.rm(path, recursive=True)

    # -- tables and stores ---------------------------------------------------------------------------------------

    def read_table(self, name: str) -> pd.DataFrame:
        """A table of :data:`popclust.schema.TABLES`.

        Raises
        ------
        InputError
            The table has not been made yet.
        """
        if not self.exists(f"{name}.parquet"):
            raise InputError(f"{self.url}: {name}.parquet is not made yet; `popclust run {self.url}` makes it")
        buffer = pa.BufferReader(self.read_bytes(f"{name}.parquet"))
        frame = pq.read_table(buffer).to_pandas()
        if missing := [c.name for c in schema.TABLES[name] if c.name not in frame.columns]:
            raise InputError(
                f"{self.url}: {name}.parquet is of another version of popclust, it has no {', '.join(missing)}; "
                f"`popclust run {self.url}` makes it anew"
            )
        return frame.astype({c.name: c.dtype for c in schema.TABLES[name] if c.dtype != "list"})

    def write_table(self, name: str, frame: pd.DataFrame) -> None:
        """Write a declared table; equal frames give equal bytes."""
        table = pa.Table.from_pandas(schema.conform_table(name, frame), preserve_index=False)
        types = {c.name: _LIST_TYPES[c.name] for c in schema.TABLES[name] if c.dtype == "list"}
        for column, list_type in types.items():
            table = table.set_column(table.column_names.index(column), column, table[column].cast(list_type))
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        self.write_bytes(sink.getvalue().to_pybytes(), f"{name}.parquet")

    def read_dataset(self, name: str) -> xr.Dataset:
        """A store of :data:`popclust.schema.STORES`, loaded."""
        if not self.exists(f"{name}.zarr", "zarr.json"):
            raise InputError(f"{self.url}: {name}.zarr is not made yet; `popclust run {self.url}` makes it")
        dataset = xr.open_zarr(self.path(f"{name}.zarr"), consolidated=False, chunks=None)
        return dataset.load()

    def write_dataset(self, name: str, dataset: xr.Dataset) -> None:
        """Write a declared store."""
        schema.check_dataset(name, dataset)
        # zarr specifies text of variable length only
        text = {k: v.astype(object) for k, v in dataset.coords.items() if v.dtype.kind in "UT"}
        out = dataset.assign_coords(text)
        self.remove(f"{name}.zarr")
        out.to_zarr(self.path(f"{name}.zarr"), mode="w", zarr_format=3, consolidated=False)

    def open_group(self, *parts: str, mode: Any = "r") -> zarr.Group:
        """A zarr group of the study; mode "w" removes what was there."""
        return zarr.open_group(self.path(*parts), mode=mode, zarr_format=None if mode == "r" else 3)

    # -- markers -------------------------------------------------------------------------------------------------

    def marker(self, stage: str, volume_id: str = WHOLE) -> str:
        """The completion marker of a part, empty where it is not done."""
        done = self._marker_file(stage, volume_id)
        return str(done["marker"]) if done else ""

    def record(self, stage: str, volume_id: str = WHOLE) -> dict[str, Any]:
        """The small record that a finished part left."""
        done = self._marker_file(stage, volume_id)
        if done is None:
            raise InputError(f"{self.url}: stage {stage!r} is not done for {volume_id}")
        return dict(done["record"])

    def markers(self, stage: str) -> dict[str, str]:
        """Markers of all finished parts of a stage, by sorted volume_id."""
        return {v: str(d["marker"]) for v, d in self._marker_files(stage).items()}

    def n_markers(self, stage: str) -> int:
        """How many parts of a stage are finished, without reading them."""
        fs, folder = fsspec.core.url_to_fs(self.path("markers", stage))
        return sum(p.endswith(".json") for p in fs.ls(folder, detail=False)) if fs.exists(folder) else 0

    def records(self, stage: str, volume_ids: Iterable[str] | None = None) -> dict[str, dict[str, Any]]:
        """Records of finished parts of a stage, by sorted volume_id."""
        wanted = None if volume_ids is None else set(volume_ids)
        files = self._marker_files(stage)
        return {v: dict(d["record"]) for v, d in files.items() if wanted is None or v in wanted}

    def begin(self, stage: str, volume_id: str = WHOLE) -> None:
        """Withdraw a part's marker before the part is written again."""
        self.remove("markers", stage, f"{volume_id}.json")

    def publish(self, stage: str, marker: str, record: Mapping[str, Any], volume_id: str = WHOLE) -> None:
        """Declare a part finished. This is written last."""
        self.write_json({"marker": marker, "record": dict(record)}, "markers", stage, f"{volume_id}.json")

    def _marker_file(self, stage: str, volume_id: str) -> dict[str, Any] | None:
        fs, path = fsspec.core.url_to_fs(self.path("markers", stage, f"{volume_id}.json"))
        try:
            return dict(json.loads(fs.cat_file(path)))
        except FileNotFoundError:
            return None

    def _marker_files(self, stage: str) -> dict[str, dict[str, Any]]:
        fs, folder = fsspec.core.url_to_fs(self.path("markers", stage))
        if not fs.exists(folder):
            return {}
        paths = sorted(p for p in fs.ls(folder, detail=False) if p.endswith(".json"))
        with ThreadPoolExecutor(8) as pool:  # reading is waiting, on an object store above all
            contents = pool.map(fs.cat_file, paths)
            return {posixpath.basename(p)[:-5]: json.loads(c) for p, c in zip(paths, contents, strict=True)}


_LIST_TYPES = {
    "spacing_zyx_mm": pa.list_(pa.float64()),
    "extent_low_mm": pa.list_(pa.float64()),
    "extent_high_mm": pa.list_(pa.float64()),
    "reasons": pa.list_(pa.string()),
    "same_person_as": pa.list_(pa.string()),
}


def canonical(value: Any, indent: int | None = None) -> bytes:
    """JSON bytes in one way only: sorted keys, no NaN."""
    return json.dumps(value, sort_keys=True, indent=indent, allow_nan=False, ensure_ascii=False).encode()


def marker_of(stage: str, version: int, settings: Mapping[str, Any], read: Iterable[str]) -> str:
    """SHA-256 over a stage, its version, its canonical settings and the sorted markers of what it read."""
    return hashlib.sha256(canonical([stage, version, settings, sorted(read)])).hexdigest()


def _absolute(url: str) -> str:
    return url.rstrip("/") if "://" in url else str(Path(url).expanduser().absolute())


def _check_version(text: str, url: str) -> None:
    import tomllib

    try:
        version = tomllib.loads(text).get("format_version", schema.FORMAT_VERSION)
    except tomllib.TOMLDecodeError:
        return  # settings.loads says it better
    if version != schema.FORMAT_VERSION:
        raise InputError(
            f"{url}: study format {version}, this popclust reads format {schema.FORMAT_VERSION}; "
            "run it with the popclust that made it, or start a new study"
        )
