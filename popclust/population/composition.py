"""Which compositions are usual in a population, of words or of densities: how far one lies, by how parts vary together.

A kind that nobody has seen may lie no farther from the groups than their own volumes do, and yet in a direction in
which volumes never differ. Distance in units of the population's own covariance (Mahalanobis) sees that; with fewer
volumes than parts the covariance is drawn towards a multiple of the identity, as much as its own error asks for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import ledoit_wolf

_FLOOR = 1e-6
"""Least variance of a direction, in units of the mean one: what nobody has must not decide alone."""
_LEAST_SD = 0.1
"""Least standard deviation of a kind with a single part: a population may have next to nothing of it."""


@dataclass(frozen=True)
class Usual:
    """Mean and shrunk precision of compositions of words or bins, every kind (vocabulary, histogram) by itself."""

    means: NDArray[np.float64]
    """(word,) mean composition."""
    precision: NDArray[np.float64]
    """(word, word) inverse of the shrunk covariance; 0 between kinds, and where all volumes are alike."""

    def distances(self, compositions: NDArray[np.float64], kind_of_word: NDArray) -> NDArray[np.float64]:
        """(volume, kind) distances of compositions (volume, word) from the population's mean; kinds as they come."""
        moved = compositions - self.means
        squared = moved * (moved @ self.precision)
        found = np.zeros((len(compositions), len(_kinds(kind_of_word))))
        for at, kind in enumerate(_kinds(kind_of_word)):
            found[:, at] = squared[:, kind_of_word == kind].sum(axis=1)
        return np.sqrt(np.maximum(found, 0))


def usual_compositions(compositions: NDArray[np.float64], kind_of_word: NDArray) -> tuple[Usual, NDArray[np.float64]]:
    """Learn what is usual, and how far each volume lies from what is usual in the others.

    Parameters
    ----------
    compositions : (volume, word) array
        Roots of shares.
    kind_of_word : (word,) array of str
        What each is a share of.

    Returns
    -------
    Usual
        Of all volumes.
    (volume, kind) array
        Distance of each volume, itself left out of mean and covariance, but not of how much that is shrunk.

    References
    ----------
    Ledoit O, Wolf M. A well-conditioned estimator for large-dimensional covariance matrices. J Multivar Anal 2004.
    """
    n_volumes, n_words = compositions.shape
    means, precision = compositions.mean(axis=0), np.zeros((n_words, n_words))
    left_out = np.zeros((n_volumes, len(_kinds(kind_of_word))))
    for at, kind in enumerate(_kinds(kind_of_word)):
        own = np.flatnonzero(kind_of_word == kind)
        moved = compositions[:, own] - means[own]
        is_single = len(own) == 1
        if n_volumes < 2 or not (moved.any() or is_single):
            continue
        if is_single:
            covariance, shrinkage = moved.T @ moved / n_volumes, 0.0
        else:
            covariance, shrinkage = ledoit_wolf(moved, assume_centered=True)
        floor = _LEAST_SD**2 if is_single else _FLOOR * np.trace(covariance) / len(own)
        inverse = np.linalg.inv(covariance + floor * np.eye(len(own)))
        precision[np.ix_(own, own)] = inverse
        left_out[:, at] = _left_out(np.einsum("vw,vw->v", moved @ inverse, moved), float(shrinkage))
        if is_single:  # where nobody has any, what one in twenty has is nothing: a little is no stranger than that
            left_out[:, at] = np.maximum(left_out[:, at], 1.0)
    return Usual(means, precision), left_out


def _kinds(kind_of_word: NDArray) -> list[str]:
    return list(dict.fromkeys(kind_of_word.tolist()))


def _left_out(squared: NDArray[np.float64], shrinkage: float) -> NDArray[np.float64]:
    """Distances (volume,) from the others, of squared ones from all: without a volume its own outer product is missing.

    The mean moves away by n / (n - 1) of the volume's distance; the covariance loses (1 - shrinkage) / (n - 1) of its
    outer product, whose effect on the inverse is a number (Sherman and Morrison).
    """
    n = len(squared)
    rest = np.maximum(1 - (1 - shrinkage) / (n - 1) * squared, 1e-12)
    return np.asarray(n / (n - 1) * np.sqrt(np.maximum(squared, 0) / rest))
