"""Small pictures of volumes: the slice that shows most lung, with the lung outlined."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from popclust.imaging.volume import AIR_HU, Volume, resample, sample
from popclust.presentation.style import OUTLINE_RGB

Plane = Literal["axial", "coronal", "sagittal"]
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

WINDOWS_HU = {
    "lung": LUNG_WINDOW_HU,
    "soft tissue": (-160.0, 240.0),
    "bone": (-450.0, 1050.0),
    "all": (-1024.0, 1500.0),
}
"""Grey scales that a person can choose from."""

AXIS_OF_PLANE: dict[Plane, int] = {"axial": 0, "coronal": 1, "sagittal": 2}
"""The axis of (z, y, x) that a plane is perpendicular to."""
_SIDES: dict[Plane, tuple[str, str]] = {"axial": ("R", "L"), "coronal": ("R", "L"), "sagittal": ("A", "P")}


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
    volume: Volume,
    lungs: Volume | None,
    plane: Plane,
    size: int,
    *,
    outline: bool = True,
    marks: bool = False,
    position_mm: float | None = None,
    window_hu: tuple[float, float] = LUNG_WINDOW_HU,
    paint: Callable[[NDArray[np.float64]], NDArray[np.float64]] | None = None,
) -> Tile:
    """One slice as a square tile, to scale, centred, black around.

    Parameters
    ----------
    volume, lungs : Volume
        (z, y, x) HU, and the lung mask on any grid in the same space, or None.
    plane : {"axial", "coronal", "sagittal"}
        Sagittal: the front on the left, head up.
    size : int
        Edge of the tile in pixels.
    outline, marks : bool
        Draw the lungs' outline; name the sides and draw a scale bar.
    position_mm : float, optional
        Where along the plane's axis; by default the slice that shows most lung.
    window_hu : (float, float)
        What is black and what is white.
    paint : callable, optional
        (n, 3) zyx mm to (n, 4) red, green, blue and opacity, 0 .. 1: laid over the slice.

    Returns
    -------
    ndarray
        (size, size, 3) uint8.
    """
    axis = AXIS_OF_PLANE[plane]
    place = _position_of_most_lung(volume, lungs, axis) if position_mm is None else position_mm
    flat = _flat_slice(volume, axis, place, size)
    grey = windowed(flat.voxels.squeeze(axis), window_hu)
    rgb = np.repeat(grey[:, :, None], 3, axis=2)
    points = flat.index_to_mm(np.indices(flat.shape).reshape(3, -1).T)
    if paint is not None:
        rgba = paint(points).reshape(*rgb.shape[:2], 4)
        rgb = np.round(rgb + (255 * rgba[..., :3] - rgb) * rgba[..., 3:]).astype(np.uint8)
    if lungs is not None and outline:
        points[:, axis] = _on_end_plane(points[:, axis], lungs, axis)
        inside = (sample(lungs, points, outside=0.0) > 0.5).reshape(flat.shape).squeeze(axis)
        rgb[inside & ~ndimage.binary_erosion(inside, border_value=1)] = OUTLINE_RGB
    if plane != "axial":
        rgb = rgb[::-1]  # z grows to the head
    tile = padded(rgb, size)
    return marked(tile, flat.spacing_mm[1 if plane == "sagittal" else 2], _SIDES[plane]) if marks else tile


def marked(tile: Tile, pixel_mm: float, sides: tuple[str, str] = ("R", "L")) -> Tile:
    """The tile with the names of its sides and a bar of :data:`BAR_MM`, in white.

    Parameters
    ----------
    tile : Tile
        A slice on which the patient's right is on the left.
    pixel_mm : float
        Edge of a pixel on the body.
    sides : (str, str)
        R and L: the patient's sides; A and P: front and back.
    """
    image = Image.fromarray(tile)
    draw, size = ImageDraw.Draw(image), len(tile)
    edge: dict[str, Any] = {"stroke_width": 1, "stroke_fill": (0, 0, 0)}  # to be seen on white tissue too
    for side, x, anchor in ((sides[0], 3, "lm"), (sides[1], size - 4, "rm")):
        draw.text((x, size // 2), side, fill=_MARK_RGB, font_size=max(9, size // 15), anchor=anchor, **edge)
    length, thick, margin = round(BAR_MM / pixel_mm), max(3, size // 60), max(4, size // 30)
    draw.rectangle(
        (margin, size - margin - thick, margin + length - 1, size - margin - 1), fill=_MARK_RGB, outline=(0, 0, 0)
    )
    return np.asarray(image)


def windowed(hu: NDArray, window_hu: tuple[float, float] = LUNG_WINDOW_HU) -> NDArray[np.uint8]:
    """HU in a window as grey values 0 .. 255."""
    low, high = window_hu
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


def middle_of_most(area: NDArray[np.integer]) -> int:
    """Index of the middle of the planes with nearly the most: one plane alone is an accident.

    Both lungs' planes, seen from the side, lie in two runs with none between: the middle is that of the longest run.

    >>> middle_of_most(np.array([0, 9, 9, 9, 0, 0, 9, 9])), middle_of_most(np.array([1, 2, 40, 39]))
    (2, 2)
    """
    runs, n_runs = ndimage.label(area >= 0.95 * area.max())
    longest = 1 + int(np.bincount(runs, minlength=n_runs + 1)[1:].argmax())
    return int(np.median(np.flatnonzero(runs == longest)))


def _position_of_most_lung(volume: Volume, lungs: Volume | None, axis: int) -> float:
    """Position along an axis, in mm, of the plane with most lung inside the field of view; the middle without lungs."""
    others = tuple(a for a in range(3) if a != axis)
    low = volume.origin_mm[axis]
    high = low + (volume.shape[axis] - 1) * volume.spacing_mm[axis]
    if lungs is not None and lungs.voxels.any():
        area = lungs.voxels.sum(axis=others)
        place = lungs.origin_mm[axis] + np.arange(len(area)) * lungs.spacing_mm[axis]
        return float(place[middle_of_most(np.where((place >= low) & (place <= high), area, 0))])
    return (low + high) / 2


def _on_end_plane(place_mm: NDArray[np.float64], mask: Volume, axis: int) -> NDArray[np.float64]:
    """Positions along an axis; up to half a voxel beyond a mask's first or last plane, that plane's own."""
    first, spacing = mask.origin_mm[axis], mask.spacing_mm[axis]
    nearest = np.clip(place_mm, first, first + (mask.shape[axis] - 1) * spacing)
    return np.where(np.abs(place_mm - nearest) <= spacing / 2, nearest, place_mm)


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
