"""Volumes as OME-Zarr 0.5: compressed chunks in one shard, with spacing and position in the metadata.

The specification: https://ngff.openmicroscopy.org/0.5/
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

from popclust import schema
from popclust.imaging.volume import AIR_HU, Vector, Volume

VERSION = "0.5"
_CHUNK = 64


def write_ome_zarr(store: Any, volume: Volume) -> None:
    """Write a volume; what the store held before is replaced.

    The whole volume is one shard, so one writer owns it, and a reader still fetches single chunks of 64^3 voxels. Equal
    volumes give equal bytes.

    Parameters
    ----------
    store : path, URL or zarr store
        Whatever `zarr.open_group` takes.
    volume : Volume
        int16 HU, or a bool mask.

    Raises
    ------
    ValueError
        If the voxels are neither int16 nor bool.
    """
    if volume.voxels.dtype not in (np.dtype(np.int16), np.dtype(bool)):
        raise ValueError(f"volume: must hold int16 HU or a bool mask, got {volume.voxels.dtype}")
    attributes = {"ome": _multiscales(volume)}
    group = zarr.create_group(_opened(store), zarr_format=3, overwrite=True, attributes=attributes)
    is_ct = volume.voxels.dtype == np.int16
    array = group.create_array(
        "0",
        shape=volume.shape,
        dtype=volume.voxels.dtype,
        chunks=(_CHUNK,) * 3,
        shards=tuple(-(-n // _CHUNK) * _CHUNK for n in volume.shape),
        compressors=BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle"),
        fill_value=AIR_HU if is_ct else False,
        **(schema.metadata("volume", "0") if is_ct else {"dimension_names": ("z", "y", "x")}),
    )
    array[...] = volume.voxels


@dataclass(frozen=True)
class StoredGrid:
    """Where the voxels of a stored volume lie."""

    shape: tuple[int, int, int]
    """Voxels along z, y, x."""
    spacing_mm: Vector
    """Distance between voxel centres along z, y, x."""
    origin_mm: Vector
    """Position of the centre of voxel [0, 0, 0], zyx."""

    @property
    def corners_mm(self) -> NDArray[np.float64]:
        """(2, 3) zyx centres of the first voxel and of the last."""
        low = np.asarray(self.origin_mm)
        return np.stack([low, low + np.asarray(self.spacing_mm) * (np.asarray(self.shape) - 1)])


def read_ome_zarr(store: Any) -> Volume:
    """Read the volume at full resolution from an OME-Zarr 0.5 image with axes z, y, x in millimetres.

    Raises
    ------
    ValueError
        If the store holds something else.
    FileNotFoundError
        If there is nothing.
    """
    array, spacing, origin = _image(store)
    return Volume(np.asarray(array[...]), spacing, origin)


class StoredVolume:
    """A stored volume of which slices are read, each with the chunks it lies in."""

    def __init__(self, store: Any) -> None:
        """Look at what there is; raises as `read_ome_zarr`."""
        self._array, spacing, origin = _image(store)
        z, y, x = self._array.shape
        self.grid = StoredGrid((z, y, x), spacing, origin)
        self._slabs: dict[int, tuple[int, NDArray[np.int16]]] = {}

    def slice(self, axis: int, index: int) -> Volume:
        """One voxel thick; the neighbours within its chunks are kept, so that scrolling hardly reads.

        Parameters
        ----------
        axis : int
            Which of z, y, x it is perpendicular to.
        index : int
            Which slice along it, 0 .. shape - 1.
        """
        keep = [slice(None)] * 3
        first = index // _CHUNK * _CHUNK
        if axis not in self._slabs or self._slabs[axis][0] != first:
            keep[axis] = slice(first, first + _CHUNK)
            self._slabs[axis] = (first, np.asarray(self._array[tuple(keep)]))
        keep[axis] = slice(index - first, index - first + 1)
        origin = list(self.grid.origin_mm)
        origin[axis] += index * self.grid.spacing_mm[axis]
        return Volume(self._slabs[axis][1][tuple(keep)], self.grid.spacing_mm, _vector(origin))


def read_ome_zarr_grid(store: Any) -> StoredGrid:
    """Where the voxels lie that `read_ome_zarr` would read; raises as it does."""
    array, spacing, origin = _image(store)
    z, y, x = array.shape
    return StoredGrid((z, y, x), spacing, origin)


def _image(store: Any) -> tuple[zarr.Array, Vector, Vector]:
    """The image at full resolution, its spacing and origin."""
    group = zarr.open_group(_opened(store), mode="r")
    ome: Any = group.attrs.get("ome")
    if not isinstance(ome, dict) or ome.get("version") != VERSION or not ome.get("multiscales"):
        raise ValueError(f"store: is no OME-Zarr {VERSION} image")
    image = ome["multiscales"][0]
    if [(axis.get("name"), axis.get("unit")) for axis in image["axes"]] != [(name, "millimeter") for name in "zyx"]:
        raise ValueError("store: the image's axes are not z, y, x in millimeter")
    dataset = image["datasets"][0]
    spacing, origin = np.ones(3), np.zeros(3)
    for transformation in [*dataset["coordinateTransformations"], *image.get("coordinateTransformations", ())]:
        if transformation["type"] == "scale":
            spacing, origin = spacing * transformation["scale"], origin * transformation["scale"]
        elif transformation["type"] == "translation":
            origin = origin + transformation["translation"]
    array = group[dataset["path"]]
    if not isinstance(array, zarr.Array):
        raise ValueError("store: the image's first resolution is missing")
    return array, _vector(spacing), _vector(origin)


def _opened(store: Any) -> Any:
    # zarr's own store makes the folders that fsspec's would miss.
    return store.removeprefix("file://") if isinstance(store, str) else store


def _multiscales(volume: Volume) -> dict[str, Any]:
    return {
        "version": VERSION,
        "multiscales": [
            {
                "axes": [{"name": name, "type": "space", "unit": "millimeter"} for name in "zyx"],
                "datasets": [
                    {
                        "path": "0",
                        "coordinateTransformations": [
                            {"type": "scale", "scale": [float(s) for s in volume.spacing_mm]},
                            {"type": "translation", "translation": [float(o) for o in volume.origin_mm]},
                        ],
                    }
                ],
                "name": "ct",
            }
        ],
    }


def _vector(values: Any) -> Vector:
    z, y, x = (float(value) for value in values)
    return z, y, x
