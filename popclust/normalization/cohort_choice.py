"""An atlas and templates from the cohort itself, by the shape of the lungs alone.

The rule: of the volumes that show whole lungs, those with slices at most 3 mm apart are candidates (all, where there
is none such). The atlas is the medoid of the candidates (least summed distance to all others), the distance of two
being 1 - Dice of their lungs with the centroids laid over each other. Each further template is the one that most lowers
the summed distance to the nearest template (the build step of PAM, Kaufman and Rousseeuw 1990). Ties go to the lowest
volume_id.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from popclust.errors import InputError
from popclust.imaging.lungs import segment_lungs
from popclust.imaging.volume import Volume, resample
from popclust.normalization.start import is_cut_off

GRID_MM = 8.0
"""Resolution at which shapes are compared."""
GRID_VOXELS = 48
"""Edge of the cube around the centroid in which shapes are compared: 38 cm."""
SEGMENT_MM = 3.0
"""Resolution at which lungs are segmented."""
FINE_MM = 3.0
"""Slices further apart than this make a coarse atlas."""
MIN_WHOLE_ML = 1500.0
"""Less lung than this is not a whole pair of lungs."""


@dataclass(frozen=True)
class LungShape:
    """The lungs of one volume in a form that compares."""

    bits: NDArray[np.uint8]
    """Packed bool voxels of the cube around the centroid."""
    is_whole: bool
    """Neither the upper nor the lower end of the volume cuts the lungs, and they are large enough."""
    is_fine: bool = True
    """The slices are near enough to each other for an atlas."""


def lung_shape(volume: Volume, lungs: Volume | None = None) -> LungShape:
    """Shape of a volume's lungs.

    Parameters
    ----------
    volume : Volume
        (z, y, x) HU.
    lungs : Volume, optional
        bool mask from elsewhere; without it the lungs are segmented.
    """
    mask = lungs if lungs is not None else segment_lungs(volume, spacing_mm=SEGMENT_MM)
    lung_ml = float(np.count_nonzero(mask.voxels)) * float(np.prod(mask.spacing_mm)) / 1000
    if lung_ml == 0:
        return LungShape(np.packbits(np.zeros(GRID_VOXELS**3, bool)), False)
    is_whole = not is_cut_off(mask.voxels) and lung_ml >= MIN_WHOLE_ML
    is_fine = volume.spacing_mm[0] <= FINE_MM
    return LungShape(np.packbits(_centred(resample(mask, GRID_MM))), is_whole, is_fine)


def choose_from_cohort(shapes: Mapping[str, LungShape], n_templates: int) -> list[str]:
    """Volumes to serve as the atlas (the first) and as templates.

    Parameters
    ----------
    shapes : mapping of str to LungShape
        By volume_id.
    n_templates : int
        How many in all, the atlas among them; fewer come back if there are fewer whole lungs.

    Raises
    ------
    InputError
        No volume shows whole lungs.
    """
    whole = sorted(name for name, shape in shapes.items() if shape.is_whole)
    names = [name for name in whole if shapes[name].is_fine] or whole
    if not names:
        raise InputError("atlas.volume: no volume of the cohort shows whole lungs; name an atlas volume in study.toml")
    distance = _distances(np.stack([np.unpackbits(shapes[name].bits) for name in names]))
    nearest = np.full(len(names), np.inf)
    chosen: list[int] = []
    for _ in range(min(n_templates, len(names))):
        cost = np.minimum(nearest, distance).sum(axis=1)
        cost[chosen] = np.inf
        chosen.append(int(np.argmin(cost)))
        nearest = np.minimum(nearest, distance[chosen[-1]])
    return [names[i] for i in chosen]


def _centred(mask: Volume) -> NDArray[np.bool_]:
    """The mask in a cube of fixed size with its centroid in the middle, to the nearest voxel."""
    cube = np.zeros((GRID_VOXELS,) * 3, dtype=bool)
    index = np.argwhere(mask.voxels)
    if len(index):
        placed = index - np.round(index.mean(axis=0)).astype(int) + GRID_VOXELS // 2
        placed = placed[((placed >= 0) & (placed < GRID_VOXELS)).all(axis=1)]
        cube[tuple(placed.T)] = True
    return cube.ravel()


def _distances(masks: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(n, n) 1 - Dice."""
    values = masks.astype(np.float32)
    size = values.sum(axis=1, dtype=np.float64)
    both = (values @ values.T).astype(np.float64)
    return 1.0 - 2.0 * both / np.maximum(size[:, None] + size[None, :], 1.0)
