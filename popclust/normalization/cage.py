"""Lungs with their disease: where the chest wall says lung is, though fluid, collapse or consolidation fills it.

The registration follows the aerated lung, and draws the atlas's lungs away from what is not. So the chest wall is
registered by itself, coarsely: fat, muscle, ribs and spine, without the aerated lungs and without what lies where the
atlas has lung, which may be disease. What that map calls lung, and the other does not, is joined where it is dense and
too large to be the disagreement of two maps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from popclust.errors import VolumeError
from popclust.imaging.masks import opened_by_box
from popclust.imaging.volume import Volume, resample, sample
from popclust.normalization.preparation import Prepared, on_grid
from popclust.normalization.steps import BENDING, METRICS, Channel, affine_stage, free_form, linear_maps
from popclust.normalization.transform import AffineMap, ChainMap
from popclust.settings import NormalizeSettings

SPACING_MM = 5.0
"""The wall is registered no finer than this."""
WALL_HU = (-200.0, 200.0)
"""Fat to spongy bone; lung and air are alike."""
BESIDE_MM = 5.0
"""What is nearer to the aerated lung is partly lung."""
REACH_MM = 36.0
"""How far from the lungs, aerated or the atlas's, the wall is compared."""
WALL_SETTINGS: Mapping[str, Any] = {
    "n_resolutions": 2, "grid_spacing_mm": 40.0, "n_iterations": 60, "n_samples": 1000, "bending_weight": 100.0,
}  # fmt: skip
"""How its free form is found, whatever the settings say."""
DEPTHS_MM = (12.0, 8.0)
"""Deeper in the atlas's lungs nothing is compared: under the affine map, which is less sure, and under the next."""
MAX_HU = 150.0
"""Denser is bone or a vessel with contrast agent."""
OPENING_MM = 15.0
"""What is thinner than this is the disagreement of two maps at the lung's edge."""
MIN_ML = 20.0
"""Nor is anything smaller."""


def lungs_within_wall(volume: Prepared, reference: Prepared, affine: AffineMap, settings: NormalizeSettings) -> Volume:
    """The atlas's lungs (bool) on the volume's grid, carried over by the chest wall alone, where they are not aerated.

    Parameters
    ----------
    volume, reference : Prepared
        The volume, and the atlas or a template.
    affine : AffineMap
        Positions in the volume -> positions in the reference, from the lungs and what is around them.
    settings : NormalizeSettings
        Its seed and metric.

    Returns
    -------
    Volume
        Without any voxel where the wall could not be registered.
    """
    coarse, template = _coarse(volume), _coarse(reference)
    fixed, moving = (p.image.with_values(np.clip(p.image.voxels, *WALL_HU)) for p in (coarse, template))
    inside = ndimage.distance_transform_edt(template.lungs.voxels, sampling=template.lungs.spacing_mm)
    depth = template.lungs.with_values(inside.astype(np.float32))
    try:
        wall = _wall(coarse, template, affine, depth, DEPTHS_MM[0])
        (affine,) = linear_maps(fixed, moving, wall, affine, [affine_stage(settings)])
        to_atlas = _bent(fixed, moving, _wall(coarse, template, affine, depth, DEPTHS_MM[1]), affine, settings)
    except VolumeError:  # too little of the wall is seen: nothing is joined, and quality judges the rest
        return volume.lungs.with_values(np.zeros(volume.lungs.shape, bool))
    is_lung = ~volume.lungs.voxels
    points = volume.lungs.index_to_mm(np.argwhere(is_lung))
    is_lung[is_lung] = sample(reference.lungs, to_atlas(points), outside=0.0) > 0.5
    return volume.lungs.with_values(is_lung)


def with_disease(lung: Volume, within_wall: Volume, volume: Prepared) -> Volume:
    """Lungs joined with what the chest wall calls lung and is not aerated, in pieces that are large enough.

    Parameters
    ----------
    lung : Volume
        bool, (z, y, x): the atlas's lungs carried over by the registration.
    within_wall : Volume
        The same carried over by the chest wall.
    volume : Prepared
        HU and aerated lungs on the same grid.
    """
    return lung.with_values(lung.voxels | airless_pieces(within_wall.voxels & ~lung.voxels, volume))


def airless_pieces(mask: NDArray[np.bool_], volume: Prepared) -> NDArray[np.bool_]:
    """What of a mask (z, y, x) on the volume's grid is neither aerated nor bone, in pieces thick and large enough."""
    dense = ~volume.lungs.voxels & (volume.image.voxels < MAX_HU)
    spacing = volume.lungs.spacing_mm
    piece, _ = ndimage.label(opened_by_box(mask & dense, OPENING_MM, spacing))
    ml = np.bincount(piece.ravel()) * np.prod(spacing) / 1000
    ml[0] = 0
    return np.asarray((ml >= MIN_ML)[piece])


def _bent(fixed: Volume, moving: Volume, compared: Volume, start: AffineMap, settings: NormalizeSettings) -> ChainMap:
    """A free form of few control points between two images of the wall."""
    coarse = replace(settings, **WALL_SETTINGS)
    everywhere = fixed.with_values(np.ones(fixed.shape, bool))
    channels = [
        Channel(METRICS["mi"], 1.0, fixed, moving, compared),
        Channel(BENDING, coarse.bending_weight, fixed, moving, everywhere),
    ]
    return free_form(channels, start, coarse)


def _wall(volume: Prepared, template: Prepared, to_template: AffineMap, depth: Volume, limit_mm: float) -> Volume:
    """Voxels that are compared: beside both the aerated lungs and what may be lung."""
    points = volume.image.index_to_mm(np.indices(volume.image.shape).reshape(3, -1).T)
    there = to_template(points)
    is_shallow = _on(depth, there, volume) <= limit_mm
    near = volume.near_lungs(REACH_MM).voxels | (_on(template.near_lungs(REACH_MM), there, volume) > 0.5)
    return volume.lungs.with_values(is_shallow & near & ~volume.near_lungs(BESIDE_MM).voxels)


def _on(values: Volume, points_mm: NDArray[np.float64], grid: Prepared) -> NDArray[np.float32]:
    return sample(values, points_mm, outside=0.0).reshape(grid.image.shape)


def _coarse(volume: Prepared) -> Prepared:
    image = resample(volume.image, max(SPACING_MM, volume.image.spacing_mm[0]))
    return replace(volume, image=image, lungs=on_grid(volume.lungs, image))
