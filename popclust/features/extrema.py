"""Extrema of the difference of Gaussians over space and scale: where keypoints are, to a fraction of a voxel.

Looking for voxels above their 80 neighbours finds most extrema but depends on how the grid happens to lie: turn the
volume a little and a third of them are gone. So voxels that are extrema in space, and nearly so in scale, only start
a Newton ascent over position and level, and what it settles on is a keypoint. Extrema under the strict rule that do
not settle (flat tops) are kept and marked, for the caller to demand more of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from popclust.features.scale_space import Octave

SCALE_SLACK = 0.2
"""How far a neighbour at the next level may exceed a voxel that starts an ascent, as a share of its value."""
SEARCH_SHARE = 0.8
"""Ascents start from this share of the least contrast: the top lies higher than the voxel below it."""
MAX_OFFSET = 0.85
"""An ascent has settled when the quadratic's top is within this many voxels and levels of the voxel it is fitted at."""
N_STEPS = 6
"""Steps of an ascent at most; it may end 3 voxels from where it began."""
MIN_CURVATURE = 0.1
"""Least pivot of the Hessian (HU per voxel or level squared): anything flatter is no extremum."""


@dataclass(frozen=True)
class Extrema:
    """Extrema of one octave, in voxels of that octave."""

    position: NDArray[np.float64]
    """(n, 3) fractional index zyx."""
    level: NDArray[np.float64]
    """(n,) fractional level."""
    value_hu: NDArray[np.float64]
    """(n,) interpolated difference of Gaussians: negative for what is brighter than its surroundings."""
    settled: NDArray[np.bool_]
    """(n,) the ascent settled; otherwise an extremum of the 80 neighbours alone."""


def find_extrema(octave: Octave, min_contrast_hu: float) -> Extrema:
    """Extrema of an octave's differences of Gaussians with at least this contrast.

    One blob can appear more than once, from ascents that began at different voxels: see `strongest_of_each_blob`.
    """
    starts = _scan(octave.differences, np.float32(SEARCH_SHARE * min_contrast_hu), np.float32(1.0 + SCALE_SLACK))
    found = _ascend(octave.differences, starts)
    # Ascents that ended at the same voxel are bit for bit the same.
    found = np.unique(found[np.abs(found[:, 4]) >= min_contrast_hu], axis=0)
    return Extrema(found[:, 1:4], found[:, 0], found[:, 4], found[:, 5] == 1.0)


@njit(cache=True)
def strongest_of_each_blob(position, sigma, value, closeness, level_ratio):  # type: ignore[no-untyped-def]
    """(m,) rows, in the order given, that no earlier row of the same sign is close to.

    Close means nearer than `closeness` sigmas and less than a factor `level_ratio` in scale.
    """
    kept = np.empty(sigma.size, np.int64)
    n = 0
    for i in range(sigma.size):
        reach = (closeness * sigma[i]) ** 2
        is_new = True
        for j in range(n):
            k = kept[j]
            if value[k] * value[i] < 0.0 or max(sigma[k] / sigma[i], sigma[i] / sigma[k]) >= level_ratio:
                continue
            d2 = 0.0
            for axis in range(3):
                d2 += (position[k, axis] - position[i, axis]) ** 2
            if d2 < reach:
                is_new = False
                break
        if is_new:
            kept[n] = i
            n += 1
    return kept[:n]


@njit(cache=True)
def _scan(differences, threshold, slack):  # type: ignore[no-untyped-def]
    """(n, 5) level, z, y, x and whether strict, of voxels above their neighbours (or below them)."""
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
                    if sign * row[x - 1] >= value or sign * row[x + 1] > value:
                        continue
                    if not _is_above(differences[level], z, y, x, sign, value, True):
                        continue
                    strict = 1
                    for step in (-1, 1):
                        if not _is_above(differences[level + step], z, y, x, sign, value, False):
                            strict = 0
                            if not _is_above(differences[level + step], z, y, x, sign, value * slack, False):
                                strict = -1
                                break
                    if strict >= 0:
                        found.append((level, z, y, x, strict))
    out = np.empty((len(found), 5), np.int64)
    for i in range(len(found)):
        for j in range(5):
            out[i, j] = found[i][j]
    return out


@njit(cache=True)
def _is_above(plane, z, y, x, sign, value, is_own):  # type: ignore[no-untyped-def]
    """No neighbour is higher; of equal ones on the voxel's own level the last in scan order counts as the top."""
    for dz in range(-1, 2):
        for dy in range(-1, 2):
            row = plane[z + dz, y + dy]
            for dx in range(-1, 2):
                rival = sign * row[x + dx]
                if rival > value or (is_own and rival == value and 9 * dz + 3 * dy + dx < 0):
                    return False
    return True


