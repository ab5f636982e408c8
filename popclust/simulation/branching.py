"""Vessels and airways that branch until they fill the lungs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from popclust.simulation.anatomy import LUNG_DEPTH, thorax

_HILA_MM = {-1: ((-2.0, 14.0, -36.0), (-26.0, 14.0, -40.0)), 1: ((7.0, 17.0, 40.0), (-24.0, 16.0, 44.0))}
"""Where the arteries and the veins of the right (-1) and left (1) lung start, zyx."""

_CANONICAL_SEED = 20140917
_TRACHEA = ((150.0, 8.0, 0.0, 8.5), (70.0, 12.0, -1.0, 8.5), (2.0, 18.0, 0.0, 8.5))
_BRONCHI = {
    -1: ((2.0, 18.0, 0.0, 7.5), (-14.0, 18.0, -20.0, 7.0), (-22.0, 18.0, -36.0, 6.0)),
    1: ((2.0, 18.0, 0.0, 7.0), (-14.0, 20.0, 24.0, 6.5), (-20.0, 20.0, 42.0, 5.5)),
}


@dataclass(frozen=True)
class LungTrees:
    """What all people share of the trees; each adds twigs of their own."""

    vessels: NDArray[np.float64]
    """(n, 8) tubes, see :mod:`popclust.simulation.painting`."""
    airways: NDArray[np.float64]
    """(n, 8) lumina; walls are added by whoever draws them."""
    leaves: NDArray[np.float64]
    """(n, 7) ends of the shared vessels: position z, y, x, direction z, y, x, radius."""


@cache
def lung_trees() -> LungTrees:
    """Grow the shared trees (a fraction of a second, once per process)."""
    rng = np.random.default_rng(_CANONICAL_SEED)
    points = lung_points(24000, rng)
    vessels, leaves, airways = [], [], [_chain(_TRACHEA)]
    for side, starts in _HILA_MM.items():
        own = points[points[:, 2] * side > 0]
        for start, radius in zip(starts, (6.5, 5.5), strict=True):
            tubes, ends = _grow(np.array(start), own[rng.random(len(own)) < 0.5], radius, 0.6, rng)
            vessels.append(tubes)
            leaves.append(ends)
        airways.append(_chain(_BRONCHI[side]))
        tubes, _ = _grow(np.array(_BRONCHI[side][-1][:3]), own[::3], 4.4, 1.9, rng)
        airways.append(tubes)
    return LungTrees(np.concatenate(vessels), np.concatenate(airways), np.concatenate(leaves))


def lung_points(n: int, rng: np.random.Generator, min_depth_mm: float = 3.0) -> NDArray[np.float64]:
    """Random positions (n, 3) zyx mm in the atlas lungs, at least so deep below their surface."""
    anatomy = thorax()
    inside = np.argwhere(anatomy.channel(LUNG_DEPTH) > min_depth_mm)
    chosen = inside[rng.integers(len(inside), size=n)] + rng.uniform(-0.5, 0.5, (n, 3))
    return chosen * np.asarray(anatomy.spacing_mm) + np.asarray(anatomy.origin_mm)


def twigs(leaves: NDArray, rng: np.random.Generator, n_generations: int = 2) -> NDArray[np.float64]:
    """Twigs (n, 8) of one person, forking at random from the ends of the shared vessels."""
    position, direction, radius = leaves[:, :3], leaves[:, 3:6], leaves[:, 6]
    tubes = []
    for _ in range(n_generations):
        position, direction, radius = (np.repeat(a, 2, axis=0) for a in (position, direction, radius))
        direction = direction + 0.55 * rng.standard_normal(direction.shape)
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        radius = radius * rng.uniform(0.66, 0.86, radius.shape)
        end = position + direction * (radius * rng.uniform(7.0, 15.0, radius.shape))[:, None]
        tubes.append(np.column_stack([position, end, radius, 0.9 * radius]))
        position = end
    return np.concatenate(tubes)


def _chain(nodes: tuple[tuple[float, float, float, float], ...]) -> NDArray[np.float64]:
    line = np.asarray(nodes, dtype=np.float64)
    return np.column_stack([line[:-1, :3], line[1:, :3], line[:-1, 3], line[1:, 3]])


def _grow(
    start: NDArray, points: NDArray, radius_mm: float, min_radius_mm: float, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Branch towards the centres of ever smaller parts of a cloud of points, with Murray's law for the radii."""
    tubes, ends = [], []
    stack = [(start, points, radius_mm)]
    while stack:
        at, cloud, radius = stack.pop()
        centre = cloud.mean(axis=0)
        reach = rng.uniform(0.45, 0.65)
        end = at + reach * (centre - at)
        bend = at + 0.5 * (end - at) + 0.05 * np.linalg.norm(end - at) * rng.standard_normal(3)
        slim = radius * 0.97
        tubes += [[*at, *bend, radius, 0.985 * radius], [*bend, *end, 0.985 * radius, slim]]
        if slim < min_radius_mm or len(cloud) < 20:
            direction = (end - bend) / (np.linalg.norm(end - bend) + 1e-9)
            ends.append([*end, *direction, slim])
            continue
        axis = np.linalg.svd(cloud[:200] - cloud[:200].mean(axis=0), full_matrices=False)[2][0]
        height = (cloud - centre) @ (axis + 0.25 * rng.standard_normal(3))
        cut = np.quantile(height, rng.uniform(0.35, 0.65))
        for part in (cloud[height <= cut], cloud[height > cut]):
            share = len(part) / len(cloud)
            stack.append((end, part, slim * share ** (1 / 2.6)))
    return np.asarray(tubes), np.asarray(ends)
