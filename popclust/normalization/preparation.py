"""A volume made ready for registration: isotropic, clipped, cropped to the lungs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from popclust.errors import VolumeError
from popclust.features.sift3d import Keypoints, detect_keypoints
from popclust.imaging.airways import segment_airways, windpipe_of
from popclust.imaging.lungs import segment_lungs
from popclust.imaging.masks import opened_by_box
from popclust.imaging.volume import Vector, Volume, box_around, crop, resample
from popclust.normalization.body import hull_by_slice, n_bodies
from popclust.normalization.opaque_side import with_opaque_side
from popclust.settings import SiftSettings

RANGE_HU = (-1000.0, 500.0)
"""Registration sees air to spongy bone: the ribs hold where the lungs are diseased."""
VESSELS_HU = (-1000.0, -400.0)
"""Within this a vessel stands out from the lung, and all denser than its wall is alike."""
MARGIN_MM = 36.0
"""Kept around the lungs."""
EDGE_MM = 6.0
"""Half width of the ramp of the lung edge channel."""
WINDPIPE_SPACING_MM = 3.0
"""At coarser spacings a main bronchus is a voxel or two, and its wall none."""
BELOW_CARINA_MM = 8.0
"""So much of the main bronchi counts as windpipe; how they go on, and how far they are seen, differs between people."""
AIRWAY_MM = 4.0
"""What is thinner is not the windpipe's."""
WALL_MM = 2.0
"""The wall of the windpipe."""
WINDPIPE_RISE = 2.0
"""By this the edge channel is higher in the windpipe than in the tissue around it."""
WINDPIPE_RAMP_MM = 12.0
"""Over this it falls to nothing, farther than the edge's: two windpipes lie farther apart than two lungs."""
KEYPOINT_SPACING_MM = 2.5
"""Keypoints are found no finer than this."""
MAX_PROBES = 6000
"""Voxels by which starts are compared."""
PROBES_MM = 20.0
"""How near to the lungs these are."""
MIN_EXTENT_MM = 40.0
"""A volume that is thinner than this cannot be localised."""
MIN_LUNG_ML = 50.0
"""Less lung than this cannot be localised."""


@dataclass(frozen=True)
class Prepared:
    """What registration sees of a volume."""

    image: Volume
    """float32 HU within `RANGE_HU`, isotropic, cropped to the lungs with a margin."""
    lungs: Volume
    """bool on the grid of `image`."""
    field_of_view_mm: tuple[Vector, Vector]
    """Lowest and highest zyx position of a voxel centre of the whole volume."""

    @cached_property
    def edge(self) -> Volume:
        """Signed distance to the lung surface, a ramp from -1 inside to 1 outside over `EDGE_MM` either side."""
        return self.lungs.with_values(_ramp(self.lungs.voxels, self._outside_mm, self.lungs.spacing_mm))

    @cached_property
    def windpipe(self) -> NDArray[np.bool_]:
        """(z, y, x) its air, with the carina; none where no carina is seen, or the spacing is too coarse for it."""
        if self.image.spacing_mm[0] > WINDPIPE_SPACING_MM:
            return np.zeros(self.image.shape, bool)
        windpipe = windpipe_of(segment_airways(self.image, self.lungs), BELOW_CARINA_MM)
        return opened_by_box(windpipe.voxels, AIRWAY_MM, self.image.spacing_mm)

    @cached_property
    def edge_and_windpipe(self) -> Volume:
        """`edge`, but of lungs without the windpipe, and higher in this than anywhere else.

        By intensity the windpipe is lung, in one person as far as here, in another as far as there: a false surface.
        """
        edge, spacing = self.edge.voxels.copy(), self.lungs.spacing_mm
        box = box_around(self.windpipe, int(np.ceil((WINDPIPE_RAMP_MM + 2 * EDGE_MM + WALL_MM) / spacing[0])))
        outside_mm = ndimage.distance_transform_edt(~self.windpipe[box], sampling=spacing) - WALL_MM
        lungs = self.lungs.voxels[box] & (outside_mm > 0)
        beside = _ramp(lungs, ndimage.distance_transform_edt(~lungs, sampling=spacing), spacing)
        beside += (WINDPIPE_RISE * np.clip(1 - outside_mm / WINDPIPE_RAMP_MM, 0, 1)).astype(np.float32)
        edge[box] = np.where(outside_mm <= WINDPIPE_RAMP_MM, beside, edge[box])
        return self.edge.with_values(edge)

    @cached_property
    def chest(self) -> Volume:
        """The lungs, and where one should be on a side that shows no air."""
        return with_opaque_side(self.lungs, self.image)

    @cached_property
    def hull(self) -> NDArray[np.bool_]:
        """(z, y, x) the lungs and what lies between them, slice by slice."""
        return hull_by_slice(self.chest.voxels)

    @cached_property
    def vessels(self) -> Volume:
        """The image clipped to `VESSELS_HU`."""
        return self.image.with_values(np.clip(self.image.voxels, *VESSELS_HU))

    @cached_property
    def keypoints(self) -> Keypoints:
        """Upright keypoints of the image."""
        spacing = max(KEYPOINT_SPACING_MM, self.image.spacing_mm[0])
        return detect_keypoints(self.image, SiftSettings(spacing_mm=spacing), upright=True)

    @cached_property
    def probes(self) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Positions (n, 3) zyx mm of at most `MAX_PROBES` voxels near the lungs, evenly thinned, and their HU (n,)."""
        near = np.flatnonzero(self.near_lungs(PROBES_MM).voxels)
        near = near[:: max(1, -(-len(near) // MAX_PROBES))]
        points = self.image.index_to_mm(np.stack(np.unravel_index(near, self.image.shape), axis=-1))
        return points, self.image.voxels.ravel()[near]

    @cached_property
    def _outside_mm(self) -> NDArray[np.float32]:
        distance = ndimage.distance_transform_edt(~self.lungs.voxels, sampling=self.lungs.spacing_mm)
        return np.asarray(distance, dtype=np.float32)

    def far_from_ends(self, distance_mm: float) -> Volume:
        """Voxels further than a distance from every end of the field of view."""
        low, high = (np.asarray(corner) for corner in self.field_of_view_mm)
        index = np.ogrid[tuple(slice(n) for n in self.image.shape)]
        inside = np.ones(self.image.shape, bool)
        for axis in range(3):
            position = self.image.origin_mm[axis] + self.image.spacing_mm[axis] * index[axis]
            inside &= (position >= low[axis] + distance_mm) & (position <= high[axis] - distance_mm)
        return self.image.with_values(inside)

    def near_lungs(self, distance_mm: float) -> Volume:
        """The lungs and what lies within a distance of them."""
        return self.lungs.with_values(self._outside_mm <= distance_mm)

    def shows(self, points_mm: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which positions (n, 3) lie in the field of view."""
        low, high = self.field_of_view_mm
        return np.asarray(((points_mm >= low) & (points_mm <= high)).all(axis=-1))


