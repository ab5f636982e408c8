"""Rigid or similarity alignment of two volumes from their keypoints alone: the start of a registration.

No intensities are compared, so a start is found whatever the overlap of the two fields of view, and the number of
keypoints that agree on it is evidence of whether there is one at all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from popclust.features.sift3d import Keypoints

N_DRAWS = 2000
"""Triples of matches that are drawn as hypotheses, beside the one from every match's own frames."""
BLOCK = 128
"""Maps whose support is summed at once."""
N_POLISHED = 20
"""Best hypotheses that are refined by least squares before the winner is chosen."""


@dataclass(frozen=True)
class Matches:
    """Rows of two sets of keypoints that are each other's nearest descriptor."""

    fixed: NDArray[np.int64]
    """(n,) rows of the fixed volume's keypoints."""
    moving: NDArray[np.int64]
    """(n,) rows of the moving volume's keypoints."""
    distance: NDArray[np.float32]
    """(n,) Euclidean distance of the rank descriptors."""

    def __len__(self) -> int:
        """Number of matches."""
        return len(self.fixed)


@dataclass(frozen=True)
class RigidFit:
    """``moving = scale * rotation @ fixed + translation``, zyx mm."""

    rotation: NDArray[np.float64]
    """(3, 3) rotation of zyx vectors."""
    translation_mm: NDArray[np.float64]
    """(3,) zyx."""
    scale: float
    """1 unless a similarity was asked for."""
    n_inliers: int
    """Locations (not rows) of the fixed volume that agree: the evidence for the fit."""
    n_matches: int
    """Locations that had a match at all."""
    residual_mm: float
    """Root mean square distance of the inliers."""
    inlier: NDArray[np.bool_]
    """(match,) which of the matches agree."""

    def __call__(self, points_mm: ArrayLike) -> NDArray[np.float64]:
        """Map positions (n, 3) zyx mm of the fixed volume into the moving one."""
        return np.asarray(points_mm, dtype=np.float64) @ (self.scale * self.rotation).T + self.translation_mm


@dataclass(frozen=True)
class _Pairs:
    """What the matches say: positions, frames and scales on both sides."""

    fixed_mm: NDArray[np.float64]
    moving_mm: NDArray[np.float64]
    weight: NDArray[np.float64]
    """(n,) so that every fixed location counts once, however many frames it has."""
    location: NDArray[np.int64]
    """(n,) number of the fixed location."""


