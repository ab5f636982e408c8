"""Visual vocabularies: spatio-visual words learnt from the features of a whole population."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import zarr
from numba import njit
from numpy.typing import NDArray
from sklearn.cluster import MiniBatchKMeans

from popclust import schema
from popclust.population.nuisance import Nuisance, no_nuisance
from popclust.settings import VocabularySettings

VOCABULARIES = ("haralick", "micro_sift", "macro_sift")
"""The three vocabularies that are learnt, in the order in which their words are concatenated."""
FOCAL = "focal"
"""The one word that nobody learns, after all others: texture samples near a focal density."""
COUNTED = (*VOCABULARIES, FOCAL)
"""All whose words are counted, in their order."""

_BLOCK = 1024
"""Features whose distances to all words are held at once."""
_LIMIT = 4.0
"""Scaled features are cut here, in units of the robust spread: one metal clip must not own a word."""


@dataclass(frozen=True)
class FeatureScaling:
    """Robust scaling of features and positions to comparable variance.

    A row of the space in which words are learnt is ``[P (f - median) / spread / sqrt(d), w (p - mean) / sd / sqrt(3)]``
    where P leaves out what follows the scanner: features and position each have a summed variance near 1 and w^2.
    """

    centre: NDArray[np.float64]
    """(d,) median of each feature."""
    spread: NDArray[np.float64]
    """(d,) interquartile range of each feature over 1.349, so that it is 1 for a standard normal one."""
    position_centre_mm: NDArray[np.float64]
    """(3,) mean position in the atlas, zyx."""
    position_spread_mm: NDArray[np.float64]
    """(3,) standard deviation of the position."""
    spatial_weight: float
    """w."""
    nuisance: Nuisance
    """P, and what it leaves out."""

    @classmethod
    def fitted(
        cls, features: NDArray[np.floating], positions_mm: NDArray[np.floating], spatial_weight: float
    ) -> FeatureScaling:
        """Learn the scaling from training rows.

        Parameters
        ----------
        features : (n, d) array
            Features.
        positions_mm : (n, 3) array
            Their positions in the atlas, zyx.
        spatial_weight : float
            Weight of the position.

        Raises
        ------
        ValueError
            No rows.
        """
        if len(features) == 0:
            raise ValueError("features: a scaling needs at least one row")
        low, centre, high = np.percentile(features.astype(np.float64), [25, 50, 75], axis=0)
        position = positions_mm.astype(np.float64)
        return cls(
            centre=centre,
            spread=_positive((high - low) / 1.349, features.std(axis=0, dtype=np.float64)),
            position_centre_mm=position.mean(axis=0),
            position_spread_mm=_positive(position.std(axis=0), np.ones(3)),
            spatial_weight=spatial_weight,
            nuisance=no_nuisance(features.shape[1]),
        )

    @classmethod
    def empty(cls, n_features: int, spatial_weight: float) -> FeatureScaling:
        """For features that nobody has."""
        nothing = no_nuisance(n_features)
        return cls(np.zeros(n_features), np.ones(n_features), np.zeros(3), np.ones(3), spatial_weight, nothing)

    def without(self, nuisance: Nuisance) -> FeatureScaling:
        """The same with something left out."""
        return replace(self, nuisance=nuisance)

    def standardised(self, features: NDArray[np.floating]) -> NDArray[np.float64]:
        """Features (..., d) in units of their robust spread, cut at `_LIMIT`."""
        rows = features.reshape(-1, features.shape[-1])
        out = np.empty(rows.shape)
        _standardise(rows, self.centre, self.spread, 1.0, 1.0, out)
        return out.reshape(features.shape)

    def apply(self, features: NDArray[np.floating], positions_mm: NDArray[np.floating]) -> NDArray[np.float32]:
        """Rows (n, d + 3) of the space in which words are learnt."""
        n, width = features.shape
        out = np.empty((n, width + 3), np.float32)
        visual = np.empty((n, width)) if self.nuisance.n_removed else out[:, :width]
        _standardise(features, self.centre, self.spread, np.sqrt(width), 1.0, visual)
        if self.nuisance.n_removed:
            out[:, :width] = visual @ self.nuisance.projection.T
        weight = self.spatial_weight / np.sqrt(3)
        _standardise(positions_mm, self.position_centre_mm, self.position_spread_mm, 1.0, weight, out[:, width:])
        return out


_FAR = 0.95


@dataclass(frozen=True)
class Nearest:
    """The nearest words of some features."""

    word: NDArray[np.intp]
    """(n,) index of the word."""
    distance: NDArray[np.float32]
    """(n,) Euclidean distance to it, in the scaled space."""

    @property
    def far(self) -> float:
        """What one in twenty of the features exceeds: what lies in a part of the lung alone moves their mean little."""
        return float(np.quantile(self.distance, _FAR)) if len(self.distance) else 0.0


@dataclass(frozen=True)
class Vocabulary:
    """Visual words: centres in the scaled space of features and positions."""

    name: str
    """One of :data:`VOCABULARIES`."""
    scaling: FeatureScaling
    """How features come into the words' space."""
    centres: NDArray[np.float32]
    """(word, d + 3) centres."""

    def nearest(self, features: NDArray[np.floating], positions_mm: NDArray[np.floating]) -> Nearest:
        """The nearest word of each feature, the lower index on ties, and how far it is; nothing if no words are."""
        if len(self.centres) == 0:  # nobody of the population had such features
            features, positions_mm = features[:0], positions_mm[:0]
        word = np.empty(len(features), dtype=np.intp)
        squared = np.empty(len(features), dtype=np.float32)
        n_words, width = self.centres.shape
        # |x - c|^2 / 2 = |x|^2 / 2 + (x, 1) . (-c, |c|^2 / 2): one product, into a table that stays in the cache
        table = np.vstack([-self.centres.T, 0.5 * np.einsum("wd,wd->w", self.centres, self.centres)])
        rows = np.ones((min(_BLOCK, len(features)), width + 1), dtype=np.float32)
        halves = np.empty((len(rows), n_words), dtype=np.float32)
        for start in range(0, len(features), _BLOCK):
            stop = min(len(features), start + _BLOCK)
            some, half = rows[: stop - start, :-1], halves[: stop - start]
            some[:] = self.scaling.apply(features[start:stop], positions_mm[start:stop])
            np.matmul(rows[: stop - start], table, out=half)
            word[start:stop] = half.argmin(axis=1)
            least = half[np.arange(stop - start), word[start:stop]]
            squared[start:stop] = 2 * least + np.einsum("nd,nd->n", some, some)
        return Nearest(word, np.sqrt(np.maximum(squared, 0)))

    def words(self, features: NDArray[np.floating], positions_mm: NDArray[np.floating]) -> NDArray[np.intp]:
        """The nearest word (n,) of each feature; the lower index on ties."""
        return self.nearest(features, positions_mm).word

    def counts(self, features: NDArray[np.floating], positions_mm: NDArray[np.floating]) -> NDArray[np.int64]:
        """How many features fall on each word, (word,)."""
        return np.bincount(self.words(features, positions_mm), minlength=len(self.centres))

    def save(self, group: zarr.Group) -> None:
        """Write into a zarr group."""
        scaling = self.scaling
        arrays: dict[str, NDArray] = {
            "centres": self.centres,
            "feature_centre": scaling.centre,
            "feature_spread": scaling.spread,
            "position_centre_mm": scaling.position_centre_mm,
            "position_spread_mm": scaling.position_spread_mm,
            "projection": scaling.nuisance.projection,
            "nuisance_share": scaling.nuisance.share,
        }
        attrs = {
            "name": self.name,
            "spatial_weight": scaling.spatial_weight,
            "n_removed": scaling.nuisance.n_removed,
        }
        schema.write_group(group, "vocabulary", arrays, attrs)

    @classmethod
    def load(cls, group: zarr.Group) -> Vocabulary:
        """Read what `save` wrote."""

        def array(name: str) -> NDArray:
            return np.asarray(group[name][...])  # type: ignore[index]

        scaling = FeatureScaling(
            array("feature_centre"),
            array("feature_spread"),
            array("position_centre_mm"),
            array("position_spread_mm"),
            float(group.attrs["spatial_weight"]),  # type: ignore[arg-type]
            Nuisance(array("projection"), array("nuisance_share"), int(group.attrs["n_removed"])),  # type: ignore[arg-type]
        )
        return cls(str(group.attrs["name"]), scaling, array("centres"))


