"""Text burned into the slices: found in their border, where no tissue keeps one value from slice to slice."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from popclust.imaging.volume import AIR_HU

_N_SLICES = 32
"""Slices that are looked at, at even distances: text recurs."""
_MIN_REPEATS = 8
"""In fewer slices noise may repeat a value by chance."""
_BORDER = 0.2
"""Share of rows and columns at each side that is the border."""
_BRIGHT_HU = AIR_HU + 200
"""Text of 8 bits at the top of their range (255, as stored) is at -769 HU."""
_MIN_PIXELS = 12
"""Of a letter or two in the smallest font."""
_MAX_SHARE = 0.1
"""Of the border: what fills more is padding or a frame, not text."""
_N_VALUES = 4
"""Values that are tried: text, its shadow, and what else stands still."""


def has_text_in_border(hu: NDArray[np.int16]) -> bool:
    """Whether text stands in the border of the slices, as in captures of a screen.

    Text is drawn at one value and stands at one place. So a pixel of the border (the outer fifth at each side) that has
    exactly one and the same value, brighter than -824 HU, in at least half of the slices that are looked at (32 at even
    distances; at least 8 must agree) is part of a letter, since noise moves everything else. At least 12 such pixels of
    one value, apart from what hangs together with the outermost pixels, and not more than a tenth of the border, are
    text. What is written anew in each slice alone, or inside the body alone, is not found.

    Parameters
    ----------
    hu : ndarray of int16
        (slice, row, column) HU as they were read, before any resampling.

    Examples
    --------
    >>> noise = np.random.default_rng(0).normal(-990, 20, (40, 64, 64)).astype(np.int16)
    >>> noise[:, 2:9, 4:6] = 3071
    >>> has_text_in_border(noise)
    True
    """
    if len(hu) < _MIN_REPEATS:
        return False
    chosen = np.unique(np.linspace(0, len(hu) - 1, _N_SLICES).round().astype(int))
    border = _border_of(hu, chosen)
    is_bright = border > _BRIGHT_HU
    stands = is_bright[1:] & (border[1:] == border[:-1])
    values, counts = np.unique(border[1:][stands], return_counts=True)
    needed = max(_MIN_REPEATS, -(-len(chosen) // 2))
    is_border = _is_border(hu.shape[1:])
    for value in values[np.argsort(-counts, kind="stable")[:_N_VALUES]]:
        is_glyph = np.zeros(hu.shape[1:], dtype=bool)
        is_glyph[is_border] = (border == value).sum(axis=0) >= needed
        n_pixels = np.count_nonzero(_without_edge(is_glyph))
        if n_pixels >= _MIN_PIXELS and np.count_nonzero(is_glyph) <= _MAX_SHARE * border.shape[1]:
            return True
    return False


def _border_of(hu: NDArray[np.int16], chosen: NDArray[Any]) -> NDArray[np.int16]:
    """(slice, pixel) values of the border."""
    is_border = _is_border(hu.shape[1:])
    return np.stack([hu[index][is_border] for index in chosen])


def _is_border(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    rows, columns = (max(1, int(n * _BORDER)) for n in shape)
    is_border = np.ones(shape, dtype=bool)
    is_border[rows:-rows, columns:-columns] = False
    return is_border


def _without_edge(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """What does not hang together with the outermost pixels: these are the background of a picture that was cut out."""
    touching = ndimage.binary_propagation(_outermost(mask), structure=np.ones((3, 3)), mask=mask)
    return mask & ~touching


def _outermost(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    edge = mask.copy()
    edge[1:-1, 1:-1] = False
    return edge
