"""How well the volumes were registered: measures against their limits, and lungs outlined on slices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from popclust.presentation.slices import Pictured, mosaic
from popclust.presentation.style import BLUE, INK, MUTED, RED, house_style, new_figure, without_frame
from popclust.settings import NormalizeSettings


@dataclass(frozen=True)
class Limit:
    """A measure and the limit that a volume is accepted by."""

    column: str
    """Column of quality.parquet."""
    title: str
    """What a person calls it."""
    value: float
    """The limit."""
    is_upper: bool
    """Larger is refused; otherwise smaller."""


def limits(settings: NormalizeSettings) -> tuple[Limit, ...]:
    """The measures shown, with the limits in force."""
    return (
        Limit("ncc", "correlation with the atlas", settings.min_ncc, False),
        Limit("lung_dice", "Dice of the lungs", settings.min_lung_dice, False),
        Limit("coverage", "atlas lung in the field of view", settings.min_coverage, False),
        Limit("folding", "folded lung voxels", settings.max_folding, True),
    )


def worst_first(quality: pd.DataFrame) -> pd.DataFrame:
    """Not accepted volumes first, then by decreasing failure probability, then by increasing Dice."""
    order = quality.assign(failure=quality["failure_probability"].fillna(0.0), dice=quality["lung_dice"].fillna(0.0))
    order = order.sort_values(
        ["accepted", "failure", "dice", "volume_id"], ascending=[True, False, True, True], ignore_index=True
    )
    return order[quality.columns]


def quality_figure(quality: pd.DataFrame, settings: NormalizeSettings) -> Figure:
    """Histogram of every measure with its limit; volumes not accepted are red.

    Parameters
    ----------
    quality : DataFrame
        Columns of quality.parquet.
    settings : NormalizeSettings
        Limits in force.
    """
    with house_style():
        figure = new_figure(10.4, 2.7)
        panels = figure.subplots(1, 4, sharey=True)
        for axes, limit in zip(panels, limits(settings), strict=True):
            _draw_measure(axes, quality[limit.column], quality["accepted"], limit)
        panels[0].set_ylabel("volumes")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def contact_sheet_figure(pictures: Sequence[Pictured], quality: pd.DataFrame, n_columns: int = 4) -> Figure:
    """Coronal and axial slice of each volume with the lungs outlined.

    Parameters
    ----------
    pictures : sequence of Pictured
        In the order in which they are shown.
    quality : DataFrame
        Columns of quality.parquet; holds every pictured volume.
    n_columns : int
        Volumes in a row.
    """
    rows = quality.set_index("volume_id")
    n_rows = -(-len(pictures) // n_columns)
    with house_style():
        figure = new_figure(10.4, 1.55 * n_rows)
        panels = figure.subplots(n_rows, n_columns, squeeze=False)
        for axes in panels.flat:
            without_frame(axes)
        for axes, picture in zip(panels.flat, pictures, strict=False):
            axes.imshow(mosaic([picture.coronal, picture.axial], 2))
            row = rows.loc[picture.volume_id]
            verdict, colour = _verdict(row)
            failed = row["failure_probability"]
            words = f"{picture.volume_id[:12]}  failed: {'–' if np.isnan(failed) else f'{failed:.0%}'}{verdict}"
            axes.set_title(words, fontsize=8, pad=3, weight="normal", color=colour)
    return figure


def _verdict(row: pd.Series) -> tuple[str, str]:
    """What is said of a volume's acceptance, and in which colour."""
    if not row["accepted"]:
        return "  not accepted", RED
    return ("", INK) if len(row["trusted"]) == 2 else (f"  {row['trusted'][0]} side only", BLUE)


def _draw_measure(axes: Axes, values: pd.Series, accepted: pd.Series, limit: Limit) -> None:
    known = values.dropna()
    low, high = min([limit.value, *known]), max([limit.value, *known])
    room = 0.03 * (high - low or 1.0)
    edges = np.linspace(low - room, high + room, 25)
    parts = [values[accepted].dropna(), values[~accepted].dropna()]
    counted = [f"{name} ({n:,})" for name, n in (("accepted", accepted.sum()), ("not accepted", (~accepted).sum()))]
    axes.hist(parts, edges.tolist(), stacked=True, color=[BLUE, RED], label=counted, lw=0)  # two of 8,000 are not seen
    axes.axvline(limit.value, color=INK, lw=1, ls="--", label="limit")
    side = "at most" if limit.is_upper else "at least"
    axes.set_title(limit.title, fontsize=9.5, weight="normal")
    axes.set_xlabel(f"{side} {limit.value:g}", fontsize=8.5, color=MUTED)
    axes.tick_params(labelsize=8)
