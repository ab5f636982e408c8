"""Keys by which volumes of one person meet, so that not every volume need be compared with every other.

Each keypoint has one key in every table: on which side of random hyperplanes its descriptor and its frame lie
(Charikar, Similarity estimation techniques from rounding algorithms, STOC 2002). Keypoints that look alike and stand
alike in the body fall together in many tables, others hardly ever. The work grows with the keys of a population.

The descriptors' directions are not equally telling: most share a few. `keypoint_whitening.npy` holds what evens them
out, from eight public chest CTs; `benchmarks/duplicates.py` makes it, and measures what the keys find and let through.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import resources
from itertools import count

import numpy as np
from numpy.typing import NDArray

from popclust.features.sift3d import Keypoints

N_TABLES, N_BITS = 40, 48
"""Tables, and hyperplanes of each."""
MIN_SHARED = 3
"""Keys that two volumes share at least if they are to be compared."""
MAX_PEOPLE = 100
"""A key that more people have says nothing of any of them."""
PAIR = np.dtype([("first", "<u4"), ("second", "<u4"), ("n_shared", "<u4")])
"""Two volumes, by their numbers, and how many keys they share."""
_ONE = 2.0**16
"""Hyperplanes and frames are whole multiples of its inverse: sums are exact, and no machine rounds a key otherwise."""
_SPREAD = np.uint64(0x9E3779B97F4A7C15)
"""Odd, so that no two keys become one; the leading bits are spread evenly after it."""


def keys_of(keypoints: Keypoints) -> NDArray[np.uint64]:
    """The keys (sorted, each once) of a volume's keypoints; equal input gives equal keys on every machine."""
    planes, offset = _hyperplanes()
    frame = np.rint(keypoints.frame.reshape(-1, 9).astype(np.float64) * _ONE)
    side = np.hstack([keypoints.descriptor * _ONE, frame]) @ planes > offset
    bits = side.reshape(len(side), N_TABLES, N_BITS) @ (2.0 ** np.arange(N_BITS))
    key = (bits.astype(np.uint64) << np.uint64(1)) | (keypoints.contrast > 0)[:, None].astype(np.uint64)
    key |= np.arange(N_TABLES, dtype=np.uint64) << np.uint64(N_BITS + 1)
    return np.unique(key * _SPREAD)


def share_of_keys(key: NDArray[np.uint64], n_shares: int) -> NDArray[np.intp]:
    """Which of `n_shares` equal shares each key falls to, rising with the key."""
    return ((key >> np.uint64(32)) * np.uint64(n_shares) >> np.uint64(32)).astype(np.intp)


def pairs_that_share(
    key: NDArray[np.uint64], volume: NDArray[np.uint32], person: NDArray[np.uint32]
) -> NDArray[np.void]:
    """Volumes of different people that share keys.

    Parameters
    ----------
    key, volume : NDArray
        (n,) keys, and the number of the volume that has each; volumes are numbered person by person.
    person : NDArray
        (volume,) number of the person it is known by.

    Returns
    -------
    NDArray of `PAIR`
        Sorted, each pair once, `first` < `second`.
    """
    order = np.lexsort((volume, key))
    key, volume = key[order], volume[order]
    who = person[volume]
    is_first = np.diff(key, prepend=~key[:1]) != 0
    is_other = is_first | (np.diff(who, prepend=who[:1]) != 0)
    start = np.flatnonzero(is_first)
    n_people = np.add.reduceat(is_other, start, dtype=np.intp) if len(start) else start
    tells = np.repeat((n_people > 1) & (n_people <= MAX_PEOPLE), np.diff(start, append=len(key)))
    key, volume, who = key[tells], volume[tells], who[tells]
    found = []
    for lag in count(1):
        together = key[lag:] == key[:-lag]
        if not together.any():
            break
        strangers = np.flatnonzero(together & (who[lag:] != who[:-lag]))
        found.append(_pairs(volume[strangers], volume[strangers + lag], np.ones(len(strangers), np.uint32)))
    return joined(found)


def joined(parts: list[NDArray[np.void]]) -> NDArray[np.void]:
    """The pairs of several tables of pairs, each once, with all keys that they share."""
    rows = np.concatenate([np.zeros(0, PAIR), *parts])
    code = (rows["first"].astype(np.uint64) << np.uint64(32)) | rows["second"]
    order = np.argsort(code, kind="stable")
    start = np.flatnonzero(np.diff(code[order], prepend=~code[order][:1]) != 0)
    if not len(start):
        return rows[:0]
    rows = rows[order]
    return _pairs(rows["first"][start], rows["second"][start], np.add.reduceat(rows["n_shared"], start))


def _pairs(first: NDArray[np.uint32], second: NDArray[np.uint32], n_shared: NDArray[np.uint32]) -> NDArray[np.void]:
    pairs = np.empty(len(first), PAIR)
    pairs["first"], pairs["second"], pairs["n_shared"] = first, second, n_shared
    return pairs


@lru_cache(maxsize=1)
def _hyperplanes() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Normals (64 + 9, tables * bits) and offsets, for descriptors and frames times `_ONE`; all are whole numbers."""
    with (resources.files("popclust.population") / "keypoint_whitening.npy").open("rb") as file:
        centre, *whitening = np.load(file, allow_pickle=False).astype(np.float64)
    rng = np.random.default_rng(0)
    of_descriptor = np.array(whitening) @ rng.normal(size=(len(centre), N_TABLES * N_BITS))
    of_frame = np.sqrt(3.0) * rng.normal(size=(9, N_TABLES * N_BITS))
    planes = np.rint(np.vstack([of_descriptor, of_frame]) * _ONE)
    return planes, np.rint(centre * _ONE) @ planes[: len(centre)]
