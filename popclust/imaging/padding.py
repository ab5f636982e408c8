"""Voxels that stand for nothing: what lies outside the scanned circle."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from scipy import ndimage

from popclust.imaging.elements import numbers_of
from popclust.imaging.volume import AIR_HU

_MIN_BORDER_PIXELS = 8
"""Fewer that hang together are tissue that has the padding's value by chance."""
_WRONG_SIGN = (2**16 - 4096, 2**16 + AIR_HU)
"""Padding (-4096 to -1025) as a header of the other sign would have it."""


def padding_of(stored: NDArray[np.int64], dataset: Dataset, hu: NDArray[np.int16]) -> NDArray[np.bool_] | None:
    """Voxels with the padding value, or within the padding range.

    A padding value that tissue may have too (0 where values are HU themselves) counts only where it hangs together
    with the border of the image, so that it punches no holes.

    Parameters
    ----------
    stored : ndarray of int64
        (row, column) stored values.
    dataset : pydicom.Dataset
        The header.
    hu : ndarray of int16
        (row, column) HU if nothing is padding.
    """
    bits = int(dataset.get("BitsAllocated") or 16)
    wrong = stored.max(initial=0) >= _WRONG_SIGN[0] and (stored >= _WRONG_SIGN[0]) & (stored <= _WRONG_SIGN[1])
    value = numbers_of(dataset, "PixelPaddingValue")
    if not value:
        return wrong if isinstance(wrong, np.ndarray) and wrong.any() else None
    limit = numbers_of(dataset, "PixelPaddingRangeLimit") or value
    # Headers hold -2000 as 63536 and the other way round: what counts is the bit pattern in the image's own type.
    is_signed = dataset.get("PixelRepresentation") == 1
    low, high = sorted(_as_stored(number[0], bits, is_signed) for number in (value, limit))
    found = (stored >= low) & (stored <= high)
    return np.asarray((_at_border(found) if (hu[found] > AIR_HU).any() else found) | wrong)


def _at_border(found: NDArray[np.bool_]) -> NDArray[np.bool_]:
    parts, n_parts = ndimage.label(found)
    border = np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]])
    sizes = np.bincount(parts.ravel(), minlength=n_parts + 1)
    keep = np.zeros(n_parts + 1, dtype=bool)
    keep[np.unique(border)] = True
    keep &= sizes >= _MIN_BORDER_PIXELS
    keep[0] = False
    return np.asarray(keep[parts])


def _as_stored(number: float, bits: int, is_signed: bool) -> int:
    n_values = 1 << bits
    low = -(n_values >> 1) if is_signed else 0
    return (int(number) - low) % n_values + low
