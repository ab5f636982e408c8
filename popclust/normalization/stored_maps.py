"""Volumes and displacement fields in zarr groups: the same content gives the same bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from popclust import schema
from popclust.imaging.volume import Volume
from popclust.normalization.transform import DisplacementField


def save_gridded(
    group: zarr.Group,
    store: str,
    gridded: Mapping[str, Volume | DisplacementField],
    attrs: Mapping[str, Any],
    arrays: Mapping[str, NDArray] | None = None,
) -> None:
    """Write a declared store into an empty group: every volume (z, y, x) and field (3, z, y, x) with its grid.

    Parameters
    ----------
    group : zarr.Group
        Empty.
    store : str
        One of :data:`popclust.schema.STORES`.
    gridded : mapping of str to Volume or DisplacementField
        The arrays that lie on grids.
    attrs : mapping
        The group's attributes.
    arrays : mapping of str to ndarray, optional
        The other arrays.
    """
    values = {n: g.voxels if isinstance(g, Volume) else g.displacement_mm for n, g in gridded.items()}
    grids = {n: {"spacing_mm": list(g.spacing_mm), "origin_mm": list(g.origin_mm)} for n, g in gridded.items()}
    schema.write_group(group, store, {**values, **(arrays or {})}, attrs, array_attrs=grids)


def load_volume(group: zarr.Group, name: str) -> Volume:
    """Read what `save_gridded` wrote."""
    array: Any = group[name]
    return Volume(np.asarray(array[...]), tuple(array.attrs["spacing_mm"]), tuple(array.attrs["origin_mm"]))


def load_field(group: zarr.Group, name: str) -> DisplacementField:
    """Read what `save_gridded` wrote."""
    array: Any = group[name]
    return DisplacementField(np.asarray(array[...]), tuple(array.attrs["spacing_mm"]), tuple(array.attrs["origin_mm"]))
