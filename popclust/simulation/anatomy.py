"""One procedural thorax in atlas coordinates: z to the head, y to the back, x to the left, the carina at the origin."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from popclust.imaging.volume import Vector
from popclust.simulation.painting import paint_tubes

GRID_SPACING_MM = 2.5
"""Resolution of the canonical fields; finer things (vessels, airways) are drawn on the scanner's grid."""
GRID_ORIGIN_MM = (-260.0, -160.0, -215.0)
"""Position of voxel [0, 0, 0] of the canonical fields, zyx."""
GRID_SHAPE = (164, 128, 172)
"""Voxels of the canonical fields."""

TISSUE, LUNG_DEPTH, BLOOD, POSTERIOR_DEPTH = range(4)
"""Channels of `Anatomy.fields`."""

APEX_MM = 112.0
"""Height of the lung apex."""
CAVITY_MM = 262.0
"""Height of the thoracic cavity from the apex to the deepest recess."""

LANDMARKS_MM: dict[str, Vector] = {
    "carina": (2.0, 18.0, 0.0),
    "apex_right": (109.0, 24.0, -52.0),
    "apex_left": (109.0, 24.0, 52.0),
    "dome_right": (-62.0, -8.0, -62.0),
    "dome_left": (-75.0, -8.0, 66.0),
    "recess_right": (-130.0, 62.0, -84.0),
    "recess_left": (-132.0, 62.0, 84.0),
    "hilum_right": (-2.0, 14.0, -36.0),
    "hilum_left": (6.0, 16.0, 38.0),
    "aortic_arch": (48.0, 8.0, 12.0),
    "sternum_upper": (58.0, -66.0, 0.0),
    "sternum_lower": (-62.0, -90.0, 0.0),
    "heart_apex": (-62.0, -46.0, 62.0),
    "spine_upper": (90.0, 66.0, 0.0),
    "spine_middle": (0.0, 66.0, 0.0),
    "spine_lower": (-120.0, 66.0, 0.0),
}
"""Named points that a reader finds again in every person, zyx mm."""


@dataclass(frozen=True)
class Anatomy:
    """The canonical thorax, sampled once per process."""

    fields: NDArray[np.float32]
    """(z, y, x, channel): tissue HU with the lungs filled in, depth in mm below the lungs' surface (negative outside),
    share of blood, distance in mm from the posterior wall of the thoracic cavity."""
    spacing_mm: Vector
    """Distance between voxels, zyx."""
    origin_mm: Vector
    """Position of voxel [0, 0, 0], zyx."""

    def channel(self, number: int) -> NDArray[np.float32]:
        """One field (z, y, x)."""
        return self.fields[..., number]


@cache
def thorax() -> Anatomy:
    """Build the canonical thorax (about 2 s, once per process)."""
    grid = _Grid.make()
    lungs = _lung_depth(grid)
    tissue, blood = _tissue(grid)
    fields = np.stack([tissue, lungs, blood, grid.posterior_depth], axis=-1).astype(np.float32)
    return Anatomy(np.ascontiguousarray(fields), (GRID_SPACING_MM,) * 3, GRID_ORIGIN_MM)


@dataclass(frozen=True)
class _Grid:
    """Positions of the canonical voxels and the shape of the thoracic cavity there."""

    z: NDArray
    y: NDArray
    x: NDArray
    rho: NDArray
    """1 on the cavity's wall, 0 on its axis."""
    wall_mm: NDArray
    """Distance outside the cavity's wall; negative inside."""
    posterior_depth: NDArray
    """Distance in front of the cavity's posterior wall."""

    @classmethod
    def make(cls) -> _Grid:
        z, y, x = np.meshgrid(
            *(
                o + GRID_SPACING_MM * np.arange(n, dtype=np.float32)
                for o, n in zip(GRID_ORIGIN_MM, GRID_SHAPE, strict=True)
            ),
            indexing="ij",
            sparse=True,
        )
        width, depth, centre = cavity_section(z)
        across, deep = np.abs(x) / width, np.abs(y - centre) / depth
        rho = (across**2.5 + deep**2.5) ** 0.4
        # Close to the wall, the ray from the axis has about this length.
        radius = np.hypot(x, y - centre) / np.maximum(rho, 1e-3)
        posterior = centre + depth * (1 - np.clip(across, 0, 1) ** 2.5) ** 0.4 - y
        return cls(z, y, x, rho, (rho - 1) * radius, posterior)


