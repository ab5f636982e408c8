"""The frozen model: what puts a new volume into the groups of a population, without learning anything anew."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import zarr
from numpy.typing import NDArray

from popclust import schema
from popclust.errors import InputError
from popclust.population.clustering import descriptor_matrix
from popclust.population.topics import TopicModel, scale_counts
from popclust.settings import EncodeSettings

_FAR = 0.99
"""A volume farther from its nearest centre than this share of the population from theirs belongs to no group."""


@dataclass(frozen=True)
class Assignment:
    """Where new volumes fall."""

    cluster: NDArray[np.int64]
    """(volume,) nearest group; -1 is none of these."""
    nearest: NDArray[np.int64]
    """(volume,) nearest group, however far."""
    distance: NDArray[np.float64]
    """(volume,) Euclidean distance to its centre."""


@dataclass(frozen=True)
class Model:
    """Topics, centres and limits of the reported grouping."""

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
    limit: float
    """Largest distance at which a volume still belongs to a group."""

    @classmethod
    def frozen(
        cls,
        descriptor: str,
        counts: NDArray[np.integer],
        vocabulary_of_word: NDArray,
        masses: EncodeSettings,
        topics: TopicModel,
        cluster: NDArray[np.integer],
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
        """
        model = cls(descriptor, np.asarray(vocabulary_of_word, object), masses, topics, np.zeros((0, 0)), np.inf)
        rows = model.descriptors(counts)
        groups = range(int(cluster.max()) + 1)
        centres = np.stack([rows[cluster == g].mean(axis=0) for g in groups])
        distance = np.linalg.norm(rows - centres[cluster], axis=1)
        limit = float(np.quantile(distance, _FAR))
        return cls(descriptor, model.vocabulary_of_word, masses, topics, centres, limit)

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

    def assign(self, counts: NDArray[np.integer]) -> Assignment:
        """Put volumes with word counts (volume, word) into the groups."""
        rows = self.descriptors(counts)
        distances = np.linalg.norm(rows[:, None, :] - self.centres[None], axis=2)
        nearest = distances.argmin(axis=1)
        distance = distances.min(axis=1)
        return Assignment(np.where(distance <= self.limit, nearest, -1), nearest, distance)

    def save(self, group: zarr.Group) -> None:
        """Write into a zarr group."""
        attrs = {
            "descriptor": self.descriptor,
            "vocabulary_of_word": self.vocabulary_of_word.tolist(),
            "masses": {k: float(v) for k, v in vars(self.masses).items()},
            "doc_topic_prior": self.topics.doc_topic_prior,
            "limit": self.limit,
        }
        arrays = {"topic_components": self.topics.components, "centres": self.centres}
        schema.write_group(group, "model", arrays, attrs)

    @classmethod
    def load(cls, group: zarr.Group) -> Model:
        """Read what `save` wrote."""
        attrs = dict(group.attrs)
        components, centres = (np.asarray(group[n][...]) for n in ("topic_components", "centres"))  # type: ignore[index]
        return cls(
            str(attrs["descriptor"]),
            np.asarray(attrs["vocabulary_of_word"], object),
            EncodeSettings(**attrs["masses"]),  # type: ignore[arg-type]
            TopicModel(components, float(attrs["doc_topic_prior"])),  # type: ignore[arg-type]
            centres,
            float(attrs["limit"]),  # type: ignore[arg-type]
        )
