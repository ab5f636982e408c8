"""Dense Haralick texture of a lung: from HU and a mask to features at points in mm."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from popclust.errors import InputError, VolumeError
from popclust.features.glcm import glcm_features
from popclust.features.glcm_features import HARALICK_13, IBSI_25
from popclust.features.sampling import grid_points
from popclust.imaging.volume import Volume, box_around, crop, resample
from popclust.settings import HaralickSettings

BREATH_HU = -850.0
"""Median of the aerated lung at the common depth of breath."""
_AERATED_HU = -500.0
"""Denser lung is ill, or no lung: it has no say in how deep the breath was."""
_AERATED_SIGMA_MM = 2.5
_THINNEST_HU = -985.0
_TRUNCATE = 3.0
"""Where Gaussians end, in sigmas."""


@dataclass(frozen=True)
class HaralickSamples:
    """Texture at points of one volume."""

    positions_mm: NDArray[np.float64]
    """(n, 3) zyx centres of the windows, in the volume's patient space."""
    features: NDArray[np.float32]
    """(n, f) features, computed in float64; finite."""
    feature_names: tuple[str, ...]
    """IBSI names of the f columns."""


def sample_haralick(volume: Volume, lung: Volume, settings: HaralickSettings) -> HaralickSamples:
    """Haralick features of orientation-independent co-occurrence matrices on a grid inside the lung.

    The volume is brought to an isotropic spacing of its own first (anti-aliased where that is coarser), so a window
    covers the same piece of anatomy whatever the scan's spacing was.

    Parameters
    ----------
    volume : Volume
        (z, y, x) HU, any real dtype, finite.
    lung : Volume
        (z, y, x) bool, on any grid in the same patient space; what lies outside its grid is not lung.
    settings : HaralickSettings
        Lengths in mm; window and step are rounded to whole voxels of `settings.spacing_mm`.

    Returns
    -------
    HaralickSamples
        Points in lexicographic order of their grid indices.

    Raises
    ------
    InputError
        Settings that contradict each other.
    VolumeError
        ``not_finite``: NaN or infinite HU; ``no_lung``: no point of the grid lies in the lung.
    """
    check_settings(settings)
    if lung.voxels.dtype != bool:
        raise ValueError(f"lung: must be bool, got {lung.voxels.dtype}")
    if not np.isfinite(volume.voxels).all():
        raise VolumeError("not_finite", "the volume has voxels that are not finite numbers")
    isotropic = resample(volume, settings.spacing_mm)
    mask = mask_on(isotropic, lung)
    points = grid_points(mask, step_voxels(settings))
    if len(points) == 0:
        raise VolumeError("no_lung", "no sampling point lies in the lung: the mask is empty or outside the volume")
    positions_mm = isotropic.index_to_mm(points)
    box = box_around(mask, _reach_voxels(settings))
    isotropic, mask, points = crop(isotropic, box), mask[box], points - [s.start for s in box]
    if settings.at_one_breath:
        isotropic = at_one_breath(isotropic, mask)
    isotropic = smoothed(isotropic, settings.smoothing_mm, mask if settings.masked else None)
    features = glcm_features(
        grey_levels(isotropic.voxels, mask, settings),
        points,
        window=window_voxels(settings),
        n_levels=settings.n_levels,
        distances=settings.distances,
        mask=mask if settings.masked else None,
        aggregation=settings.aggregation,
        features=settings.features,
    )
    names = HARALICK_13 if settings.features == "haralick13" else IBSI_25
    return HaralickSamples(positions_mm, features.astype(np.float32), names)


def at_one_breath(volume: Volume, mask: NDArray[np.bool_]) -> Volume:
    """A volume whose lung is as dense as at one common depth of breath.

    Air (-1000 HU) and water (0 HU) stay; between them HU move along two straight lines, so that the median of the
    aerated lung lies at `BREATH_HU`. A lung without aerated voxels, or as thin as air, stays as it is.

    Parameters
    ----------
    volume : Volume
        (z, y, x) HU.
    mask : (z, y, x) array of bool
        The lung on the volume's grid.

    Returns
    -------
    Volume
        float32 HU.
    """
    even = smoothed(volume, _AERATED_SIGMA_MM).voxels[mask]
    aerated = even[even < _AERATED_HU]
    if not len(aerated) or (median := float(np.median(aerated))) < _THINNEST_HU:
        return volume
    moved = np.interp(volume.voxels, [-1000.0, median, 0.0], [-1000.0, BREATH_HU, 0.0])
    is_lung_like = (volume.voxels > -1000) & (volume.voxels < 0)
    return volume.with_values(np.where(is_lung_like, moved, volume.voxels).astype(np.float32))


