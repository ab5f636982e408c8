"""The population on a plane: t-SNE of the volume descriptors, with slices (Fig. 5 of the paper)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from sklearn.manifold import TSNE
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from popclust.presentation.slices import Tile, framed
from popclust.presentation.style import INK, group_colour, group_marker, house_style, new_figure, without_frame

MAX_MAP_VOLUMES = 10_000
"""Of larger populations t-SNE is made of a random sample; the others are placed beside those most like them."""
N_PLACED_BY = 10
"""Volumes by which another is placed."""
MIN_MAP_VOLUMES = 5
"""Fewer volumes have no map."""
MAX_DRAWN = 1500
"""More points than these are pixels in the drawing too: as paths they would weigh megabytes."""
_SIDE_PT = 330.0
"""Edge of a map on paper, in points."""


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


def place_beside(
    descriptors: NDArray[np.float64], is_placed: NDArray[np.bool_], place: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Places of all volumes, from those of a sample: a volume lies at the median place of the most alike there.

    Parameters
    ----------
    descriptors : (volume, feature) array
        Volume descriptors.
    is_placed : (volume,) array of bool
        The sample.
    place : (sampled, 2) array
        Its places, which stay.

    Returns
    -------
    (volume, 2) array

    References
    ----------
    Poličar PG, Stražar M, Zupan B. Embedding to reference t-SNE space addresses batch effects in single-cell
    classification. Machine Learning 2021 (where this is how a new point begins).
    """
    out = np.empty((len(descriptors), place.shape[1]))
    out[is_placed] = place
    if not is_placed.all():
        n = min(N_PLACED_BY, len(place))
        with threadpool_limits(1):
            near = NearestNeighbors(n_neighbors=n, algorithm="brute").fit(descriptors[is_placed])
            out[~is_placed] = np.median(place[near.kneighbors(descriptors[~is_placed], return_distance=False)], axis=1)
    return out


def map_sample(n_volumes: int, seed: int, limit: int = MAX_MAP_VOLUMES) -> NDArray[np.intp]:
    """Sorted indices of the volumes that t-SNE is made of: all of them, or a random `limit`."""
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


