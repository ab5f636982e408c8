"""Gaussian scale space of a volume, octave by octave. Scales are in voxels."""

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
    smooth = np.empty(n_x, np.float32)
    for z in range(n_z):
        for y in range(n_y):
            _weigh(along_z[y], source[z, y], kernel[0])
            for i in range(1, radius + 1):
                _add(along_z[y], source[max(z - i, 0), y], source[min(z + i, n_z - 1), y], kernel[i])
        for y in range(n_y):
            middle = row[radius : radius + n_x]
            _weigh(middle, along_z[y], kernel[0])
            for i in range(1, radius + 1):
                _add(middle, along_z[max(y - i, 0)], along_z[min(y + i, n_y - 1)], kernel[i])
            row[:radius] = middle[0]
            row[radius + n_x :] = middle[n_x - 1]
            _weigh(smooth, middle, kernel[0])
            for i in range(1, radius + 1):
                _add(smooth, row[radius - i : radius - i + n_x], row[radius + i : radius + i + n_x], kernel[i])
            out[z, y] = smooth
            if difference.size:
                for x in range(n_x):
                    difference[z, y, x] = smooth[x] - source[z, y, x]


@njit(cache=True, fastmath=True, inline="always")
def _weigh(out, values, weight):  # type: ignore[no-untyped-def]
    for x in range(out.size):
        out[x] = weight * values[x]


@njit(cache=True, fastmath=True, inline="always")
def _add(out, before, after, weight):  # type: ignore[no-untyped-def]
    for x in range(out.size):
        out[x] += weight * (before[x] + after[x])
