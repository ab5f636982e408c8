"""What surrounds a keypoint: structure tensor, orientation frames, the rank-ordered descriptor.

Everything is measured on the gradient of the smoothed volume at the keypoint's own scale, at the voxels of its
octave, weighted by their distance from the keypoint's fractional position: nothing is resampled.
Positions are fractional indices zyx and lengths are voxels of the octave.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

TENSOR_SIGMAS = 4.0
"""Radius of the ball of the structure tensor, in keypoint sigmas."""
SUPPORT_SIGMAS = 4.0
"""Radius of the ball that a descriptor describes, in keypoint sigmas (Toews & Wells: twice the stored 2 sigma)."""
PRIMARY_SHARE = 0.45
"""Directions with at least this share of the strongest one's gradient start a frame (Toews & Wells: 0.8; with more
frames per location more of them return)."""
SECONDARY_SHARE = 0.35
"""Directions across the first axis with at least this share of the strongest complete a frame (Toews & Wells: 0.5)."""
MAX_PRIMARY = 4
MAX_SECONDARY = 4
N_FACE = 6
"""Direction bins along the edge of each face of the cube that the sphere of directions is cut into."""
N_BINS = 6 * N_FACE * N_FACE
OCTANT_SHARPNESS = 0.9
"""How quickly a gradient passes from one octant to the next: 0.5 is the softest, large is a hard border."""


def _bin_centres() -> NDArray[np.float64]:
    """(N_BINS, 3) unit directions of the bins; face 2a is the side of axis a that is positive, 2a + 1 the other."""
    along = np.tan((np.arange(N_FACE) + 0.5) / N_FACE * (np.pi / 2) - np.pi / 4)
    centres = np.empty((6, N_FACE, N_FACE, 3))
    for face in range(6):
        axis = face // 2
        centres[face, :, :, axis] = 1.0 if face % 2 == 0 else -1.0
        centres[face, :, :, (axis + 1) % 3] = along[:, None]
        centres[face, :, :, (axis + 2) % 3] = along[None, :]
    flat = centres.reshape(-1, 3)
    return flat / np.linalg.norm(flat, axis=1, keepdims=True)


CENTRES = _bin_centres()
KERNEL = np.maximum(CENTRES @ CENTRES.T, 0.0) ** 16
"""Directions are smoothed by the 16th power of the cosine: a width of about 14 degrees, cheaper than an exponential."""


@njit(cache=True, fastmath=True)
def structure_tensor(level, position, sigma):  # type: ignore[no-untyped-def]
    """(3, 3) summed outer product of the gradient in a ball around a position."""
    tensor = np.zeros((3, 3))
    radius = TENSOR_SIGMAS * sigma
    low, high = _box(level.shape, position, radius)
    for z in range(low[0], high[0]):
        for y in range(low[1], high[1]):
            room = radius * radius - (z - position[0]) ** 2 - (y - position[1]) ** 2
            if room <= 0.0:
                continue
            first = max(low[2], math.ceil(position[2] - math.sqrt(room)))
            last = min(high[2], math.floor(position[2] + math.sqrt(room)) + 1)
            for x in range(first, last):
                gz = level[z + 1, y, x] - level[z - 1, y, x]
                gy = level[z, y + 1, x] - level[z, y - 1, x]
                gx = level[z, y, x + 1] - level[z, y, x - 1]
                tensor[0, 0] += gz * gz
                tensor[1, 1] += gy * gy
                tensor[2, 2] += gx * gx
                tensor[0, 1] += gz * gy
                tensor[0, 2] += gz * gx
                tensor[1, 2] += gy * gx
    tensor[1, 0], tensor[2, 0], tensor[2, 1] = tensor[0, 1], tensor[0, 2], tensor[1, 2]
    return tensor


@njit(cache=True)
def isotropy(tensor):  # type: ignore[no-untyped-def]
    """27 det / trace^3: 1 where gradients go every way alike, 0 on plates and edges (27 / 140 is Toews & Wells')."""
    trace = tensor[0, 0] + tensor[1, 1] + tensor[2, 2]
    if trace <= 0.0:
        return 0.0
    return 27.0 * np.linalg.det(tensor / trace)


@njit(cache=True)
def frames(level, position, sigma):  # type: ignore[no-untyped-def]
    """(n, 3, 3) orientation frames of a keypoint, the strongest first; the rows are the frame's axes, zyx.

    The first axis is a peak of the gradient's direction, the second a peak among what is left across it, the third
    their cross product (of the zyx components, so that every frame is a rotation: det = +1).
    """
    strength, mean = _direction_histogram(level, position, sigma)
    out = np.empty((MAX_PRIMARY * MAX_SECONDARY, 3, 3))
    n = 0
    primaries = _peaks_on_sphere(strength, mean)
    for i in range(primaries.shape[0]):
        first = primaries[i]
        seconds = _peaks_across(strength, mean, first)
        for j in range(seconds.shape[0]):
            out[n, 0] = first
            out[n, 1] = seconds[j]
            out[n, 2] = np.cross(first, seconds[j])
            n += 1
    return out[:n]


@njit(cache=True)
def _box(shape, position, radius):  # type: ignore[no-untyped-def]
    """Voxels within a radius that have neighbours on every side: first and last + 1 along z, y, x."""
    low, high = np.empty(3, np.int64), np.empty(3, np.int64)
    for axis in range(3):
        low[axis] = max(1, math.ceil(position[axis] - radius))
        high[axis] = min(shape[axis] - 1, math.floor(position[axis] + radius) + 1)
    return low, high


@njit(cache=True)
def _bin_of(gz, gy, gx):  # type: ignore[no-untyped-def]
    """Direction bin of a vector that is not zero; the counterpart of `_bin_centres`."""
    az, ay, ax = abs(gz), abs(gy), abs(gx)
    if az >= ay and az >= ax:
        face, top, u, v = (0 if gz > 0 else 1), az, gy, gx
    elif ay >= ax:
        face, top, u, v = (2 if gy > 0 else 3), ay, gx, gz
    else:
        face, top, u, v = (4 if gx > 0 else 5), ax, gz, gy
    scale = N_FACE / (np.pi / 2)
    i = min(N_FACE - 1, int((math.atan(u / top) + np.pi / 4) * scale))
    j = min(N_FACE - 1, int((math.atan(v / top) + np.pi / 4) * scale))
    return (face * N_FACE + i) * N_FACE + j


@njit(cache=True)
def _direction_histogram(level, position, sigma):  # type: ignore[no-untyped-def]
    """(bin,) summed length and (bin, 3) mean unit vector of the gradients around a keypoint."""
    strength, mean = np.zeros(N_BINS), np.zeros((N_BINS, 3))
    radius = SUPPORT_SIGMAS * sigma
    low, high = _box(level.shape, position, radius)
    for z in range(low[0], high[0]):
        for y in range(low[1], high[1]):
            for x in range(low[2], high[2]):
                d2 = (z - position[0]) ** 2 + (y - position[1]) ** 2 + (x - position[2]) ** 2
                if d2 > radius * radius:
                    continue
                gz = level[z + 1, y, x] - level[z - 1, y, x]
                gy = level[z, y + 1, x] - level[z, y - 1, x]
                gx = level[z, y, x + 1] - level[z, y, x - 1]
                length = math.sqrt(gz * gz + gy * gy + gx * gx)
                if length == 0.0:
                    continue
                w = 1.0 - d2 / (radius * radius)
                k = _bin_of(gz, gy, gx)
                strength[k] += w * length
                mean[k, 0] += w * gz
                mean[k, 1] += w * gy
                mean[k, 2] += w * gx
    for k in range(N_BINS):
        norm = math.sqrt(mean[k, 0] ** 2 + mean[k, 1] ** 2 + mean[k, 2] ** 2)
        if norm > 0.0:
            mean[k] /= norm
    return strength, mean


@njit(cache=True)
def _peaks_on_sphere(strength, mean):  # type: ignore[no-untyped-def]
    """(n, 3) directions of the density's peaks, the strongest first, refined by mean shift."""
    density = np.dot(KERNEL, strength)
    order = np.argsort(-density)
    peaks = np.empty((MAX_PRIMARY, 3))
    n = 0
    for i in range(N_BINS):
        if n == MAX_PRIMARY or density[order[i]] < PRIMARY_SHARE * density[order[0]]:
            break
        k = order[i]
        if density[k] <= 0.0 or not _is_peak(density, CENTRES, k, 0.82):
            continue
        peak = _mean_shift(strength, mean, CENTRES[k].copy())
        if _is_new(peaks[:n], peak):
            peaks[n] = peak
            n += 1
    return peaks[:n]


@njit(cache=True)
def _is_peak(density, directions, k, min_cosine):  # type: ignore[no-untyped-def]
    """No bin within the angle is denser."""
    return not np.any(density[np.dot(directions, directions[k]) > min_cosine] > density[k])


@njit(cache=True)
def _is_new(peaks, peak):  # type: ignore[no-untyped-def]
    return not np.any(np.dot(peaks, peak) > 0.9)


@njit(cache=True, fastmath=True)
def _mean_shift(strength, mean, start):  # type: ignore[no-untyped-def]
    """Follow the density from a direction to its peak."""
    direction = start
    for _ in range(5):
        tz, ty, tx = 0.0, 0.0, 0.0
        for k in range(strength.size):
            cosine = mean[k, 0] * direction[0] + mean[k, 1] * direction[1] + mean[k, 2] * direction[2]
            w = strength[k] * _sharp(cosine)
            tz += w * mean[k, 0]
            ty += w * mean[k, 1]
            tx += w * mean[k, 2]
        norm = math.sqrt(tz * tz + ty * ty + tx * tx)
        if norm == 0.0:
            break
        direction[0], direction[1], direction[2] = tz / norm, ty / norm, tx / norm
    return direction


@njit(cache=True, fastmath=True)
def _sharp(cosine):  # type: ignore[no-untyped-def]
    """The kernel of directions: the 16th power of a cosine, 0 beyond a right angle."""
    c = max(cosine, 0.0)
    c *= c
    c *= c
    c *= c
    return c * c


@njit(cache=True, fastmath=True)
def _peaks_across(strength, mean, first):  # type: ignore[no-untyped-def]
    """(n, 3) unit vectors across `first` where the gradient's part across it is densest."""
    helper = np.zeros(3)
    helper[np.argmin(np.abs(first))] = 1.0
    u = np.cross(first, helper)
    u /= np.sqrt(np.sum(u * u))
    v = np.cross(first, u)
    across = np.empty((strength.size, 3))
    weight = np.zeros(strength.size)
    for k in range(strength.size):
        along = mean[k, 0] * first[0] + mean[k, 1] * first[1] + mean[k, 2] * first[2]
        norm = math.sqrt(max(0.0, 1.0 - along * along))
        weight[k] = strength[k] * norm
        for axis in range(3):
            across[k, axis] = (mean[k, axis] - along * first[axis]) / norm if norm > 1e-6 else u[axis]
    ring = np.empty((36, 3))
    for i in range(36):
        ring[i] = math.cos(i * np.pi / 18) * u + math.sin(i * np.pi / 18) * v
    density = np.zeros(36)
    for i in range(36):
        for k in range(strength.size):
            cosine = ring[i, 0] * across[k, 0] + ring[i, 1] * across[k, 1] + ring[i, 2] * across[k, 2]
            density[i] += weight[k] * _sharp(cosine)
    order = np.argsort(-density)
    peaks = np.empty((MAX_SECONDARY, 3))
    n = 0
    for i in range(36):
        if n == MAX_SECONDARY or density[order[i]] < SECONDARY_SHARE * density[order[0]]:
            break
        k = order[i]
        if density[k] <= 0.0 or not _is_peak(density, ring, k, 0.85):
            continue
        peak = _mean_shift(weight, across, ring[k].copy())
        if _is_new(peaks[:n], peak):
            peaks[n] = peak
            n += 1
    return peaks[:n]


@njit(cache=True, fastmath=True)
def describe(level, position, sigma, frame):  # type: ignore[no-untyped-def]
    """(64,) histogram of the surroundings in a frame: 2 x 2 x 2 cells times the 8 octants of the gradient's direction.

    Gradients count by their length, shared linearly between neighbouring cells and softly between octants.
    """
    histogram = np.zeros((8, 8))
    cells, octants = np.empty(8), np.empty(8)
    radius = SUPPORT_SIGMAS * sigma
    low, high = _box(level.shape, position, radius)
    f = frame
    for z in range(low[0], high[0]):
        for y in range(low[1], high[1]):
            for x in range(low[2], high[2]):
                pz, py, px = z - position[0], y - position[1], x - position[2]
                d2 = pz * pz + py * py + px * px
                if d2 > radius * radius:
                    continue
                gz = level[z + 1, y, x] - level[z - 1, y, x]
                gy = level[z, y + 1, x] - level[z, y - 1, x]
                gx = level[z, y, x + 1] - level[z, y, x - 1]
                length = math.sqrt(gz * gz + gy * gy + gx * gx)
                if length == 0.0:
                    continue
                _shares(f, pz / radius, py / radius, px / radius, 1.0, cells)
                _shares(f, gz / length, gy / length, gx / length, OCTANT_SHARPNESS, octants)
                w = length * (1.0 - d2 / (radius * radius))
                for i in range(8):
                    for j in range(8):
                        histogram[i, j] += w * cells[i] * octants[j]
    return histogram.ravel()


@njit(cache=True, fastmath=True)
def _shares(f, z, y, x, slope, out):  # type: ignore[no-untyped-def]
    """Share of each of the 8 octants of a frame in a vector: a product of ramps along the three axes."""
    a = min(1.0, max(0.0, 0.5 + slope * (f[0, 0] * z + f[0, 1] * y + f[0, 2] * x)))
    b = min(1.0, max(0.0, 0.5 + slope * (f[1, 0] * z + f[1, 1] * y + f[1, 2] * x)))
    c = min(1.0, max(0.0, 0.5 + slope * (f[2, 0] * z + f[2, 1] * y + f[2, 2] * x)))
    out[0] = (1 - a) * (1 - b) * (1 - c)
    out[1] = (1 - a) * (1 - b) * c
    out[2] = (1 - a) * b * (1 - c)
    out[3] = (1 - a) * b * c
    out[4] = a * (1 - b) * (1 - c)
    out[5] = a * (1 - b) * c
    out[6] = a * b * (1 - c)
    out[7] = a * b * c


@njit(cache=True)
def isotropies(levels, position, level, sigma):  # type: ignore[no-untyped-def]
    """(n,) isotropy around n positions, each at its own level of a (level, z, y, x) pyramid."""
    out = np.empty(sigma.size)
    for i in range(sigma.size):
        tensor = structure_tensor(levels[level[i]], position[i], sigma[i])
        out[i] = isotropy(tensor)
    return out


@njit(cache=True)
def all_frames(values, position, sigma):  # type: ignore[no-untyped-def]
    """(n,) row of the position and (n, 3, 3) axes of every frame of every position."""
    most = MAX_PRIMARY * MAX_SECONDARY
    row = np.empty(sigma.size * most, np.int64)
    axes = np.empty((sigma.size * most, 3, 3))
    n = 0
    for i in range(sigma.size):
        found = frames(values, position[i], sigma[i])
        for j in range(found.shape[0]):
            row[n], axes[n] = i, found[j]
            n += 1
    return row[:n], axes[:n]


@njit(cache=True)
def descriptors(values, position, sigma, axes):  # type: ignore[no-untyped-def]
    """(n, 64) histograms of n positions with one frame each."""
    out = np.empty((sigma.size, 64))
    for i in range(sigma.size):
        out[i] = describe(values, position[i], sigma[i], axes[i])
    return out


def ranks(histogram: NDArray[np.float64]) -> NDArray[np.uint8]:
    """(n, 64) ranks 0 to 63 of (n, 64) histograms, ties in the order of the bins (Toews & Wells)."""
    order = np.argsort(histogram, axis=1, kind="stable")
    out = np.empty(histogram.shape, np.uint8)
    np.put_along_axis(out, order, np.arange(histogram.shape[1], dtype=np.uint8)[None, :], axis=1)
    return out
