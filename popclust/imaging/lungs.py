"""Aerated lung by intensity: threshold, connected components, closing. No learnt model, and no shape prior.

Consolidated or collapsed lung is not aerated and so not found: the mask says where there is air to measure, and serves
as an independent check of a registration's mask.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from popclust.imaging.volume import Volume

_WORKING_MM = 3.0
_THRESHOLD_HU = -400
_TISSUE_HU = -300
_ROOM_HU = -970.0
"""Air that touches the edge of a slice is the room if it is this empty, else it may be lung that the edge cuts."""
_MIN_TISSUE = 0.5
"""Share of a part's surroundings that is soft tissue: all of it for lung, less for what lies round or in the table."""
_SURROUNDINGS = 4
"""Voxels between a part and the end of what counts as its surroundings."""
_CUT_LUNG_HU = -930.0
"""Where all air touches the sides of a small field of view, what is emptier than this is taken for room or gas."""
_GAS_HU = -940.0
_GAS_SPREAD_HU = 40.0
_GAS_ML = 300.0
"""Gas in the bowel is emptier than lung, and small or even; large lungs with emphysema are crossed by vessels."""
_AIRWAY_HU = -900.0
_AIRWAY_MM2 = 700.0
_MIN_PART_ML = 20.0
_MIN_SHARE = 0.02
"""A part of less than this share of all lung is a leftover."""
_CLOSING_MM = 6.0
_IN_PLANE = ndimage.generate_binary_structure(3, 1) & np.array([False, True, False])[:, None, None]


def segment_lungs(volume: Volume, *, spacing_mm: float | None = None) -> Volume:
    """Mask of the aerated lungs.

    Air (below -400 HU) is parted from the room slice by slice; airways, gas in the bowel and what lies outside the
    body are taken out; what is left in parts of at least 20 ml is closed over vessels of about 1 cm, and its holes are
    filled.

    Parameters
    ----------
    volume : Volume
        (z, y, x) HU.
    spacing_mm : float, optional
        None: the mask lies on the volume's own grid. Else it lies on the grid that was worked on, of about this
        spacing along each axis (finer axes are averaged by whole factors, coarser ones stay as they are).

    Returns
    -------
    Volume
        (z, y, x) bool; all False if there is no lung.
    """
    factors = _factors(volume, spacing_mm or _WORKING_MM)
    coarse = _averaged(volume, factors)
    mask = coarse.with_values(_lungs(coarse))
    return mask if spacing_mm is not None else _refined(mask, factors, volume)


def lung_volume_ml(mask: Volume) -> float:
    """Volume of a mask in ml."""
    return float(np.count_nonzero(mask.voxels)) * _voxel_ml(mask)


def _voxel_ml(volume: Volume) -> float:
    return float(np.prod(volume.spacing_mm)) / 1000.0


def _factors(volume: Volume, spacing_mm: float) -> list[int]:
    """Voxels to average along each axis to come near a spacing: 0.7 mm and 3 mm give 4."""
    return [max(1, min(n, round(spacing_mm / s))) for n, s in zip(volume.shape, volume.spacing_mm, strict=True)]


def _averaged(volume: Volume, factors: list[int]) -> Volume:
    """Means over whole blocks; incomplete blocks at the end are left out."""
    total = volume.voxels
    for axis, factor in enumerate(factors):
        if factor > 1:
            view = np.moveaxis(total, axis, 0)
            n = len(view) // factor
            summed = view[0 : n * factor : factor].astype(np.float32)
            for k in range(1, factor):
                summed += view[k : n * factor : factor]
            total = np.moveaxis(summed, 0, axis)
    values = np.ascontiguousarray(total, dtype=np.float32) / float(np.prod(factors))
    z, y, x = (o + (f - 1) / 2 * s for o, f, s in zip(volume.origin_mm, factors, volume.spacing_mm, strict=True))
    dz, dy, dx = (f * s for f, s in zip(factors, volume.spacing_mm, strict=True))
    return Volume(values, (dz, dy, dx), (z, y, x))


def _lungs(volume: Volume) -> NDArray[np.bool_]:
    air = volume.voxels < _THRESHOLD_HU
    nothing = np.zeros(volume.shape, dtype=bool)
    if not air.any() or air.all():
        return nothing
    planes, _ = ndimage.label(air, _IN_PLANE)
    left_out = _is_room(planes, volume) | _is_airway(planes, volume)
    parts, n_parts = ndimage.label(air & ~left_out[planes])
    if n_parts == 0:
        return nothing
    sizes_ml = np.bincount(parts.ravel(), minlength=n_parts + 1) * _voxel_ml(volume)
    boxes = ndimage.find_objects(parts)
    candidates = [
        _candidate(parts, int(part), boxes[part - 1], float(sizes_ml[part]), volume)
        for part in np.flatnonzero(sizes_ml[1:] >= _MIN_PART_ML) + 1
    ]
    kept = [one.part for one in candidates if not one.is_gas and one.tissue_and_room >= _MIN_TISSUE]
    if not kept:
        # A field of view so small that its sides cut all lung there is.
        kept = [one.part for one in candidates if one.median_hu > _CUT_LUNG_HU and one.tissue >= _MIN_TISSUE]
    total_ml = sizes_ml[kept].sum()
    kept = [part for part in kept if sizes_ml[part] >= _MIN_SHARE * total_ml]
    return _closed(np.isin(parts, kept), volume) if kept else nothing


