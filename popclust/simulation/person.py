"""The smooth map between the atlas and one person, both ways."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from popclust.imaging.volume import Vector

CONTROL_SPACING_MM = 50.0
"""Distance between the control points of a person's warp."""
CONTROL_ORIGIN_MM = (-330.0, -260.0, -300.0)
"""Position of control point [0, 0, 0], zyx."""
CONTROL_SHAPE = (14, 12, 13)
"""Control points along z, y, x: far enough around the thorax that nothing drawn lies beyond them."""

_CHECK_MM = 20.0
_MIN_JACOBIAN = 0.3
_MAX_SLOPE = 0.8


@dataclass(frozen=True)
class PersonTraits:
    """What makes one person's body: small numbers, from which the map follows."""

    warp_seed: int = 0
    """Seed of the individual low-frequency warp."""
    warp_mm: float = 0.0
    """Root mean square length of that warp."""
    scale_zyx: Vector = (1.0, 1.0, 1.0)
    """Size against the atlas along z, y, x."""
    rotation_deg: Vector = (0.0, 0.0, 0.0)
    """Posture: rotation about z, y, x."""
    diaphragm_mm: float = 0.0
    """How much lower than in the atlas the diaphragm stands (breathing, hyperinflation, volume loss)."""
    position_mm: Vector = (0.0, 0.0, 0.0)
    """Where the atlas origin lies in the scanner, zyx."""


@njit(cache=True, nogil=True)
def _spline_into(
    out: NDArray,
    point: NDArray,
    coefficients: NDArray,
    spacing_mm: float,
    origin_mm: NDArray,
    weights: NDArray,
    first: NDArray,
) -> None:
    # Uniform cubic B-spline with (3, z, y, x) coefficients at one point; points beyond the border take its value.
    # `weights` (3, 4) and `first` (3,) are room to work in: millions of points would allocate as often.
    for a in range(3):
        u = (point[a] - origin_mm[a]) / spacing_mm
        u = min(max(u, 1.0), coefficients.shape[a + 1] - 2.0 - 1e-6)
        cell = int(u)
        f = u - cell
        first[a] = cell - 1
        weights[a, 0] = (1 - f) ** 3 / 6
        weights[a, 1] = (3 * f**3 - 6 * f**2 + 4) / 6
        weights[a, 2] = (-3 * f**3 + 3 * f**2 + 3 * f + 1) / 6
        weights[a, 3] = f**3 / 6
    out0, out1, out2 = 0.0, 0.0, 0.0
    for kz in range(4):
        z = first[0] + kz
        for ky in range(4):
            y = first[1] + ky
            for kx in range(4):
                x = first[2] + kx
                w = weights[0, kz] * weights[1, ky] * weights[2, kx]
                out0 += w * coefficients[0, z, y, x]
                out1 += w * coefficients[1, z, y, x]
                out2 += w * coefficients[2, z, y, x]
    out[0], out[1], out[2] = out0, out1, out2


@njit(cache=True, nogil=True)
def _spline_at(points: NDArray, coefficients: NDArray, spacing_mm: float, origin_mm: NDArray) -> NDArray:
    out = np.empty((points.shape[0], 3))
    weights, first = np.empty((3, 4)), np.empty(3, np.int64)
    for i in range(points.shape[0]):
        _spline_into(out[i], points[i], coefficients, spacing_mm, origin_mm, weights, first)
    return out


@njit(cache=True, nogil=True)
def _invert(
    targets: NDArray, coefficients: NDArray, spacing_mm: float, origin_mm: NDArray, tolerance_mm: float
) -> NDArray:
    # p with p + u(p) = target, by fixed-point iteration: u is a contraction (`Person` sees to that).
    n = targets.shape[0]
    out = np.empty((n, 3))
    point, u = np.empty((1, 3)), np.empty(3)
    weights, first = np.empty((3, 4)), np.empty(3, np.int64)
    for i in range(n):
        point[0] = targets[i]
        for _ in range(60):
            _spline_into(u, point[0], coefficients, spacing_mm, origin_mm, weights, first)
            step = 0.0
            for a in range(3):
                new = targets[i, a] - u[a]
                step = max(step, abs(new - point[0, a]))
                point[0, a] = new
            if step < tolerance_mm:
                break
        out[i] = point[0]
    return out


def spline_matrix(positions_mm: ArrayLike, spacing_mm: float, origin_mm: float, n_controls: int) -> NDArray[np.float64]:
    """Weights (n, n_controls) of a uniform cubic B-spline's control points at positions along one axis.

    A tensor product of three such matrices evaluates a spline on a whole grid at the price of three products.
    """
    u = np.clip((np.asarray(positions_mm) - origin_mm) / spacing_mm, 1.0, n_controls - 2.0 - 1e-6)
    distance = np.abs(u[:, None] - np.arange(n_controls))
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = np.maximum(2.0 - distance, 0.0) ** 3 / 6
    return np.where(distance < 1.0, near, far)


def spline_grid(coefficients: NDArray, axes: tuple[NDArray, NDArray, NDArray]) -> NDArray[np.float32]:
    """A spline with (z, y, x) coefficients on the grid whose `spline_matrix` along z, y, x are given."""
    mz, my, mx = axes
    along_x = np.tensordot(coefficients, mx, axes=(2, 1))
    along_y = np.tensordot(along_x, my, axes=(1, 1)).transpose(0, 2, 1)
    return np.tensordot(mz.astype(np.float32), along_y.astype(np.float32), axes=(1, 0))


