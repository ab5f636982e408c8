"""Large populations as a picture: every volume counts, and a pixel has the colour of most volumes in it."""

from __future__ import annotations

from collections.abc import Sequence
from colorsys import hls_to_rgb, rgb_to_hls
from dataclasses import dataclass

import numpy as np
from matplotlib.colors import to_rgb
from numpy.typing import NDArray

Window = tuple[float, float, float, float]
"""Left, right, bottom, top of what is seen, in the units of the places."""

_LIGHTNESS = (None, 0.78, 0.22, 0.62, 0.34, 0.86, 0.12, 0.52)
"""Of the second, third ... category of one colour."""
_LEAST = 0.6
"""Opacity of a pixel with one volume."""
_FAINT = 0.22
"""What is left of it for volumes that are not chosen, while others are."""


@dataclass(frozen=True)
class Pixels:
    """What lies in every pixel of a picture, row 0 at the bottom."""

    count: NDArray[np.int64]
    """(row, column) volumes."""
    category: NDArray[np.int64]
    """(row, column) category of most of them, the first on ties; -1 where there is none."""


def counted(
    place: NDArray[np.float64], category: NDArray[np.integer], window: Window, shape: tuple[int, int]
) -> Pixels:
    """Count volumes in pixels.

    Parameters
    ----------
    place : (volume, 2) array
        Positions.
    category : (volume,) array of int
        0 ..
    window : (left, right, bottom, top)
        What is seen; volumes outside are not counted.
    shape : (int, int)
        Rows and columns of the picture.

    >>> pixels = counted(np.array([[0.1, 0.1], [0.2, 0.1], [0.9, 0.9]]), np.array([3, 1, 2]), (0, 1, 0, 1), (2, 2))
    >>> pixels.count.tolist(), pixels.category.tolist()
    ([[2, 0], [0, 1]], [[1, -1], [-1, 2]])
    """
    left, right, bottom, top = window
    rows, columns = shape
    column = np.floor((place[:, 0] - left) / (right - left) * columns)
    row = np.floor((place[:, 1] - bottom) / (top - bottom) * rows)
    inside = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
    pixel = (row[inside] * columns + column[inside]).astype(np.int64)
    n_categories = int(category.max(initial=0)) + 1
    key, n = np.unique(pixel * n_categories + category[inside], return_counts=True)
    best = np.lexsort((key, -n, key // n_categories))  # by pixel, the most frequent first
    first = best[np.unique(key[best] // n_categories, return_index=True)[1]]
    winner = np.full(rows * columns, -1)
    winner[key[first] // n_categories] = key[first] % n_categories
    return Pixels(np.bincount(pixel, minlength=rows * columns).reshape(shape), winner.reshape(shape))


def spread(pixels: Pixels, radius: int) -> Pixels:
    """Every volume as a disc of this radius in pixels; where discs meet, the pixel of more volumes is on top."""
    count, category = pixels.count.copy(), pixels.category.copy()
    rows, columns = count.shape
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            if (dy, dx) == (0, 0) or dy * dy + dx * dx > radius * radius:
                continue
            to = np.s_[max(0, dy) : rows + min(0, dy), max(0, dx) : columns + min(0, dx)]
            source = np.s_[max(0, -dy) : rows + min(0, -dy), max(0, -dx) : columns + min(0, -dx)]
            is_more = pixels.count[source] > count[to]
            count[to] = np.where(is_more, pixels.count[source], count[to])
            category[to] = np.where(is_more, pixels.category[source], category[to])
    return Pixels(count, category)


def shaded(
    place: NDArray[np.float64],
    category: NDArray[np.integer],
    colours: Sequence[str],
    window: Window,
    shape: tuple[int, int],
    radius: int,
    chosen: NDArray[np.integer] | None = None,
) -> NDArray[np.uint32]:
    """The picture: colour says the category, opacity how many.

    Parameters
    ----------
    place, category, window, shape
        As :func:`counted` takes them.
    colours : sequence of str
        Of the categories.
    radius : int
        Of a volume's disc, in pixels.
    chosen : (n,) array of int, optional
        Volumes that stand out; the others are faint behind them.

    Returns
    -------
    (row, column) array
        RGBA in four bytes, row 0 at the bottom.
    """
    everybody = spread(counted(place, category, window, shape), radius)
    if chosen is None or not len(chosen):
        return _coloured(everybody, colours, 1.0)
    picked = spread(counted(place[chosen], category[chosen], window, shape), radius)
    return np.where(picked.count > 0, _coloured(picked, colours, 1.0), _coloured(everybody, colours, _FAINT))


def _coloured(pixels: Pixels, colours: Sequence[str], strength: float) -> NDArray[np.uint32]:
    rgb = np.array([[round(255 * v) for v in to_rgb(c)] for c in colours] + [[0, 0, 0]], dtype=np.uint8)
    out = np.zeros((*pixels.count.shape, 4), np.uint8)
    out[..., :3] = rgb[pixels.category]  # -1: the last, which is not seen
    share = np.log1p(pixels.count) / max(float(np.log1p(pixels.count.max(initial=1))), 1e-12)
    out[..., 3] = np.where(pixels.count > 0, np.round(255 * strength * (_LEAST + (1 - _LEAST) * share)), 0)
    return out.view(np.uint32)[..., 0]


def told_apart(colours: Sequence[str]) -> list[str]:
    """Colours of which no two are equal: one that comes again gets another lightness.

    >>> told_apart(["#0072b2", "#e69f00", "#0072b2"])
    ['#0072b2', '#e69f00', '#8fd7ff']
    """
    out: list[str] = []
    for number, colour in enumerate(colours):
        again = list(colours[:number]).count(colour)
        lightness = _LIGHTNESS[again % len(_LIGHTNESS)]
        if lightness is None:
            out.append(colour)
            continue
        hue, _, saturation = rgb_to_hls(*to_rgb(colour))
        out.append("#" + "".join(f"{round(255 * v):02x}" for v in hls_to_rgb(hue, lightness, saturation)))
    return out
