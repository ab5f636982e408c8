"""The parts that the explorer is made of: controls, map, matrix, tables; none knows what the others do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from bokeh.layouts import column
from bokeh.models import (
    Button,
    ColorBar,
    Column,
    ColumnDataSource,
    CustomJS,
    DataTable,
    FactorRange,
    HoverTool,
    LinearColorMapper,
    NumberFormatter,
    ScientificFormatter,
    Select,
    StringFormatter,
    TableColumn,
    TextInput,
)
from bokeh.plotting import figure

from popclust.presentation import explorer_data as data
from popclust.presentation.association_figure import frequent_terms
from popclust.presentation.criterion_figures import DESCRIPTOR_TITLES
from popclust.presentation.explorer_map import WIDTH
from popclust.presentation.explorer_selection import matrix_cells
from popclust.presentation.style import BLUE, INK, MUTED, shortened
from popclust.reported import Grouping

_COLUMNS = (
    ("cluster", "group", 46, True),
    ("term", "term", 165, True),
    ("mentioned", "mentioned", 76, True),
    ("in_group", "in the group", 80, False),
    ("in_all", "in all", 80, False),
    ("odds_ratio", "odds ratio", 70, False),
    ("p_holm", "corrected p", 78, True),
)
"""Field, title, width and whether it sorts: text of numbers does not."""
_WIDER = {"in_group": 28, "in_all": 28, "term": -56}
"""Where numbers have five digits."""
_MATRIX_TERMS = 60
_DIVERGING = ("#2166ac", "#67a9cf", "#d1e5f0", "#f4f4f4", "#fddbc7", "#ef8a62", "#b2182b")

_SAVE = """
const link = document.createElement("a");
link.href = URL.createObjectURL(new Blob([source.data["csv"][0]], { type: "text/csv" }));
link.download = "selection.csv";
link.click();
URL.revokeObjectURL(link.href);
"""
_RENEW = "if (table.view.indices.size === cb_obj.get_length()) table.view.change.emit();"
"""Bokeh's tables else keep the old rows where the new ones are as many."""


class Controls:
    """What a person chooses from."""

    def __init__(self, explored: data.Explored, grouping: Grouping) -> None:
        known = explored.groupings.grid
        names = [(d, DESCRIPTOR_TITLES.get(d, d)) for d in known["descriptor"].unique()]
        self.descriptor = Select(title="groups formed on", options=names, value=grouping.descriptor, width=150)
        numbers = [str(k) for k in sorted(known["n_clusters"].unique())]
        self.n_clusters = Select(title="number of groups K", options=numbers, value=str(grouping.n_clusters), width=140)
        seeds = data.seed_choices(known)
        self.seed = Select(title="seed", options=seeds, value=str(grouping.seed), width=100)
        self.colour = Select(title="colour by", options=data.colour_choices(explored), value="cluster", width=230)
        self.category = Select(title="select all that are", options=[""], value="", width=200)
        self.volume = TextInput(title="go to a volume", placeholder="its name, then Enter", width=160)
        self.group = Select(title="group", options=[""], value="", width=120)
        self.cell_group = Select(title="patients of group", options=[""], value="", width=120)
        terms = [("", ""), *explored.term_names.items()]
        self.cell_term = Select(title="with the term", options=terms, value="", width=260)