@dataclass(frozen=True)
class Person:
    """One person's body as a map: ``atlas = turn (p + warp(p)) / scale`` with p relative to the person's position.

    The warp is a cubic B-spline in the person's space, so the atlas position of a whole voxel grid costs three matrix
    products; the other way round is solved point by point.
    """

    traits: PersonTraits

    @cached_property
    def coefficients(self) -> NDArray[np.float64]:
        """(3, z, y, x) control points of the warp in mm: random part and breathing; never folds space."""
        rng = np.random.default_rng([self.traits.warp_seed, 101])
        noise = rng.standard_normal((3, *CONTROL_SHAPE))
        # A cubic B-spline keeps about 0.3 of the standard deviation of independent coefficients; three axes add up.
        random = noise * self.traits.warp_mm / (0.30 * np.sqrt(3.0))
        breathing = _breathing(self.traits.diaphragm_mm)
        for _ in range(20):
            total = random.copy()
            total[0] += breathing
            if _is_regular(total):
                return total
            random *= 0.85
        return total

    @cached_property
    def _linear(self) -> NDArray[np.float64]:
        # Columns act on zyx positions: person (after the warp) -> atlas.
        return _rotation(self.traits.rotation_deg).T / np.asarray(self.traits.scale_zyx)[:, None]

    def to_atlas(self, points_mm: ArrayLike) -> NDArray[np.float64]:
        """Atlas positions (n, 3) zyx mm of positions in the scanner (n, 3) zyx mm."""
        p = np.atleast_2d(np.asarray(points_mm, dtype=np.float64)) - self.traits.position_mm
        origin = np.asarray(CONTROL_ORIGIN_MM)
        return (p + _spline_at(p, self.coefficients, CONTROL_SPACING_MM, origin)) @ self._linear.T

    def to_volume(self, points_mm: ArrayLike, tolerance_mm: float = 1e-3) -> NDArray[np.float64]:
        """Positions in the scanner (n, 3) zyx mm of atlas positions (n, 3) zyx mm."""
        q = np.atleast_2d(np.asarray(points_mm, dtype=np.float64)) @ np.linalg.inv(self._linear).T
        origin = np.asarray(CONTROL_ORIGIN_MM)
        return _invert(q, self.coefficients, CONTROL_SPACING_MM, origin, tolerance_mm) + self.traits.position_mm

    def grid_to_atlas(self, shape: tuple[int, int, int], spacing_mm: Vector, origin_mm: Vector) -> NDArray[np.float32]:
        """Atlas positions (3, z, y, x) zyx mm of every voxel of a grid in the scanner."""
        at = [
            origin - position + spacing * np.arange(n)
            for n, spacing, origin, position in zip(shape, spacing_mm, origin_mm, self.traits.position_mm, strict=True)
        ]
        z, y, x = (
            spline_matrix(p, CONTROL_SPACING_MM, o, n)
            for p, o, n in zip(at, CONTROL_ORIGIN_MM, CONTROL_SHAPE, strict=True)
        )
        warped = np.stack([spline_grid(c, (z, y, x)) for c in self.coefficients])
        warped += np.stack(np.broadcast_arrays(at[0][:, None, None], at[1][:, None], at[2])).astype(np.float32)
        linear = self._linear.astype(np.float32)
        return (linear @ warped.reshape(3, -1)).reshape(warped.shape)


def _rotation(degrees: Vector) -> NDArray[np.float64]:
    about_z, about_y, about_x = np.deg2rad(degrees)
    out = np.eye(3)
    for angle, (a, b) in ((about_z, (1, 2)), (about_y, (0, 2)), (about_x, (0, 1))):
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        out = turn @ out
    return out


def _breathing(diaphragm_mm: float) -> NDArray[np.float64]:
    # The domes move, the apex and the spine hardly do.
    z, y, x = (o + CONTROL_SPACING_MM * np.arange(n) for o, n in zip(CONTROL_ORIGIN_MM, CONTROL_SHAPE, strict=True))
    ramp = np.clip((60.0 - z) / 170.0, 0.0, 1.0)
    down = ramp**2 * (3 - 2 * ramp)
    domes = 0.35 + 0.65 * np.exp(-(((np.abs(x) - 65.0) / 70.0) ** 2)) * np.exp(-(((y[:, None] + 10.0) / 85.0) ** 2))
    return diaphragm_mm * down[:, None, None] * domes


def _is_regular(coefficients: NDArray) -> bool:
    h = CONTROL_SPACING_MM
    axes = [
        spline_matrix(np.arange(o + 1.5 * h, o + (n - 2.5) * h, _CHECK_MM), h, o, n)
        for o, n in zip(CONTROL_ORIGIN_MM, CONTROL_SHAPE, strict=True)
    ]
    u = np.stack([spline_grid(c, (axes[0], axes[1], axes[2])) for c in coefficients])
    slope = np.stack([np.stack(np.gradient(c, _CHECK_MM)) for c in u])
    jacobian = np.moveaxis(slope, (0, 1), (-2, -1)) + np.eye(3)
    slope_norm = np.sqrt((slope**2).sum(axis=(0, 1)))
    return bool(np.linalg.det(jacobian).min() > _MIN_JACOBIAN and slope_norm.max() < _MAX_SLOPE)
