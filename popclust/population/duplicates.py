"""The same person under two pseudonyms: volumes whose keypoints agree as only one body's do.

Bodies differ in where things lie, not in what lies there: a bent body has the same descriptors elsewhere. So what
counts is how many keypoints one rigid map takes onto each other, frames included. Whether two volumes show one person
depends on these two alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from popclust.features.sift3d import Keypoints, detect_keypoints
from popclust.imaging.volume import Volume
from popclust.normalization.keypoint_alignment import Matches, fit_rigid, match_keypoints
from popclust.population.duplicate_keys import MIN_SHARED, keys_of, pairs_that_share
from popclust.settings import SiftSettings

IDENTIFYING = SiftSettings(spacing_mm=3.0, max_locations=200)
"""Coarse and few: enough to know a person again, and small to keep for every volume."""
N_STRONGEST = 300
"""Rows of each volume that have keys, and that are compared first."""
MAX_RATIO = 0.9
"""A clear match: nothing elsewhere in the other volume comes nearer than the match's distance over this, either way."""
VOTE_TURN_DEG, VOTE_SHIFT_MM = 20.0, 20.0
"""Clear matches vote together if the map that one's frames propose turns and moves the other by all but this."""
MIN_VOTES = 12
"""Votes that a pair needs to be looked at: no two real people had more than 11, one person no fewer than 15."""
TOLERANCE_MM, TOLERANCE_DEG = 6.0, 10.0
"""How far a keypoint and its frame may be from where the rigid map takes them. Breathing moves the lung by more, the
spine and the ribs less."""
MIN_INLIERS = 18
"""Locations that must agree on one rigid map: two people reached 14, one person had 22 (docs/sift3d.md)."""
N_HELD = 500
"""Volumes that are held in memory (60 KB each) while pairs are looked at."""


@dataclass(frozen=True)
class DuplicatePair:
    """Two volumes that show the same person, and why."""

    volume_a: str
    volume_b: str
    """The later one by name."""
    n_votes: int
    """Locations of clear matches among the strongest whose frames propose one map, roughly."""
    n_matches: int
    """Locations with a mutual nearest descriptor."""
    n_inliers: int
    """Of these, the locations that one rigid map takes onto each other, frames included."""


@dataclass(frozen=True)
class _OfSign:
    """Rows of one contrast sign, ready to be compared with many volumes."""

    rows: NDArray[np.int64]
    """(n,) which of the volume's rows."""
    location: NDArray[np.int64]
    """(n,) number of each one's location."""
    descriptor: NDArray[np.float32]
    """(n, 64)."""
    squared_length: NDArray[np.float32]
    """(n,) of the descriptors."""


@dataclass(frozen=True)
class _Held:
    """A volume's keypoints as long as it is compared."""

    name: str
    every: Keypoints
    strongest: Keypoints
    location: NDArray[np.int64]
    """(n,) number of each of the strongest rows' location."""
    of_sign: tuple[_OfSign, _OfSign]
    """The strongest rows that are darker than their surroundings, and those that are brighter."""


def identifying_keypoints(volume: Volume) -> Keypoints:
    """What a volume (z, y, x, HU) keeps for the search: its strongest keypoints, the same for every study."""
    return detect_keypoints(volume, IDENTIFYING)


def find_duplicates(keypoints: Mapping[str, Keypoints]) -> list[DuplicatePair]:
    """Pairs of volumes that show one person.

    Only volumes that share keys (`duplicate_keys`) are compared: the work grows with the volumes, not with their pairs.

    Parameters
    ----------
    keypoints : mapping of str to Keypoints
        volume_id -> its keypoints from `identifying_keypoints`, the strongest first.

    Returns
    -------
    list of DuplicatePair
        Sorted by their names. Two reconstructions of one acquisition are such a pair too.
    """
    names = sorted(keypoints)
    keys = [identifying_keys(keypoints[name]) for name in names]
    number = np.arange(len(names), dtype=np.uint32)
    volume = np.repeat(number, [len(k) for k in keys])
    met = pairs_that_share(np.concatenate([np.zeros(0, np.uint64), *keys]), volume, number)
    close = met[met["n_shared"] >= MIN_SHARED]
    pairs = [(names[a], names[b]) for a, b in zip(close["first"], close["second"], strict=True)]
    return look_closely(pairs, keypoints.__getitem__)


