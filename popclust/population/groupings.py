"""All groupings of a population, compact: one row of groups per descriptor, number of groups and seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from popclust.reported import AGREED, UNSTABLE, Grouping
from popclust.study import Study

GRID = ["descriptor", "n_clusters", "seed"]
"""Columns that name one grouping of the population."""


@dataclass(frozen=True)
class Groupings:
    """Groups of the same volumes under every descriptor, number of groups and seed."""

    grid: pd.DataFrame
    """(grouping,) columns descriptor, n_clusters, seed, sorted."""
    volume_id: NDArray[np.object_]
    """(volume,) ascending."""
    cluster: NDArray[np.int16]
    """(grouping, volume) group of every volume, 0 .. n_clusters - 1."""
    distance: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    """(grouping, volume) Euclidean distance to the group's centre; empty where nobody asked for it."""
    stability: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    """(grouping, volume) mean Jaccard overlap of the group with its best match under the other seeds; as `distance`."""

    @classmethod
    def from_table(cls, clusters: pd.DataFrame) -> Groupings:
        """Line up a long table.

        Parameters
        ----------
        clusters : DataFrame
            Columns volume_id, descriptor, n_clusters, seed, cluster, and distance and stability if they are known;
            every grouping holds every volume once.

        Raises
        ------
        ValueError
            It does not, or a group number is outside 0 .. n_clusters - 1.
        """
        grid, code = _grid(clusters)
        volume_code, volume_id = pd.factorize(clusters["volume_id"])
        values = clusters["cluster"].to_numpy(np.int64)
        n_clusters = clusters["n_clusters"].to_numpy(np.int64)
        if np.any((values < 0) | (values >= n_clusters)):
            raise ValueError("clusters: a group number must lie in 0 .. n_clusters - 1")
        if int(n_clusters.max(initial=0)) > np.iinfo(np.int16).max:
            raise ValueError(f"clusters: at most {np.iinfo(np.int16).max} groups, got {int(n_clusters.max())}")
        order = np.argsort(np.asarray(volume_id, dtype=object), kind="stable")
        place = code, np.argsort(order)[volume_code]
        cluster = np.full((len(grid), len(volume_id)), -1, dtype=np.int16)
        cluster[place] = values
        if len(clusters) != cluster.size or np.any(cluster < 0):
            raise ValueError(
                "clusters: every grouping (descriptor, n_clusters, seed) must hold every volume exactly once"
            )
        measured = {}
        for name in ("distance", "stability"):
            if name in clusters:
                measured[name] = np.zeros(cluster.shape, np.float32)
                measured[name][place] = clusters[name].to_numpy()
        return cls(grid, np.asarray(volume_id, dtype=object)[order], cluster, **measured)

    @classmethod
    def concatenated(cls, parts: Sequence[Groupings]) -> Groupings:
        """Groupings of the same volumes as one, in the order of their grid."""
        grid = pd.concat([p.grid for p in parts], ignore_index=True).sort_values(GRID)
        order = grid.index.to_numpy()
        stacked = (np.concatenate([getattr(p, n) for p in parts])[order] for n in ("cluster", "distance", "stability"))
        return cls(grid.reset_index(drop=True), parts[0].volume_id, *stacked)

    @classmethod
    def from_dataset(cls, dataset: xr.Dataset) -> Groupings:
        """Read what `to_dataset` made."""
        grid = pd.DataFrame({name: dataset[name].values for name in GRID}).astype({"descriptor": str})
        cluster = dataset.cluster.values.astype(np.int16)
        return cls(
            grid, dataset.volume.values.astype(object), cluster, dataset.distance.values, dataset.stability.values
        )

    def to_dataset(self) -> xr.Dataset:
        """As the store groupings.zarr."""
        dims = ("grouping", "volume")
        return xr.Dataset(
            {
                "cluster": (dims, self.cluster.astype(np.uint16)),
                "distance": (dims, self.distance.astype(np.float32)),
                "stability": (dims, self.stability.astype(np.float32)),
            },
            coords={
                "volume": self.volume_id.astype(object),
                "descriptor": ("grouping", self.grid["descriptor"].to_numpy(object)),
                "n_clusters": ("grouping", self.grid["n_clusters"].to_numpy(np.int64)),
                "seed": ("grouping", self.grid["seed"].to_numpy(np.int64)),
            },
        )

    def table(self, grouping: Grouping) -> pd.DataFrame:
        """Rows of the table clusters of one grouping.

        Raises
        ------
        ValueError
            There is no such grouping.
        """
        rows = np.flatnonzero(grouping.rows(self.grid))
        if len(rows) != 1:
            raise ValueError(f"grouping: there is no {grouping}")
        (row,) = rows
        return _rows_of(grouping, self.volume_id, self.cluster[row], self.distance[row], self.stability[row])


