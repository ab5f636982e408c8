"""Terms against groups: which are mentioned more or less often (Fig. 6a of the paper)."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from popclust.presentation.style import BLUE, FAINT, MUTED, RED, house_style, new_figure, shortened

MAX_TERMS = 80
"""More terms than these would not be readable: the most frequent are drawn."""
MANY_GROUPS, MANY_TERMS = 20, 40
"""From these on columns and rows are narrower."""
_MAX_LOG2 = 5.0


def association_figure(associations: pd.DataFrame, alpha: float, max_terms: int = MAX_TERMS) -> Figure:
    """Matrix of terms (rows, by decreasing frequency) and groups (columns).

    Parameters
    ----------
    associations : DataFrame
        Rows of associations.parquet of one grouping, every (group, term).
    alpha : float
        A cell with corrected p <= alpha is filled, the others are small rings.
    max_terms : int
        The most frequent terms are drawn.

    Returns
    -------
    Figure
        Red: more often than outside the group, blue: less often; the larger, the further the odds ratio from 1.
    """
    terms = frequent_terms(associations, max_terms)
    row_of_term = {t: i for i, t in enumerate(terms["term_id"])}
    cells = associations[associations["term_id"].isin(terms["term_id"])]
    n_groups = int(associations["cluster"].max()) + 1
    x = cells["cluster"].to_numpy()
    y = cells["term_id"].map(row_of_term).to_numpy()
    strength = np.abs(clipped_log2(cells["odds_ratio"].to_numpy()))
    colour = np.where(cells["direction"].to_numpy() > 0, RED, BLUE)
    significant = cells["p_holm"].to_numpy() <= alpha
    with house_style():
        column_in, row_in = 0.36 if n_groups <= MANY_GROUPS else 0.2, 0.27 if len(terms) <= MANY_TERMS else 0.2
        figure = new_figure(max(6.6, 4.2 + column_in * n_groups), 1.6 + row_in * len(terms))
        axes = figure.add_subplot()
        area = (20 + 170 * strength / _MAX_LOG2) * (1.0 if row_in > 0.2 and column_in > 0.2 else 0.7)
        axes.scatter(x[significant], y[significant], s=area[significant], c=colour[significant], marker="s", lw=0)
        axes.scatter(x[~significant], y[~significant], s=5, c=FAINT, marker="o", lw=0)
        axes.set_xlim(-0.6, n_groups - 0.4)
        axes.set_ylim(len(terms) - 0.4, -0.6)
        axes.set_yticks(
            range(len(terms)),
            [f"{shortened(t)}  ({c:,})" for t, c in zip(terms["term"], terms["C"], strict=True)],
            fontsize=10 if row_in > 0.2 else 8.5,
        )
        sizes = associations.drop_duplicates("cluster").set_index("cluster")["R"].reindex(range(n_groups), fill_value=0)
        # narrow columns have room for one line only, on its side
        names, turned = [f"{k}\n{n:,}" for k, n in sizes.items()], 0
        if column_in <= 0.2 or (sizes > 999).any():
            names, turned = [f"{k}  ({n:,})" for k, n in sizes.items()], 90
        axes.set_xticks(range(n_groups), names, fontsize=8, rotation=turned)
        axes.xaxis.set_ticks_position("top")
        axes.xaxis.set_label_position("top")
        axes.set_xlabel("group, and its number of units with a report", fontsize=9)
        axes.set_xticks(np.arange(n_groups + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(len(terms) + 1) - 0.5, minor=True)
        axes.grid(which="minor")
        axes.tick_params(which="both", length=0)
        axes.spines[:].set_visible(False)
        figure.legend(handles=_legend(alpha), loc="outside lower center", ncols=3, handletextpad=0.4)
    return figure


def frequent_terms(associations: pd.DataFrame, max_terms: int = MAX_TERMS) -> pd.DataFrame:
    """The terms (term_id, term, C) by decreasing frequency, names on ties."""
    terms = associations.drop_duplicates("term_id")[["term_id", "term", "C"]]
    return terms.sort_values(["C", "term"], ascending=[False, True], ignore_index=True).head(max_terms)


def clipped_log2(odds_ratio: NDArray[np.float64], limit: float = _MAX_LOG2) -> NDArray[np.float64]:
    """log2 of odds ratios, 0 and infinity taken to the limits, missing to 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num(np.clip(np.log2(odds_ratio), -limit, limit), nan=0.0)


def _legend(alpha: float) -> list[Line2D]:
    def square(colour: str, odds_ratio: float, label: str) -> Line2D:
        size = float(np.sqrt(20 + 170 * abs(np.log2(odds_ratio)) / _MAX_LOG2))
        return Line2D([], [], ls="", marker="s", ms=size, mew=0, color=colour, label=label)

    return [
        square(RED, 4, "more often (OR > 1)"),
        square(BLUE, 4, "less often (OR < 1)"),
        Line2D([], [], ls="", marker="o", ms=2.5, mew=0, color=FAINT, label=f"corrected p > {alpha:g}"),
        square(MUTED, 2, "OR 2 or 1/2"),
        square(MUTED, 8, "8 or 1/8"),
        square(MUTED, 32, "32 or 1/32 and beyond"),
    ]