def match_keypoints(fixed: Keypoints, moving: Keypoints) -> Matches:
    """Mutual nearest neighbours among descriptors of the same contrast sign.

    Parameters
    ----------
    fixed, moving : Keypoints
        (n, 64) and (m, 64) descriptors of the two volumes.
    """
    rows_fixed, rows_moving, distance = [], [], []
    for sign in (-1, 1):
        a, b = np.flatnonzero(fixed.contrast == sign), np.flatnonzero(moving.contrast == sign)
        if len(a) and len(b):
            squared = squared_distances(fixed.descriptor[a], moving.descriptor[b])
            to_b, to_a = squared.argmin(axis=1), squared.argmin(axis=0)
            mutual = np.flatnonzero(to_a[to_b] == np.arange(len(a)))
            rows_fixed.append(a[mutual])
            rows_moving.append(b[to_b[mutual]])
            distance.append(np.sqrt(squared[mutual, to_b[mutual]]))
    if not rows_fixed:
        return Matches(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
    return Matches(np.concatenate(rows_fixed), np.concatenate(rows_moving), np.concatenate(distance).astype(np.float32))


def squared_distances(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(n, m) squared Euclidean distances of (n, 64) and (m, 64) ranks; exact, since they are small integers."""
    left, right = a.astype(np.float32), b.astype(np.float32)
    return (left**2).sum(axis=1)[:, None] + (right**2).sum(axis=1)[None, :] - 2.0 * (left @ right.T)


def fit_rigid(
    fixed: Keypoints,
    moving: Keypoints,
    matches: Matches,
    seed: int = 0,
    *,
    tolerance_mm: float = 25.0,
    similarity: bool = False,
) -> RigidFit:
    """The rigid map (or similarity) from fixed to moving that most matched locations agree on.

    Every match proposes the map that takes its frame to the other's; random triples propose theirs. Proposals are
    ranked by the sum of ``max(0, 1 - (distance / tolerance)^2)`` over the locations (MSAC), the best are refined
    by least squares on their inliers (Umeyama 1991) and the best refined one wins.

    Parameters
    ----------
    fixed, moving : Keypoints
        What was matched.
    matches : Matches
        From `match_keypoints`.
    seed : int
        Seed of the random triples.
    tolerance_mm : float
        Distance at which a match stops to support a map; about 25 between people, 5 within one.
    similarity : bool
        Fit an isotropic scale too.

    Raises
    ------
    ValueError
        Fewer than 3 matched locations, or a tolerance that is not positive.
    """
    if tolerance_mm <= 0:
        raise ValueError(f"tolerance_mm: must be positive, got {tolerance_mm}")
    pairs = _pairs(fixed, moving, matches)
    n_locations = len(np.unique(pairs.location))
    if n_locations < 3:
        raise ValueError(f"matches: a rigid fit needs 3 matched locations, got {n_locations}")
    maps = np.concatenate([_from_frames(fixed, moving, matches, similarity), _from_triples(pairs, seed, similarity)])
    support = _support(maps, pairs, tolerance_mm)
    best = np.argsort(-support, kind="stable")[:N_POLISHED]
    polished = np.stack([_polished(maps[i], pairs, tolerance_mm, similarity) for i in best])
    winner = polished[int(np.argmax(_support(polished, pairs, tolerance_mm)))]
    return _fit(winner, pairs, tolerance_mm)


def chance_inliers(
    fixed: Keypoints, moving: Keypoints, matches: Matches, seed: int = 0, *, tolerance_mm: float = 25.0
) -> int:
    """How many locations agree on the best rigid map when the matches are shuffled: what `n_inliers` must exceed.

    The largest of three shuffles, each fitted as `fit_rigid` does.
    """
    rng = np.random.default_rng(seed)
    shuffled = [Matches(matches.fixed, rng.permutation(matches.moving), matches.distance) for _ in range(3)]
    return max(fit_rigid(fixed, moving, m, seed, tolerance_mm=tolerance_mm).n_inliers for m in shuffled)


def _pairs(fixed: Keypoints, moving: Keypoints, matches: Matches) -> _Pairs:
    a = fixed.position_mm[matches.fixed].astype(np.float64)
    place = np.column_stack([a, fixed.scale_mm[matches.fixed]])
    _, location, count = np.unique(place, axis=0, return_inverse=True, return_counts=True)
    location = location.ravel()
    return _Pairs(a, moving.position_mm[matches.moving].astype(np.float64), 1.0 / count[location], location)


def _from_frames(fixed: Keypoints, moving: Keypoints, matches: Matches, similarity: bool) -> NDArray[np.float64]:
    """(n, 3, 4) the map that each match proposes by itself."""
    rotation = np.einsum("nki,nkj->nij", moving.frame[matches.moving], fixed.frame[matches.fixed]).astype(np.float64)
    ratio = moving.scale_mm[matches.moving] / fixed.scale_mm[matches.fixed] if similarity else np.ones(len(matches))
    linear = np.asarray(ratio, dtype=np.float64)[:, None, None] * rotation
    moved = np.einsum("nij,nj->ni", linear, fixed.position_mm[matches.fixed].astype(np.float64))
    return np.concatenate([linear, (moving.position_mm[matches.moving] - moved)[:, :, None]], axis=2)


def _from_triples(pairs: _Pairs, seed: int, similarity: bool) -> NDArray[np.float64]:
    """(n, 3, 4) maps from random triples of matches whose sides agree in length within a quarter."""
    rng = np.random.default_rng(seed)
    triples = rng.integers(len(pairs.location), size=(20 * N_DRAWS, 3))
    for i, j in ((0, 1), (1, 2), (2, 0)):  # most fall at the first side
        side_a, side_b = (
            np.sqrt(((at[triples[:, i]] - at[triples[:, j]]) ** 2).sum(axis=1))
            for at in (pairs.fixed_mm, pairs.moving_mm)
        )
        alike = np.abs(np.log(np.maximum(side_b, 1e-3) / np.maximum(side_a, 1e-3))) < np.log(1.25)
        triples = triples[(side_a > 20.0) & alike]
    triples = triples[:N_DRAWS]
    return _least_squares(pairs.fixed_mm[triples], pairs.moving_mm[triples], np.ones(3), similarity)


def _least_squares(
    a: NDArray[np.float64], b: NDArray[np.float64], weight: NDArray[np.float64], similarity: bool
) -> NDArray[np.float64]:
    """(n, 3, 4) rigid maps or similarities of least weighted squared distance from a to b (Umeyama 1991).

    `a` and `b` are n sets of k points each, (n, k, 3); `weight` is (k,).
    """
    w = weight / weight.sum()
    mean_a, mean_b = w @ a, w @ b
    centred_a, centred_b = a - mean_a[:, None], b - mean_b[:, None]
    u, singular, vt = np.linalg.svd(np.swapaxes(centred_b, 1, 2) @ (w[:, None] * centred_a))
    sign = np.ones((len(a), 3))
    sign[:, 2] = np.sign(np.linalg.det(u @ vt))
    scale = np.ones(len(a))
    if similarity:
        spread = (centred_a**2).sum(axis=2) @ w
        scale = np.divide((singular * sign).sum(axis=1), spread, out=scale, where=spread > 0)
    linear = scale[:, None, None] * (u * sign[:, None]) @ vt
    return np.concatenate([linear, (mean_b - np.einsum("nij,nj->ni", linear, mean_a))[:, :, None]], axis=2)


def _squared_distances(maps: NDArray[np.float64], pairs: _Pairs) -> NDArray[np.float64]:
    """(map, match) squared distance between where a map takes the fixed position and its match."""
    at = np.concatenate([pairs.fixed_mm.T, np.ones((1, len(pairs.fixed_mm)))])
    away = (maps.reshape(-1, 4) @ at).reshape(len(maps), 3, -1)
    away -= pairs.moving_mm.T
    away *= away
    return np.asarray(away.sum(axis=1))


def _support(maps: NDArray[np.float64], pairs: _Pairs, tolerance_mm: float) -> NDArray[np.float64]:
    """(map,) MSAC score, in blocks that stay in the processor's cache."""
    blocks = [
        np.maximum(0.0, 1.0 - _squared_distances(maps[i : i + BLOCK], pairs) / tolerance_mm**2) @ pairs.weight
        for i in range(0, len(maps), BLOCK)
    ]
    return np.concatenate(blocks)


def _polished(start: NDArray[np.float64], pairs: _Pairs, tolerance_mm: float, similarity: bool) -> NDArray[np.float64]:
    """Least squares on the inliers, again and again, until they stay the same."""
    best, before = start, np.zeros(len(pairs.location), dtype=bool)
    for _ in range(20):
        inlier = _squared_distances(best[None], pairs)[0] < tolerance_mm**2
        if len(np.unique(pairs.location[inlier])) < 3 or np.array_equal(inlier, before):
            break
        a, b = pairs.fixed_mm[None, inlier], pairs.moving_mm[None, inlier]
        best = _least_squares(a, b, pairs.weight[inlier], similarity)[0]
        before = inlier
    return best


def _fit(matrix: NDArray[np.float64], pairs: _Pairs, tolerance_mm: float) -> RigidFit:
    squared = _squared_distances(matrix[None], pairs)[0]
    inlier = squared < tolerance_mm**2
    scale = float(np.cbrt(np.linalg.det(matrix[:, :3])))
    residual = float(np.sqrt(squared[inlier].mean())) if inlier.any() else float("inf")
    return RigidFit(
        rotation=matrix[:, :3] / scale,
        translation_mm=matrix[:, 3],
        scale=scale,
        n_inliers=len(np.unique(pairs.location[inlier])),
        n_matches=len(np.unique(pairs.location)),
        residual_mm=residual,
        inlier=inlier,
    )
