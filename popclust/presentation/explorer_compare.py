"""Two groupings side by side: a second map of the same volumes, and a table of where they go."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from bokeh.layouts import column, row
from bokeh.models import Column, ColumnDataSource, Div, NumberFormatter, Select, TableColumn
from markupsafe import Markup
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score

from popclust.presentation import explorer_data as data
from popclust.presentation.criterion_figures import DESCRIPTOR_TITLES
from popclust.presentation.explorer_map import MANY, Map, map_of
from popclust.presentation.explorer_parts import table_of
from popclust.reported import Grouping


def transitions(first: NDArray[np.integer], second: NDArray[np.integer]) -> pd.DataFrame:
    """Where volumes go from one grouping to another.

    Parameters
    ----------
    first, second : (volume,) array of int
        Groups of the same volumes.

    Returns
    -------
    DataFrame
        first, second, n, share_of_first, share_of_second; cells that hold volumes, by first and decreasing n.

    >>> transitions(np.array([0, 0, 1]), np.array([2, 2, 2]))["share_of_second"].round(2).tolist()
    [0.67, 0.33]
    """
    pairs = pd.DataFrame({"first": first, "second": second})
    found = pairs.value_counts(sort=False).rename("n").reset_index()
    for name in ("first", "second"):
        found[f"share_of_{name}"] = found["n"] / found.groupby(name)["n"].transform("sum")
    return found.sort_values(["first", "n", "second"], ascending=[True, False, True], ignore_index=True)


class Compare:
    """Chooses a second grouping and shows it beside the first."""

    def __init__(
        self, explored: data.Explored, first: Grouping, points: ColumnDataSource, css: str,
        select: Callable[[list[int], str], None],
    ) -> None:  # fmt: skip
        known = explored.groupings.grid
        self._explored, self._select = explored, select
        names = [(d, DESCRIPTOR_TITLES.get(d, d)) for d in known["descriptor"].unique()]
        numbers = [str(k) for k in sorted(known["n_clusters"].unique())]
        self.descriptor = Select(title="second: formed on", options=names, value=first.descriptor, width=150)
        self.n_clusters = Select(title="second: number of groups K", options=numbers, value=numbers[0], width=180)
        self.seed = Select(title="second: seed", options=data.seed_choices(known), value=str(first.seed), width=110)
        place = explored.volumes[["x", "y"]].to_numpy()
        self.map: Map = map_of(place, points, "the same volumes by the second grouping", "2")
        self.flows = ColumnDataSource({n: [] for n in ("first", "second", "n", "share_of_first", "share_of_second")})
        self.text = Div(stylesheets=[css], width=690)
        self._first = explored.view.groups.iloc[:0]
        self.grouping = self._named = first
        self._lit: tuple[NDArray[np.integer], NDArray[np.integer]] = (np.zeros(0, np.intp), np.zeros(0, np.intp))
        self._is_open = len(place) <= MANY  # dots need their columns from the beginning, a picture is painted if seen
        for control in (self.descriptor, self.n_clusters, self.seed):
            control.on_change("value", lambda attr, old, new: self.regroup(self._first, self._named))
        self.flows.selected.on_change("indices", lambda attr, old, new: self._go(new))
        controls = row(self.descriptor, self.n_clusters, self.seed)
        self.layout: Any = column(self.map.plot, controls, self.text, _table(self.flows))

    def open(self) -> None:
        """Someone looks: from now on all is kept up."""
        if not self._is_open:
            self._is_open = True
            self.regroup(self._first, self._named)
            self.light(*self._lit)

    def light(self, indices: NDArray[np.integer], lit: NDArray[np.integer]) -> None:
        """Let the chosen volumes stand out here too; see :class:`Map`."""
        self._lit = (indices, lit)
        if self._is_open:
            self.map.light(indices, lit)

    def regroup(self, first: pd.DataFrame, named: Grouping) -> None:
        """Compare with these groups, from `clusters_of`."""
        self._first, self._named = first, named
        if not self._is_open:
            return
        wish = (self.descriptor.value, int(self.n_clusters.value), int(self.seed.value))
        self.grouping = data.nearest_grouping(self._explored.groupings.grid, *wish)
        second = data.clusters_of(self._explored, self.grouping)
        self.second = second["cluster"].to_numpy()
        volumes = self._explored.volumes
        said: Mapping[str, NDArray] = {n: volumes[n].to_numpy(object) for n in ("volume_id", "scanner")}
        looks = data.appearance(self._explored, second, "cluster")
        self.map.show(looks, {**said, "group": self.second})
        found = transitions(first["cluster"].to_numpy(), self.second)
        self.flows.selected.indices = []
        self.flows.data = found.to_dict("list")
        stays = found.groupby("first")["n"].max().sum() / max(1, len(first))
        same = adjusted_rand_score(first["cluster"], self.second)
        self.text.text = str(
            Markup(
                "<p><b>{}</b> beside <b>{}</b>: adjusted Rand index {} (1: the same, 0: as by chance); {} of volumes "
                "go where most of their group go. Choose a row to see its volumes on both maps.</p>"
            ).format(data.grouping_name(named), data.grouping_name(self.grouping), f"{same:.2f}", f"{stays:.0%}")
        )

    def _go(self, rows: list[int]) -> None:
        if rows:
            first, second = (int(self.flows.data[n][rows[0]]) for n in ("first", "second"))
            is_there = (self._first["cluster"].to_numpy() == first) & (self.second == second)
            title = f"Group {first} of the first grouping, {second} of the second"
            self._select(np.flatnonzero(is_there).tolist(), title)


def _table(flows: ColumnDataSource) -> Column:
    percent = NumberFormatter(format="0 %")
    columns = [
        TableColumn(field="first", title="first: group", width=110),
        TableColumn(field="second", title="second: group", width=120),
        TableColumn(field="n", title="volumes", width=100, formatter=NumberFormatter(format="0,0")),
        TableColumn(field="share_of_first", title="of the first", width=110, formatter=percent),
        TableColumn(field="share_of_second", title="of the second", width=120, formatter=percent),
    ]
    return table_of(flows, columns, 580, 260)