@dataclass(frozen=True)
class StoredGroupings:
    """All groupings of a study as they lie in its stores: one is read when it is asked for."""

    grid: pd.DataFrame
    """(grouping,) columns of :data:`GRID`, sorted."""
    stores: tuple[xr.Dataset, ...]
    """Variables cluster, distance and stability by grouping and volume, not loaded."""
    place: NDArray[np.intp]
    """(grouping, 2) of every row of the grid: which store, and which of its groupings."""

    @classmethod
    def open(cls, study: Study) -> StoredGroupings:
        """Look at what there is; raises as `Study.read_dataset`."""
        stores = [study.open_dataset("groupings")]
        if study.exists("repeats.zarr", "zarr.json"):
            stores.append(_agreed_store(study.open_dataset("repeats")))
        parts = [
            pd.DataFrame({name: store[name].values for name in GRID}).assign(
                store=i, row=range(store.sizes["grouping"])
            )
            for i, store in enumerate(stores)
        ]
        grid = pd.concat(parts, ignore_index=True).astype({"descriptor": str}).sort_values(GRID, ignore_index=True)
        return cls(grid[GRID], tuple(stores), grid[["store", "row"]].to_numpy(np.intp))

    def table(self, grouping: Grouping) -> pd.DataFrame:
        """As :meth:`Groupings.table`.

        Raises
        ------
        ValueError
            There is no such grouping.
        """
        rows = np.flatnonzero(grouping.rows(self.grid))
        if len(rows) != 1:
            raise ValueError(f"grouping: there is no {grouping}")
        store, row = self.place[rows[0]]
        own = self.stores[store].isel(grouping=row)
        values = (own[name].to_numpy() for name in ("cluster", "distance", "stability"))
        return _rows_of(grouping, own["volume"].to_numpy().astype(object), *values)


def _rows_of(
    grouping: Grouping, volume_id: NDArray, cluster: NDArray, distance: NDArray, stability: NDArray
) -> pd.DataFrame:
    """Rows of the table clusters."""
    return pd.DataFrame(
        {
            "volume_id": volume_id,
            "descriptor": grouping.descriptor,
            "n_clusters": grouping.n_clusters,
            "seed": grouping.seed,
            "cluster": cluster.astype(np.int64),
            "distance": distance.astype(np.float64),
            "stability": stability.astype(np.float64),
            "unstable": stability < UNSTABLE,
        }
    )


def _agreed_store(repeats: xr.Dataset) -> xr.Dataset:
    """What the runs of the chain agree on, laid out as groupings.zarr."""
    store = repeats[["agreed", "distance", "stability"]].rename(agreed="cluster")
    return store.assign(seed=("grouping", np.full(store.sizes["grouping"], AGREED)))


def read_groupings(study: Study) -> Groupings:
    """All groupings of a study, with those that begin with what runs of the chain agree on, if it was repeated."""
    groupings = Groupings.from_dataset(study.read_dataset("groupings"))
    repeats = read_repeats(study)
    return groupings if repeats is None else Groupings.concatenated([groupings, agreed_of(repeats)])


def read_repeats(study: Study) -> xr.Dataset | None:
    """The runs of the chain, None where it was not repeated."""
    return study.read_dataset("repeats") if study.exists("repeats.zarr", "zarr.json") else None


def agreed_of(repeats: xr.Dataset) -> Groupings:
    """The groupings that begin with what the runs agree on, with the seed :data:`AGREED`."""
    grid = pd.DataFrame({name: repeats[name].values for name in GRID[:2]}).astype({"descriptor": str})
    return Groupings(
        grid.assign(seed=AGREED),
        repeats.volume.values.astype(object),
        repeats.agreed.values.astype(np.int16),
        repeats.distance.values,
        repeats.stability.values,
    )


def runs_of(repeats: xr.Dataset, descriptor: str) -> Groupings:
    """The groupings of a descriptor in every run; the run is the seed."""
    own = repeats.isel(grouping=np.flatnonzero(repeats["descriptor"].values == descriptor))
    n_runs, n_groupings = own.sizes["run"], own.sizes["grouping"]
    grid = pd.DataFrame(
        {
            "descriptor": descriptor,
            "n_clusters": np.repeat(own["n_clusters"].values, n_runs),
            "seed": np.tile(np.arange(n_runs), n_groupings),
        }
    )
    cluster = own.cluster.transpose("grouping", "run", "volume").values.reshape(n_runs * n_groupings, -1)
    return Groupings(grid, own.volume.values.astype(object), cluster.astype(np.int16))


def _grid(clusters: pd.DataFrame) -> tuple[pd.DataFrame, NDArray[np.int64]]:
    """Groupings in order, and the number of each row's: a groupby for millions of rows."""
    descriptor_code, descriptor = pd.factorize(clusters["descriptor"])
    seed_code, seed = pd.factorize(clusters["seed"])
    n_clusters = clusters["n_clusters"].to_numpy(np.int64)
    n_seeds, n_sizes = max(1, len(seed)), int(n_clusters.max(initial=0)) + 1
    key = (descriptor_code * n_sizes + n_clusters) * n_seeds + seed_code
    present = np.flatnonzero(np.bincount(key, minlength=len(descriptor) * n_sizes * n_seeds))
    columns = {
        "descriptor": np.asarray(descriptor, dtype=object)[present // (n_sizes * n_seeds)],
        "n_clusters": present // n_seeds % n_sizes,
        "seed": np.asarray(seed, dtype=np.int64)[present % n_seeds],
    }
    grid = pd.DataFrame(columns).astype({"descriptor": str}).sort_values(GRID)
    place = np.zeros(len(descriptor) * n_sizes * n_seeds, dtype=np.int64)
    place[present[grid.index]] = np.arange(len(grid))
    return grid.reset_index(drop=True), place[key]