def identifying_keys(keypoints: Keypoints) -> NDArray[np.uint64]:
    """The keys by which a volume may meet others of the same person."""
    return keys_of(_strongest(keypoints))


def look_closely(pairs: Iterable[tuple[str, str]], read: Callable[[str], Keypoints]) -> list[DuplicatePair]:
    """Those of some pairs of volumes that show one person, sorted by their names; `read` gives a volume's keypoints.

    Each pair is judged by itself: about 0.6 ms on one core, 0.04 s where it is looked at closely, beside the reading.
    """
    hold = lru_cache(maxsize=N_HELD)(lambda name: _hold(name, read(name)))
    found = []
    for a, b in sorted({(min(pair), max(pair)) for pair in pairs}):
        n_votes = _votes(hold(a), hold(b))
        if n_votes >= MIN_VOTES:
            pair = _looked_at(hold(a), hold(b), n_votes)
            if pair.n_inliers >= MIN_INLIERS:
                found.append(pair)
    return found


def one_id_per_person(patient_of_volume: pd.Series, pairs: pd.DataFrame) -> pd.Series:
    """The patient_id by which each volume's person is counted, where one person stands under several.

    Parameters
    ----------
    patient_of_volume : pandas.Series
        patient_id by volume_id.
    pairs : pandas.DataFrame
        Rows of duplicates.parquet: `volume_a` and `volume_b` show one person.

    Returns
    -------
    pandas.Series
        By volume_id: of all patient_ids that pairs join, directly or through others, the first in order.
    """
    ids, code = np.unique(patient_of_volume.to_numpy(dtype=str), return_inverse=True)
    of_volume = pd.Series(code, index=patient_of_volume.index)
    known = pairs[pairs["volume_a"].isin(of_volume.index) & pairs["volume_b"].isin(of_volume.index)]
    ends = of_volume[known["volume_a"]].to_numpy(), of_volume[known["volume_b"]].to_numpy()
    links = coo_array((np.ones(len(known)), ends), shape=(len(ids), len(ids)))
    _, person = connected_components(links, directed=False)
    first = pd.Series(np.arange(len(ids))).groupby(person).min().to_numpy()
    return pd.Series(ids[first[person[code]]], index=patient_of_volume.index, name="same_person_as")


def _strongest(keypoints: Keypoints) -> Keypoints:
    return keypoints.take(np.arange(min(N_STRONGEST, len(keypoints))))


def _hold(name: str, keypoints: Keypoints) -> _Held:
    strongest = _strongest(keypoints)
    place = np.column_stack([strongest.position_mm, strongest.scale_mm])
    location = np.unique(place, axis=0, return_inverse=True)[1].ravel()
    darker, brighter = (_of_sign(strongest, location, sign) for sign in (-1, 1))
    return _Held(name, keypoints, strongest, location, (darker, brighter))


def _of_sign(keypoints: Keypoints, location: NDArray[np.int64], sign: int) -> _OfSign:
    rows = np.flatnonzero(keypoints.contrast == sign)
    descriptor = keypoints.descriptor[rows].astype(np.float32)
    return _OfSign(rows, location[rows], descriptor, (descriptor**2).sum(axis=1))


