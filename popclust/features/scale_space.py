"""Extrema of the difference of Gaussians over scale: where the keypoints are, to a fraction of a voxel.

Positions are fractional indices and scales are in voxels here; :mod:`popclust.features.sift3d` speaks mm.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

N_PER_OCTAVE = 3
"""Blurs per octave (Toews & Wells): neighbouring levels differ by the cube root of two in scale."""
SIGMA_0 = 1.6
"""Scale of an octave's first level, in voxels of the octave."""
ASSUMED_BLUR = 0.5
"""Blur that the given samples are taken to have already, in voxels."""
N_BELOW = 1
"""Levels below SIGMA_0 in the first octave, so that the smallest keypoints do not sit on the edge of the search."""
SCALE_SLACK = 0.03
"""How much a neighbour at the next scale may exceed an extremum: a blob that lies between voxels at one level and on
a voxel at the next would have no extremum at all under the strict rule."""
MIN_EDGE = 16
"""An octave with fewer voxels than this along an axis has no room for a keypoint's surroundings."""


@dataclass(frozen=True)
class Octave:
    """The levels of one octave, each `N_PER_OCTAVE`-th root of two wider than the one before."""

    step: int
    """Voxels of the volume per voxel of the octave (1, 2, 4 ...)."""
    sigmas: NDArray[np.float64]
    """(level,) scale of each level, in voxels of the octave."""
    levels: NDArray[np.float32]
    """(level, z, y, x) smoothed volume."""
    differences: NDArray[np.float32]
    """(level - 1, z, y, x) each level taken from the next wider one."""


@dataclass(frozen=True)
class Extrema:
    """Extrema of one octave, in voxels of that octave."""

    position: NDArray[np.float64]
    """(n, 3) fractional index zyx."""
    level: NDArray[np.float64]
    """(n,) fractional level."""
    value_hu: NDArray[np.float64]
    """(n,) interpolated difference of Gaussians: negative for what is brighter than its surroundings."""


def octaves(values_hu: NDArray[np.float32], max_sigma: float = np.inf) -> Iterator[Octave]:
    """Go through the octaves of a volume from fine to coarse.

    Parameters
    ----------
    values_hu : ndarray
        (z, y, x) isotropic samples.
    max_sigma : float
        Largest scale of interest, in voxels: no octave that starts above it is built.
    """
    base, step, sigma_in, n_below = np.ascontiguousarray(values_hu, dtype=np.float32), 1, ASSUMED_BLUR, N_BELOW
    while min(base.shape) >= MIN_EDGE and step * SIGMA_0 <= max_sigma:
        sigmas = SIGMA_0 * 2.0 ** (np.arange(-n_below, N_PER_OCTAVE + 3) / N_PER_OCTAVE)
        levels = np.empty((len(sigmas), *base.shape), np.float32)
        differences = np.empty((len(sigmas) - 1, *base.shape), np.float32)
        if sigma_in < sigmas[0]:
            levels[0] = blur(base, float(np.sqrt(sigmas[0] ** 2 - sigma_in**2)))
        else:
            levels[0] = base
        for i in range(len(sigmas) - 1):
            kernel = gaussian_kernel(float(np.sqrt(sigmas[i + 1] ** 2 - sigmas[i] ** 2)))
            _blur(levels[i], kernel, levels[i + 1], differences[i])
        yield Octave(step, sigmas, levels, differences)
        # The level at twice SIGMA_0, every second voxel, is the next octave's first one.
        base = np.ascontiguousarray(levels[n_below + N_PER_OCTAVE, ::2, ::2, ::2])
        step, sigma_in, n_below = step * 2, SIGMA_0, 0


def find_extrema(octave: Octave, min_contrast_hu: float) -> Extrema:
    """Local extrema of the difference of Gaussians among their 80 neighbours in space and scale, interpolated.

    A quadratic through the 3^4 neighbourhood gives position, level and value (Lowe 2004, here in four
    dimensions); an extremum that the quadratic moves by more than a voxel or level is dropped.
    """
    found = _scan(octave.differences, np.float32(0.8 * min_contrast_hu))
    refined = _refine(octave.differences, found)
    refined = refined[np.abs(refined[:, 4]) >= min_contrast_hu]
    return Extrema(refined[:, 1:4], refined[:, 0], refined[:, 4])


