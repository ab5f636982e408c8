"""The population on a plane: t-SNE of the volume descriptors, with slices (Fig. 5 of the paper)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from popclust.presentation.slices import Tile, framed
from popclust.presentation.style import INK, group_colour, group_marker, house_style, new_figure, without_frame

MAX_MAP_VOLUMES = 5000
"""A map shows a random sample of larger populations: more points hide each other."""
MIN_MAP_VOLUMES = 5
"""Fewer volumes have no map."""


def embed(descriptors: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Positions (volume, 2) on a plane that keeps neighbours together.

    Parameters
    ----------
    descriptors : (volume, feature) array
        Volume descriptors, at least MIN_MAP_VOLUMES of them.
    seed : int
        Seed of the starting positions.

    Returns
    -------
    ndarray
        Scaled to the unit square. Directions and distances between far points mean nothing.

    References
    ----------
    van der Maaten L, Hinton G. Visualizing data using t-SNE. JMLR 2008.
    """
    n_volumes = len(descriptors)
    if n_volumes < MIN_MAP_VOLUMES:
        raise ValueError(f"descriptors: a map needs {MIN_MAP_VOLUMES} volumes, got {n_volumes}")
    perplexity = min(30.0, (n_volumes - 1) / 3.0)
    init = "pca" if descriptors.std() > 0 else "random"
    model = TSNE(2, perplexity=perplexity, init=init, learning_rate="auto", random_state=seed)
    with threadpool_limits(1):  # sums in one order on every machine
        place = np.asarray(model.fit_transform(descriptors), dtype=np.float64)
    low, high = place.min(axis=0), place.max(axis=0)
    return (place - low) / np.maximum(high - low, 1e-12)


def map_sample(n_volumes: int, seed: int, limit: int = MAX_MAP_VOLUMES) -> NDArray[np.intp]:
    """Sorted indices of the volumes that a map shows: all of them, or a random `limit`."""
    if n_volumes <= limit:
        return np.arange(n_volumes)
    return np.sort(np.random.default_rng(seed).choice(n_volumes, limit, replace=False))


def example_cells(place: NDArray[np.float64], n_cells: int = 6) -> dict[int, tuple[int, int]]:
    """Volumes that stand for the places of the map: the one nearest the middle of every occupied cell of a grid.

    Parameters
    ----------
    place : (volume, 2) array
        Positions in the unit square.
    n_cells : int
        Cells along each edge.

    Returns
    -------
    dict
        Index of the volume -> (row from the bottom, column) of its cell.

    >>> example_cells(np.array([[0.1, 0.1], [0.2, 0.2], [0.9, 0.1]]), 2)
    {1: (0, 0), 2: (0, 1)}
    """
    cell = np.minimum((place * n_cells).astype(int), n_cells - 1)
    off = np.linalg.norm(place * n_cells - cell - 0.5, axis=1)
    found: dict[tuple[int, int], int] = {}
    for index in np.argsort(off, kind="stable"):
        found.setdefault((int(cell[index, 1]), int(cell[index, 0])), int(index))
    return {index: where for where, index in sorted(found.items())}


def map_figure(
    place: NDArray[np.float64],
    cluster: NDArray[np.int64],
    examples: Mapping[tuple[int, int], Tile] | None = None,
    n_cells: int = 6,
) -> Figure:
    """Scatter of the volumes by group; beside it slices of volumes at the same places.

    Parameters
    ----------
    place : (volume, 2) array
        From :func:`embed`.
    cluster : (volume,) array
        Group of each volume.
    examples : mapping, optional
        (row from the bottom, column) of a cell of the map -> tile.
    n_cells : int
        Cells along each edge.
    """
    groups = np.unique(cluster)
    with house_style():
        figure = new_figure(10.4 if examples else 6.4, 5.5)
        panels = figure.subplots(1, 2) if examples else [figure.add_subplot()]
        _scatter(panels[0], place, cluster, groups)
        if examples:
            _place_tiles(panels[1], examples, n_cells)
    return figure


def colour_of_group_rgb(cluster: int) -> tuple[int, int, int]:
    """A group's colour as 0 .. 255."""
    red, green, blue = (round(255 * part) for part in to_rgb(group_colour(cluster)))
    return red, green, blue


def _scatter(axes: Axes, place: NDArray[np.float64], cluster: NDArray[np.int64], groups: NDArray[np.int64]) -> None:
    size = float(np.clip(6000 / max(len(place), 1), 5, 42))
    for k in groups.tolist():
        own = place[cluster == k]
        axes.scatter(
            own[:, 0], own[:, 1], s=size, c=group_colour(k), marker=group_marker(k), lw=0.4, edgecolors="white",
            label=f"{k}",
        )  # fmt: skip
        middle = own[np.argmin(np.linalg.norm(own - np.median(own, axis=0), axis=1))]
        halo = [withStroke(linewidth=3, foreground="white")]
        axes.text(
            middle[0],
            middle[1],
            str(k),
            ha="center",
            va="center",
            weight="bold",
            fontsize=11,
            color=INK,
            path_effects=halo,
        )
    without_frame(axes)
    axes.set_aspect("equal")
    axes.set_title("group of each volume")
    axes.legend(
        title="group", loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=10, columnspacing=0.9, handletextpad=0.1,
        markerscale=max(1.0, 4 / np.sqrt(size)),
    )  # fmt: skip


def _place_tiles(axes: Axes, examples: Mapping[tuple[int, int], Tile], n_cells: int) -> None:
    size = next(iter(examples.values())).shape[0]
    canvas = np.full((n_cells * size, n_cells * size, 3), 255, dtype=np.uint8)
    for (row, column), tile in examples.items():
        top = (n_cells - 1 - row) * size
        canvas[top : top + size, column * size : (column + 1) * size] = tile
    axes.imshow(canvas, extent=(0, 1, 0, 1))
    without_frame(axes)
    axes.set_title("slices of volumes at the same places")


def framed_by_group(tile: Tile, cluster: int) -> Tile:
    """A tile with a border in its group's colour."""
    return framed(tile, colour_of_group_rgb(cluster))
