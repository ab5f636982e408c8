"""Whether a picture's numbers are Hounsfield units, told from what is in it: air, fat and muscle stand where they do.

Headers are not to be relied on: a rescale that is missing, doubled or read with the wrong sign leaves a picture that
looks like any other, whose densities are all wrong.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from popclust.imaging.volume import Volume

AIR_HU, FAT_HU = -1000.0, -104.0
"""Where outside air stands by definition, and where fat does; on 14 chest CTs fat was between -114 and -94 HU."""
SOFT_HU = (-150.0, 250.0)
"""Muscle, fat and blood, with and without contrast agent."""
BLOCK_MM = (3.0, 2.0, 2.0)
SMOOTHING_MM = 2.0
"""Sigma of the Gaussian that takes the noise away."""
EVEN_HU_PER_MM = 8.0
"""Where the picture changes faster than this, tissues mix and no peak is theirs."""
BIN_HU = 2.0
PEAK_SIGMA_HU = 4.0
MIN_PROMINENCE = 0.3
"""Share of a peak's height by which it stands over the valley on its lower side, and the one on its upper side."""
MIN_FAT_SHARE, STRONG_FAT_SHARE = 0.02, 0.06
"""Share of soft tissue's even places within 5 HU of the peak of fat; below the second it may be no fat. Of 14
people .13 to .25, and in a wasted one .02, a mixture at -60 HU."""
MUSCLE_HU, MAX_GAP_HU = (30.0, 90.0), 130.0
"""Where muscle stands, and how far at most the next denser tissue, blood, stands from it. From fat to muscle it is 145
HU or more."""
FLUID_HU = -4.0
"""Beside weak fat, the lowest strong peak may be fluid, not below water (0 HU, which makers keep to 4)."""
MIN_AIR_ML, MIN_SOFT_ML = 10.0, 30.0
FREE_AIR_ML = 300.0
"""With less air around the body than this, no outside air is seen."""
MAX_AIR_SHIFT_HU, MAX_AIR_BELOW_HU = 16.0, 22.0
"""Departure of outside air, which scanners keep less well than fat: -1012 HU was seen. Downward more: noise on a
filling of -1024 that is cut there has its middle up to 10 HU above."""
EMPTIEST_ML = 20.0
"""Where no outside air is seen, the middle of the emptiest places of this volume stands for it: the windpipe."""
EMPTIER_HU, EMPTIER_ML = -1005.0, 0.5
"""Gas within the body that is emptier than air."""
CUT_ML, CUT_SHARE = 5.0, 0.3
"""Gas within the body that stands at the lowest value of all, and share of the surroundings that does."""
SURROUNDINGS_MM = (4.0, 30.0)
"""Distance from the skin of what counts as the body's surroundings."""


@dataclass(frozen=True)
class Calibration:
    """Where the numbers of a picture stand against Hounsfield units: number = slope * HU + shift."""

    shift_hu: float | None
    """Departure at 0 HU, from fat (and outside air); None where neither is seen."""
    slope: float | None
    """What a Hounsfield unit is; None unless fat and air are seen."""
    air_hu: float | None
    """Where air stands."""
    fat_hu: float | None
    """Where fat stands."""
    air_is_outside: bool
    """Whether enough air is around the body to be the air of the room."""
    is_cut: bool
    """Whether what is empty lies below the lowest value that the numbers can take."""
    has_soft_tissue: bool
    """Whether anything stands where soft tissue does."""

    def is_hu(self, max_shift_hu: float, max_slope_error: float) -> bool:
        """Whether nothing in the picture speaks against Hounsfield units."""
        if self.is_cut or not self.has_soft_tissue or (self.air_hu is None and self.fat_hu is None):
            return False
        if self.fat_hu is not None and self.shift_hu is not None and abs(self.shift_hu) > max_shift_hu:
            return False
        error = 0.0 if self.slope is None else self.slope - 1
        # What is emptiest in the body lies low by its noise, and is no room: it may stand too high, but not too low.
        if error < -max_slope_error or (self.air_is_outside and error > max_slope_error):
            return False
        return not (self.air_is_outside and self.air_hu is not None and not _is_air(self.air_hu, max_shift_hu))


@dataclass(frozen=True)
class _Picture:
    """A coarse, smooth copy, and what of it is where."""

    smooth: NDArray[np.float32]
    is_even: NDArray[np.bool_]
    is_lowest: NDArray[np.bool_]
    """At the lowest value of the volume, as padding is and what was cut off."""
    is_near_lowest: NDArray[np.bool_]
    is_inside: NDArray[np.bool_]
    """Gas that the body surrounds in its slice."""
    is_around: NDArray[np.bool_]
    """Outside, near the skin."""
    is_cropped: bool
    """The body reaches far beyond the field of view, so that what is around it is no room."""
    voxel_ml: float