@njit(cache=True)
def _ascend(differences, starts):  # type: ignore[no-untyped-def]
    """(n, 6) level, z, y, x, value and whether settled; starts that neither settle nor are strict are left out."""
    out = np.empty((starts.shape[0], 6))
    place = np.empty(4, np.int64)
    n = 0
    for i in range(starts.shape[0]):
        place[:] = starts[i, :4]
        settled, offset, value = _newton(differences, place)
        if settled and np.max(np.abs(place[1:] - starts[i, 1:4])) <= 3:
            out[n, :4], out[n, 4], out[n, 5] = place + offset, value, 1.0
            n += 1
        elif starts[i, 4] == 1:
            place[:] = starts[i, :4]
            gradient, hessian = _derivatives(differences, place)
            # Along each axis alone the parabola through an extremum cannot leave its neighbourhood.
            offset = -gradient / np.diag(hessian)
            out[n, :4], out[n, 5] = place + offset, 0.0
            out[n, 4] = differences[place[0], place[1], place[2], place[3]] + 0.5 * np.dot(gradient, offset)
            n += 1
    return out[:n]


@njit(cache=True)
def _newton(d, place):  # type: ignore[no-untyped-def]
    """Move `place` to the voxel below the top; whether it settled, the top's offset from the voxel and its value."""
    start = d[place[0], place[1], place[2], place[3]]
    sign = 1.0 if start > 0 else -1.0
    offset = np.zeros(4)
    for _ in range(N_STEPS):
        gradient, hessian = _derivatives(d, place)
        is_concave = _solve(-sign * hessian, sign * gradient, offset)
        if is_concave and np.max(np.abs(offset)) <= MAX_OFFSET:
            value = d[place[0], place[1], place[2], place[3]] + 0.5 * np.dot(gradient, offset)
            return True, offset, value
        # Where the surface does not curve down every way there is no top to aim at: go uphill.
        if not is_concave:
            offset[:] = np.sign(sign * gradient)
        moved = False
        for axis in range(4):
            step = 1 if offset[axis] > 0.5 else (-1 if offset[axis] < -0.5 else 0)
            if step != 0 and 1 <= place[axis] + step <= d.shape[axis] - 2:
                place[axis] += step
                moved = True
        if not moved or d[place[0], place[1], place[2], place[3]] * sign <= 0.0:
            break
    return False, offset, 0.0


@njit(cache=True)
def _solve(matrix, right, out):  # type: ignore[no-untyped-def]
    """Solve a 4 x 4 system by Cholesky's factors; False where the matrix is not positive definite."""
    low = np.zeros((4, 4))
    for i in range(4):
        for j in range(i + 1):
            rest = matrix[i, j]
            for k in range(j):
                rest -= low[i, k] * low[j, k]
            if i == j:
                if rest <= MIN_CURVATURE:
                    return False
                low[i, i] = np.sqrt(rest)
            else:
                low[i, j] = rest / low[j, j]
    for i in range(4):
        out[i] = right[i]
        for k in range(i):
            out[i] -= low[i, k] * out[k]
        out[i] /= low[i, i]
    for i in range(3, -1, -1):
        for k in range(i + 1, 4):
            out[i] -= low[k, i] * out[k]
        out[i] /= low[i, i]
    return True


@njit(cache=True, fastmath=True)
def _derivatives(d, place):  # type: ignore[no-untyped-def]
    """Central differences of first and second order along level, z, y, x."""
    gradient = np.empty(4)
    hessian = np.empty((4, 4))
    s, z, y, x = place
    twice = 2.0 * d[s, z, y, x]
    for a in range(4):
        # The neighbours along axis a: e is 1 on that axis alone.
        e0, e1, e2, e3 = int(a == 0), int(a == 1), int(a == 2), int(a == 3)
        up = d[s + e0, z + e1, y + e2, x + e3]
        down = d[s - e0, z - e1, y - e2, x - e3]
        gradient[a] = 0.5 * (up - down)
        hessian[a, a] = up + down - twice
        for b in range(a + 1, 4):
            f1, f2, f3 = int(b == 1), int(b == 2), int(b == 3)
            hessian[a, b] = 0.25 * (
                d[s + e0, z + e1 + f1, y + e2 + f2, x + e3 + f3]
                + d[s - e0, z - e1 - f1, y - e2 - f2, x - e3 - f3]
                - d[s + e0, z + e1 - f1, y + e2 - f2, x + e3 - f3]
                - d[s - e0, z - e1 + f1, y - e2 + f2, x - e3 + f3]
            )
            hessian[b, a] = hessian[a, b]
    return gradient, hessian
