"""The same person under two pseudonyms: volumes whose keypoints agree as only one body's do.

Two volumes of one person share descriptors that are closer to each other than to anybody else's, and one rigid map
takes most of them onto each other. An approximate nearest-neighbour index over the population proposes pairs from the
first property, in time that grows nearly linearly with the population; the second one confirms them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import faiss
import numpy as np
from numpy.typing import NDArray

from popclust.features.sift3d import Keypoints
from popclust.normalization.keypoint_alignment import fit_rigid, match_keypoints

N_STRONGEST = 300
"""Rows that each volume brings to the index."""
EXACT_LIMIT = 20_000
"""Descriptors up to which every one is compared with every other."""
N_PROBES = 16
"""Cells of the index that a query looks into."""
MAX_RATIO = 0.8
"""A vote: the nearest descriptor of another volume is this much nearer than the nearest of any third one."""
MIN_VOTES = 8
"""Votes that a pair needs to be looked at."""
TOLERANCE_MM = 8.0
"""How far a keypoint may lie from where the rigid map takes it; breathing moves the lung by more, the spine less."""


@dataclass(frozen=True)
class DuplicatePair:
    """Two volumes that show the same person, and why."""

    volume_a: str
    volume_b: str
    n_votes: int
    """Descriptors that are each other's by far, from the index."""
    n_matches: int
    """Locations with a mutual nearest descriptor."""
    n_inliers: int
    """Of these, the locations that one rigid map takes onto each other."""


def find_duplicates(
    keypoints: Mapping[str, Keypoints], *, min_inliers: int = 20, min_share: float = 0.25, seed: int = 0
) -> list[DuplicatePair]:
    """Pairs of volumes of one person among a population.

    Parameters
    ----------
    keypoints : mapping of str to Keypoints
        volume_id -> its keypoints from `detect_keypoints`, the strongest first.
    min_inliers : int
        Locations that must agree on one rigid map. Different people reach about half of it.
    min_share : float
        The same as a share of the matched locations.
    seed : int
        Seed of the index's cells and of the fits.

    Returns
    -------
    list of DuplicatePair
        The surest first. Two reconstructions of one acquisition are such a pair too.
    """
    names = sorted(keypoints)
    votes = _votes([keypoints[n].descriptor[:N_STRONGEST] for n in names], seed)
    pairs = []
    for (i, j), count in sorted(votes.items()):
        if count >= MIN_VOTES:
            matches = match_keypoints(keypoints[names[i]], keypoints[names[j]])
            if len(np.unique(keypoints[names[i]].position_mm[matches.fixed], axis=0)) < min_inliers:
                continue
            fit = fit_rigid(
                keypoints[names[i]], keypoints[names[j]], matches, seed, tolerance_mm=TOLERANCE_MM, similarity=False
            )
            if fit.n_inliers >= max(min_inliers, min_share * fit.n_matches):
                pairs.append(DuplicatePair(names[i], names[j], count, fit.n_matches, fit.n_inliers))
    return sorted(pairs, key=lambda p: (-p.n_inliers, p.volume_a, p.volume_b))


def _votes(descriptors: list[NDArray[np.uint8]], seed: int) -> Counter[tuple[int, int]]:
    """For each pair of volumes the rows of either whose nearest neighbour elsewhere lies in the other, by far."""
    votes: Counter[tuple[int, int]] = Counter()
    if len(descriptors) < 2:
        return votes
    owner = np.repeat(np.arange(len(descriptors)), [len(d) for d in descriptors])
    rows = np.concatenate(descriptors).astype(np.float32)
    # Enough neighbours that the row's own volume, with several frames per location, rarely fills the list.
    distance, neighbour = _index(rows, seed).search(rows, min(len(rows), 16))
    for i in range(len(rows)):
        found = neighbour[i] >= 0
        whose, squared = owner[neighbour[i][found]], distance[i][found]
        elsewhere = np.flatnonzero(whose != owner[i])
        if not len(elsewhere):
            continue
        best = elsewhere[0]
        third = elsewhere[whose[elsewhere] != whose[best]]
        # Without a third volume in the list the last neighbour bounds how near one can be.
        rival = squared[third[0]] if len(third) else squared[-1]
        if squared[best] <= MAX_RATIO**2 * rival:
            a, b = sorted((int(owner[i]), int(whose[best])))
            votes[a, b] += 1
    return votes


def _index(rows: NDArray[np.float32], seed: int) -> faiss.Index:
    """Exact for small populations; beyond, inverted lists that hold each descriptor in its 64 bytes."""
    exact = faiss.IndexFlatL2(rows.shape[1])
    if len(rows) <= EXACT_LIMIT:
        exact.add(rows)
        return exact
    n_cells = 2 ** int(np.log2(4 * np.sqrt(len(rows))))
    kind = faiss.ScalarQuantizer.QT_8bit_direct
    index = faiss.IndexIVFScalarQuantizer(exact, rows.shape[1], n_cells, kind, faiss.METRIC_L2)
    index.cp.seed, index.nprobe = seed, N_PROBES
    chosen = np.random.default_rng(seed).permutation(len(rows))[: 40 * n_cells]
    index.train(rows[np.sort(chosen)])
    index.add(rows)
    return index