def measure_calibration(volume: Volume) -> Calibration:
    """Find air and fat in a chest CT.

    Parameters
    ----------
    volume : Volume
        (z, y, x) numbers that should be HU, cut at -1024 or not.

    Returns
    -------
    Calibration
        From places of about 4 mm where the picture is even: their most frequent values, air the lowest, fat the lowest
        that is no gas. The same for the same voxels on every machine.
    """
    picture = _picture(volume)
    soft_ml = float(np.count_nonzero(picture.is_even & _within(picture.smooth, SOFT_HU))) * picture.voxel_ml
    air_hu, is_outside = _air(picture)
    fat_hu = _fat(picture, None if air_hu is None or not is_outside else air_hu)
    slope = shift = None
    if air_hu is not None and fat_hu is not None:
        slope = (fat_hu - air_hu) / (FAT_HU - AIR_HU)
        # Where the slope is right, the shift is that of fat: air near the lowest value stands too high.
        shift = fat_hu - FAT_HU * (slope if is_outside else 1.0)
    elif fat_hu is not None:
        shift = fat_hu - FAT_HU
    elif air_hu is not None and is_outside:
        shift = air_hu - AIR_HU
    return Calibration(shift, slope, air_hu, fat_hu, is_outside, _is_cut(picture), soft_ml >= MIN_SOFT_ML)


def _picture(volume: Volume) -> _Picture:
    factors = [
        max(1, min(n, round(mm / s))) for n, s, mm in zip(volume.shape, volume.spacing_mm, BLOCK_MM, strict=True)
    ]
    coarse = _averaged(volume.voxels, factors)
    spacing = [f * s for f, s in zip(factors, volume.spacing_mm, strict=True)]
    sigma = [SMOOTHING_MM / s if s < 2 * SMOOTHING_MM else 0.0 for s in spacing]
    smooth = ndimage.gaussian_filter(coarse, sigma, mode="nearest", truncate=3.0)
    steepness = np.zeros_like(smooth)
    for axis, mm in enumerate(spacing):
        if smooth.shape[axis] > 1:
            steepness += np.gradient(smooth, mm, axis=axis) ** 2
    is_lowest = smooth < float(volume.voxels.min()) + 2.0
    body = _largest(smooth > -300.0)
    filled = np.stack([ndimage.binary_fill_holes(plane) for plane in body])
    sides = np.concatenate([filled[:, 0], filled[:, -1], filled[:, :, 0], filled[:, :, -1]], axis=1)
    return _Picture(
        smooth=smooth,
        is_even=steepness < EVEN_HU_PER_MM**2,
        is_lowest=is_lowest,
        is_near_lowest=ndimage.binary_dilation(is_lowest, iterations=2),
        is_inside=filled & ~body,
        is_around=_grown(filled, SURROUNDINGS_MM[1], spacing) & ~_grown(filled, SURROUNDINGS_MM[0], spacing),
        is_cropped=bool(sides.mean() > 0.2),
        voxel_ml=float(np.prod(spacing)) / 1000.0,
    )


def _averaged(voxels: NDArray, factors: list[int]) -> NDArray[np.float32]:
    """Means over whole blocks; incomplete blocks at the end are left out."""
    values = voxels
    for axis, factor in enumerate(factors):
        if factor > 1:
            n = values.shape[axis] // factor
            view = np.moveaxis(values, axis, 0)[: n * factor]
            total = view[0::factor].astype(np.float32)
            for k in range(1, factor):
                total += view[k::factor]
            values = np.moveaxis(total / np.float32(factor), 0, axis)
    return np.ascontiguousarray(values, dtype=np.float32)


def _largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    labels, n_parts = ndimage.label(mask)
    if n_parts == 0:
        return np.asarray(mask)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray(labels == sizes.argmax())


def _grown(mask: NDArray[np.bool_], mm: float, spacing_mm: list[float]) -> NDArray[np.bool_]:
    """The mask and what is near to it in its slice."""
    grown = mask.view(np.uint8)
    for axis in (1, 2):
        grown = ndimage.maximum_filter1d(grown, 2 * round(mm / spacing_mm[axis]) + 1, axis=axis, mode="constant")
    return grown.view(bool)


def _within(values: NDArray[np.float32], bounds: tuple[float, float]) -> NDArray[np.bool_]:
    return np.asarray((values > bounds[0]) & (values < bounds[1]))


def _air(picture: _Picture) -> tuple[float | None, bool]:
    """The lowest peak of what is empty, if it is the room's, else the emptiest places; and whether it is the room's."""
    empty = picture.smooth[picture.is_even & ~picture.is_near_lowest & (picture.smooth < -600.0)]
    peaks = [p for p in _peaks(empty, (-1100.0, -600.0)) if p.n_near * picture.voxel_ml >= MIN_AIR_ML]
    if peaks and not picture.is_cropped:
        around = picture.is_around & picture.is_even
        n_free = np.count_nonzero(around & (np.abs(picture.smooth - peaks[0].hu) < 12.0))
        n_lowest = np.count_nonzero(around & picture.is_lowest)
        if n_free * picture.voxel_ml >= FREE_AIR_ML and n_free > n_lowest:
            return peaks[0].hu, True
        if n_lowest * picture.voxel_ml >= FREE_AIR_ML:  # an export took the room away
            return None, False
    n_emptiest = round(EMPTIEST_ML / picture.voxel_ml)
    if empty.size < 2 * n_emptiest:
        return None, False
    return float(np.median(np.partition(empty, n_emptiest)[:n_emptiest])), False


