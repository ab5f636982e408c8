"""An atlas and templates from the cohort itself: healthy, whole, sharp, and central by the shape of the lungs.

The rule: of the volumes that show whole lungs, those with slices at most 3 mm apart count (all, where there is none
such). Candidates are the healthier half of these by two measures at once: the density of the lungs is even, and aerated
lung reaches the ribs. The atlas is the candidate with the least summed distance to all that count, the distance of two
being 1 - Dice of their lungs with the centroids laid over each other. Each further template is the candidate that most
lowers the summed distance to the nearest template (the build step of PAM, Kaufman and Rousseeuw 1990). Ties go to the
lowest volume_id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from popclust.errors import InputError
from popclust.imaging.lungs import segment_lungs
from popclust.imaging.volume import Volume, resample
from popclust.normalization.preparation import on_grid
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
HEALTH_MM = 4.0
"""Resolution at which the lungs' health is judged."""
EVEN_HU = 60.0
"""Healthy lung, after a Gaussian of 2.5 mm, lies within this of its median, but for vessels and the dependent side."""
CLOSED_MM = 16.0
"""Vessels, nodules and consolidation narrower than twice this count as lung."""
RIB_HU = 200.0
"""Denser is bone."""
RIBS_MM = 70.0
"""Bone farther from the lungs is none of the ribs."""


@dataclass(frozen=True)
class LungShape:
    """The lungs of one volume in a form that compares."""

    bits: NDArray[np.uint8]
    """Packed bool voxels of the cube around the centroid."""
    is_whole: bool
    """Neither the upper nor the lower end of the volume cuts the lungs, and they are large enough."""
    is_fine: bool = True
    """The slices are near enough to each other for an atlas."""
    evenness: float = 1.0
    """Share of the lungs whose density lies within `EVEN_HU` of their median: emphysema, fibrosis, ground glass and
    nodules lower it."""
    rib_gap_mm: float = 0.0
    """Median distance from the ribs to aerated lung: effusion, collapse and consolidation raise it."""


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
    return LungShape(np.packbits(_centred(resample(mask, GRID_MM))), is_whole, is_fine, *_health(volume, mask))


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
    is_candidate = _healthy([shapes[name] for name in names], n_templates)
    distance = _distances(np.stack([np.unpackbits(shapes[name].bits) for name in names]))
    nearest = np.full(len(names), np.inf)
    chosen: list[int] = []
    for _ in range(min(n_templates, len(names))):
        cost = np.where(is_candidate, np.minimum(nearest, distance).sum(axis=1), np.inf)
        cost[chosen] = np.inf
        chosen.append(int(np.argmin(cost)))
        nearest = np.minimum(nearest, distance[chosen[-1]])
    return [names[i] for i in chosen]


def _healthy(shapes: Sequence[LungShape], n_wanted: int) -> NDArray[np.bool_]:
    """The healthier half by both measures; a larger share where that leaves fewer than are wanted."""
    evenness, gap = (np.array([getattr(s, name) for s in shapes]) for name in ("evenness", "rib_gap_mm"))
    for share in (0.5, 0.75):
        healthy = (evenness >= np.quantile(evenness, 1 - share)) & (gap <= np.quantile(gap, share))
        if healthy.sum() >= n_wanted:
            return np.asarray(healthy)
    return np.ones(len(shapes), bool)


def _health(volume: Volume, mask: Volume) -> tuple[float, float]:
    """Evenness and rib gap of `LungShape`."""
    image = resample(volume, HEALTH_MM)
    lungs = on_grid(mask, image).voxels
    n = round(CLOSED_MM / HEALTH_MM)
    closed = ndimage.binary_closing(np.pad(lungs, n + 1), iterations=n)[(slice(n + 1, -n - 1),) * 3]
    inside = ndimage.binary_erosion(closed, iterations=2)
    rows = np.flatnonzero(lungs.any(axis=(1, 2)))
    if not inside.any() or len(rows) < 4:
        return 0.0, RIBS_MM
    hu = ndimage.gaussian_filter(image.voxels.astype(np.float32), 2.5 / HEALTH_MM)[inside]
    evenness = float((np.abs(hu - np.median(hu)) < EVEN_HU).mean())
    middle = slice(rows[len(rows) // 4], rows[4 * len(rows) // 5])  # neither the shoulders nor the diaphragm
    bone = ndimage.gaussian_filter(image.voxels.astype(np.float32), 1.0)[middle] > RIB_HU
    gap = ndimage.distance_transform_edt(~lungs, sampling=image.spacing_mm)[middle][bone]
    near = gap[gap < RIBS_MM]
    return round(evenness, 4), round(float(np.median(near)), 2) if len(near) else RIBS_MM


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
