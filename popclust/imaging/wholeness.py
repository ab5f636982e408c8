"""Whether the slices of a stack are whole, and go with their neighbours: what no header tells."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from popclust.errors import VolumeError

_BLANK_SHARE = 1 / 8
"""So many more blank rows than the neighbours have are a part that was lost."""
_NEIGHBOURS = 4
_CUT_SHARE = 0.3
"""Share of a row's voxels that are tissue where a body is cut off by blank rows."""
_TISSUE_HU = -500
_MIN_LEVELS = 32
"""Of pictures with fewer grey levels two may be equal by chance."""


def check_whole(hu: NDArray[np.int16]) -> None:
    """Refuse stacks of which a slice was lost in part, or stands twice.

    Parameters
    ----------
    hu : ndarray of int16
        (slice, row, column) HU.

    Raises
    ------
    VolumeError
        `unreadable_pixels`.
    """
    runs = [_blank_run(plane) for plane in hu]
    lengths = np.array([end - begin for begin, end in runs])
    for index, plane in enumerate(hu):
        near = lengths[max(0, index - _NEIGHBOURS) : index + _NEIGHBOURS + 1]
        is_odd = lengths[index] - np.median(near) > _BLANK_SHARE * len(plane)
        if is_odd or _is_cut(plane, *runs[index]):
            raise VolumeError("unreadable_pixels", f"a part of image {index + 1} of {len(hu)} is blank")
    seen: set[bytes] = set()
    for index, plane in enumerate(hu):
        digest = blake2b(plane.tobytes(), digest_size=16).digest()
        if digest in seen and _has_levels(plane):
            raise VolumeError("unreadable_pixels", f"image {index + 1} of {len(hu)} is another one's copy")
        seen.add(digest)


def is_blank_in_part(plane: NDArray) -> bool:
    """Whether a part of an image that may be another thing than HU holds zeros alone."""
    begin, end = _blank_run(plane)
    return end - begin > _BLANK_SHARE * len(plane) and not plane[begin].any() and end - begin < len(plane)


def _has_levels(plane: NDArray[np.int16]) -> bool:
    return len(np.unique(plane[::2, ::2])) >= _MIN_LEVELS


def _blank_run(plane: NDArray) -> tuple[int, int]:
    """Begin and end of the longest run of rows that hold one value alone."""
    blank = (plane == plane[:, :1]).all(axis=1)
    blank[1:] &= (plane[1:, 0] == plane[:-1, 0]) | ~blank[:-1]
    edges = np.flatnonzero(np.diff(np.r_[False, blank, False].astype(np.int8)))
    if not len(edges):
        return 0, 0
    begins, ends = edges[::2], edges[1::2]
    longest = int(np.argmax(ends - begins))
    return int(begins[longest]), int(ends[longest])


def _is_cut(plane: NDArray[np.int16], begin: int, end: int) -> bool:
    """Whether a run of blank rows cuts through a body."""
    if end - begin < max(2, _BLANK_SHARE * len(plane)):
        return False
    if not _has_levels(plane):
        return False
    beside = [row for row in (begin - 1, end) if 0 <= row < len(plane)]
    return any((plane[row] > _TISSUE_HU).mean() > _CUT_SHARE for row in beside)


def check_rescale(before: NDArray[np.int16], own: NDArray[np.int16], others: NDArray[np.int16]) -> None:
    """Refuse a slice whose rescale differs from its neighbour's where its stored values do not.

    Parameters
    ----------
    before : ndarray of int16
        (row, column) HU of the neighbour.
    own, others : ndarray of int16
        HU of the slice by its own rescale, and by the neighbour's.

    Raises
    ------
    VolumeError
        `mixed_rescale`.
    """
    by_own, by_others = (float(np.abs(one.astype(np.int32) - before).mean()) for one in (own, others))
    if by_own > by_others + 1.0:
        raise VolumeError("mixed_rescale", "rescale differs from one image to the next, stored values do not")
