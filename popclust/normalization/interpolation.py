"""Displacements between the nodes of a grid: three components at once, to the bits of scipy.ndimage's one by one."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


def linear(nodes: NDArray[np.float32], index: NDArray[np.float64]) -> NDArray[np.float32]:
    """Trilinear interpolation; outside the grid the nearest border node's value holds.

    Parameters
    ----------
    nodes : (3, z, y, x) array of float32
        Values at the nodes.
    index : (n, 3) array
        Fractional indices zyx.

    Returns
    -------
    (n, 3) array of float32
        As `scipy.ndimage.map_coordinates` with ``order=1, mode="nearest"`` gives for every component.
    """
    out = np.empty((len(index), 3), np.float32)
    _linear(np.ascontiguousarray(nodes), np.ascontiguousarray(index), out)
    return out


def cubic(coefficients: NDArray[np.float64], index: NDArray[np.float64]) -> NDArray[np.float64]:
    """A cubic B-spline (Unser, IEEE Signal Process Mag 16:22, 1999) at points where all its 64 coefficients exist.

    Parameters
    ----------
    coefficients : (3, z, y, x) array
        Of the spline: it does not pass through them. At least 4 along each axis.
    index : (n, 3) array
        Fractional indices zyx; beyond 1 and the last but one, the value there holds.

    Returns
    -------
    (n, 3) array
        As `scipy.ndimage.map_coordinates` with ``order=3, prefilter=False, mode="nearest"`` gives for every component.
    """
    out = np.empty((len(index), 3))
    _cubic(np.ascontiguousarray(coefficients), np.ascontiguousarray(index), out)
    return out


@njit(cache=True, nogil=True)
def _within(value, low, high):  # type: ignore[no-untyped-def]
    """The value, or the nearer end; the lower one for what is no number."""
    value = value if value > low else low
    return value if value < high else high


@njit(cache=True, nogil=True)
def _linear(nodes, index, out):  # type: ignore[no-untyped-def]
    last = (nodes.shape[1] - 1, nodes.shape[2] - 1, nodes.shape[3] - 1)
    for i in range(len(index)):
        z, y, x = (
            _within(index[i, 0], 0.0, last[0]),
            _within(index[i, 1], 0.0, last[1]),
            _within(index[i, 2], 0.0, last[2]),
        )
        z0, y0, x0 = int(z), int(y), int(x)
        z1, y1, x1 = min(z0 + 1, last[0]), min(y0 + 1, last[1]), min(x0 + 1, last[2])
        tz, ty, tx = z - z0, y - y0, x - x0
        wz, wy, wx = 1.0 - tz, 1.0 - ty, 1.0 - tx
        for c in range(3):
            part = nodes[c]
            total = np.float64(part[z0, y0, x0]) * wz * wy * wx
            total += np.float64(part[z0, y0, x1]) * wz * wy * tx
            total += np.float64(part[z0, y1, x0]) * wz * ty * wx
            total += np.float64(part[z0, y1, x1]) * wz * ty * tx
            total += np.float64(part[z1, y0, x0]) * tz * wy * wx
            total += np.float64(part[z1, y0, x1]) * tz * wy * tx
            total += np.float64(part[z1, y1, x0]) * tz * ty * wx
            total += np.float64(part[z1, y1, x1]) * tz * ty * tx
            out[i, c] = total


@njit(cache=True, nogil=True)
def _spline_weights(t, weights):  # type: ignore[no-untyped-def]
    """Of the four coefficients around a point that lies t after the second."""
    s = 1.0 - t
    weights[0] = s * s * s / 6.0
    weights[1] = (t * t * (t - 2.0) * 3.0 + 4.0) / 6.0
    weights[2] = (s * s * (s - 2.0) * 3.0 + 4.0) / 6.0
    weights[3] = 1.0 - weights[0] - weights[1] - weights[2]


@njit(cache=True, nogil=True)
def _cubic(coefficients, index, out):  # type: ignore[no-untyped-def]
    shape = coefficients.shape[1:]
    first = np.empty(3, np.int64)
    weights = np.empty((3, 4))
    for i in range(len(index)):
        for axis in range(3):
            at = _within(index[i, axis], 1.0, shape[axis] - 2.0)
            # at the very end the fourth coefficient does not exist, and has no weight
            first[axis] = int(at) - 1
            _spline_weights(at - int(at), weights[axis])
        for c in range(3):
            total = 0.0
            for a in range(4):
                z = min(first[0] + a, shape[0] - 1)
                for b in range(4):
                    y = min(first[1] + b, shape[1] - 1)
                    for d in range(4):
                        x = min(first[2] + d, shape[2] - 1)
                        total += coefficients[c, z, y, x] * weights[0, a] * weights[1, b] * weights[2, d]
            out[i, c] = total
