"""How well a volume belongs to a group: a p-value from what its own volumes would have had, each left out itself.

Five things are strange in a volume: it lies far from the group in the space in which groups were formed, its words are
not those of the group, they are not composed as anybody's are, nor are the densities of its lungs, some features lie
far from every word. Each is measured in units of what one in twenty of the population's own volumes reaches, and the
largest counts. A volume of a group that is held out has a score as the group's own volumes have when each is left out;
the share of those that score as much is its p-value, which is at most any level in no more than that share of the
volumes (conformal prediction).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_TAIL = 0.95


@dataclass(frozen=True)
class Belonging:
    """What is usual within groups."""

    spread: NDArray[np.float64]
    """(part, cluster) usual distance from a group's centre, in each part: descriptor and words."""
    usual: NDArray[np.float64]
    """(part + measure,) what one in twenty volumes exceeds: distances over spread, then what no group has a say in."""
    scores: NDArray[np.float64]
    """(volume,) scores of the population's own volumes, each left out itself, ascending."""

    @classmethod
    def learnt(
        cls, distances: NDArray[np.float64], cluster: NDArray[np.integer], far: NDArray[np.float64]
    ) -> Belonging:
        """Learn what is usual.

        Leaving a volume out of a group of n moves the mean of the others away by n / (n - 1) of its distance, exactly.

        Parameters
        ----------
        distances : (part, volume) array
            Distances from the mean of the own group, in each part.
        cluster : (volume,) array of int
            Groups. A group of one says nothing.
        far : (volume, measure) array
            What is strange whatever the group: how far features lie from words, words and densities from usual ones.
        """
        size = np.bincount(cluster)
        told = size[cluster] > 1
        left_out = distances * (size / np.maximum(size - 1, 1))[cluster]
        overall = left_out[:, told].mean(axis=1) if told.any() else np.ones(len(distances))
        spread = np.repeat(np.maximum(overall, 1e-12)[:, None], len(size), axis=1)
        for g in np.flatnonzero(size > 2):
            # drawn towards everybody's, by the weight of two volumes: a group of three says little
            own = left_out[:, cluster == g].sum(axis=1)
            spread[:, g] = np.maximum((own + 2 * overall) / (size[g] + 2), 1e-12)
        parts = np.concatenate([left_out / spread[:, cluster], far.T])[:, told]
        if not told.any():
            return cls(spread, np.ones(len(distances) + far.shape[1]), np.zeros(0))
        usual = np.maximum(np.quantile(parts, _TAIL, axis=1), 1e-12)
        return cls(spread, usual, np.sort((parts / usual[:, None]).max(axis=0)))

    def p_values(self, distances: NDArray[np.float64], far: NDArray[np.float64]) -> NDArray[np.float64]:
        """How well new volumes belong to each group.

        Parameters
        ----------
        distances : (part, volume, cluster) array
            Distances from the groups' means.
        far : (volume, measure) array
            What is strange whatever the group, as where it was learnt.

        Returns
        -------
        (volume, cluster) array

        References
        ----------
        Vovk V, Gammerman A, Shafer G. Algorithmic Learning in a Random World, 2005.
        """
        n_parts = len(distances)
        within = (distances / self.spread[:, None, :] / self.usual[:n_parts, None, None]).max(axis=0)
        score = np.maximum(within, (far / self.usual[n_parts:]).max(axis=1)[:, None])
        n_as_strange = len(self.scores) - np.searchsorted(self.scores, score, side="left")
        return np.asarray((1 + n_as_strange) / (1 + len(self.scores)))