def _fat(picture: _Picture, air_hu: float | None) -> float | None:
    """The lowest peak of what is no gas and has denser tissue above it; of the wasted, None or muscle out of place."""
    values = picture.smooth[picture.is_even & _within(picture.smooth, (-600.0, 900.0))]
    peaks = [p for p in _peaks(values, (-600.0, 900.0)) if p.n_near >= MIN_FAT_SHARE * values.size]
    if len(peaks) < 2:
        return None
    lowest, above = peaks[:2]
    if air_hu is None or not _is_air(air_hu):
        return lowest.hu
    is_fat = abs(lowest.hu - FAT_HU) <= MAX_AIR_SHIFT_HU
    strong = [p for p in peaks if p.n_near >= STRONG_FAT_SHARE * values.size]
    if lowest not in strong:  # fluid or a mixture, if not fat: muscle tells whether it is that
        dense = [p.hu for p in strong]
        if len(dense) > 1 and FLUID_HU < dense[0] <= MUSCLE_HU[0] and dense[1] < MUSCLE_HU[1]:
            dense = dense[1:]  # much fluid, and muscle where it belongs: too near to it to be fat out of place
        has_its_place = not dense or (FLUID_HU if is_fat else MUSCLE_HU[0]) < dense[0] < MUSCLE_HU[1]
        return (lowest.hu if is_fat else None) if has_its_place else dense[0]
    is_muscle = MUSCLE_HU[0] < lowest.hu < MUSCLE_HU[1] and above.hu - lowest.hu < MAX_GAP_HU
    return None if is_muscle and not is_fat else lowest.hu


def _is_air(hu: float, max_shift_hu: float = 0.0) -> bool:
    """Whether the room's air may stand there."""
    shift = hu - AIR_HU
    return -max(MAX_AIR_BELOW_HU, max_shift_hu) <= shift <= max(MAX_AIR_SHIFT_HU, max_shift_hu)


@dataclass(frozen=True)
class _Peak:
    hu: float
    n_near: int
    """Values within 4 HU."""


def _peaks(values: NDArray[np.float32], bounds: tuple[float, float]) -> list[_Peak]:
    """Prominent peaks of the distribution, from low to high."""
    edges = np.arange(bounds[0], bounds[1] + BIN_HU, BIN_HU)
    counts, _ = np.histogram(values, edges)
    density = ndimage.gaussian_filter1d(counts.astype(np.float64), PEAK_SIGMA_HU / BIN_HU)
    tops = np.flatnonzero((density[1:-1] > density[:-2]) & (density[1:-1] >= density[2:])) + 1
    found = []
    for top in tops.tolist():
        height = density[top]
        higher_before = np.flatnonzero(density[:top] > height)
        higher_after = np.flatnonzero(density[top + 1 :] > height)
        low = density[higher_before[-1] + 1 if higher_before.size else 0 : top].min(initial=height)
        high = density[top + 1 : top + 1 + (higher_after[0] if higher_after.size else len(density))].min(initial=height)
        if height - max(low, high) >= MIN_PROMINENCE * height:
            near = slice(max(0, top - 2), top + 3)
            found.append(_Peak(_vertex(edges, density, top), int(counts[near].sum())))
    return found


def _vertex(edges: NDArray[np.float64], density: NDArray[np.float64], top: int) -> float:
    """The top of the parabola through a peak and its neighbours."""
    before, at, after = density[top - 1 : top + 2]
    bend = before - 2 * at + after
    offset = 0.0 if bend == 0 else 0.5 * (before - after) / bend
    return float(edges[top] + BIN_HU * (0.5 + offset))


def _is_cut(picture: _Picture) -> bool:
    """Whether emptiness lies below the lowest value.

    Padding, and air that an export took away, stand at the lowest value too, but not the gas inside of the body.
    """
    inside_ml = float(np.count_nonzero(picture.is_inside & picture.is_lowest)) * picture.voxel_ml
    if inside_ml >= CUT_ML:
        return True
    around = picture.is_around & picture.is_even & (picture.smooth < -850.0)
    n_around = np.count_nonzero(around)
    if picture.is_cropped or n_around * picture.voxel_ml < FREE_AIR_ML:
        return False
    share = np.count_nonzero(around & picture.is_lowest) / n_around
    emptier_ml = float(np.count_nonzero(picture.is_inside & (picture.smooth < EMPTIER_HU))) * picture.voxel_ml
    return bool(share >= CUT_SHARE and emptier_ml >= EMPTIER_ML and not _has_room(picture, share))


def _has_room(picture: _Picture, share: float) -> bool:
    """Whether more of the surroundings stands where air does than at the lowest value."""
    around = picture.smooth[picture.is_around & picture.is_even & ~picture.is_lowest & (picture.smooth < -850.0)]
    near = int(np.count_nonzero(np.abs(around - AIR_HU) < MAX_AIR_SHIFT_HU))
    return share < 1 and near > share / (1 - share) * around.size