def _votes(a: _Held, b: _Held) -> int:
    """Locations of `a` whose clear matches agree on where one of them, by its frames, takes the body."""
    matches = _clear_matches(a, b)
    if len(matches) < MIN_VOTES:
        return 0
    from_mm, to_mm = a.strongest.position_mm[matches.fixed], b.strongest.position_mm[matches.moving]
    turn = np.swapaxes(b.strongest.frame[matches.moving], 1, 2) @ a.strongest.frame[matches.fixed]
    flat = turn.reshape(len(turn), 9)
    alike = _is_turn_below(flat @ flat.T, VOTE_TURN_DEG)
    moved = (from_mm[None] - from_mm[:, None]) @ np.swapaxes(turn, 1, 2) + to_mm[:, None]
    alike &= ((moved - to_mm[None]) ** 2).sum(axis=2) < VOTE_SHIFT_MM**2
    location = a.location[matches.fixed]
    order = np.argsort(location, kind="stable")
    first = np.flatnonzero(np.diff(location[order], prepend=-1))
    return int(np.logical_or.reduceat(alike[:, order], first, axis=1).sum(axis=1).max())


def _clear_matches(a: _Held, b: _Held) -> Matches:
    """Mutual nearest neighbours that no row of the same sign at another location rivals."""
    found = [_clear_of_sign(x, y) for x, y in zip(a.of_sign, b.of_sign, strict=True)]
    return Matches(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def _clear_of_sign(a: _OfSign, b: _OfSign) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Rows of `a`, their matches among the rows of `b`, and their distances; ranks are small integers: all is exact."""
    if len(a.rows) == 0 or len(b.rows) == 0:
        return a.rows[:0], b.rows[:0], np.empty(0, np.float32)
    squared = a.descriptor @ b.descriptor.T
    squared *= -2.0
    squared += a.squared_length[:, None]
    squared += b.squared_length
    to_b, to_a = squared.argmin(axis=1), squared.argmin(axis=0)
    mine = np.flatnonzero(to_a[to_b] == np.arange(len(a.rows)))
    theirs = to_b[mine]
    distance = np.sqrt(squared[mine, theirs])
    limit = MAX_RATIO * _nearest_rival(squared[mine], b.location, theirs)
    limit = limit.clip(max=MAX_RATIO * _nearest_rival(squared.T[theirs], a.location, mine))
    clear = distance <= limit
    return a.rows[mine[clear]], b.rows[theirs[clear]], distance[clear]


def _nearest_rival(
    squared: NDArray[np.float32], location: NDArray[np.int64], matched: NDArray[np.int64]
) -> NDArray[np.float32]:
    """(match,) distance to the nearest of the other volume's rows that is not at the match's location.

    `squared` are the squared distances (match, row) to all of them.
    """
    squared[location[matched][:, None] == location] = np.inf
    return np.sqrt(squared.min(axis=1, initial=np.inf))


def _looked_at(a: _Held, b: _Held, n_votes: int) -> DuplicatePair:
    """How many locations one rigid map takes onto each other, frames included."""
    matches = match_keypoints(a.every, b.every)
    n_matches = len(np.unique(a.every.position_mm[matches.fixed], axis=0))
    if n_matches < MIN_INLIERS:
        return DuplicatePair(a.name, b.name, n_votes, n_matches, 0)
    fit = fit_rigid(a.every, b.every, matches, tolerance_mm=TOLERANCE_MM)
    frames_a, frames_b = a.every.frame[matches.fixed], b.every.frame[matches.moving]
    trace = np.einsum("nki,ij,nkj->n", frames_b, fit.rotation, frames_a, optimize=True)
    agrees = fit.inlier & _is_turn_below(trace, TOLERANCE_DEG)
    n_inliers = len(np.unique(a.every.position_mm[matches.fixed[agrees]], axis=0))
    return DuplicatePair(a.name, b.name, n_votes, fit.n_matches, n_inliers)


def _is_turn_below(trace: NDArray[np.floating], degrees: float) -> NDArray[np.bool_]:
    """Whether rotations with these traces turn by less."""
    return trace > 1 + 2 * np.cos(np.deg2rad(degrees))
