"""What a person is drawn on: the scanner's grid, with the atlas position of every voxel known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from popclust.imaging.volume import Vector
from popclust.simulation.anatomy import BLOOD, LUNG_DEPTH, POSTERIOR_DEPTH, TISSUE, thorax
from popclust.simulation.painting import paint_spheres, paint_tubes, sample_channels
from popclust.simulation.person import Person, spline_grid, spline_matrix

_MARGIN_MM = 6.0


@dataclass(frozen=True)
class Grid:
    """Where a series has its voxels."""

    shape: tuple[int, int, int]
    """Number of voxels, zyx."""
    spacing_mm: Vector
    """Distance between voxel centres, zyx."""
    origin_mm: Vector
    """Position of voxel [0, 0, 0] in the scanner, zyx."""


@dataclass(frozen=True)
class Canvas:
    """The grid, the tissue around the lungs, and the voxels in and near the lungs with their place in the atlas."""

    grid: Grid
    person: Person
    hu: NDArray[np.float32]
    """(z, y, x) what is drawn so far; changed in place."""
    blur_mm: float
    """Standard deviation of the point spread that shapes are drawn with."""
    voxels: NDArray[np.int64]
    """(n,) flat indices of the voxels in and near the lungs."""
    atlas_mm: NDArray[np.float32]
    """(3, n) their atlas positions, zyx."""
    depth_mm: NDArray[np.float32]
    """(n,) their depth below the lungs' surface."""
    posterior_mm: NDArray[np.float32]
    """(n,) their distance from the posterior wall of the thoracic cavity."""

    @classmethod
    def blank(cls, grid: Grid, person: Person, contrast_hu: float = 0.0) -> Canvas:
        """Everything but the lungs of one person, with blood brighter by `contrast_hu`."""
        anatomy = thorax()
        atlas = person.grid_to_atlas(grid.shape, grid.spacing_mm, grid.origin_mm).reshape(3, -1)
        origin = np.asarray(anatomy.origin_mm, np.float32)[:, None]
        fields = sample_channels(anatomy.fields, (atlas - origin) * np.float32(1 / anatomy.spacing_mm[0]))
        hu = fields[TISSUE] + np.float32(contrast_hu) * fields[BLOOD]
        voxels = np.flatnonzero(fields[LUNG_DEPTH] > -_MARGIN_MM)
        return cls(
            grid=grid,
            person=person,
            hu=hu.reshape(grid.shape),
            blur_mm=0.42 * float(np.mean(grid.spacing_mm)),
            voxels=voxels,
            atlas_mm=atlas[:, voxels],
            depth_mm=fields[LUNG_DEPTH][voxels],
            posterior_mm=fields[POSTERIOR_DEPTH][voxels],
        )

    @property
    def inside(self) -> NDArray[np.float32]:
        """(n,) share of each voxel that is lung."""
        return np.clip(0.5 + self.depth_mm / (2.4 * self.blur_mm), 0.0, 1.0)

    def smooth_field(self, length_mm: float, rng: np.random.Generator) -> NDArray[np.float32]:
        """(n,) a smooth random field of about unit variance whose structures have about this length."""
        axes, counts = [], []
        for n, spacing in zip(self.grid.shape, self.grid.spacing_mm, strict=True):
            counts.append(int(n * spacing / length_mm) + 5)
            axes.append(spline_matrix(np.arange(n) * spacing, length_mm, -1.5 * length_mm, counts[-1]))
        field = spline_grid(rng.standard_normal(counts) / 0.33, (axes[0], axes[1], axes[2]))
        return field.reshape(-1)[self.voxels]

    def blend(self, cover: NDArray, hu: float | NDArray) -> None:
        """Move the lung voxels' values towards `hu` by `cover` (n,), within the lungs."""
        flat = self.hu.reshape(-1)
        now = flat[self.voxels]
        flat[self.voxels] = now + (cover * self.inside * (hu - now)).astype(np.float32)

    def tubes(self, tubes_atlas: NDArray, value_hu: float, *, brighter: bool, radius_mm: float = 0.0) -> None:
        """Draw tubes (n, 8) given in the atlas, their radii changed by `radius_mm`."""
        ends = self.person.to_volume(tubes_atlas[:, :6].reshape(-1, 3), tolerance_mm=0.05).reshape(-1, 6)
        radii = np.maximum(tubes_atlas[:, 6:] + radius_mm, 0.05)
        spacing, origin = np.asarray(self.grid.spacing_mm), np.asarray(self.grid.origin_mm)
        paint_tubes(self.hu, np.column_stack([ends, radii]), value_hu, brighter, self.blur_mm, spacing, origin)

    def spheres(self, centres_atlas: NDArray, radii_mm: NDArray, value_hu: float, *, brighter: bool) -> None:
        """Draw balls with centres (n, 3) given in the atlas."""
        centres = self.person.to_volume(centres_atlas, tolerance_mm=0.05)
        spacing, origin = np.asarray(self.grid.spacing_mm), np.asarray(self.grid.origin_mm)
        paint_spheres(self.hu, np.column_stack([centres, radii_mm]), value_hu, brighter, self.blur_mm, spacing, origin)


LungWeight = Callable[[NDArray, NDArray], NDArray]
"""Atlas positions (n, 3) and depths (n,) in mm -> weight (n,) of a place for some lesion."""


def place_in_lung(n: int, weight: LungWeight, rng: np.random.Generator) -> NDArray[np.float64]:
    """Random atlas positions (n, 3) zyx mm in the lungs, drawn in proportion to a weight."""
    anatomy = thorax()
    depth = anatomy.channel(LUNG_DEPTH)
    inside = np.argwhere(depth > 0)
    chances = np.cumsum(weight(inside * np.asarray(anatomy.spacing_mm) + anatomy.origin_mm, depth[depth > 0]))
    chosen = inside[np.searchsorted(chances, rng.uniform(0, chances[-1], n))] + rng.uniform(-0.5, 0.5, (n, 3))
    return chosen * np.asarray(anatomy.spacing_mm) + np.asarray(anatomy.origin_mm)
