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
BLOCK = 256
"""Voxels described at once."""
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
BORDERS = np.tan(np.arange(1, N_FACE) / N_FACE * (np.pi / 2) - np.pi / 4).astype(np.float32)
"""Tangents of the angles at which one bin of a face ends and the next begins."""
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


@njit(cache=True, fastmath=True)
def gradients_around(level, position, sigma):  # type: ignore[no-untyped-def]
    """Of the voxels in a keypoint's ball: (3, n) place in radii, (3, n) unit gradient, (n,) weight.

    The weight is the gradient's length times how near the voxel is: 1 at the centre, 0 at the ball's surface.
    """
    radius = SUPPORT_SIGMAS * sigma
    low, high = _box(level.shape, position, radius)
    room = max(0, (high[0] - low[0]) * (high[1] - low[1]) * (high[2] - low[2]))
    place, direction = np.empty((3, room), np.float32), np.empty((3, room), np.float32)
    weight = np.empty(room, np.float32)
    n = 0
    for z in range(low[0], high[0]):
        for y in range(low[1], high[1]):
            pz, py = (z - position[0]) / radius, (y - position[1]) / radius
            left = 1.0 - pz * pz - py * py
            if left <= 0.0:
                continue
            half = radius * math.sqrt(left)
            first = max(low[2], math.ceil(position[2] - half))
            last = min(high[2], math.floor(position[2] + half) + 1)
            for x in range(first, last):
                gz = level[z + 1, y, x] - level[z - 1, y, x]
                gy = level[z, y + 1, x] - level[z, y - 1, x]
                gx = level[z, y, x + 1] - level[z, y, x - 1]
                length = math.sqrt(gz * gz + gy * gy + gx * gx)
                if length == 0.0:
                    continue
                px = (x - position[2]) / radius
                place[0, n], place[1, n], place[2, n] = pz, py, px
                direction[0, n], direction[1, n], direction[2, n] = gz / length, gy / length, gx / length
                weight[n] = length * (left - px * px)
                n += 1
    return place[:, :n], direction[:, :n], weight[:n]


@njit(cache=True)
def frames(direction, weight):  # type: ignore[no-untyped-def]
    """(n, 3, 3) orientation frames of a keypoint, the strongest first; the rows are the frame's axes, zyx.

    The first axis is a peak of the gradient's direction, the second a peak among what is left across it, the third
    their cross product (of the zyx components, so that every frame is a rotation: det = +1).
    """
    strength, mean = _direction_histogram(direction, weight)
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


@njit(cache=True, fastmath=True)
def _bin_of(gz, gy, gx):  # type: ignore[no-untyped-def]
    """Direction bin of a vector that is not zero; the counterpart of `_bin_centres`."""
    az, ay, ax = abs(gz), abs(gy), abs(gx)
    if az >= ay and az >= ax:
        face, top, u, v = (0 if gz > 0 else 1), az, gy, gx
    elif ay >= ax:
        face, top, u, v = (2 if gy > 0 else 3), ay, gx, gz
    else:
        face, top, u, v = (4 if gx > 0 else 5), ax, gz, gy
    i, j = 0, 0
    for k in range(N_FACE - 1):
        i += int(u >= BORDERS[k] * top)
        j += int(v >= BORDERS[k] * top)
    return (face * N_FACE + i) * N_FACE + j


@njit(cache=True)
def _direction_histogram(direction, weight):  # type: ignore[no-untyped-def]
    """(bin,) summed weight and (bin, 3) mean unit vector of the gradients around a keypoint."""
    strength, mean = np.zeros(N_BINS), np.zeros((N_BINS, 3))
    for v in range(weight.size):
        k = _bin_of(direction[0, v], direction[1, v], direction[2, v])
        strength[k] += weight[v]
        for axis in range(3):
            mean[k, axis] += weight[v] * direction[axis, v]
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
def describe(place, direction, weight, axes):  # type: ignore[no-untyped-def]
    """(n, 64) histograms of the surroundings in n frames: 2 x 2 x 2 cells times 8 octants of the gradient's direction.

    Gradients are shared linearly between neighbouring cells and softly between octants.
    """
    histograms = np.zeros((axes.shape[0], 8, 8), np.float32)
    # In blocks that stay in the first-level cache.
    cells, octants = np.empty((8, BLOCK), np.float32), np.empty((8, BLOCK), np.float32)
    for start in range(0, weight.size, BLOCK):
        end = min(start + BLOCK, weight.size)
        for k in range(axes.shape[0]):
            axis = axes[k].astype(np.float32)
            _shares(axis, place[:, start:end], np.float32(1.0), cells)
            _shares(axis, direction[:, start:end], np.float32(OCTANT_SHARPNESS), octants)
            for i in range(8):
                for v in range(end - start):
                    cells[i, v] *= weight[start + v]
                for j in range(8):
                    total = np.float32(0.0)
                    for v in range(end - start):
                        total += cells[i, v] * octants[j, v]
                    histograms[k, i, j] += total
    return histograms.reshape(-1, 64)


