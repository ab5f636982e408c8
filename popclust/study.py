"""The study on disk: a folder, or any fsspec URL, that holds all that a run has made."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import xarray as xr
import zarr

from popclust import schema, settings, storage
from popclust.errors import DamagedError, InputError
from popclust.parts import (
    WHOLE,
    Done,
    Made,
    Markers,
    canonical,
    dump_done,
    dump_withdrawn,
    load_marker,
    recipe_digest,
)
from popclust.reported import Grouping, Reported, with_outcomes
from popclust.settings import Settings


@dataclass(frozen=True)
class Study:
    """A handle on a study; it pickles to a few thousand bytes and is what a task is given.

    Parameters
    ----------
    url : str
        Folder or fsspec URL.
    settings : Settings
        The resolved study.toml.
    model_url : str
        The frozen model whose atlas and vocabularies are used; empty: the study's own.
    model_digest : str
        Its digest.
    """

    url: str
    settings: Settings
    model_url: str = ""
    model_digest: str = ""

    @classmethod
    def open(cls, url: str) -> Study:
        """Open a study by its folder or URL.

        Raises
        ------
        InputError
            No study.toml there, not UTF-8, bad settings, or a folder of another format version.
        """
        url = storage.absolute(url)
        path = posixpath.join(url, "study.toml")
        if not storage.exists(path):
            raise InputError(f"{url}: no study here (study.toml is missing); make one with `popclust init {url}`")
        text = settings.decode(storage.read_bytes(path), path)
        settings.check_format(text, path)
        return cls(url, settings.loads(text, path))

    @classmethod
    def create(cls, url: str, overrides: Mapping[str, Mapping[str, Any]] | None = None) -> Study:
        """Write a commented study.toml into a new folder.

        Raises
        ------
        InputError
            There is a study already, or the folder cannot be written.
        """
        url = storage.absolute(url)
        path = posixpath.join(url, "study.toml")
        if storage.exists(path):
            raise InputError(f"{url}: there is a study here already (study.toml exists)")
        text = settings.template({k: dict(v) for k, v in (overrides or {}).items()})
        try:
            storage.write_bytes(path, text.encode())
        except PermissionError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror}); name a place you may write") from None
        return cls.open(url)

    def __repr__(self) -> str:
        return f"<Study {self.url}>"

    def with_settings(self, section: str, **changes: Any) -> Study:
        """The same study under other settings of one section; study.toml stays as it is."""
        changed = replace(getattr(self.settings, section), **changes)
        return replace(self, settings=replace(self.settings, **{section: changed}))

    # -- paths ---------------------------------------------------------------------------------------------------

    def path(self, *parts: str) -> str:
        """URL of something in the study."""
        return posixpath.join(self.url, *parts)

    def learnt_path(self, *parts: str) -> str:
        """URL of something learnt from a population: the study's own, or the frozen model's."""
        return posixpath.join(self.model_url or self.url, *parts)

    def learnt_marker(self, stage: str) -> str:
        """What changes when something learnt does: what a process has read of it is of no use any more."""
        done = None if self.model_url else self.done(stage)
        return done.marker if done else self.model_digest

    def resolve(self, path: str) -> str:
        """A path named in study.toml: absolute, a URL, or relative to the folder of study.toml."""
        if "://" in path or path.startswith("/"):
            return path
        if path.startswith("~"):
            return str(Path(path).expanduser())
        return posixpath.normpath(posixpath.join(self.url, path))

    def secret_path(self, *parts: str) -> str:
        """A file beside the study, never in it: the key, and what leads from pseudonyms back to their sources.

        Raises
        ------
        InputError
            The study is not on a local disk and settings name no key file.
        """
        chosen = self.settings.ingest.key_file
        if not chosen and not storage.is_local(self.url):
            raise InputError(
                f"{self.url}/study.toml: set [ingest] key_file to a local file: keys do not belong in an object store"
            )
        if parts == ("key",) and chosen:
            return self.resolve(chosen)
        folder = Path(self.resolve(chosen)).parent if chosen else Path(f"{self.url}.secret")
        return str(folder.joinpath(*parts))

    # -- files ---------------------------------------------------------------------------------------------------

    def exists(self, *parts: str) -> bool:
        """Whether a file or folder is there."""
        return storage.exists(self.path(*parts))

    def read_bytes(self, *parts: str) -> bytes:
        """Contents of a file."""
        return storage.read_bytes(self.path(*parts))

    def write_bytes(self, data: bytes, *parts: str) -> None:
        """Write a file whole or not at all."""
        storage.write_bytes(self.path(*parts), data)

    def read_json(self, *parts: str) -> Any:
        """A JSON file."""
        return json.loads(self.read_bytes(*parts))

    def write_json(self, value: Any, *parts: str) -> None:
        """Write JSON with sorted keys: equal values give equal bytes."""
        self.write_bytes(canonical(value, indent=1), *parts)

    def remove(self, *parts: str) -> None:
        """Remove a file or folder if it is there."""
        storage.remove(self.path(*parts))

    # -- tables and stores ---------------------------------------------------------------------------------------

    def read_table(self, name: str, where: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """A table of :data:`popclust.schema.TABLES`.

        Parameters
        ----------
        name : str
            The table.
        where : mapping of str to value, optional
            Only rows whose columns have these values: of a large table the others never become a frame.

        Raises
        ------
        InputError
            The table has not been made yet, or is of another version of popclust.
        DamagedError
            It cannot be read.
        """
        file = f"{name}.parquet"
        if not self.exists(file):
            raise InputError(f"{self.url}: {file} is not made yet; `popclust run {self.url}` makes it")
        filters = [(column, "==", value) for column, value in (where or {}).items()] or None
        frame = self._parquet(file, filters=filters)
        if missing := [c.name for c in schema.TABLES[name] if c.name not in frame.columns]:
            raise InputError(
                f"{self.path(file)}: is of another version of popclust, it has no {', '.join(missing)}; "
                f"`popclust run {self.url}` makes it anew"
            )
        return schema.conform_table(name, frame)

    def read_columns(self, name: str, columns: Sequence[str]) -> pd.DataFrame:
        """Some columns of a table that is there, as they are stored, not all; raises DamagedError as `read_table`."""
        return self._parquet(f"{name}.parquet", columns=list(columns))

    def _parquet(self, file: str, **chosen: Any) -> pd.DataFrame:
        try:
            return pq.read_table(pa.BufferReader(self.read_bytes(file)), **chosen).to_pandas()
        except (pa.ArrowException, OSError) as error:
            raise DamagedError(f"{self.path(file)} cannot be read ({type(error).__name__})") from error

    def write_table(self, name: str, frame: pd.DataFrame) -> None:
        """Write a declared table; equal frames give equal bytes."""
        self.write_bytes(schema.encode_table(name, frame), f"{name}.parquet")

    def read_dataset(self, name: str) -> xr.Dataset:
        """A store of :data:`popclust.schema.STORES`, loaded.

        Raises
        ------
        InputError
            The store has not been made yet.
        DamagedError
            It cannot be read.
        """
        stored = self.open_dataset(name)
        try:
            return stored.load()
        except Exception as error:  # every codec has exceptions of its own
            raise DamagedError(f"{self.path(f'{name}.zarr')} cannot be read ({type(error).__name__})") from error

    def open_dataset(self, name: str) -> xr.Dataset:
        """A store of :data:`popclust.schema.STORES`, read where it is asked for; raises as `read_dataset`."""
        store = f"{name}.zarr"
        if not self.exists(store, "zarr.json"):
            raise InputError(f"{self.url}: {store} is not made yet; `popclust run {self.url}` makes it")
        try:
            return xr.open_zarr(self.path(store), consolidated=False, chunks=None)
        except Exception as error:
            raise DamagedError(f"{self.path(store)} cannot be read ({type(error).__name__})") from error

    def write_dataset(self, name: str, dataset: xr.Dataset) -> None:
        """Write a declared store."""
        out = schema.conform_dataset(name, dataset)
        self.remove(f"{name}.zarr")
        out.to_zarr(self.path(f"{name}.zarr"), mode="w", zarr_format=3, consolidated=False)

    def open_group(self, *parts: str, mode: Any = "r") -> zarr.Group:
        """A zarr group of the study; mode "w" removes what was there."""
        return zarr.open_group(self.path(*parts), mode=mode, zarr_format=None if mode == "r" else 3)

    @property
    def reported(self) -> Reported:
        """The grouping that is reported, with its groups and associations.

        Raises
        ------
        InputError
            There is none yet.
        """
        record = self.record("associate")
        grouping = Grouping(str(record["descriptor"]), int(record["n_clusters"]), int(record["seed"]))
        has_tests = record["Q"] is not None
        tests = grouping.of(self.read_table("associations")) if has_tests else schema.empty_table("associations")
        is_gated = has_tests and self.exists("validity/gate.parquet")
        gate = self.read_table("validity/gate") if is_gated else None
        return Reported(
            grouping=grouping,
            Q=record["Q"],
            unit=str(record["unit"]),
            min_term_count=int(record["min_term_count"]),
            n_tested_terms=int(record["n_tested_terms"]),
            clusters=self.read_table("clusters"),
            associations=with_outcomes(tests, gate, self.settings.associate.alpha),
            tests=tests,
            has_groups=record.get("has_groups"),
        )

    # -- parts ---------------------------------------------------------------------------------------------------

    def markers(self, stage: str) -> Markers:
        """All marker files of a stage."""
        folder = self.path("markers", stage)
        files = [n for n in storage.names(folder) if n.endswith(".json")]
        done: dict[str, Done] = {}
        withdrawn: dict[str, str] = {}
        for name, data in storage.read_many(folder, files):
            found = load_marker(data, f"markers/{stage}/{name}")
            if isinstance(found, Done):
                done[name[:-5]] = found
            else:
                withdrawn[name[:-5]] = found
        return Markers(done, withdrawn)

    def done(self, stage: str, volume_id: str = WHOLE) -> Done | None:
        """What the marker of a part says; None where the part is not finished."""
        name = f"markers/{stage}/{volume_id}.json"
        try:
            found = load_marker(self.read_bytes(name), name)
        except FileNotFoundError:
            return None
        return found if isinstance(found, Done) else None

    def names_done(self, stage: str) -> list[str]:
        """Sorted volumes of which a stage has left a marker, without reading it: few bytes for each."""
        names = (n[:-5] for n in storage.names(self.path("markers", stage)) if n.endswith(".json"))
        return [n for n in names if n != WHOLE]

    def record(self, stage: str, volume_id: str = WHOLE) -> dict[str, Any]:
        """The small record that a finished part left.

        Raises
        ------
        InputError
            The part is not finished.
        """
        if self.done(stage, volume_id) is None:
            raise InputError(
                f"{self.url}: stage {stage!r} is not done for {volume_id}; `popclust run {self.url}` does it"
            )
        return self.records(stage, [volume_id])[volume_id]

    def records(self, stage: str, volume_ids: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Records of finished parts, by volume_id in the order given.

        Raises
        ------
        DamagedError
            One is missing or cannot be read.
        """
        ids = list(volume_ids)
        found = dict(storage.read_many(self.path("records", stage), (f"{v}.json" for v in ids)))
        out = {}
        for volume_id in ids:
            try:
                out[volume_id] = dict(json.loads(found[f"{volume_id}.json"]))
            except (KeyError, ValueError):
                raise DamagedError(f"records/{stage}/{volume_id}.json cannot be read", stage, volume_id) from None
        return out

    def begin(self, stage: str, volume_id: str, files: Iterable[str]) -> None:
        """Withdraw a part's marker, and remove what was written of it (paths in the study), before it is made again."""
        self.remove("markers", stage, f"{volume_id}.json")
        for file in files:
            self.remove(file)

    def publish(
        self,
        stage: str,
        marker: str,
        made: Made,
        volume_id: str = WHOLE,
        *,
        recipe: str = "",
        files: Iterable[str] = (),
    ) -> Done:
        """Declare a part finished: what was written is on the disk before the marker, which is written last."""
        record = f"records/{stage}/{volume_id}.json"
        self.write_bytes(canonical(dict(made.record)), record)
        digest, n_bytes = storage.digest_of([self.path(f) for f in (*files, record)], self.url)
        storage.sync(self.url)
        done = Done(marker, recipe, made.output or marker, made.passes, digest, n_bytes)
        self.write_bytes(dump_done(done), "markers", stage, f"{volume_id}.json")
        return done

    def withdraw(self, stage: str, volume_id: str, reason: str) -> None:
        """Declare a finished part not to be trusted: the next run makes it again, and knows why."""
        self.write_bytes(dump_withdrawn(reason), "markers", stage, f"{volume_id}.json")

    def check_part(self, stage: str, volume_id: str, files: Iterable[str]) -> None:
        """Compare a finished part with the digest it was published with.

        Raises
        ------
        DamagedError
            Something of it is missing, cut or changed.
        """
        done = self.done(stage, volume_id)
        if done is None:
            raise DamagedError(f"the {stage} part of {volume_id} is not finished", stage, volume_id)
        files = [*files, f"records/{stage}/{volume_id}.json"]
        digest, n_bytes = storage.digest_of([self.path(f) for f in files], self.url)
        if digest != done.digest:
            missing = [f for f in files if not self.exists(f)]
            how = "was removed" if missing else "was cut" if n_bytes < done.n_bytes else "was changed"
            raise DamagedError(f"{' or '.join(missing or files)} {how} after it was made", stage, volume_id)

    def write_recipe(self, recipe: Mapping[str, Any]) -> str:
        """Keep the stage, version and settings that parts are made with; returns their digest."""
        digest = recipe_digest(recipe)
        if not self.exists("recipes", f"{digest}.json"):
            self.write_json(dict(recipe), "recipes", f"{digest}.json")
        return digest

    def read_recipe(self, digest: str) -> dict[str, Any]:
        """The recipe of a digest; empty where it cannot be read."""
        try:
            return dict(self.read_json("recipes", f"{digest}.json"))
        except (FileNotFoundError, ValueError):
            return {}
