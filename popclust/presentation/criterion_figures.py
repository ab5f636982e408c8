"""Q over the number of groups, by seed and by descriptor (Fig. 3 and 4 of the paper)."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from popclust.presentation.style import BLUE, FAINT, INK, MUTED, RED, house_style, new_figure
from popclust.reported import Grouping

DESCRIPTOR_TITLES = {
    "haralick": "Haralick texture",
    "sift": "3D-SIFT shape",
    "concatenated": "texture + shape",
    "lda": "LDA topics",
    "zones": "histograms of six zones",
    "external": "vectors of another tool",
}
"""What a descriptor is called in figures."""

_LINES = {
    "lda": (BLUE, "-", "o"),
    "concatenated": ("#d55e00", "--", "s"),
    "haralick": ("#009e73", "-.", "^"),
    "sift": ("#8a5a9e", ":", "D"),
    "zones": (MUTED, (0, (1, 2)), "x"),
    "external": (INK, (0, (4, 1, 1, 1)), "v"),
}


def criterion_figure(criterion: pd.DataFrame, reported: Grouping) -> Figure:
    """Significant associations over the number of groups: seeds grey, mean blue, reported red.

    Parameters
    ----------
    criterion : DataFrame
        Columns of criterion.parquet.
    reported : Grouping
        Descriptor that is drawn, K and seed that are marked.

    Returns
    -------
    Figure
        With a band up to the 95th percentile of the permutation null where there is one.
    """
    own = criterion[criterion["descriptor"] == reported.descriptor].sort_values(["seed", "n_clusters"])
    mean = own.groupby("n_clusters")["Q"].mean()
    with house_style():
        figure = new_figure(7.2, 3.9)
        axes = figure.add_subplot()
        null = own.drop_duplicates("n_clusters").sort_values("n_clusters")
        if null["Q_null_p95"].notna().any():
            axes.fill_between(
                null["n_clusters"], 0, null["Q_null_p95"], color="#efe3c8", lw=0, label="95 % of permutations below"
            )
            axes.plot(null["n_clusters"], null["Q_null_mean"], color="#a8874a", lw=1, ls=":", label="permutation mean")
        for number, (_, rows) in enumerate(own.groupby("seed")):
            label = "single seed" if number == 0 else None
            axes.plot(rows["n_clusters"], rows["Q"], color=FAINT, lw=1.1, label=label)
        axes.plot(mean.index, mean, color=BLUE, lw=2.4, label="mean over seeds")
        chosen = own[reported.rows(own)]
        same_seed = own[own["seed"] == reported.seed]
        axes.plot(same_seed["n_clusters"], same_seed["Q"], color=RED, lw=1.0, alpha=0.75)
        axes.plot(chosen["n_clusters"], chosen["Q"], color=RED, marker="o", ms=8, ls="-", lw=1.0, label="reported seed")
        axes.axvline(reported.n_clusters, color=RED, lw=0.8, ls=(0, (2, 3)), zorder=0)
        axes.set_xlabel("number of groups K")
        axes.set_ylabel("significant associations Q")
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(axis="y")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def descriptor_figure(criterion: pd.DataFrame, reported: Grouping) -> Figure:
    """Mean of Q over the seeds against K, one line per volume descriptor.

    Parameters
    ----------
    criterion : DataFrame
        Columns of criterion.parquet.
    reported : Grouping
        Its descriptor is drawn thicker.
    """
    with house_style():
        figure = new_figure(7.2, 3.9)
        axes = figure.add_subplot()
        for descriptor, (colour, dash, marker) in _LINES.items():
            rows = criterion[criterion["descriptor"] == descriptor]
            if rows.empty:
                continue
            mean = rows.groupby("n_clusters")["Q"].mean()
            thick = 2.6 if descriptor == reported.descriptor else 1.6
            axes.plot(
                mean.index,
                mean,
                color=colour,
                ls=dash,
                lw=thick,
                marker=marker,
                ms=4,
                label=DESCRIPTOR_TITLES[descriptor],
            )
        axes.set_xlabel("number of groups K")
        axes.set_ylabel("significant associations Q,\nmean over seeds")
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(axis="y")
        axes.tick_params(labelcolor=INK, color=MUTED)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
