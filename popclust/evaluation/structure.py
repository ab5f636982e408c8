"""Are there groups at all? The reported number of groups against one population that was cut into as many pieces.

k-means finds K groups in anything. What it cannot do in one population is to leave as little within them: the sum of
squares that is left, scanners aside, is compared with that in populations of one kind, which have the variance and
the shape of every leading direction of the volumes, but no second mode in any.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans

N_DIRECTIONS = 10
"""Leading directions in which groups are looked for."""
MIN_OF_SCANNER = 5
"""Volumes of a scanner whose mean is its own; those of rarer scanners have one together."""
MAX_VOLUMES = 2000
"""Volumes looked at, drawn by the seed: more than these say nothing new."""
LEVEL = 0.05
"""Groups are claimed where one population is as compact less often than this."""
_N_STARTS = 3
_GRID = 256


@dataclass(frozen=True)
class Structure:
    """What one population would look like beside what is there."""

    p_value: float
    """Share of one-kind populations that k-means leaves as compact, the real one counted among them."""
    gap: float
    """Mean logarithm of the sum of squares within groups there, less that here: 0 is one population."""
    n_null: int
    """One-kind populations drawn."""

    @property
    def has_groups(self) -> bool | None:
        """Whether there are groups beyond one population that was cut into pieces; None where too few were drawn."""
        return None if 1 / (1 + self.n_null) > LEVEL else self.p_value <= LEVEL


def examine_structure(
    descriptors: NDArray[np.float64], n_clusters: int, scanner: NDArray | None = None, n_null: int = 99, seed: int = 0
) -> Structure:
    """Compare K groups of volumes with K pieces of one population.

    Volumes are taken about their scanner's mean (two scanners are no two groups), in their leading directions. A
    population of one kind draws every direction by itself from the density of those volumes, smoothed until it has a
    single mode (Silverman 1981), and of the same variance.

    Parameters
    ----------
    descriptors : (volume, feature) array
        What groups were formed on.
    n_clusters : int
        K.
    scanner : (volume,) array, optional
        Scanner of each volume.
    n_null : int
        Populations of one kind.
    seed : int
        Of the draws.

    References
    ----------
    Silverman BW. Using kernel density estimates to investigate multimodality. J R Stat Soc B 1981.
    Tibshirani R, Walther G, Hastie T. Estimating the number of clusters via the gap statistic. J R Stat Soc B 2001.
    """
    rng = np.random.default_rng([seed, n_clusters])
    labels = np.zeros(len(descriptors), np.int64) if scanner is None else _scanner_codes(np.asarray(scanner))
    if len(descriptors) > MAX_VOLUMES:
        drawn = np.sort(rng.permutation(len(descriptors))[:MAX_VOLUMES])
        descriptors, labels = descriptors[drawn], labels[drawn]
    if n_null == 0:
        return Structure(1.0, 0.0, 0)
    if len(np.unique(descriptors, axis=0)) <= n_clusters:
        return Structure(1.0, 0.0, n_null)
    means = np.stack([descriptors[labels == s].mean(axis=0) for s in range(int(labels.max()) + 1)])[labels]
    axes = _leading_axes(descriptors - means)
    own = (descriptors - means) @ axes
    observed = _log_within(own, n_clusters)
    widths = [unimodal_width(column) for column in own.T]
    null = np.array([_log_within(_one_kind(own, widths, rng), n_clusters) for _ in range(n_null)])
    p_value = (1 + np.sum(null <= observed)) / (1 + n_null)
    return Structure(float(p_value), float(null.mean() - observed), n_null)


def unimodal_width(values: NDArray[np.float64]) -> float:
    """The smallest width of a Gaussian kernel at which the density of some values (n,) has one mode; by bisection."""
    spread = float(values.std())
    if spread < 1e-12:
        return 0.0
    grid = np.linspace(values.min() - spread, values.max() + spread, _GRID)
    # counted into fine bins first: the density is a convolution whose cost does not grow with the volumes
    step = grid[1] - grid[0]
    counts = np.bincount(np.clip(np.rint((values - grid[0]) / step), 0, _GRID - 1).astype(int), minlength=_GRID)
    far = (np.arange(_GRID)[:, None] - np.arange(_GRID)[None]) * step
    low, high = 0.02 * spread, 2.0 * spread
    for _ in range(12):
        width = float(np.sqrt(low * high))
        slope = np.diff(np.exp(-0.5 * (far / width) ** 2) @ counts)
        if np.sum((slope[:-1] > 0) & (slope[1:] <= 0)) > 1:
            low = width
        else:
            high = width
    return high


def _one_kind(own: NDArray[np.float64], widths: list[float], rng: np.random.Generator) -> NDArray[np.float64]:
    """Volumes (volume, direction) of one kind: every direction drawn by itself from its smoothed density."""
    out = np.empty_like(own)
    for j, width in enumerate(widths):
        variance = max(float(own[:, j].var()), 1e-24)
        drawn = own[rng.integers(0, len(own), len(own)), j] + width * rng.normal(0.0, 1.0, len(own))
        out[:, j] = drawn / np.sqrt(1 + width**2 / variance)
    return out


def _log_within(points: NDArray[np.float64], n_clusters: int) -> float:
    """Logarithm of the sum of squares that k-means leaves within groups."""
    return float(np.log(KMeans(n_clusters, n_init=_N_STARTS, random_state=0).fit(points).inertia_ + 1e-300))


def _leading_axes(centred: NDArray[np.float64]) -> NDArray[np.float64]:
    """(feature, direction) along which volumes differ most."""
    _, size, axes = np.linalg.svd(centred, full_matrices=False)
    n = min(N_DIRECTIONS, int(np.sum(size > 1e-9 * max(size[0], 1e-300))))
    return np.asarray(axes[: max(1, n)].T)


def _scanner_codes(scanner: NDArray) -> NDArray[np.int64]:
    """(volume,) number of each scanner; rare ones have one together."""
    _, code, size = np.unique(scanner.astype(str), return_inverse=True, return_counts=True)
    kept = np.where(size[code] >= MIN_OF_SCANNER, code, -1)
    return np.unique(kept, return_inverse=True)[1].ravel().astype(np.int64)