def _is_room(planes: NDArray[np.int32], volume: Volume) -> NDArray[np.bool_]:
    """For each labelled piece of air in a slice, whether it is the room."""
    edge = np.zeros(volume.shape, dtype=bool)
    edge[:, [0, -1], :] = True
    edge[:, :, [0, -1]] = True
    edge &= planes > 0
    result = np.zeros(planes.max() + 1, dtype=bool)
    pieces = np.unique(planes[edge])
    if pieces.size:
        empty = np.asarray(ndimage.median(volume.voxels[edge], planes[edge], pieces)) < _ROOM_HU
        result[pieces[empty]] = True
    return result


def _is_airway(planes: NDArray[np.int32], volume: Volume) -> NDArray[np.bool_]:
    """For each labelled piece of air in a slice, whether it is as small and empty as the trachea or a main bronchus."""
    n_voxels = np.bincount(planes.ravel())
    mean_hu = np.bincount(planes.ravel(), volume.voxels.ravel()) / np.maximum(n_voxels, 1)
    area_mm2 = n_voxels * volume.spacing_mm[1] * volume.spacing_mm[2]
    airway: NDArray[np.bool_] = (area_mm2 < _AIRWAY_MM2) & (mean_hu < _AIRWAY_HU)
    return airway


@dataclass(frozen=True)
class _Candidate:
    """What tells a connected part of air from lung."""

    part: int
    """Its label."""
    median_hu: float
    """Median of its inner voxels."""
    is_gas: bool
    """As empty, and as small or even, as gas in the bowel."""
    tissue: float
    """Share of soft tissue in those of its surroundings that lie in the volume."""
    tissue_and_room: float
    """The same with air beyond the sides of the slices; beyond the first and last slice the body goes on."""


def _candidate(
    parts: NDArray[np.int32], part: int, box: tuple[slice, slice, slice], size_ml: float, volume: Volume
) -> _Candidate:
    width = _SURROUNDINGS
    wide = tuple(slice(max(0, s.start - width), s.stop + width) for s in box)
    mask, hu = parts[wide] == part, volume.voxels[wide]
    inner = hu[ndimage.binary_erosion(mask)]
    values = inner if inner.size else hu[mask]
    median_hu = float(np.median(values))
    # The padding is reached only where the box ends at a side of the volume.
    near = ndimage.binary_dilation(np.pad(mask, [(0, 0), (width, width), (width, width)]))
    around = ndimage.binary_dilation(near, iterations=width - 1) & ~near
    seen = around[:, width:-width, width:-width]
    n_tissue = int(np.count_nonzero(hu[seen] > _TISSUE_HU))
    return _Candidate(
        part=part,
        median_hu=median_hu,
        is_gas=median_hu < _GAS_HU and (size_ml < _GAS_ML or float(values.std()) < _GAS_SPREAD_HU),
        tissue=n_tissue / max(int(np.count_nonzero(seen)), 1),
        tissue_and_room=n_tissue / max(int(np.count_nonzero(around)), 1),
    )


def _closed(mask: NDArray[np.bool_], volume: Volume) -> NDArray[np.bool_]:
    """Close over vessels with a ball, then fill what is enclosed within a slice."""
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    reach = [int(_CLOSING_MM / s) for s in volume.spacing_mm]
    offsets = np.meshgrid(
        *(np.arange(-r, r + 1) * s for r, s in zip(reach, volume.spacing_mm, strict=True)), indexing="ij"
    )
    ball = sum(o**2 for o in offsets) <= _CLOSING_MM**2
    # Edge values go on beyond the volume, or the closing would eat into lung that the volume's edge cuts.
    padded = np.pad(mask[box], [(r, r) for r in reach], mode="edge")
    closed = ndimage.binary_closing(padded, ball)
    closed = closed[tuple(slice(r, n - r) for r, n in zip(reach, closed.shape, strict=True))] | mask[box]
    result = mask.copy()
    result[box] = np.stack([ndimage.binary_fill_holes(plane) for plane in closed])
    return result


def _refined(mask: Volume, factors: list[int], volume: Volume) -> Volume:
    """Carry the mask to the fine grid, and there redraw its outermost layer by the threshold."""
    if all(factor == 1 for factor in factors) or not mask.voxels.any():
        return volume.with_values(_repeated(mask.voxels, factors, volume.shape))
    core = ndimage.binary_erosion(mask.voxels, border_value=1)
    shell = ndimage.binary_dilation(mask.voxels)
    fine = _repeated(shell, factors, volume.shape) & (volume.voxels < _THRESHOLD_HU)
    return volume.with_values(fine | _repeated(core, factors, volume.shape))


def _repeated(values: NDArray, factors: list[int], shape: tuple[int, int, int]) -> NDArray:
    for axis, (factor, n) in enumerate(zip(factors, shape, strict=True)):
        index = np.minimum(np.arange(n) // factor, values.shape[axis] - 1)
        values = values if factor == 1 else np.take(values, index, axis)
    return values