def smoothed(volume: Volume, sigma_mm: float, mask: NDArray[np.bool_] | None = None) -> Volume:
    """A volume under a Gaussian: what noise and kernel put below its scale is no longer texture.

    Parameters
    ----------
    volume : Volume
        (z, y, x) HU.
    sigma_mm : float
        Of the Gaussian; 0 leaves the volume as it is.
    mask : (z, y, x) array of bool, optional
        Only its voxels take part (normalised convolution); the others keep their values.

    Returns
    -------
    Volume
        float32 HU.
    """
    if sigma_mm == 0:
        return volume
    sigma = [sigma_mm / s for s in volume.spacing_mm]
    voxels = volume.voxels.astype(np.float32)
    if mask is None:
        return volume.with_values(ndimage.gaussian_filter(voxels, sigma, mode="nearest", truncate=_TRUNCATE))
    weight = ndimage.gaussian_filter(mask.astype(np.float32), sigma, mode="nearest", truncate=_TRUNCATE)
    inside = ndimage.gaussian_filter(np.where(mask, voxels, 0), sigma, mode="nearest", truncate=_TRUNCATE)
    return volume.with_values(np.where(mask, inside / np.maximum(weight, 1e-6), voxels))


def _reach_voxels(settings: HaralickSettings) -> int:
    """How far from the lung a voxel may lie and still have a say in its texture."""
    sigma_mm = max(settings.smoothing_mm, _AERATED_SIGMA_MM)
    return window_voxels(settings) // 2 + int(np.ceil(_TRUNCATE * sigma_mm / settings.spacing_mm)) + 1


def window_voxels(settings: HaralickSettings) -> int:
    """Edge of the window in voxels: the odd number nearest to window_mm (18 mm at 2 mm: 9), at least 3."""
    return max(3, 2 * int(settings.window_mm / settings.spacing_mm / 2) + 1)


def step_voxels(settings: HaralickSettings) -> int:
    """Voxels between sampling points: the whole number nearest to step_mm, at least 1."""
    return max(1, round(settings.step_mm / settings.spacing_mm))


def check_settings(settings: HaralickSettings) -> None:
    """Refuse settings that no volume could be processed with.

    Raises
    ------
    InputError
        Names the setting, what it is and what was wanted.
    """
    for name in ("spacing_mm", "window_mm", "step_mm"):
        if not (np.isfinite(getattr(settings, name)) and getattr(settings, name) > 0):
            raise InputError(f"[haralick] {name}: must be a positive length, got {getattr(settings, name)}")
    if not 2 <= settings.n_levels <= 256:
        raise InputError(f"[haralick] n_levels: must be 2 to 256, got {settings.n_levels}")
    low, high = settings.range_hu
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise InputError(f"[haralick] range_hu: must be two finite values, the lower first, got {settings.range_hu}")
    window, distances = window_voxels(settings), settings.distances
    if not distances or len(set(distances)) < len(distances) or not all(1 <= d < window for d in distances):
        raise InputError(
            f"[haralick] distances: must be different and between 1 and {window - 1} voxels "
            f"(the window is {window}), got {distances}"
        )


def mask_on(grid: Volume, mask: Volume) -> NDArray[np.bool_]:
    """The mask's values at the voxel centres of another grid (nearest voxel, False outside)."""
    axes = [np.arange(n) for n in grid.shape]
    nearest = [
        np.rint((o + i * s - mo) / ms).astype(np.int64)
        for i, o, s, mo, ms in zip(axes, grid.origin_mm, grid.spacing_mm, mask.origin_mm, mask.spacing_mm, strict=True)
    ]
    inside = [(i >= 0) & (i < n) for i, n in zip(nearest, mask.shape, strict=True)]
    out = np.zeros(grid.shape, dtype=bool)
    out[np.ix_(*inside)] = mask.voxels[np.ix_(*(i[k] for i, k in zip(nearest, inside, strict=True)))]
    return out


def grey_levels(hu: NDArray, mask: NDArray[np.bool_], settings: HaralickSettings) -> NDArray[np.uint8]:
    """Grey levels 0 .. n_levels - 1 of HU values.

    Parameters
    ----------
    hu : ndarray
        (z, y, x) HU, finite.
    mask : ndarray of bool
        (z, y, x) lung; "equalized" binning takes its edges from the values in there.
    settings : HaralickSettings
        ``binning = "equal_width"``: level = floor((HU - low) / (high - low) * n_levels) for range_hu = (low, high),
        values outside the range clipped into the first and last level: the same HU is the same level in every volume.
        ``"equalized"``: edges at the n_levels-quantiles of the lung's own clipped HU.
    """
    low, high = settings.range_hu
    if settings.binning == "equalized" and mask.any():
        quantiles = np.arange(1, settings.n_levels) / settings.n_levels
        edges = np.quantile(np.clip(hu[mask], low, high), quantiles)
        return np.searchsorted(edges, hu, side="right").astype(np.uint8)
    out = np.empty(hu.shape, dtype=np.uint8)
    for z, plane in enumerate(hu):  # by planes: the float64 copy stays small
        level = (plane.astype(np.float64) - low) / (high - low) * settings.n_levels
        out[z] = np.clip(np.floor(level), 0, settings.n_levels - 1)
    return out
