"""Volumes as OME-Zarr 0.5: compressed chunks in one shard, with spacing, position and orientation in the metadata.

The specification: https://ngff.openmicroscopy.org/0.5/, of the orientation https://ngff.openmicroscopy.org/rfc/4/
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

from popclust import schema
from popclust.imaging.volume import AIR_HU, Vector, Volume

VERSION = "0.5"
ORIENTATION = {"z": "inferior-to-superior", "y": "anterior-to-posterior", "x": "right-to-left"}
"""Which way an index grows along each axis, in the words of RFC 4."""
_CHUNK = 64
_COARSER = "coarser"


def write_ome_zarr(store: Any, volume: Volume, name: str = "ct") -> None:
    """Write a volume and its coarser levels; what the store held before is replaced.

    Each level is one shard, so one writer owns it, and a reader still fetches single chunks of 64^3 voxels. The coarser
    levels lie in a group of their own, so that the volume's opens in xarray. Equal volumes give equal bytes.

    Parameters
    ----------
    store : path, URL or zarr store
        Whatever `zarr.open_group` takes.
    volume : Volume
        int16 HU, or a bool mask.
    name : str
        What viewers call the image: a pseudonym.

    Raises
    ------
    ValueError
        If the voxels are neither int16 nor bool.
    """
    if volume.voxels.dtype not in (np.dtype(np.int16), np.dtype(bool)):
        raise ValueError(f"volume: must hold int16 HU or a bool mask, got {volume.voxels.dtype}")
    levels = list(pyramid(volume))
    paths = ["0", *(f"{_COARSER}/{level}" for level in range(1, len(levels)))]
    attributes = {"ome": _multiscales(dict(zip(paths, levels, strict=True)), name)}
    group = zarr.create_group(_opened(store), zarr_format=3, overwrite=True, attributes=attributes)
    _write_level(group, "0", volume)
    if len(levels) > 1:
        coarser = group.create_group(_COARSER)
        for path, level in zip(paths[1:], levels[1:], strict=True):
            _write_level(coarser, path.removeprefix(f"{_COARSER}/"), level)


def pyramid(volume: Volume) -> Iterator[Volume]:
    """The volume, and coarser ones, until one fits in a chunk.

    Each level halves the axes whose spacing is at most sqrt(2) times the finest, so that voxels come near to cubes. A
    voxel is the mean of those it takes the place of (of a mask, what most of them are), and stands in their middle.
    What is left over at an end of odd length is left out.
    """
    yield volume
    while max(volume.shape) > _CHUNK:
        volume = _halved(volume)
        yield volume


def _halved(volume: Volume) -> Volume:
    can = [n > 1 for n in volume.shape]
    finest = min(s for s, is_long in zip(volume.spacing_mm, can, strict=True) if is_long)
    is_halved = [is_long and s <= 2**0.5 * finest for s, is_long in zip(volume.spacing_mm, can, strict=True)]
    values: NDArray = volume.voxels.astype(np.float32)
    for axis in np.flatnonzero(is_halved).tolist():
        even = np.moveaxis(values, axis, 0)[: values.shape[axis] // 2 * 2]
        values = np.moveaxis((even[::2] + even[1::2]) / 2, 0, axis)
    steps = [s if halve else 0.0 for s, halve in zip(volume.spacing_mm, is_halved, strict=True)]
    spacing, origin = np.add(volume.spacing_mm, steps), np.add(volume.origin_mm, np.divide(steps, 2))
    is_mask = volume.voxels.dtype == bool
    stored = values >= 0.5 if is_mask else np.rint(values).astype(volume.voxels.dtype)
    return Volume(stored, _vector(spacing), _vector(origin))


def _write_level(group: zarr.Group, name: str, volume: Volume) -> None:
    is_ct = volume.voxels.dtype == np.int16
    array = group.create_array(
        name,
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
    runs = {axis["name"]: axis["orientation"].get("value") for axis in image["axes"] if "orientation" in axis}
    if runs and runs != ORIENTATION:
        raise ValueError(f"store: the image's axes must run {ORIENTATION}, got {runs}")
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


def _multiscales(levels: dict[str, Volume], name: str) -> dict[str, Any]:
    """Of the levels by their paths, the finest first."""
    axes = [
        {"name": axis, "type": "space", "unit": "millimeter", "orientation": {"type": "anatomical", "value": runs}}
        for axis, runs in ORIENTATION.items()
    ]
    datasets = [
        {
            "path": path,
            "coordinateTransformations": [
                {"type": "scale", "scale": [float(s) for s in level.spacing_mm]},
                {"type": "translation", "translation": [float(o) for o in level.origin_mm]},
            ],
        }
        for path, level in levels.items()
    ]
    return {"version": VERSION, "multiscales": [{"axes": axes, "datasets": datasets, "name": name}]}


def _vector(values: Any) -> Vector:
    z, y, x = (float(value) for value in values)
    return z, y, x
