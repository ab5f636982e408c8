"""The frozen model: what puts a new volume into the groups of a population, without learning anything anew."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import zarr
from numpy.typing import NDArray

from popclust import schema
from popclust.errors import InputError
from popclust.population.belonging import Belonging
from popclust.population.clustering import BASELINE, descriptor_matrix, zone_matrix
from popclust.population.composition import Usual, usual_compositions
from popclust.population.topics import TopicModel, scale_counts
from popclust.population.vocabulary import VOCABULARIES
from popclust.settings import EncodeSettings


@dataclass(frozen=True)
class Assignment:
    """Where new volumes fall."""

    cluster: NDArray[np.int64]
    """(volume,) nearest group; -1 is none of these, at the model's error rate."""
    nearest: NDArray[np.int64]
    """(volume,) nearest group, however far."""
    distance: NDArray[np.float64]
    """(volume,) Euclidean distance to its centre."""
    margin: NDArray[np.float64]
    """(volume,) how much farther the second nearest centre is; infinite where there is but one group."""
    p_value: NDArray[np.float64]
    """(volume,) how well it belongs to the nearest group: the share of such volumes that are as strange."""
    far: NDArray[np.float64]
    """(volume,) how far its features lie from words, in the worst vocabulary, over what one in twenty volumes has."""