def learn_vocabulary(
    name: str,
    features: NDArray[np.floating],
    positions_mm: NDArray[np.floating],
    settings: VocabularySettings,
    *,
    shuffle: bool = True,
    nuisance: Nuisance | None = None,
) -> Vocabulary:
    """Learn one vocabulary by mini-batch k-means from rows in memory.

    Parameters
    ----------
    name : str
        One of :data:`VOCABULARIES`; says how many words.
    features : (n, d) array
        Features of many volumes.
    positions_mm : (n, 3) array
        Their positions in the atlas, zyx.
    settings : VocabularySettings
        Words, weight of the position, blocks, passes and seed.
    shuffle : bool
        Bring the rows into random order first; False where they are in one already.
    nuisance : Nuisance, optional
        What of the scaled features follows the scanner (`find_nuisance`), to leave it out.

    Raises
    ------
    ValueError
        No rows.
    """
    if shuffle:
        order = np.random.default_rng(settings.seed).permutation(len(features))
        features, positions_mm = features[order], positions_mm[order]
    scaling = FeatureScaling.fitted(features, positions_mm, settings.spatial_weight)
    if nuisance is not None:
        scaling = scaling.without(nuisance)
    rows = scaling.apply(features, positions_mm)
    n_words = min(getattr(settings, f"n_words_{name}"), len(np.unique(rows, axis=0)))
    kmeans = MiniBatchKMeans(n_words, random_state=settings.seed, n_init=3, reassignment_ratio=0.001)
    size = max(settings.block_rows, n_words)
    # What is left over joins the last block: one smaller than the number of words cannot start them.
    starts = [i * size for i in range(max(1, len(rows) // size))]
    for _ in range(settings.n_passes):
        for start, stop in zip(starts, [*starts[1:], len(rows)], strict=True):
            kmeans.partial_fit(rows[start:stop])
    return Vocabulary(name, scaling, np.ascontiguousarray(kmeans.cluster_centers_, dtype=np.float32))


def training_order(n_rows_of_volume: NDArray[np.integer], start: int, stop: int) -> list[slice]:
    """Rows that each volume gives to one slab of the training rows.

    Every volume's sample is in random order already. A slab holds rows `start` to `stop` of every volume, so each block
    of training rows is spread over the population without a global shuffle.

    >>> training_order(np.array([5, 2]), 0, 4)
    [slice(0, 4, None), slice(0, 2, None)]
    """
    return [slice(min(start, int(n)), min(stop, int(n))) for n in n_rows_of_volume]


def rows_of_vocabularies(
    features: Mapping[str, NDArray], is_micro: NDArray[np.bool_]
) -> dict[str, tuple[NDArray, NDArray]]:
    """Features (n, d) and positions (n, 3) that belong to each vocabulary."""
    shape, place = features["sift"], features["sift_position_mm"]
    rows = {
        "haralick": (features["haralick"], features["haralick_position_mm"]),
        "micro_sift": (shape[is_micro], place[is_micro]),
        "macro_sift": (shape[~is_micro], place[~is_micro]),
    }
    return {name: rows[name] for name in VOCABULARIES}


def sample_rows(n_rows: int, n_wanted: int, seed: int, volume_id: str) -> NDArray[np.intp]:
    """A seeded choice of rows in random order, the same for a volume wherever and whenever it is drawn."""
    entropy = [seed, *volume_id.encode()]
    rng = np.random.default_rng(np.random.SeedSequence(entropy))
    return rng.permutation(n_rows)[:n_wanted]


def _positive(values: NDArray[np.float64], instead: NDArray[np.float64]) -> NDArray[np.float64]:
    """`values` where they are positive, else `instead`, else 1: a constant feature scales to 0."""
    out = np.where(values > 1e-12, values, instead)
    return np.where(out > 1e-12, out, 1.0)


@njit(cache=True, nogil=True)
def _standardise(values, centre, spread, divisor, weight, out):  # type: ignore[no-untyped-def]
    """In one sweep: every row goes through here, more than once."""
    for i in range(values.shape[0]):
        for j in range(values.shape[1]):
            value = (np.float64(values[i, j]) - centre[j]) / spread[j]
            value = -_LIMIT if value < -_LIMIT else value
            value = _LIMIT if value > _LIMIT else value
            out[i, j] = value / divisor * weight
