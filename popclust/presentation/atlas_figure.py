"""Templates laid over the atlas, for the eyes of the person who approves them."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from popclust.imaging.volume import Volume, sample
from popclust.normalization.atlas import BuiltAtlas, Template
from popclust.presentation.slices import Plane, Tile, slice_tile
from popclust.presentation.style import INK, RED, house_style, new_figure, without_frame

_TILE_PX = 260
_PLANES: tuple[Plane, Plane] = ("coronal", "axial")
_COLUMNS = ("atlas", "template", "both")


def templates_figure(built: BuiltAtlas) -> Figure:
    """Atlas, template carried over, and both in two colours, coronal and axial; one row per template.

    The outline is the atlas's lungs throughout. In the last column what only the atlas shows is red, what only the
    template shows is cyan, and what agrees is grey.

    Parameters
    ----------
    built : BuiltAtlas
        With at least one registered template; those that are refused are drawn too.
    """
    reference = built.atlas.reference
    rows = built.table.set_index("template_id")
    with house_style():
        figure = new_figure(11.0, 2.1 * len(built.registered))
        panels = figure.subplots(len(built.registered), 6, squeeze=False)
        for line, template in zip(panels, built.registered, strict=True):
            tiles = template_tiles(reference.image, reference.lungs, template)
            for axes, tile in zip(line, tiles, strict=True):
                without_frame(axes)
                axes.imshow(tile)
            row = rows.loc[template.template_id]
            words = f"{template.template_id[:16]}  lung Dice {row['lung_dice']:.3f}"
            if row["n_landmarks"]:
                words += f"  landmarks {row['landmark_error_mm']:.1f} mm"
            if row["n_organs"]:
                words += f"  organ Dice {row['organ_dice']:.2f}"
            if row["reasons"]:
                words += f"  {'approved in spite of' if row['used'] else 'refused'}: {', '.join(row['reasons'])}"
            line[0].set_title(" ", fontsize=9, pad=4)  # keeps the room; the words themselves may be wider than a column
            color = INK if row["used"] else RED
            line[0].text(0, 1.03, words, fontsize=9, color=color, transform=line[0].transAxes).set_in_layout(False)
        for axes, name in zip(panels[-1], [f"{c}, {p}" for p in _PLANES for c in _COLUMNS], strict=True):
            axes.set_xlabel(name, fontsize=8)
    return figure


def template_tiles(image: Volume, lungs: Volume, template: Template) -> list[Tile]:
    """Six tiles: atlas, template and both, coronal; the same axial.

    Parameters
    ----------
    image, lungs : Volume
        The atlas, and its lungs (bool).
    template : Template
        A template.
    """
    points = image.index_to_mm(np.indices(image.shape).reshape(3, -1).T)
    carried = image.with_values(sample(template.prepared.image, template.from_atlas(points)).reshape(image.shape))
    tiles = []
    for plane in _PLANES:
        ours, theirs = (slice_tile(v, lungs, plane, _TILE_PX) for v in (image, carried))
        plain = [slice_tile(v, lungs, plane, _TILE_PX, outline=False)[..., 0] for v in (image, carried)]
        tiles += [ours, theirs, np.stack([plain[0], plain[1], plain[1]], axis=-1)]
    return tiles