def principal_axes(descriptors: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The plane of most variance: distances mean something there, neighbours less.

    Parameters
    ----------
    descriptors : (volume, feature) array
        Volume descriptors.

    Returns
    -------
    place : (volume, 2) array
        Positions along the first two principal axes, centred; a missing axis is 0.
    share : (2,) array
        Share of the variance along each.
    """
    centred = descriptors - descriptors.mean(axis=0)
    variance, axes = np.linalg.eigh(centred.T @ centred)
    first = axes[:, ::-1][:, :2]
    first = first * np.where(first[np.abs(first).argmax(axis=0), np.arange(first.shape[1])] < 0, -1.0, 1.0)
    place, share = np.zeros((len(centred), 2)), np.zeros(2)
    n = first.shape[1]
    place[:, :n] = centred @ first
    share[:n] = variance[::-1][:n] / max(float(variance.sum()), 1e-300)
    return place, share


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
    with house_style():
        figure, panels = _panels(2 if examples else 1)
        _scatter(panels[0], place, cluster)
        without_frame(panels[0])
        panels[0].set_title("group of each volume")
        if examples:
            _place_tiles(panels[1], examples, n_cells)
        _group_legend(figure, cluster)
    return figure


def principal_figure(place: NDArray[np.float64], share: NDArray[np.float64], cluster: NDArray[np.int64]) -> Figure:
    """Scatter of the volumes along the axes of most variance.

    Parameters
    ----------
    place, share : arrays
        From :func:`principal_axes`.
    cluster : (volume,) array
        Group of each volume.
    """
    low, high = place.min(axis=0), place.max(axis=0)
    with house_style():
        figure, panels = _panels(1)
        unit = (place - (low + high) / 2) / max(float((high - low).max()), 1e-12) + 0.5
        _scatter(panels[0], unit, cluster)
        panels[0].set(xticks=[], yticks=[])
        panels[0].set_xlabel(f"first principal axis, {share[0]:.0%} of the variance", fontsize=9)
        panels[0].set_ylabel(f"second, {share[1]:.0%}", fontsize=9)
        _group_legend(figure, cluster)
    return figure


def label_places(anchors: NDArray[np.float64], sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where labels stand so that none covers another: on their anchors, or on the nearest free place.

    Parameters
    ----------
    anchors : (label, 2) array
        Where each wants to stand, in the unit square; the first have the first choice.
    sizes : (label, 2) array
        Width and height of each.

    Returns
    -------
    ndarray
        (label, 2) middles of the labels, inside the unit square as long as there is room.

    >>> label_places(np.array([[0.5, 0.5], [0.5, 0.5]]), np.full((2, 2), 0.1))[0].tolist()
    [0.5, 0.5]
    """
    turns = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    ring = np.stack([np.cos(turns), np.sin(turns)], axis=1)
    offsets = np.concatenate([np.zeros((1, 2)), *(r * ring for r in np.arange(0.015, 1.5, 0.015))])
    placed = np.empty_like(anchors, dtype=np.float64)
    for number, (anchor, size) in enumerate(zip(anchors, sizes, strict=True)):
        wished = anchor + offsets
        inside = ((wished >= size / 2) & (wished <= 1 - size / 2)).all(axis=1)
        room = (sizes[:number] + size)[None] / 2
        free = (np.abs(wished[:, None] - placed[None, :number]) >= room).any(axis=2).all(axis=1)
        good = np.flatnonzero(free & inside) if (free & inside).any() else np.flatnonzero(free)
        placed[number] = wished[good[0]] if len(good) else anchor
    return placed


def colour_of_group_rgb(cluster: int) -> tuple[int, int, int]:
    """A group's colour as 0 .. 255."""
    red, green, blue = (round(255 * part) for part in to_rgb(group_colour(cluster)))
    return red, green, blue


def _panels(n_panels: int) -> tuple[Figure, list[Axes]]:
    """Square maps side by side, with room below for the groups."""
    figure = new_figure(5.2 * n_panels, 5.5)
    return figure, list(figure.subplots(1, n_panels, squeeze=False)[0])


def _scatter(axes: Axes, place: NDArray[np.float64], cluster: NDArray[np.int64]) -> None:
    size, edge = _dot(len(place))
    for k in np.unique(cluster).tolist():
        own = place[cluster == k]
        axes.scatter(
            own[:, 0], own[:, 1], s=size, c=group_colour(k), marker=group_marker(k), lw=edge, edgecolors="white",
            rasterized=len(place) > MAX_DRAWN,
        )  # fmt: skip
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
    _number_groups(axes, place, cluster)


def _dot(n_points: int) -> tuple[float, float]:
    """Area of a point, and width of its white edge, which would eat up a small one."""
    size = float(np.clip(6000 / max(n_points, 1), 5, 42))
    return size, 0.4 if size > 12 else 0.0


def _number_groups(axes: Axes, place: NDArray[np.float64], cluster: NDArray[np.int64]) -> None:
    """The groups' numbers, larger for larger groups, with a line to where they belong when they had to move."""
    groups, counts = np.unique(cluster, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    groups, counts = groups[order], counts[order]
    font_pt = (7.0 if len(groups) <= 20 else 6.0) + 6.0 * np.sqrt(counts / counts.max())
    anchors = np.stack([_middle(place[cluster == k]) for k in groups])
    width = np.array([0.68 * len(str(k)) + 0.35 for k in groups]) * font_pt
    dot, edge = _dot(len(place))
    if edge:  # a large point stays in sight: its number stands above it
        anchors[:, 1] += (np.sqrt(dot) / 2 + 0.6 * font_pt) / _SIDE_PT
    found = label_places(anchors, np.stack([width, 1.25 * font_pt], axis=1) / _SIDE_PT)
    halo = [withStroke(linewidth=2.6, foreground="white")]
    for k, size, anchor, at in zip(groups.tolist(), font_pt, anchors, found, strict=True):
        if np.linalg.norm(at - anchor) > 0.02:
            axes.plot(*np.stack([anchor, at]).T, color=INK, lw=0.6, path_effects=halo, zorder=3)
        axes.text(
            at[0],
            at[1],
            str(k),
            ha="center",
            va="center",
            weight="bold",
            fontsize=size,
            color=INK,
            path_effects=halo,
            zorder=4,
        )


def _middle(own: NDArray[np.float64]) -> NDArray[np.float64]:
    """The volume nearest a group's median: a place where the group really is."""
    return own[np.argmin(np.linalg.norm(own - np.median(own, axis=0), axis=1))]


def _group_legend(figure: Figure, cluster: NDArray[np.int64]) -> None:
    """Every group's colour and marker with its number of volumes, in rows below the map."""
    groups, counts = np.unique(cluster, return_counts=True)
    handles = [
        Line2D([], [], ls="", marker=group_marker(k), color=group_colour(k), mew=0, ms=6, label=f"{k} ({n:,})")
        for k, n in zip(groups.tolist(), counts.tolist(), strict=True)
    ]
    n_columns = min(len(handles), int(figure.get_figwidth() / (0.95 if counts.max() > 999 else 0.78)))
    by_row = [h for column in range(n_columns) for h in handles[column::n_columns]]  # a legend fills columns first
    figure.legend(
        handles=by_row, title="group (volumes)", loc="outside lower center", ncols=n_columns, columnspacing=0.8,
        handletextpad=0.1, fontsize=8, title_fontsize=9,
    )  # fmt: skip
    figure.set_figheight(figure.get_figheight() + 0.2 * -(-len(handles) // n_columns))


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
