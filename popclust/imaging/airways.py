"""The windpipe and the bronchi that hang on it: air that a rising threshold follows until it leaks into the lung.

As Mori et al. (IEEE TMI 19:103, 2000) grow airways: the wall of a bronchus is the thinner, and in a voxel the emptier,
the farther out it lies, so what is kept is the last tree before a threshold let the air through.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from popclust.imaging.volume import Volume

THRESHOLDS_HU = range(-1020, -690, 10)
"""Air within the tree, from the emptiest."""
WINDPIPE_MM2, WINDPIPE_HU = (60.0, 600.0), -800.0
"""Cross-section of the windpipe, and what is emptier than all tissue and most lung."""
LEAK, MIN_ML, MAX_ML = 1.5, 15.0, 120.0
"""Growing by this factor from one threshold to the next (once it has this size), or so large, the tree has leaked."""
MIDLINE_MM = 35.0
"""The windpipe lies no farther from the middle of the lungs."""
REACH_MM = 80.0
"""Nor do the branches that are followed."""
BRANCH_MM2 = 25.0
"""Cross-section of a main bronchus at least, where it leaves the carina."""
FORK_MM = 6.0
"""Two branches that stay apart for so long are the main bronchi."""
BLUR_VOXELS = 0.5
"""Noise in the wall must not open it."""


def segment_airways(image: Volume, lungs: Volume) -> Volume:
    """Air of the windpipe and bronchi, as far as a threshold follows it.

    Parameters
    ----------
    image : Volume
        (z, y, x) HU, isotropic; 2 mm and finer show the main bronchi and the first that leave them.
    lungs : Volume
        bool on the same grid, with or without the airways.

    Returns
    -------
    Volume
        (z, y, x) bool; all False where no windpipe is seen in or above the upper third of the lungs.
    """
    tree = np.zeros(image.shape, bool)
    if not lungs.voxels.any():
        return image.with_values(tree)
    middle = _middle(lungs)
    reach = round(REACH_MM / image.spacing_mm[2])
    near = (slice(None), slice(None), slice(max(0, round(middle) - reach), round(middle) + reach + 1))
    hu = ndimage.gaussian_filter(image.voxels[near], BLUR_VOXELS)
    seed = _windpipe(hu, lungs, middle - near[2].start)
    tree[near] = _grown(hu, seed, float(np.prod(image.spacing_mm)) / 1000)
    return image.with_values(tree)


def windpipe_of(airways: Volume, below_mm: float) -> Volume:
    """The part of airways that everybody has alike: from above to a distance below the carina, where the air divides.

    Parameters
    ----------
    airways : Volume
        bool, as of `segment_airways`.
    below_mm : float
        How far below the highest plane with two main bronchi it goes on.

    Returns
    -------
    Volume
        (z, y, x) bool; all False where no carina is seen.
    """
    kept = np.zeros(airways.shape, bool)
    n_planes = max(1, round(FORK_MM / airways.spacing_mm[0]))
    n_forked = 0
    for k in range(len(kept) - 1, -1, -1):
        label, _ = ndimage.label(airways.voxels[k])
        sizes = np.bincount(label.ravel())[1:] * airways.spacing_mm[1] * airways.spacing_mm[2]
        n_forked = n_forked + 1 if np.count_nonzero(sizes >= BRANCH_MM2) >= 2 else 0
        if n_forked == n_planes:
            lowest = max(0, k + n_planes - 1 - round(below_mm / airways.spacing_mm[0]))
            kept[lowest:] = airways.voxels[lowest:]
            break
    return airways.with_values(kept)


def _middle(lungs: Volume) -> float:
    """Column halfway between the two sides of the lungs."""
    columns = np.flatnonzero(lungs.voxels.any(axis=(0, 1)))
    weights = lungs.voxels.sum(axis=(0, 1))[columns]
    low, high = np.searchsorted(np.cumsum(weights) / weights.sum(), (0.02, 0.98))
    return float(columns[low] + columns[high]) / 2


def _windpipe(hu: NDArray[np.float32], lungs: Volume, middle: float) -> NDArray[np.bool_]:
    """Its cross-sections in and above the upper third of the lungs: the highest stack of small air at the midline."""
    spacing = lungs.spacing_mm
    filled = np.cumsum(lungs.voxels.sum(axis=(1, 2)))
    lowest = int(np.searchsorted(filled, 0.66 * filled[-1]))
    kept = np.zeros(hu.shape, bool)
    for plane, out in zip(hu[lowest:], kept[lowest:], strict=True):
        label, n_parts = ndimage.label(plane < WINDPIPE_HU)
        sizes = np.bincount(label.ravel(), minlength=n_parts + 1) * spacing[1] * spacing[2]
        for i in np.flatnonzero((sizes >= WINDPIPE_MM2[0]) & (sizes <= WINDPIPE_MM2[1])):
            _, column = np.nonzero(label == i)
            if i > 0 and abs(column.mean() - middle) * spacing[2] < MIDLINE_MM:
                out |= label == i
    stack, n_stacks = ndimage.label(kept)
    if n_stacks == 0:
        return kept
    heights = [piece[0].stop - piece[0].start for piece in ndimage.find_objects(stack)]
    return np.asarray(stack == 1 + int(np.argmax(heights)))


def _grown(hu: NDArray[np.float32], seed: NDArray[np.bool_], voxel_ml: float) -> NDArray[np.bool_]:
    """What hangs on the seed below the highest threshold that does not leak."""
    grown = np.zeros(hu.shape, bool)
    if not seed.any():
        return grown
    for threshold in THRESHOLDS_HU:
        label, _ = ndimage.label(hu < threshold)
        held = np.unique(label[seed & (label > 0)])
        new = np.isin(label, held[held > 0])
        size, before = new.sum() * voxel_ml, grown.sum() * voxel_ml
        if size > MAX_ML or (before > MIN_ML and size > LEAK * before):
            break
        grown = new
    return np.asarray(ndimage.binary_fill_holes(ndimage.binary_closing(grown)))