def prepare(volume: Volume, spacing_mm: float, lungs: Volume | None = None) -> Prepared:
    """Resample, clip and crop a volume for registration.

    Parameters
    ----------
    volume : Volume
        (z, y, x) HU.
    spacing_mm : float
        Isotropic resolution in which registration works.
    lungs : Volume, optional
        bool mask from elsewhere, on any grid in the same space; without it the lungs are segmented.

    Raises
    ------
    VolumeError
        ``too_small`` (thinner than 4 cm), ``flat`` (constant image), ``no_lung`` or ``several_bodies``.
    """
    if min(volume.extent_mm) < MIN_EXTENT_MM or min(volume.shape) < 4:
        raise VolumeError("too_small", f"the volume is thinner than {MIN_EXTENT_MM:g} mm or 4 voxels")
    image = resample(volume, spacing_mm)
    if not np.isfinite(image.voxels).all() or float(np.ptp(image.voxels)) < 100:
        raise VolumeError("flat", "the volume is constant or not finite")
    mask = segment_lungs(image) if lungs is None else on_grid(lungs, image)
    lung_ml = mask.voxels.sum() * spacing_mm**3 / 1000
    if lung_ml < MIN_LUNG_ML:
        raise VolumeError("no_lung", f"the volume shows {lung_ml:.0f} ml of lung, fewer than {MIN_LUNG_ML:g}")
    if n_bodies(image, mask) > 1:
        raise VolumeError("several_bodies", "the volume shows more than one body: export each by itself")
    low, high = corners_mm(image)
    box = box_around(with_opaque_side(mask, image).voxels, int(np.ceil(MARGIN_MM / spacing_mm)))
    clipped = image.with_values(np.clip(image.voxels, *RANGE_HU))
    return Prepared(crop(clipped, box), crop(mask, box), (_vector(low), _vector(high)))


def corners_mm(volume: Volume) -> NDArray[np.float64]:
    """(2, 3) zyx positions of the first and the last voxel."""
    return volume.index_to_mm(np.array([(0, 0, 0), volume.shape]) - [[0], [1]])


def on_grid(mask: Volume, grid: Volume) -> Volume:
    """A mask on another volume's grid: nearest to the mean of the voxels that each new one covers."""
    factor = np.asarray(grid.spacing_mm) / mask.spacing_mm
    soft = ndimage.gaussian_filter(mask.voxels.astype(np.float32), 0.5 * np.sqrt(np.maximum(factor**2 - 1, 0)))
    offset = mask.mm_to_index([grid.origin_mm])[0]
    values = ndimage.affine_transform(soft, factor, offset, output_shape=grid.shape, order=1)
    return grid.with_values(values > 0.5)


def _ramp(lungs: NDArray[np.bool_], outside_mm: NDArray[np.floating], spacing_mm: Vector) -> NDArray[np.float32]:
    """From -1 deep in a mask to 1 far outside; zero on its surface."""
    inside_mm = ndimage.distance_transform_edt(lungs, sampling=spacing_mm)
    return np.asarray(np.clip((outside_mm - inside_mm) / EDGE_MM, -1, 1), dtype=np.float32)


def _vector(values: NDArray[np.float64]) -> Vector:
    z, y, x = values.tolist()
    return z, y, x
