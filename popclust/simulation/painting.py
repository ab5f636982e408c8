"""Kernels that put continuous shapes on a voxel grid as a scanner of finite resolution would show them."""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

_REACH = 2.5
"""Blur widths beyond the edge of a shape at which its trace is neglected."""


@njit(cache=True, nogil=True)
def sample_channels(fields: NDArray, index: NDArray) -> NDArray:
    """Trilinear values of a (z, y, x, channel) float32 grid at fractional indices (3, n); borders are extended.

    Returns
    -------
    ndarray
        (channel, n) float32.
    """
    nz, ny, nx, nc = fields.shape
    n = index.shape[1]
    out = np.empty((nc, n), np.float32)
    for i in range(n):
        z = min(max(index[0, i], 0.0), nz - 1.001)
        y = min(max(index[1, i], 0.0), ny - 1.001)
        x = min(max(index[2, i], 0.0), nx - 1.001)
        iz, iy, ix = int(z), int(y), int(x)
        fz, fy, fx = z - iz, y - iy, x - ix
        w00, w01, w10, w11 = (1 - fz) * (1 - fy), (1 - fz) * fy, fz * (1 - fy), fz * fy
        for c in range(nc):
            left = (
                w00 * fields[iz, iy, ix, c]
                + w01 * fields[iz, iy + 1, ix, c]
                + w10 * fields[iz + 1, iy, ix, c]
                + w11 * fields[iz + 1, iy + 1, ix, c]
            )
            right = (
                w00 * fields[iz, iy, ix + 1, c]
                + w01 * fields[iz, iy + 1, ix + 1, c]
                + w10 * fields[iz + 1, iy, ix + 1, c]
                + w11 * fields[iz + 1, iy + 1, ix + 1, c]
            )
            out[c, i] = (1 - fx) * left + fx * right
    return out


@njit(cache=True, nogil=True)
def _tube_cover(distance_mm: float, radius_mm: float, blur_mm: float) -> float:
    # On the axis a blurred disc of radius r keeps 1 - exp(-r^2 / 2 s^2) of its height. Thin tubes look like the
    # blur itself, thick ones like a blurred edge.
    height = 1.0 - math.exp(-0.5 * (radius_mm / blur_mm) ** 2)
    if radius_mm < 1.2 * blur_mm:
        return height * math.exp(-0.5 * distance_mm**2 / (blur_mm**2 + 0.25 * radius_mm**2))
    width = blur_mm * math.sqrt(2.0)
    return height * math.erfc((distance_mm - radius_mm) / width) / math.erfc(-radius_mm / width)


@njit(cache=True, nogil=True)
def _sphere_cover(distance_mm: float, radius_mm: float, blur_mm: float) -> float:
    ratio = radius_mm / blur_mm
    height = math.erf(ratio / math.sqrt(2.0)) - math.sqrt(2.0 / math.pi) * ratio * math.exp(-0.5 * ratio**2)
    if radius_mm < 1.2 * blur_mm:
        return height * math.exp(-0.5 * distance_mm**2 / (blur_mm**2 + 0.2 * radius_mm**2))
    width = blur_mm * math.sqrt(2.0)
    return height * math.erfc((distance_mm - radius_mm) / width) / math.erfc(-radius_mm / width)


@njit(cache=True, nogil=True)
def _span(low_mm: float, high_mm: float, origin_mm: float, spacing_mm: float, n: int) -> tuple[int, int]:
    first = max(math.ceil((low_mm - origin_mm) / spacing_mm), 0)
    last = min(math.floor((high_mm - origin_mm) / spacing_mm), n - 1)
    return first, last + 1


@njit(cache=True, nogil=True)
def paint_tubes(
    hu: NDArray,
    tubes: NDArray,
    value_hu: float,
    brighter: bool,
    blur_mm: float,
    spacing_mm: NDArray,
    origin_mm: NDArray,
) -> None:
    """Paint tapering round tubes onto `hu` in place.

    Parameters
    ----------
    hu : ndarray
        (z, y, x) float32.
    tubes : ndarray
        (n, 8) start z, y, x, end z, y, x, radius at start and end, in mm.
    value_hu : float
        What the inside of a wide tube has.
    brighter : bool
        Change only voxels that become brighter (vessels) or, if false, only those that become darker (airways).
    blur_mm : float
        Standard deviation of the point spread.
    spacing_mm, origin_mm : ndarray
        (3,) the grid, zyx.
    """
    nz, ny, nx = hu.shape
    for t in range(tubes.shape[0]):
        az, ay, ax, bz, by, bx, ra, rb = tubes[t]
        dz, dy, dx = bz - az, by - ay, bx - ax
        length2 = dz * dz + dy * dy + dx * dx + 1e-9
        reach = max(ra, rb) + _REACH * blur_mm
        z0, z1 = _span(min(az, bz) - reach, max(az, bz) + reach, origin_mm[0], spacing_mm[0], nz)
        y0, y1 = _span(min(ay, by) - reach, max(ay, by) + reach, origin_mm[1], spacing_mm[1], ny)
        x0, x1 = _span(min(ax, bx) - reach, max(ax, bx) + reach, origin_mm[2], spacing_mm[2], nx)
        for k in range(z0, z1):
            pz = origin_mm[0] + k * spacing_mm[0] - az
            for j in range(y0, y1):
                py = origin_mm[1] + j * spacing_mm[1] - ay
                for i in range(x0, x1):
                    px = origin_mm[2] + i * spacing_mm[2] - ax
                    along = min(max((pz * dz + py * dy + px * dx) / length2, 0.0), 1.0)
                    d2 = (pz - along * dz) ** 2 + (py - along * dy) ** 2 + (px - along * dx) ** 2
                    if d2 >= reach * reach:
                        continue
                    change = value_hu - hu[k, j, i]
                    if (change > 0.0) == brighter:
                        hu[k, j, i] += change * _tube_cover(math.sqrt(d2), ra + along * (rb - ra), blur_mm)


@njit(cache=True, nogil=True)
def paint_spheres(
    hu: NDArray,
    spheres: NDArray,
    value_hu: float,
    brighter: bool,
    blur_mm: float,
    spacing_mm: NDArray,
    origin_mm: NDArray,
) -> None:
    """Paint balls (n, 4) z, y, x, radius in mm onto `hu` in place; parameters as in `paint_tubes`."""
    nz, ny, nx = hu.shape
    for t in range(spheres.shape[0]):
        cz, cy, cx, radius = spheres[t]
        reach = radius + _REACH * blur_mm
        z0, z1 = _span(cz - reach, cz + reach, origin_mm[0], spacing_mm[0], nz)
        y0, y1 = _span(cy - reach, cy + reach, origin_mm[1], spacing_mm[1], ny)
        x0, x1 = _span(cx - reach, cx + reach, origin_mm[2], spacing_mm[2], nx)
        for k in range(z0, z1):
            for j in range(y0, y1):
                for i in range(x0, x1):
                    d2 = (
                        (origin_mm[0] + k * spacing_mm[0] - cz) ** 2
                        + (origin_mm[1] + j * spacing_mm[1] - cy) ** 2
                        + (origin_mm[2] + i * spacing_mm[2] - cx) ** 2
                    )
                    if d2 >= reach * reach:
                        continue
                    change = value_hu - hu[k, j, i]
                    if (change > 0.0) == brighter:
                        hu[k, j, i] += change * _sphere_cover(math.sqrt(d2), radius, blur_mm)
