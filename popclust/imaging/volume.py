"""One CT volume in memory: HU on a regular grid whose axes are aligned with the patient's."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

Vector = tuple[float, float, float]

AIR_HU = -1024
"""What lies outside the field of view."""


@dataclass(frozen=True)
class Volume:
    """A scalar volume with axes zyx in patient space (LPS): z to the head, y to the back, x to the left.

    The grid is aligned with the axes (oblique series are brought there when they are read) and every
    spacing is positive, so index and position are related by ``mm = origin + index * spacing``.
    """

    voxels: NDArray
    """(z, y, x) values: HU (int16 as stored, float32 after resampling), a mask (bool) or labels."""
    spacing_mm: Vector
    """Distance between voxel centres along z, y, x."""
    origin_mm: Vector = (0.0, 0.0, 0.0)
    """Position of the centre of voxel [0, 0, 0], in z, y, x order."""

    def __post_init__(self) -> None:
        if self.voxels.ndim != 3:
            raise ValueError(f"voxels: a volume has 3 axes (z, y, x), got shape {self.voxels.shape}")
        if not all(np.isfinite(s) and s > 0 for s in self.spacing_mm):
            raise ValueError(f"spacing_mm: must be three positive lengths, got {self.spacing_mm}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along z, y, x."""
        z, y, x = self.voxels.shape
        return z, y, x

    @cached_property
    def extent_mm(self) -> Vector:
        """Edge-to-edge size along z, y, x."""
        z, y, x = (n * s for n, s in zip(self.shape, self.spacing_mm, strict=True))
        return z, y, x

    def index_to_mm(self, index: ArrayLike) -> NDArray[np.float64]:
        """Positions (n, 3) zyx mm of (fractional) voxel indices (n, 3) zyx."""
        return np.asarray(index, dtype=np.float64) * self.spacing_mm + self.origin_mm

    def mm_to_index(self, points_mm: ArrayLike) -> NDArray[np.float64]:
        """Fractional voxel indices (n, 3) zyx of positions (n, 3) zyx mm."""
        return (np.asarray(points_mm, dtype=np.float64) - self.origin_mm) / self.spacing_mm

    def with_values(self, values: NDArray) -> Volume:
        """The same grid with other values (a mask, a smoothed copy)."""
        if values.shape != self.voxels.shape:
            raise ValueError(f"values: shape {values.shape} is not the grid's {self.voxels.shape}")
        return Volume(values, self.spacing_mm, self.origin_mm)


Box = tuple[slice, slice, slice]


def box_around(mask: NDArray[np.bool_], margin: int) -> Box:
    """The voxels zyx that hold what is true, and a margin as far as there are voxels; all of them where nothing is."""
    found = ndimage.find_objects(mask.astype(np.uint8)) or [tuple(slice(0, n) for n in mask.shape)]
    z, y, x = (
        slice(max(s.start - margin, 0), min(s.stop + margin, n)) for s, n in zip(found[0], mask.shape, strict=True)
    )
    return z, y, x


def box_between(volume: Volume, corners_mm: ArrayLike) -> Box:
    """The voxels of a volume between two corners (2, 3) zyx mm, the lower first; at least one along each axis."""
    return _between(volume.mm_to_index(corners_mm), volume.shape)


def crop(volume: Volume, box: Box) -> Volume:
    """The part of a volume inside a box of voxels."""
    z, y, x = volume.index_to_mm([s.start for s in box]).tolist()
    return Volume(np.ascontiguousarray(volume.voxels[box]), volume.spacing_mm, (z, y, x))


def resample(
    volume: Volume, spacing_mm: float | Vector, *, anti_alias: bool = True, within_mm: ArrayLike | None = None
) -> Volume:
    """Resample to another spacing over the same field of view, by linear interpolation.

    Parameters
    ----------
    volume : Volume
        (z, y, x) values; bool masks are interpolated and cut at one half.
    spacing_mm : float or (float, float, float)
        The wanted spacing in mm, isotropic or along z, y, x.
    anti_alias : bool
        Smooth first along the axes that get coarser, with the Gaussian that takes a point of the old
        spacing's width to the new one's: sigma = 0.5 sqrt(factor^2 - 1) old voxels.
    within_mm : array_like, optional
        (2, 3) corners zyx, the lower first: of the new grid only what lies between them, with the values that it
        has in the whole.

    Returns
    -------
    Volume
        float32 (bool for a mask); at least one voxel along each axis, centred on the same field of view.
    """
    wanted = np.broadcast_to(np.asarray(spacing_mm, dtype=np.float64), (3,))
    spacing = np.asarray(volume.spacing_mm)
    is_mask = volume.voxels.dtype == bool
    values = volume.voxels.astype(np.float32)
    if np.allclose(wanted, spacing, rtol=1e-6):
        same = volume if is_mask else volume.with_values(values)
        return same if within_mm is None else crop(same, box_between(volume, within_mm))
    factor = wanted / spacing
    sigma = 0.5 * np.sqrt(np.maximum(factor**2 - 1.0, 0.0)) if anti_alias else np.zeros(3)
    shape = np.maximum(np.round(np.asarray(volume.shape) / factor), 1).astype(int)
    # The new grid keeps the centre of the field of view where it was.
    offset = (np.asarray(volume.shape) - 1) / 2 - factor * (shape - 1) / 2
    first = np.zeros(3, int)
    if within_mm is not None:
        part = _between((volume.mm_to_index(within_mm) - offset) / factor, shape)
        offset, shape = offset + factor * [s.start for s in part], np.array([s.stop - s.start for s in part])
        reach = 3.0 * sigma + 2
        needed = _between([offset - reach, offset + factor * (shape - 1) + reach], volume.shape)
        first, values = np.array([s.start for s in needed]), values[needed]
    if anti_alias:
        values = ndimage.gaussian_filter(values, sigma, mode="nearest", truncate=3.0)
    values = ndimage.affine_transform(
        values, factor, offset - first, output_shape=tuple(shape), order=1, mode="nearest"
    )
    z, y, x = np.asarray(volume.origin_mm) + offset * spacing
    dz, dy, dx = wanted.tolist()
    return Volume(values > 0.5 if is_mask else values, (dz, dy, dx), (float(z), float(y), float(x)))


def _between(corners: ArrayLike, shape: ArrayLike) -> Box:
    """The voxels between two corners (2, 3) of fractional indices; at least one along each axis."""
    lower, upper = np.asarray(corners, dtype=np.float64)
    first, last = np.clip([np.floor(lower), np.ceil(upper)], 0, np.asarray(shape) - 1).astype(int)
    z, y, x = (slice(a, b + 1) for a, b in zip(first.tolist(), last.tolist(), strict=True))
    return z, y, x


def sample(volume: Volume, points_mm: ArrayLike, *, order: int = 1, outside: float = AIR_HU) -> NDArray[np.float32]:
    """Values at positions (..., 3) zyx mm, `outside` where there is no voxel."""
    index = np.moveaxis(volume.mm_to_index(points_mm), -1, 0)
    values = volume.voxels if volume.voxels.dtype != bool else volume.voxels.astype(np.float32)
    out = ndimage.map_coordinates(values, index, output=np.float32, order=order, mode="constant", cval=outside)
    return np.asarray(out, dtype=np.float32)
