"""Small pictures of volumes: the slice that shows most lung, with the lung outlined."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from popclust.imaging.volume import AIR_HU, Volume, resample, sample
from popclust.presentation.style import OUTLINE_RGB

Plane = Literal["axial", "coronal"]
Tile = NDArray[np.uint8]
"""(row, column, 3) RGB."""

LUNG_WINDOW_HU = (-1350.0, 150.0)
"""Grey scale of a slice: level -600, width 1500."""
BAR_MM = 50.0
"""Length of the scale bar on the body."""
_MARK_RGB = (255, 255, 255)
WINDOW_WORDS = "lung window (level -600, width 1500 HU)"
"""What stands in captions."""
SLICE_WORDS = f"{WINDOW_WORDS}; R, L: the patient's sides; bar {BAR_MM:.0f} mm"
"""The same where slices are marked."""

_AXIS = {"axial": 0, "coronal": 1}


@dataclass(frozen=True)
class Pictured:
    """A volume's tiles."""

    volume_id: str
    """Pseudonym of the series."""
    coronal: Tile
    """Seen from the front, head up, the patient's left on the right."""
    axial: Tile
    """Seen from the feet, front up, the patient's left on the right."""


def pictured(
    volume_id: str, volume: Volume, lungs: Volume | None, size: int, *, outline: bool = True, marks: bool = False
) -> Pictured:
    """Both tiles of a volume.

    Parameters
    ----------
    volume_id : str
        Pseudonym of the series.
    volume : Volume
        (z, y, x) HU.
    lungs : Volume or None
        Lung mask on any grid in the same space; None: the middle slices, without an outline.
    size : int
        Edge of the square tiles in pixels.
    outline : bool
        Draw the lungs' outline.
    marks : bool
        Say which side is the patient's right, and draw a scale bar.
    """
    planes: tuple[Plane, Plane] = ("coronal", "axial")
    coronal, axial = (slice_tile(volume, lungs, p, size, outline=outline, marks=marks) for p in planes)
    return Pictured(volume_id, coronal, axial)


def slice_tile(
    volume: Volume, lungs: Volume | None, plane: Plane, size: int, *, outline: bool = True, marks: bool = False
) -> Tile:
    """One slice as a square tile, to scale, centred, black around.

    Returns
    -------
    ndarray
        (size, size, 3) uint8.
    """
    axis = _AXIS[plane]
    flat = _flat_slice(volume, axis, _position_of_most_lung(volume, lungs, axis), size)
    grey = windowed(flat.voxels.squeeze(axis))
    rgb = np.repeat(grey[:, :, None], 3, axis=2)
    if lungs is not None and outline:
        points = flat.index_to_mm(np.indices(flat.shape).reshape(3, -1).T)
        inside = (sample(lungs, points, outside=0.0) > 0.5).reshape(flat.shape).squeeze(axis)
        rgb[inside & ~ndimage.binary_erosion(inside, border_value=1)] = OUTLINE_RGB
    if plane == "coronal":
        rgb = rgb[::-1]  # z grows to the head
    tile = padded(rgb, size)
    return marked(tile, flat.spacing_mm[2]) if marks else tile