class MatrixPlot:
    """Terms against groups; a click on a cell is for others to hear."""

    def __init__(self, cells: ColumnDataSource) -> None:
        self.cells = cells
        plot = figure(
            width=WIDTH, height=520, x_range=FactorRange(), y_range=FactorRange(), tools="tap,ywheel_zoom,reset",
            x_axis_location="above", toolbar_location=None, title="terms against groups",
        )  # fmt: skip
        colours = LinearColorMapper(palette=_DIVERGING, low=-5, high=5)
        plot.rect(
            "group", "row", 0.94, 0.9, source=cells, fill_color={"field": "strength", "transform": colours},
            line_color=None, selection_line_color=INK, selection_line_width=2, nonselection_fill_alpha=1.0,
        )  # fmt: skip
        self._ringed = ColumnDataSource({"group": [], "row": []})
        plot.rect("group", "row", 0.94, 0.9, source=self._ringed, fill_color=None, line_color="#d4006a", line_width=2.5)
        plot.add_layout(
            ColorBar(color_mapper=colours, title="log2 odds ratio", height=10, label_standoff=4, title_standoff=8),
            "below",
        )
        tips = [("term", "@term"), ("group", "@group"), ("with the term", "@V of @R"), ("p", "@p_holm{0.0e}")]
        plot.add_tools(HoverTool(tooltips=tips))
        plot.grid.visible = False
        plot.axis.major_tick_line_color = None
        self.plot: Any = plot

    def fill(self, tests: pd.DataFrame, n_groups: int, alpha: float) -> None:
        """Show the tests of a grouping: the most frequent terms; grey where p is above alpha."""
        terms = frequent_terms(tests, _MATRIX_TERMS)
        names = _row_names(terms)
        cells = matrix_cells(tests, list(names), alpha)
        cells = cells.assign(group=cells["cluster"].astype(str), row=cells["term_id"].map(names))
        self.plot.x_range.factors = [str(k) for k in range(n_groups)]
        self.plot.y_range.factors = list(names.values())[::-1]
        self.plot.height = int(np.clip(120 + 15 * len(names), 300, 1000))
        self.plot.xaxis.major_label_orientation = "vertical" if n_groups > 24 else "horizontal"
        self.cells.selected.indices = []
        self.cells.data = cells.to_dict("list")

    def ring(self, cells: set[tuple[int, str]]) -> None:
        """Ring the cells (group, term_id) of one patient."""
        own = zip(*(self.cells.data[n] for n in ("cluster", "term_id", "group", "row")), strict=True)
        found = [(group, row) for cluster, term_id, group, row in own if (cluster, term_id) in cells]
        self._ringed.data = {"group": [g for g, _ in found], "row": [r for _, r in found]}

    @property
    def ringed(self) -> set[tuple[str, str]]:
        """Cells (group, row) that are ringed."""
        return set(zip(self._ringed.data["group"], self._ringed.data["row"], strict=True))


def _row_names(terms: pd.DataFrame) -> dict[str, str]:
    """A short name for every term_id, no two alike."""
    short = terms["term"].map(lambda term: shortened(term, 30))
    again = short.groupby(short).cumcount()
    names = [f"{name} ({n + 1})" if n else name for name, n in zip(short, again, strict=True)]
    return dict(zip(terms["term_id"], names, strict=True))


def associations_table(tests: ColumnDataSource, n_volumes: int) -> Column:
    """Significant associations; a click colours the map by the term."""
    formats = {"p_holm": ScientificFormatter(precision=1, power_limit_low=-1)}
    wider = _WIDER if n_volumes >= 10_000 else {}
    columns = [
        TableColumn(
            field=f, title=t, width=w + wider.get(f, 0), sortable=s, formatter=formats.get(f, StringFormatter())
        )
        for f, t, w, s in _COLUMNS
    ]
    return table_of(tests, columns, WIDTH - 10, 260)


def alike_table(alike: ColumnDataSource) -> Column:
    """The volumes most like the one shown; a click goes there."""
    columns = [
        TableColumn(field="volume_id", title="volume", width=170),
        TableColumn(field="group", title="group", width=60),
        TableColumn(field="distance", title="distance", width=80, formatter=NumberFormatter(format="0.000")),
    ]
    return table_of(alike, columns, 330, 180)


def table_of(source: ColumnDataSource, columns: list[TableColumn], width: int, height: int) -> Column:
    """A table that shows what its source holds; where it is wider than the window, it scrolls."""
    table = DataTable(
        source=source, columns=columns, index_position=None, width=width, height=height, autosize_mode="none"
    )
    source.js_on_change("data", CustomJS(args={"table": table}, code=_RENEW))
    return column(table, styles={"overflow-x": "auto"})


def topics_plot(shares: ColumnDataSource) -> Any:
    """Topics of one volume against the population's."""
    plot = figure(
        width=700, height=200, x_range=shares.data["topic"], title="topics of the volume; dashes: population",
        toolbar_location=None, tools="",
    )  # fmt: skip
    plot.vbar(x="topic", top="share", width=0.75, color=BLUE, source=shares)
    plot.scatter(x="topic", y="all", marker="dash", size=16, color=MUTED, line_width=2, source=shares)
    plot.y_range.start = 0
    plot.xgrid.visible = False
    plot.outline_line_color = None
    return plot


def save_button(to_csv: Callable[[], str]) -> Button:
    """What is selected, as CSV: made here when it is asked for, saved by the browser."""
    button, file = Button(label="save the selection (CSV)", width=200), ColumnDataSource({"csv": [""]})
    file.js_on_change("data", CustomJS(args={"source": file}, code=_SAVE))
    button.on_click(lambda: file.update(data={"csv": [to_csv()]}))
    button.tags = [file]  # so that the browser knows it
    return button