@dataclass(frozen=True)
class Model:
    """Topics, centres, and what is usual in the groups of the reported grouping."""

    descriptor: str
    """Volume descriptor of the grouping."""
    vocabulary_of_word: NDArray[np.object_]
    """(word,) vocabulary of each word."""
    masses: EncodeSettings
    """Masses that the counts are scaled to."""
    topics: TopicModel
    """The topics."""
    centres: NDArray[np.float64]
    """(cluster, feature) centres of the groups."""
    word_centres: NDArray[np.float64]
    """(cluster, word) mean word compositions of the groups, as roots of shares."""
    usual: Usual
    """Which compositions of words are usual, whatever the group."""
    usual_zones: Usual
    """Which densities are usual in zones of the lungs; of nothing where nobody knows them."""
    belonging: Belonging
    """What is usual within groups."""
    error_rate: float
    """Share of volumes of the groups that may be called none of these."""

    @classmethod
    def frozen(
        cls,
        descriptor: str,
        counts: NDArray[np.integer],
        vocabulary_of_word: NDArray,
        masses: EncodeSettings,
        topics: TopicModel,
        cluster: NDArray[np.integer],
        far: NDArray[np.float64] | None = None,
        zones: NDArray[np.integer] | None = None,
        error_rate: float = 0.05,
    ) -> Model:
        """Freeze a grouping: centres are the means of the groups' descriptors as new volumes get them.

        Parameters
        ----------
        descriptor : str
            Volume descriptor of the grouping.
        counts : (volume, word) array
            Word counts of the population.
        vocabulary_of_word : (word,) array of str
            The vocabulary of each word.
        masses : EncodeSettings
            The masses.
        topics : TopicModel
            The topics.
        cluster : (volume,) array of int
            Group of each volume.
        far : (volume, vocabulary) array, optional
            How far the volumes' features lie from their nearest words; not known by default.
        zones : (volume, zone, bin) array, optional
            Histograms of density; not known by default.
        error_rate : float
            Share of volumes of the groups that may be called none of these.
        """
        words = np.asarray(vocabulary_of_word, object)
        nothing = np.zeros((0, 0))
        unknown = Usual(nothing.ravel(), nothing), Belonging(nothing, nothing.ravel(), nothing.ravel())
        model = cls(descriptor, words, masses, topics, nothing, nothing, unknown[0], *unknown, error_rate)
        parts = model.descriptors(counts), model.compositions(counts)
        usual, from_words = usual_compositions(parts[1], words)
        densities = np.zeros((len(counts), 0)) if zones is None else zone_matrix(zones)
        usual_zones, from_zones = usual_compositions(densities, _zone_labels(densities.shape[1]))
        groups = range(int(cluster.max()) + 1)
        centres = [np.stack([p[cluster == g].mean(axis=0) for g in groups]) for p in parts]
        own = np.stack([np.linalg.norm(p - c[cluster], axis=1) for p, c in zip(parts, centres, strict=True)])
        belonging = Belonging.learnt(own, cluster, np.hstack([_known(far, len(counts)), from_words, from_zones]))
        return replace(
            model,
            centres=centres[0],
            word_centres=centres[1],
            usual=usual,
            usual_zones=usual_zones,
            belonging=belonging,
        )

    def descriptors(self, counts: NDArray[np.integer]) -> NDArray[np.float64]:
        """Volume descriptors (volume, feature) of word counts (volume, word).

        Raises
        ------
        InputError
            The counts are of other vocabularies.
        """
        if counts.shape[1] != len(self.vocabulary_of_word):
            raise InputError(
                f"model: counts of {counts.shape[1]} words do not fit a model of {len(self.vocabulary_of_word)}; "
                "freeze the model again with `popclust run`"
            )
        scaled = scale_counts(counts, self.vocabulary_of_word, self.masses)
        return descriptor_matrix(self.descriptor, scaled, self.vocabulary_of_word, self.topics.transform(scaled))

    def compositions(self, counts: NDArray[np.integer]) -> NDArray[np.float64]:
        """Roots (volume, word) of the shares of words, whatever the descriptor."""
        scaled = scale_counts(counts, self.vocabulary_of_word, self.masses)
        return descriptor_matrix("concatenated", scaled, self.vocabulary_of_word, np.zeros((len(counts), 0)))

    def assign(
        self,
        counts: NDArray[np.integer],
        far: NDArray[np.float64] | None = None,
        zones: NDArray[np.integer] | None = None,
    ) -> Assignment:
        """Put volumes with word counts (volume, word) into the groups; `far` and `zones` as in `frozen`."""
        parts = (self.descriptors(counts), self.centres), (self.compositions(counts), self.word_centres)
        distances = np.stack([np.linalg.norm(rows[:, None, :] - centres[None], axis=2) for rows, centres in parts])
        far = _known(far, len(counts))
        every = np.arange(len(counts))
        nearest = distances[0].argmin(axis=1)
        ordered = np.sort(distances[0], axis=1)
        margin = ordered[:, 1] - ordered[:, 0] if ordered.shape[1] > 1 else np.full(len(counts), np.inf)
        from_words = self.usual.distances(parts[1][0], self.vocabulary_of_word)
        strange = np.hstack([far, from_words, self._from_zones(zones, len(counts))])
        p_value = self.belonging.p_values(distances, strange)[every, nearest]
        return Assignment(
            cluster=np.where(p_value > self.error_rate, nearest, -1),
            nearest=nearest,
            distance=ordered[:, 0],
            margin=margin,
            p_value=p_value,
            far=(far / self.belonging.usual[len(parts) : len(parts) + far.shape[1]]).max(axis=1),
        )

    def _from_zones(self, zones: NDArray[np.integer] | None, n_volumes: int) -> NDArray[np.float64]:
        """(volume, 1) distances of densities from usual ones, 0 where they are not known; (volume, 0) without usual."""
        n_bins = len(self.usual_zones.means)
        if zones is None or not n_bins:
            return np.zeros((n_volumes, int(n_bins > 0)))
        return self.usual_zones.distances(zone_matrix(zones), _zone_labels(n_bins))

    def save(self, group: zarr.Group) -> None:
        """Write into a zarr group."""
        attrs = {
            "descriptor": self.descriptor,
            "vocabulary_of_word": self.vocabulary_of_word.tolist(),
            "masses": {k: float(v) for k, v in vars(self.masses).items()},
            "doc_topic_prior": self.topics.doc_topic_prior,
            "error_rate": self.error_rate,
        }
        arrays = {
            "topic_components": self.topics.components,
            "centres": self.centres,
            "word_centres": self.word_centres,
            "word_means": self.usual.means,
            "word_precision": self.usual.precision,
            "zone_means": self.usual_zones.means,
            "zone_precision": self.usual_zones.precision,
            **vars(self.belonging),
        }
        schema.write_group(group, "model", arrays, attrs)

    @classmethod
    def load(cls, group: zarr.Group) -> Model:
        """Read what `save` wrote."""
        attrs = dict(group.attrs)

        def array(name: str) -> NDArray[np.float64]:
            return np.asarray(group[name][...])  # type: ignore[index]

        return cls(
            str(attrs["descriptor"]),
            np.asarray(attrs["vocabulary_of_word"], object),
            EncodeSettings(**attrs["masses"]),  # type: ignore[arg-type]
            TopicModel(array("topic_components"), float(attrs["doc_topic_prior"])),  # type: ignore[arg-type]
            array("centres"),
            array("word_centres"),
            Usual(array("word_means"), array("word_precision")),
            Usual(array("zone_means"), array("zone_precision")),
            Belonging(array("spread"), array("usual"), array("scores")),
            float(attrs["error_rate"]),  # type: ignore[arg-type]
        )


def _zone_labels(n_bins: int) -> NDArray[np.object_]:
    return np.full(n_bins, BASELINE, object)


def _known(far: NDArray[np.float64] | None, n_volumes: int) -> NDArray[np.float64]:
    """Distances from words; zeros, at which nothing is strange, where nobody knows them."""
    return np.zeros((n_volumes, len(VOCABULARIES))) if far is None else np.asarray(far, dtype=np.float64)
