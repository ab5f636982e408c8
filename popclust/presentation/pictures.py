"""Pictures of a study's volumes, read one after the other: never more than one volume in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import pandas as pd

from popclust.imaging.ome_zarr import read_ome_zarr
from popclust.imaging.volume import Volume
from popclust.normalization.stored_maps import load_volume
from popclust.presentation.slices import Pictured, pictured
from popclust.study import Study

TILE_PX = 150
"""Edge of a tile in the figures."""


def read_pictured(study: Study, volume_id: str, size: int = TILE_PX, *, outline: bool = True) -> Pictured | None:
    """Both tiles of one volume, None where the study holds no voxels of it."""
    if not study.exists("volumes", f"{volume_id}.ome.zarr", "zarr.json"):
        return None
    volume = read_ome_zarr(study.path("volumes", f"{volume_id}.ome.zarr"))
    return pictured(volume_id, volume, read_lungs(study, volume_id), size, outline=outline, marks=True)


def read_all_pictured(study: Study, volume_ids: Iterable[str], size: int = TILE_PX) -> dict[str, Pictured]:
    """Tiles by volume_id, without the volumes whose voxels are gone."""
    found = {v: read_pictured(study, v, size) for v in volume_ids}
    return {v: picture for v, picture in found.items() if picture is not None}


def read_lungs(study: Study, volume_id: str) -> Volume | None:
    """Lung mask carried over to a volume's space, None before normalize."""
    if not study.exists("normalized", f"{volume_id}.zarr", "zarr.json"):
        return None
    return load_volume(study.open_group("normalized", f"{volume_id}.zarr"), "lung")


def typical_volumes(groups: pd.DataFrame, n_volumes: int) -> dict[int, list[str]]:
    """The volumes nearest their group's centre, by group; rows of clusters.parquet of one grouping."""
    order = groups.sort_values(["cluster", "distance", "volume_id"])
    return {int(str(k)): rows["volume_id"].head(n_volumes).tolist() for k, rows in order.groupby("cluster")}


def sheet_volumes(quality: pd.DataFrame, n_worst: int, n_random: int) -> list[str]:
    """Volumes for the contact sheet: the worst, then an unbiased sample of the rest.

    The sample takes those whose hashed names come first, so it does not change when others join the population.

    Parameters
    ----------
    quality : DataFrame
        Columns of quality.parquet, worst first.
    n_worst, n_random : int
        How many of each.
    """
    worst = quality["volume_id"].head(n_worst).tolist()
    rest = quality["volume_id"].iloc[n_worst:]
    return [*worst, *sorted(rest, key=lambda v: hashlib.sha256(v.encode()).digest())[:n_random]]
