"""Fluid beside the lung, followed by its own grey to the pleura that no map finds to the millimetre.

Fluid is even, and less dense than muscle, blood and organs. Where the lungs that a map has drawn hold a piece of such a
grey, what continues it with the same grey is fluid too: into the recesses, up to ribs, muscle and diaphragm.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from popclust.imaging.masks import opened_by_box
from popclust.imaging.volume import Volume
from popclust.normalization.preparation import Prepared

FLUID_HU = (-15.0, 30.0)
"""Median of a piece that is fluid: transudates, exudates, fluid with some blood. Muscle and organs are denser."""
TISSUE_HU = (-300.0, 150.0)
"""Neither aerated nor bone."""
SMOOTHING_MM = 4.0
"""Half width of the Gaussian by which the grey is told in noise; only tissue takes part."""
MUSCLE_HU = 50.0
"""What is denser than half way from the fluid to muscle is muscle for more than half."""
TOLERANCE_HU = 15.0
"""The same grey; less where muscle is nearer."""
FAT_EDGE_HU = 60.0
"""The outermost voxel may be so much less dense: half way to fat."""
EVEN_HU, EVEN_SHARE = 10.0, 0.55
"""So much of a piece lies so near to its median. Of planted effusions .64 to .99; of chest wall within a wrong mask, a
mixture of fat and muscle, .07 to .45."""
OPENING_MM = 8.0
"""Thinner layers are partial volume between fat and muscle, which has the grey of fluid."""
MIN_ML = 20.0
"""A smaller piece is no evidence."""
REACH_MM = 25.0
"""Farther from the lungs as drawn nothing is joined."""
BETWEEN_MM = 12.0
"""Nor so deep between the atlas's lungs: vessels in fat have the grey of fluid in the mean."""


def between_lungs(reference: Prepared) -> Volume:
    """What lies between the atlas's lungs, deeper than `BETWEEN_MM`."""
    return reference.lungs.with_values(reference.hull & ~reference.near_lungs(BETWEEN_MM).voxels)


def with_fluid(lung: Volume, volume: Prepared, between: Volume) -> Volume:
    """Lungs joined with the fluid that continues what fluid they hold.

    Parameters
    ----------
    lung : Volume
        bool, (z, y, x): lungs as the maps draw them.
    volume : Prepared
        HU and aerated lungs on the same grid.
    between : Volume
        bool, on the same grid: where no fluid beside lungs can be (`between_lungs` of the atlas, carried over).

    Returns
    -------
    Volume
        `lung` itself where no piece of it is fluid.
    """
    hu, spacing = volume.image.voxels, np.asarray(lung.spacing_mm)
    air = volume.lungs.voxels | (hu <= TISSUE_HU[0])
    border = ndimage.binary_dilation(air) & ~air  # partly air
    tissue = ~air & ~border & ~between.voxels & (hu < TISSUE_HU[1])
    pieces, n_pieces = ndimage.label(opened_by_box(lung.voxels & tissue, OPENING_MM, lung.spacing_mm))
    fluid = {i: grey for i in range(1, n_pieces + 1) if (grey := _grey_of_fluid(pieces == i, hu, spacing)) is not None}
    if not fluid:
        return lung
    smooth = smoothed_within(tissue, hu, SMOOTHING_MM / spacing)
    near = ndimage.distance_transform_edt(~lung.voxels, sampling=spacing) <= REACH_MM
    joined = lung.voxels.copy()
    for i, grey in fluid.items():
        piece = pieces == i
        if (np.abs(smooth[piece] - grey) <= EVEN_HU).mean() < EVEN_SHARE:
            continue
        half_way = (MUSCLE_HU - grey) / 2
        alike = tissue & near & (np.abs(smooth - grey) <= min(TOLERANCE_HU, 0.75 * half_way))
        connected = _touching(piece, opened_by_box(alike, OPENING_MM, lung.spacing_mm) | piece)
        edge = border | tissue & (smooth >= grey - FAT_EDGE_HU) & (smooth <= grey + 1.25 * half_way)
        joined |= connected | ndimage.binary_dilation(connected) & edge
    return lung.with_values(joined)


def _grey_of_fluid(piece: NDArray[np.bool_], hu: NDArray[np.float32], spacing_mm: NDArray[np.float64]) -> float | None:
    """Median HU of a piece, if it is large enough and may be fluid."""
    inside = hu[piece]
    if inside.size * np.prod(spacing_mm) < 1000 * MIN_ML:
        return None
    grey = float(np.median(inside))
    return grey if FLUID_HU[0] <= grey <= FLUID_HU[1] else None


def smoothed_within(
    mask: NDArray[np.bool_], values: NDArray[np.float32], sigma: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Mean of the values of a mask around every voxel of it, by a Gaussian (voxels); zero outside the mask."""
    weight = ndimage.gaussian_filter(mask.astype(np.float32), sigma)
    total = ndimage.gaussian_filter(np.where(mask, values, 0).astype(np.float32), sigma)
    return np.divide(total, weight, out=np.zeros_like(total), where=mask & (weight > 0))


def _touching(piece: NDArray[np.bool_], mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Connected parts of a mask that hold some of a piece of it."""
    part, n_parts = ndimage.label(mask)
    is_held = np.zeros(n_parts + 1, bool)
    is_held[part[piece]] = True
    is_held[0] = False
    return np.asarray(is_held[part])
