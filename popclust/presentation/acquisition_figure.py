"""Groups against how the volumes were acquired: a group may be a scanner in disguise."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from popclust.presentation.style import INK, house_style, new_figure, shortened

ACQUISITION = {
    "kernel": "kernel",
    "scanner": "scanner",
    "slice_thickness_mm": "slice thickness (mm)",
    "noise_hu": "noise (HU)",
    "edge_mm": "width of the skin's edge (mm)",
}
"""What is compared, and its title."""
_IN_ORDER = ("slice_thickness_mm", "noise_hu", "edge_mm")
"""Measured: shown from small to large, the others by frequency."""
MAX_VALUES = 10
"""Rarer values are counted together."""
MAX_NUMBERED = 16
"""With more groups the shares are told by their shade alone."""
_OTHER = "other"


def acquisition_values(cohort: pd.DataFrame) -> pd.DataFrame:
    """Text columns of :data:`ACQUISITION` for every series, 'not stated' where the header is silent."""
    scanner = cohort["manufacturer"].fillna("").str.strip() + " " + cohort["model"].fillna("").str.strip()
    thickness = cohort["slice_thickness_mm"].map(lambda mm: "" if pd.isna(mm) else f"{mm:g}")
    out = pd.DataFrame(
        {
            "volume_id": cohort["volume_id"],
            "kernel": cohort["kernel"].fillna("").str.strip(),
            "scanner": scanner.str.strip(),
            "slice_thickness_mm": thickness,
            "noise_hu": in_steps(cohort["noise_hu"], (10, 20, 30)),
            "edge_mm": in_steps(cohort["edge_mm"], (1, 2, 3, 4)),
        }
    )
    return out.replace("", "not stated")


def in_steps(values: pd.Series, limits: Sequence[float]) -> pd.Series:
    """Which two limits a value lies between, as text; empty where there is none."""
    names = [f"below {limits[0]:g}", *(f"{a:g} to {b:g}" for a, b in pairwise(limits)), f"{limits[-1]:g} and more"]
    steps = pd.cut(values.astype(float), [-np.inf, *limits, np.inf], right=False, labels=names)
    return steps.astype(object).where(values.notna(), "")


def share_by_group(cluster: pd.Series, value: pd.Series, max_values: int = MAX_VALUES) -> pd.DataFrame:
    """Share of each value in each group; rows are values by decreasing frequency, columns groups summing to 1.

    >>> share_by_group(pd.Series([0, 0, 1]), pd.Series(["B70f", "B60f", "B70f"])).loc["B70f"].tolist()
    [0.5, 1.0]
    """
    frequency = value.value_counts().rename_axis("value").reset_index(name="n")
    frequency = frequency.sort_values(["n", "value"], ascending=[False, True])
    kept = frequency["value"].tolist()
    if len(kept) > max_values:
        kept = kept[: max_values - 1]
        value = value.where(value.isin(kept), _OTHER)
        kept = [*kept, _OTHER]
    return pd.crosstab(value, cluster, normalize="columns").reindex(kept)


def _size(values: pd.Index) -> pd.Index:
    """What measured values are sorted by: their first number, "below" it before what begins with it."""
    texts = values.astype(str)
    number = texts.str.extract(r"([\d.]+)", expand=False).astype(float).fillna(np.inf)
    return pd.Index(number - 1e-6 * texts.str.startswith("below"))


def acquisition_figure(groups: pd.DataFrame, cohort: pd.DataFrame) -> Figure:
    """Heat maps: share of kernels, scanners, slice thicknesses, noise and sharpness in every group.

    Parameters
    ----------
    groups : DataFrame
        Columns volume_id and cluster.
    cohort : DataFrame
        Columns of cohort.parquet.
    """
    joined = groups[["volume_id", "cluster"]].merge(acquisition_values(cohort), on="volume_id", validate="1:1")
    shares = {title: share_by_group(joined["cluster"], joined[name]) for name, title in ACQUISITION.items()}
    for name in _IN_ORDER:
        shares[ACQUISITION[name]] = shares[ACQUISITION[name]].sort_index(key=_size, kind="stable")
    heights = [len(share) for share in shares.values()]
    n_groups = joined["cluster"].nunique()
    with house_style():
        wide = 4.0 + (0.5 if n_groups <= MAX_NUMBERED else 0.15) * n_groups
        figure = new_figure(max(6.6, wide), 1.2 + 0.5 * len(heights) + 0.27 * sum(heights))
        panels = figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
        for number, (axes, (title, share)) in enumerate(zip(panels, shares.items(), strict=True)):
            image = _draw_shares(axes, title, share, with_groups=number == len(heights) - 1)
        if n_groups > MAX_NUMBERED:
            scale = figure.colorbar(image, ax=panels.tolist(), shrink=0.5, aspect=25)
            scale.set_label("share of the group")
    return figure


def _draw_shares(axes: Axes, title: str, share: pd.DataFrame, *, with_groups: bool) -> AxesImage:
    values = share.to_numpy()
    shades = LinearSegmentedColormap.from_list("shares", ["#ffffff", "#0b4f8a"])
    image = axes.imshow(values, cmap=shades, vmin=0, vmax=1, aspect="auto")
    axes.set_title(title)
    axes.set_yticks(range(len(share)), [shortened(str(v), 36) for v in share.index])
    is_crowded = share.shape[1] > MAX_NUMBERED
    numbers = [str(k) for k in share.columns] if with_groups else []
    axes.set_xticks(range(share.shape[1]), numbers, fontsize=7 if is_crowded else 10, rotation=90 if is_crowded else 0)
    axes.set_xlabel("group" if with_groups else "")
    axes.tick_params(length=0)
    axes.set_xticks(np.arange(share.shape[1] + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(share) + 1) - 0.5, minor=True)
    axes.grid(which="minor", lw=1)
    axes.tick_params(which="minor", length=0)
    axes.spines[:].set_visible(False)
    for (row, column), part in np.ndenumerate(values):
        if part >= 0.005 and share.shape[1] <= MAX_NUMBERED:
            axes.text(
                column, row, f"{100 * part:.0f} %", ha="center", va="center", fontsize=7.5,
                color="white" if part > 0.55 else INK,
            )  # fmt: skip
    return image