def blur(values: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Gaussian smoothing of (z, y, x), `sigma` in voxels; the border voxel continues outside."""
    source = np.ascontiguousarray(values, dtype=np.float32)
    out = np.empty_like(source)
    _blur(source, gaussian_kernel(sigma), out, np.empty((0, 0, 0), np.float32))
    return out


def gaussian_kernel(sigma: float) -> NDArray[np.float32]:
    """One side of a sampled Gaussian, the centre first, cut at 3.5 sigma; the whole kernel sums to one."""
    offset = np.arange(int(np.ceil(3.5 * sigma)) + 1)
    half = np.exp(-0.5 * (offset / sigma) ** 2)
    return (half / (half[0] + 2 * half[1:].sum())).astype(np.float32)


@njit(cache=True, fastmath=True)
def _blur(source, kernel, out, difference):  # type: ignore[no-untyped-def]
    """Separable smoothing plane by plane, so that the two in-plane passes run in the cache."""
    n_z, n_y, n_x = source.shape
    radius = kernel.size - 1
    along_z = np.empty((n_y, n_x), np.float32)
    row = np.empty(n_x + 2 * radius, np.float32)
    accumulated = np.empty(n_x, np.float32)
    for z in range(n_z):
        for y in range(n_y):
            centre = source[z, y]
            target = along_z[y]
            for x in range(n_x):
                target[x] = kernel[0] * centre[x]
            for i in range(1, radius + 1):
                before, after, weight = source[max(z - i, 0), y], source[min(z + i, n_z - 1), y], kernel[i]
                for x in range(n_x):
                    target[x] += weight * (before[x] + after[x])
        for y in range(n_y):
            middle = row[radius : radius + n_x]
            centre = along_z[y]
            for x in range(n_x):
                middle[x] = kernel[0] * centre[x]
            for i in range(1, radius + 1):
                before, after, weight = along_z[max(y - i, 0)], along_z[min(y + i, n_y - 1)], kernel[i]
                for x in range(n_x):
                    middle[x] += weight * (before[x] + after[x])
            row[:radius] = middle[0]
            row[radius + n_x :] = middle[n_x - 1]
            for x in range(n_x):
                accumulated[x] = kernel[0] * middle[x]
            for i in range(1, radius + 1):
                before, after, weight = (
                    row[radius - i : radius - i + n_x],
                    row[radius + i : radius + i + n_x],
                    kernel[i],
                )
                for x in range(n_x):
                    accumulated[x] += weight * (before[x] + after[x])
            out[z, y] = accumulated
            if difference.size:
                for x in range(n_x):
                    difference[z, y, x] = accumulated[x] - source[z, y, x]


@njit(cache=True)
def _scan(differences, threshold):  # type: ignore[no-untyped-def]
    """Integer (level, z, y, x) of voxels above all 80 neighbours, or below them all."""
    n_levels, n_z, n_y, n_x = differences.shape
    found = []
    for level in range(1, n_levels - 1):
        for z in range(1, n_z - 1):
            for y in range(1, n_y - 1):
                row = differences[level, z, y]
                for x in range(1, n_x - 1):
                    value = row[x]
                    if abs(value) < threshold:
                        continue
                    sign = np.float32(1.0) if value > 0 else np.float32(-1.0)
                    value = sign * value
                    if sign * row[x - 1] >= value or sign * row[x + 1] >= value:
                        continue
                    if _is_extremum(differences, level, z, y, x, sign, value):
                        found.append((level, z, y, x))
    out = np.empty((len(found), 4), np.int64)
    for i in range(len(found)):
        out[i, 0], out[i, 1], out[i, 2], out[i, 3] = found[i]
    return out


@njit(cache=True)
def _is_extremum(differences, level, z, y, x, sign, value):  # type: ignore[no-untyped-def]
    for step in (0, -1, 1):
        limit = value if step == 0 else value * np.float32(1.0 + SCALE_SLACK)
        for dz in range(-1, 2):
            for dy in range(-1, 2):
                row = differences[level + step, z + dz, y + dy]
                for dx in range(-1, 2):
                    if sign * row[x + dx] >= limit and (step != 0 or dz != 0 or dy != 0 or dx != 0):
                        return False
    return True


@njit(cache=True)
def _refine(differences, found):  # type: ignore[no-untyped-def]
    """(n, 5) level, z, y, x and value of the extremum of a local quadratic.

    Where the full quadratic points out of its neighbourhood (a flat or skewed top), the parabola along each
    axis decides: for an extremum it cannot leave the neighbourhood, so that no keypoint is lost here.
    """
    refined = np.empty((found.shape[0], 5))
    for i in range(found.shape[0]):
        place = found[i]
        gradient, hessian = _derivatives(differences, place)
        offset = -gradient / np.diag(hessian)
        if abs(np.linalg.det(hessian)) > 1e-6:
            joint = -np.linalg.solve(hessian, gradient)
            if np.max(np.abs(joint)) <= 0.75:
                offset = joint
        refined[i, :4] = place + offset
        refined[i, 4] = differences[place[0], place[1], place[2], place[3]] + 0.5 * np.dot(gradient, offset)
    return refined


@njit(cache=True)
def _derivatives(d, place):  # type: ignore[no-untyped-def]
    """Central differences of first and second order along level, z, y, x."""
    gradient = np.empty(4)
    hessian = np.empty((4, 4))
    s, z, y, x = place
    centre = d[s, z, y, x]
    step = np.eye(4).astype(np.int64)
    for a in range(4):
        e = step[a]
        up = d[s + e[0], z + e[1], y + e[2], x + e[3]]
        down = d[s - e[0], z - e[1], y - e[2], x - e[3]]
        gradient[a] = 0.5 * (up - down)
        hessian[a, a] = up + down - 2.0 * centre
        for b in range(a + 1, 4):
            f = step[b]
            p, m = e + f, e - f
            hessian[a, b] = 0.25 * (
                d[s + p[0], z + p[1], y + p[2], x + p[3]]
                + d[s - p[0], z - p[1], y - p[2], x - p[3]]
                - d[s + m[0], z + m[1], y + m[2], x + m[3]]
                - d[s - m[0], z - m[1], y - m[2], x - m[3]]
            )
            hessian[b, a] = hessian[a, b]
    return gradient, hessian
