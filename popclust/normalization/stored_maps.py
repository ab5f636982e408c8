"""Volumes and displacement fields in zarr groups: the same content gives the same bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import zarr

from popclust.imaging.volume import Volume
from popclust.normalization.transform import DisplacementField


def save_volume(group: zarr.Group, name: str, volume: Volume) -> None:
    """Write a volume as one array with its grid as attributes."""
    array = group.create_array(name, data=np.ascontiguousarray(volume.voxels))
    array.attrs.update(_grid(volume))


def load_volume(group: zarr.Group, name: str) -> Volume:
    """Read what `save_volume` wrote."""
    array: Any = group[name]
    return Volume(np.asarray(array[...]), tuple(array.attrs["spacing_mm"]), tuple(array.attrs["origin_mm"]))


def save_field(group: zarr.Group, name: str, field: DisplacementField) -> None:
    """Write a displacement field as one (3, z, y, x) array with its grid as attributes."""
    array = group.create_array(name, data=field.displacement_mm)
    array.attrs.update(_grid(field))


def load_field(group: zarr.Group, name: str) -> DisplacementField:
    """Read what `save_field` wrote."""
    array: Any = group[name]
    return DisplacementField(np.asarray(array[...]), tuple(array.attrs["spacing_mm"]), tuple(array.attrs["origin_mm"]))


def _grid(gridded: Volume | DisplacementField) -> dict[str, list[float]]:
    return {"spacing_mm": list(gridded.spacing_mm), "origin_mm": list(gridded.origin_mm)}
