"""The same person under two pseudonyms: volumes whose keypoints agree as only one body's do.

Two volumes of one person share descriptors that are closer to each other than to anybody else's, and one rigid map
takes most of them onto each other. An approximate nearest-neighbour index over the population proposes pairs from the
first property, in time that grows nearly linearly with the population; the second one confirms them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import faiss
import numpy as np
from numpy.typing import NDArray

from popclust.features.sift3d import Keypoints, detect_keypoints
from popclust.imaging.volume import Volume
from popclust.normalization.keypoint_alignment import fit_rigid, match_keypoints
from popclust.settings import SiftSettings

IDENTIFYING = SiftSettings(spacing_mm=3.0, max_locations=200)
"""Coarse and few: enough to know a person again, and small to keep for every volume."""
N_STRONGEST = 300
"""Rows that each volume brings to the index."""
_BATCH_ROWS = 100_000
"""Descriptors that are floating point at one time."""
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


def identifying_keypoints(volume: Volume) -> Keypoints:
    """What a volume (z, y, x, HU) keeps for the search: its strongest keypoints, the same for every study."""
    return detect_keypoints(volume, IDENTIFYING)


def find_duplicates(
    keypoints: Mapping[str, Keypoints], *, min_inliers: int = 20, min_share: float = 0.25, seed: int = 0
) -> list[DuplicatePair]:
    """Pairs of volumes of one person among a population.

    Parameters
    ----------
    keypoints : mapping of str to Keypoints
        volume_id -> its keypoints from `identifying_keypoints`, the strongest first; a mapping that reads them when
        asked keeps only the descriptors of the index in memory.
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
            a, b = keypoints[names[i]], keypoints[names[j]]
            matches = match_keypoints(a, b)
            if len(np.unique(a.position_mm[matches.fixed], axis=0)) < min_inliers:
                continue
            fit = fit_rigid(a, b, matches, seed, tolerance_mm=TOLERANCE_MM)
            if fit.n_inliers >= max(min_inliers, min_share * fit.n_matches):
                pairs.append(DuplicatePair(names[i], names[j], count, fit.n_matches, fit.n_inliers))
    return sorted(pairs, key=lambda p: (-p.n_inliers, p.volume_a, p.volume_b))


def _votes(descriptors: Sequence[NDArray[np.uint8]], seed: int) -> Counter[tuple[int, int]]:
    """For each pair of volumes the rows of either whose nearest neighbour elsewhere lies in the other, by far."""
    votes: Counter[tuple[int, int]] = Counter()
    if len(descriptors) < 2:
        return votes
    owner = np.repeat(np.arange(len(descriptors)), [len(d) for d in descriptors])
    rows = np.concatenate(descriptors)
    if not len(rows):
        return votes
    index = _index(rows, seed)
    for start in range(0, len(rows), _BATCH_ROWS):
        batch = rows[start : start + _BATCH_ROWS].astype(np.float32)
        # Enough neighbours that the row's own volume, with several frames per location, rarely fills the list.
        distance, neighbour = index.search(batch, min(len(rows), 16))
        for i in range(len(batch)):
            found = neighbour[i] >= 0
            other = _vote(int(owner[start + i]), owner[neighbour[i][found]], distance[i][found])
            if other is not None:
                a, b = sorted((int(owner[start + i]), other))
                votes[a, b] += 1
    return votes


def _vote(own: int, whose: NDArray[np.int64], squared: NDArray[np.float32]) -> int | None:
    """The volume for which a descriptor votes, given the owners of its neighbours and their squared distances."""
    elsewhere = np.flatnonzero(whose != own)
    if not len(elsewhere):
        return None
    best = elsewhere[0]
    third = elsewhere[whose[elsewhere] != whose[best]]
    # Without a third volume in the list the last neighbour bounds how near one can be.
    rival = squared[third[0]] if len(third) else squared[-1]
    return int(whose[best]) if squared[best] <= MAX_RATIO**2 * rival else None


def _index(rows: NDArray[np.uint8], seed: int) -> faiss.Index:
    """Exact for small populations; beyond, inverted lists that hold each descriptor in its 64 bytes."""
    exact = faiss.IndexFlatL2(rows.shape[1])
    if len(rows) <= EXACT_LIMIT:
        exact.add(rows.astype(np.float32))
        return exact
    n_cells = 2 ** int(np.log2(4 * np.sqrt(len(rows))))
    kind = faiss.ScalarQuantizer.QT_8bit_direct
    index = faiss.IndexIVFScalarQuantizer(exact, rows.shape[1], n_cells, kind, faiss.METRIC_L2)
    index.cp.seed, index.nprobe = seed, N_PROBES
    chosen = np.random.default_rng(seed).permutation(len(rows))[: 40 * n_cells]
    index.train(rows[np.sort(chosen)].astype(np.float32))
    for start in range(0, len(rows), _BATCH_ROWS):
        index.add(rows[start : start + _BATCH_ROWS].astype(np.float32))
    return index