@njit(cache=True, fastmath=True)
def _shares(axis, vectors, slope, out):  # type: ignore[no-untyped-def]
    """Share of each of a frame's 8 octants in (3, n) vectors, a product of ramps along the three axes: (8, n)."""
    half, one, zero = np.float32(0.5), np.float32(1.0), np.float32(0.0)
    for v in range(vectors.shape[1]):
        z, y, x = vectors[0, v], vectors[1, v], vectors[2, v]
        a = min(one, max(zero, half + slope * (axis[0, 0] * z + axis[0, 1] * y + axis[0, 2] * x)))
        b = min(one, max(zero, half + slope * (axis[1, 0] * z + axis[1, 1] * y + axis[1, 2] * x)))
        c = min(one, max(zero, half + slope * (axis[2, 0] * z + axis[2, 1] * y + axis[2, 2] * x)))
        out[0, v] = (one - a) * (one - b) * (one - c)
        out[1, v] = (one - a) * (one - b) * c
        out[2, v] = (one - a) * b * (one - c)
        out[3, v] = (one - a) * b * c
        out[4, v] = a * (one - b) * (one - c)
        out[5, v] = a * (one - b) * c
        out[6, v] = a * b * (one - c)
        out[7, v] = a * b * c


@njit(cache=True)
def isotropies(levels, position, level, sigma):  # type: ignore[no-untyped-def]
    """(n,) isotropy around n positions, each at its own level of a (level, z, y, x) pyramid."""
    out = np.empty(sigma.size)
    for i in range(sigma.size):
        tensor = structure_tensor(levels[level[i]], position[i], sigma[i])
        out[i] = isotropy(tensor)
    return out


@njit(cache=True)
def describe_in_own_frames(values, position, sigma):  # type: ignore[no-untyped-def]
    """Of every frame of n positions: row of its position, (m, 3, 3) axes and (m, 64) histogram."""
    most = MAX_PRIMARY * MAX_SECONDARY
    row = np.empty(sigma.size * most, np.int64)
    axes = np.empty((sigma.size * most, 3, 3))
    histograms = np.empty((sigma.size * most, 64), np.float32)
    start = 0
    for i in range(sigma.size):
        place, direction, weight = gradients_around(values, position[i], sigma[i])
        found = frames(direction, weight)
        end = start + found.shape[0]
        row[start:end], axes[start:end] = i, found
        histograms[start:end] = describe(place, direction, weight, found)
        start = end
    return row[:start], axes[:start], histograms[:start]


@njit(cache=True)
def describe_along(values, position, sigma, axes):  # type: ignore[no-untyped-def]
    """(n, 64) histograms of n positions in one frame (3, 3)."""
    out = np.empty((sigma.size, 64), np.float32)
    one = axes.reshape(1, 3, 3)
    for i in range(sigma.size):
        place, direction, weight = gradients_around(values, position[i], sigma[i])
        out[i] = describe(place, direction, weight, one)[0]
    return out


def ranks(histogram: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(n, 64) ranks 0 to 63 of (n, 64) histograms, ties in the order of the bins (Toews & Wells)."""
    order = np.argsort(histogram, axis=1, kind="stable")
    out = np.empty(histogram.shape, np.uint8)
    np.put_along_axis(out, order, np.arange(histogram.shape[1], dtype=np.uint8)[None, :], axis=1)
    return out