def marked(tile: Tile, pixel_mm: float) -> Tile:
    """The tile with R at the patient's right, L at the left, and a bar of :data:`BAR_MM`, in white.

    Parameters
    ----------
    tile : Tile
        A slice on which the patient's right is on the left.
    pixel_mm : float
        Edge of a pixel on the body.
    """
    image = Image.fromarray(tile)
    draw, size = ImageDraw.Draw(image), len(tile)
    for side, x, anchor in (("R", 3, "lm"), ("L", size - 4, "rm")):
        draw.text((x, size // 2), side, fill=_MARK_RGB, font_size=max(9, size // 15), anchor=anchor)
    length, thick, margin = round(BAR_MM / pixel_mm), max(2, size // 75), max(4, size // 30)
    draw.rectangle((margin, size - margin - thick, margin + length - 1, size - margin - 1), fill=_MARK_RGB)
    return np.asarray(image)


def windowed(hu: NDArray) -> NDArray[np.uint8]:
    """HU in the lung window as grey values 0 .. 255."""
    low, high = LUNG_WINDOW_HU
    return np.asarray(np.round(np.clip((hu - low) / (high - low), 0.0, 1.0) * 255), dtype=np.uint8)


def padded(rgb: Tile, size: int) -> Tile:
    """The picture in the middle of a black square; what is larger is cut off evenly.

    >>> padded(np.ones((1, 2, 3), np.uint8), 2)[:, :, 0].tolist()
    [[1, 1], [0, 0]]
    """
    out = np.zeros((size, size, 3), dtype=np.uint8)
    rows, columns = (min(n, size) for n in rgb.shape[:2])
    cut = rgb[(rgb.shape[0] - rows) // 2 :, (rgb.shape[1] - columns) // 2 :][:rows, :columns]
    top, left = (size - rows) // 2, (size - columns) // 2
    out[top : top + rows, left : left + columns] = cut
    return out


def framed(tile: Tile, colour: tuple[int, int, int], width: int = 3) -> Tile:
    """The tile with a border of one colour."""
    out = tile.copy()
    for edge in (np.s_[:width], np.s_[-width:], np.s_[:, :width], np.s_[:, -width:]):
        out[edge] = colour
    return out


def mosaic(tiles: Iterable[Tile], n_columns: int, gap: int = 2) -> Tile:
    """Tiles of one size in rows, on white.

    Raises
    ------
    ValueError
        There is no tile.
    """
    tiles = list(tiles)
    if not tiles:
        raise ValueError("tiles: a mosaic needs at least one")
    height, width = tiles[0].shape[:2]
    n_rows = -(-len(tiles) // n_columns)
    shape = (n_rows * (height + gap) - gap, n_columns * (width + gap) - gap, 3)
    out = np.full(shape, 255, dtype=np.uint8)
    for number, tile in enumerate(tiles):
        top, left = number // n_columns * (height + gap), number % n_columns * (width + gap)
        out[top : top + height, left : left + width] = tile
    return out


def _position_of_most_lung(volume: Volume, lungs: Volume | None, axis: int) -> float:
    """Position along an axis, in mm, of the plane with most lung inside the field of view; the middle without lungs."""
    others = tuple(a for a in range(3) if a != axis)
    low = volume.origin_mm[axis]
    high = low + (volume.shape[axis] - 1) * volume.spacing_mm[axis]
    if lungs is not None and lungs.voxels.any():
        area = lungs.voxels.sum(axis=others)
        place = lungs.origin_mm[axis] + np.arange(len(area)) * lungs.spacing_mm[axis]
        area = np.where((place >= low) & (place <= high), area, 0)
        # The middle of the planes with nearly the most: one plane alone is an accident.
        return float(np.median(place[area >= 0.95 * area.max()]))
    return (low + high) / 2


def _flat_slice(volume: Volume, axis: int, position_mm: float, size: int) -> Volume:
    """The nearest slice, resampled to square pixels so that the field of view fills the tile."""
    index = int(
        np.clip(round((position_mm - volume.origin_mm[axis]) / volume.spacing_mm[axis]), 0, volume.shape[axis] - 1)
    )
    keep = [slice(None)] * 3
    keep[axis] = slice(index, index + 1)
    origin = list(volume.origin_mm)
    origin[axis] += index * volume.spacing_mm[axis]
    slab = Volume(np.maximum(volume.voxels[tuple(keep)], AIR_HU), volume.spacing_mm, (origin[0], origin[1], origin[2]))
    pixel_mm = max(e for a, e in enumerate(volume.extent_mm) if a != axis) / size
    spacing = [pixel_mm] * 3
    spacing[axis] = volume.spacing_mm[axis]
    return resample(slab, (spacing[0], spacing[1], spacing[2]))