def cavity_section(z_mm: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """Half width, half depth and centre (y) in mm of the thoracic cavity at heights z (any shape)."""
    s = np.clip((APEX_MM - z_mm) / CAVITY_MM, 0.0, 1.3)
    nodes = [0.0, 0.02, 0.05, 0.1, 0.17, 0.28, 0.45, 0.65, 0.85, 1.3]
    width = np.interp(s, nodes, [30, 52, 66, 81, 95, 109, 120, 127, 130, 130])
    depth = np.interp(s, nodes, [20, 30, 38, 49, 59, 71, 82, 90, 92, 92])
    centre = np.interp(s, nodes, [26, 25, 24, 22, 19, 13, 7, 2, 0, 0])
    return width, depth, centre


def diaphragm_height(y_mm: NDArray, x_mm: NDArray) -> NDArray:
    """Height z in mm of the diaphragm."""
    top = np.where(x_mm < 0, -62.0, -75.0)
    lateral = 62.0 * np.clip((np.abs(x_mm) - 50) / 76, 0, 1.4) ** 2.2
    medial = 16.0 * np.clip((50 - np.abs(x_mm)) / 50, 0, 1) ** 1.5
    back = 72.0 * np.clip((y_mm + 18) / 100, 0, 1.3) ** 1.9
    front = 30.0 * np.clip((-28 - y_mm) / 60, 0, 1.3) ** 1.6
    return top - lateral - medial - back - front


def heart_mm(z: NDArray, y: NDArray, x: NDArray) -> NDArray:
    """About the distance in mm outside the heart's surface; negative inside."""
    u, v, w = x - 18.0, y + 20.0, z + 42.0
    along = 0.80 * u - 0.42 * v - 0.42 * w
    across = 0.45 * u + 0.89 * v
    third = 0.38 * u - 0.19 * v + 0.90 * w
    return (np.sqrt((along / 60) ** 2 + (across / 42) ** 2 + (third / 46) ** 2) - 1) * 46


_AORTA = np.array([
    [-30, -12, 2, 15], [0, -22, -14, 15.5], [28, -14, -16, 14.5], [42, 2, -4, 13.5], [46, 18, 10, 13],
    [38, 34, 20, 12.5], [15, 44, 24, 12], [-30, 50, 22, 11.5], [-90, 52, 14, 11], [-150, 50, 6, 10.5],
    [-280, 48, 6, 9.5],
], dtype=np.float64)  # fmt: skip
_CAVA = np.array([[130, 4, -34, 6], [80, 2, -26, 8], [45, -4, -28, 9.5], [-10, -4, -36, 10]], dtype=np.float64)
_LOWER_CAVA = np.array([[-50, 12, -30, 13], [-85, 22, -28, 12], [-280, 30, -22, 11]], dtype=np.float64)
_PULMONARY_TRUNK = np.array([[-22, -32, 18, 14], [2, -22, 18, 14], [14, -4, 10, 12.5]], dtype=np.float64)
_RIGHT_ARTERY = np.array([[14, -4, 10, 12], [6, 2, -16, 11], [-2, 12, -38, 8]], dtype=np.float64)
_LEFT_ARTERY = np.array([[14, -4, 10, 12], [18, 10, 26, 10.5], [8, 18, 40, 8]], dtype=np.float64)
_LEFT_ATRIUM_VEINS = [
    np.array([[-22, 16, -14, 8], [-26, 14, -40, 6]], dtype=np.float64),
    np.array([[-22, 16, 20, 8], [-24, 16, 44, 6]], dtype=np.float64),
]
_ESOPHAGUS = np.array([[140, 34, 2, 6], [40, 36, 4, 6], [-60, 34, 8, 7], [-110, 18, 18, 8]], dtype=np.float64)
_HEAD_ARTERIES = [
    np.array([[46, 4, -6, 6], [80, 0, -16, 5.5], [140, 2, -24, 5]], dtype=np.float64),
    np.array([[48, 14, 6, 4.5], [90, 12, 16, 4], [140, 12, 22, 4]], dtype=np.float64),
    np.array([[46, 22, 12, 4.5], [90, 20, 26, 4.5], [110, 10, 60, 4]], dtype=np.float64),
]
GREAT_VESSELS = [
    _AORTA, _CAVA, _LOWER_CAVA, _PULMONARY_TRUNK, _RIGHT_ARTERY, _LEFT_ARTERY, *_LEFT_ATRIUM_VEINS, *_HEAD_ARTERIES,
]  # fmt: skip


def polyline_tubes(line: NDArray) -> NDArray[np.float64]:
    """Tubes (n - 1, 8) along a line of (n, 4) z, y, x, radius in mm."""
    return np.column_stack([line[:-1, :3], line[1:, :3], line[:-1, 3], line[1:, 3]])


def _cover(tubes: NDArray, blur_mm: float = 1.0) -> NDArray[np.float32]:
    out = np.zeros(GRID_SHAPE, np.float32)
    spacing = np.full(3, GRID_SPACING_MM)
    paint_tubes(out, tubes, 1.0, True, blur_mm, spacing, np.asarray(GRID_ORIGIN_MM))
    return out


def _lung_depth(grid: _Grid) -> NDArray[np.float32]:
    z, y, x = grid.z, grid.y, grid.x
    spine = np.hypot(x, 0.95 * (y - 74)) - (27.0 - 5.0 * np.clip((z - 40) / 70, 0, 1))
    # The mediastinum is wide behind and around the great vessels and thin in front.
    middle = 7.0 + 19.0 * np.exp(-(((y - 14) / 30) ** 2)) + 14.0 * np.clip((z - 60) / 50, 0, 1)
    outside = np.maximum(grid.wall_mm + 3.0, diaphragm_height(y, x) + 2.0 - z)
    outside = np.maximum(outside, np.maximum(-spine, middle - np.abs(x)))
    outside = np.maximum(outside, 4.0 - heart_mm(z, y, x))
    vessels = _cover(np.concatenate([polyline_tubes(v + np.array([0, 0, 0, 3.0])) for v in GREAT_VESSELS[:6]])) > 0.5
    inside = (outside < 0) & ~vessels & (z < APEX_MM)
    inside = ndimage.gaussian_filter(inside.astype(np.float32), 1.2) > 0.5
    depth = ndimage.distance_transform_edt(inside) - ndimage.distance_transform_edt(~inside)
    depth = np.where(depth > 0, depth - 0.5, depth + 0.5) * GRID_SPACING_MM
    return ndimage.gaussian_filter(depth.astype(np.float32), 0.7)


def _blend(values: NDArray, cover: NDArray, hu: float | NDArray) -> None:
    values += cover * (hu - values)


def _soft(distance_mm: NDArray, width_mm: float = 2.5) -> NDArray:
    # Share of a voxel that lies inside a surface at signed distance (negative inside).
    return np.clip(0.5 - distance_mm / width_mm, 0.0, 1.0)


def _tissue(grid: _Grid) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    z, y, x, wall = grid.z, grid.y, grid.x, grid.wall_mm
    tissue = np.full(GRID_SHAPE, -1000.0, np.float32)
    _blend(tissue, _soft(_body_mm(grid) - 1.5), 20.0)
    _blend(tissue, _soft(_body_mm(grid) + 1.5), -105.0)
    _blend(tissue, _soft(_muscle_mm(grid)), 52.0)
    _blend(tissue, _soft(wall - 2.0), -85.0)
    _abdomen(tissue, grid)
    _blend(tissue, _soft(heart_mm(z, y, x)), 42.0)
    _blend(tissue, _cover(polyline_tubes(_ESOPHAGUS)), 35.0)
    blood = _cover(np.concatenate([polyline_tubes(v) for v in GREAT_VESSELS]))
    _blend(tissue, blood, 42.0)
    blood = np.maximum(blood, 0.9 * _soft(heart_mm(z, y, x) + 6.0))
    _bones(tissue, grid)
    return tissue, blood


def _body_mm(grid: _Grid) -> NDArray:
    # About the distance outside the skin.
    z, y, x = grid.z, grid.y, grid.x
    width = np.interp(z, [-260, -140, -40, 40, 90, 118, 135, 150], [166, 164, 168, 176, 182, 172, 140, 100])
    depth = np.interp(z, [-260, -140, -40, 40, 90, 118, 150], [120, 122, 118, 108, 92, 80, 66])
    centre = np.interp(z, [-260, -140, -40, 40, 90, 150], [4, 4, 6, 12, 20, 26])
    rho = (np.abs(x / width) ** 2.6 + np.abs((y - centre) / depth) ** 2.6) ** (1 / 2.6)
    return (rho - 1) * np.hypot(x, y - centre) / np.maximum(rho, 1e-3)


def _muscle_mm(grid: _Grid) -> NDArray:
    # Chest wall, thicker over the shoulder blades, the chest muscles and beside the spine.
    z, y, x = grid.z, grid.y, grid.x
    thickness = 11.0 + 20.0 * np.clip((z - 10) / 70, 0, 1) * np.exp(-(((np.abs(x) - 95) / 45) ** 2))
    thickness = thickness + 12.0 * np.exp(-((x / 45) ** 2)) * (y > 40)
    return grid.wall_mm - thickness


def _abdomen(tissue: NDArray, grid: _Grid) -> None:
    z, y, x = grid.z, grid.y, grid.x
    below = _soft(np.maximum(z - diaphragm_height(y, x), grid.wall_mm + 1.0))
    liver = np.maximum(0.55 * (x - 12 - 0.25 * (z + 110)), -(z + 215) * 0.7)
    spleen = (np.sqrt(((x - 92) / 32) ** 2 + ((y - 34) / 44) ** 2 + ((z + 125) / 50) ** 2) - 1) * 35
    stomach = (np.sqrt(((x - 60) / 42) ** 2 + ((y + 22) / 42) ** 2 + ((z + 118) / 40) ** 2) - 1) * 40
    gas = np.maximum(stomach + 6, y + 34)
    kidneys = (np.sqrt(((np.abs(x) - 62) / 26) ** 2 + ((y - 62) / 24) ** 2 + ((z + 210) / 48) ** 2) - 1) * 25
    bowel = 22.0 * np.sin(x / 14.0) * np.sin(y / 13.0 + z / 21.0) - 4.0
    contents = np.full(GRID_SHAPE, -95.0, np.float32)
    _blend(contents, _soft(bowel, 6.0) * (z < -150), 35.0)
    for shape, hu in ((stomach, 30.0), (gas, -950.0), (spleen, 52.0), (kidneys, 34.0), (liver, 58.0)):
        _blend(contents, _soft(shape), hu)
    _blend(tissue, below, contents)


def _bones(tissue: NDArray, grid: _Grid) -> None:
    z, y, x = grid.z, grid.y, grid.x
    phase = ((z + 400) % 23.0) - 11.5
    body = np.hypot(x, 1.15 * (y - 64)) - 16.5
    vertebra = np.maximum(body, np.abs(phase) - 9.5)
    _blend(tissue, _soft(body), 75.0)
    _blend(tissue, _soft(vertebra), 340.0)
    _blend(tissue, _soft(vertebra + 3.0), 170.0)
    arch = np.maximum(np.abs(np.hypot(x, y - 86) - 11.0) - 3.0, np.abs(phase) - 8.0)
    _blend(tissue, _soft(arch), 330.0)
    _blend(tissue, _soft(np.hypot(x, y - 86) - 8.0), 25.0)
    process = np.maximum(np.abs(x) - 3.0, np.maximum(np.abs(y - 106) - 11, np.abs(phase + 3) - 6))
    _blend(tissue, _soft(process), 300.0)
    wings = np.maximum(np.abs(np.abs(x) - 24) - 12, np.maximum(np.abs(y - 86 - 0.2 * np.abs(x)) - 4, np.abs(phase) - 6))
    _blend(tissue, _soft(wings), 260.0)
    _, depth, centre = cavity_section(z)
    sternum = np.maximum(np.abs(x) - 15, np.maximum(np.abs(y - centre + depth + 7) - 5.5, np.abs(z - 2) - 68))
    _blend(tissue, _soft(sternum), 330.0)
    _blend(tissue, _soft(sternum + 3.5), 120.0)
    blade = np.maximum(
        np.abs(grid.wall_mm - 19) - 3.2, np.maximum(np.abs(z - 62) - 55, np.abs(np.abs(x) - 92) - 28 - 0.25 * (z - 62))
    )
    _blend(tissue, _soft(np.maximum(blade, 26 - y)), 320.0)
    ribs = np.concatenate([polyline_tubes(r) for r in rib_lines()])
    _blend(tissue, _cover(ribs), 380.0)
    ribs[:, 6:] -= 2.0
    _blend(tissue, 0.8 * _cover(ribs), 180.0)


def rib_lines() -> list[NDArray[np.float64]]:
    """Ribs 1-12 of both sides and the collarbones as lines (n, 4) of z, y, x, radius in mm."""
    lines = []
    for number in range(12):
        root = 104.0 - 19.5 * number
        reach = np.deg2rad(np.interp(number, [0, 6, 9, 11], [158, 160, 135, 95]))
        angle = np.linspace(np.deg2rad(14), reach, 40)
        slope = np.interp(number, [0, 2, 6, 11], [28, 42, 62, 50])
        z = root - slope * (angle / np.deg2rad(150)) ** 1.25
        width, depth, centre = cavity_section(z)
        ray = (np.abs(np.sin(angle) / (width + 7.5)) ** 2.5 + np.abs(np.cos(angle) / (depth + 7.5)) ** 2.5) ** -0.4
        radius = np.full(40, 5.2 if number else 6.0)
        for side in (-1, 1):
            lines.append(np.column_stack([z, centre + ray * np.cos(angle), side * ray * np.sin(angle), radius]))
    for side in (-1, 1):
        lines.append(
            np.array([[84, -38, 14 * side, 6.5], [98, -30, 70 * side, 5.5], [108, 0, 130 * side, 6.5]], dtype=float)
        )
    return lines
