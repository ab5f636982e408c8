"""What a scanner does to features, learnt from degraded copies of some volumes, and left out.

The same lung, noisier or blurred, has other features: they move along few directions, and differently where the lung is
even and where it is not. So the moves are averaged over the features of one kind (words learnt from the volumes as they
are), and the directions are those along which such moves are largest beside the variance between all features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from sklearn.cluster import MiniBatchKMeans

N_KINDS = 30
"""Kinds of features over which moves are averaged."""
MIN_OF_KIND = 20
"""Features of a kind that a volume must have: the mean of fewer is chance."""
RIDGE = 1e-3
"""Added to every feature's variance: a direction in which nothing varies is no evidence."""


@dataclass(frozen=True)
class Nuisance:
    """Directions that follow the scanner."""

    projection: NDArray[np.float64]
    """(d, d) map of scaled features (columns) that leaves them out."""
    share: NDArray[np.float64]
    """(d,) what the copies move, over the variance of all features, along each direction; the largest first."""
    n_removed: int
    """Directions that are left out."""


def no_nuisance(n_features: int) -> Nuisance:
    """Nothing is left out."""
    return Nuisance(np.eye(n_features), np.zeros(n_features), 0)


def find_nuisance(pairs: Sequence[NDArray[np.floating]], max_share: float, seed: int) -> Nuisance:
    """Learn from degraded copies which directions follow the scanner.

    Solves W v = share T v, where T is the covariance of the volumes' features and W the second moment of the mean moves
    of features of one kind (a linear discriminant between a volume and its copies, turned round). Directions with a
    larger share than `max_share` are projected out along T v, so that no feature left tells of v.

    Parameters
    ----------
    pairs : sequence of (copy, n, d) arrays
        Scaled features of one volume at the same places: first as it is, then of its copies.
    max_share : float
        Between 0 and 1.
    seed : int
        Of the kinds.

    Returns
    -------
    Nuisance
        Chosen from the pairs alone; nothing may be left out.

    Raises
    ------
    ValueError
        No volume has features.
    """
    scaled = [np.asarray(p, dtype=np.float64) for p in pairs if p.shape[1] > 0]
    if not scaled:
        raise ValueError("pairs: at least one volume with features is needed")
    rows = np.concatenate([p[0] for p in scaled])
    n_kinds = min(N_KINDS, len(np.unique(rows, axis=0)))
    kinds = MiniBatchKMeans(n_kinds, random_state=seed, n_init=3).fit(rows)
    within = np.mean([_moves(p, kinds.predict(p[0]), n_kinds) for p in scaled], axis=0)
    between = np.cov(rows.T, bias=True).reshape(within.shape) + RIDGE * np.eye(len(within))
    share, directions = eigh(within, between)
    share, directions = np.clip(share[::-1], 0.0, None), directions[:, ::-1]
    n_removed = int((share > max_share).sum())
    removed = directions[:, :n_removed]
    projection = np.eye(len(within)) - between @ removed @ removed.T
    return Nuisance(projection, share, n_removed)


def _moves(pair: NDArray[np.float64], kind: NDArray[np.integer], n_kinds: int) -> NDArray[np.float64]:
    """(d, d) second moment of one volume's moves, the mean over its copies."""
    moment = np.zeros((pair.shape[2],) * 2)
    for number in range(n_kinds):
        is_kind = kind == number
        if is_kind.sum() >= MIN_OF_KIND:
            moved = pair[1:, is_kind].mean(axis=1) - pair[0, is_kind].mean(axis=0)
            moment += is_kind.mean() * moved.T @ moved / len(moved)
    return moment
