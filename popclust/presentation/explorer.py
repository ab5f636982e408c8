"""The interactive explorer: a Bokeh server on loopback that reads the study and nothing else.

It holds no Dask client: who sees the page can look, not compute. Every user of the same machine can reach loopback, so
it is meant for a machine of one's own.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from bokeh.application import Application
from bokeh.application.handlers.function import FunctionHandler
from bokeh.document import Document
from bokeh.layouts import column, row
from bokeh.models import (
    ColumnDataSource,
    DataTable,
    Div,
    HoverTool,
    ScientificFormatter,
    Select,
    Slider,
    StringFormatter,
    TableColumn,
)
from bokeh.plotting import figure
from bokeh.server.server import Server

from popclust.errors import InputError
from popclust.presentation import explorer_data as data
from popclust.presentation.criterion_figures import DESCRIPTOR_TITLES
from popclust.presentation.style import BLUE, INK, MUTED
from popclust.reported import Grouping
from popclust.study import Study

_CSS = """
h3 { margin: .2rem 0; font: 650 15px system-ui, sans-serif; }
table { border-collapse: collapse; font: 13px system-ui, sans-serif; }
th, td { text-align: left; vertical-align: top; padding: 2px 14px 2px 0; }
th { color: #5f6873; font-weight: 400; white-space: nowrap; }
img { margin-right: 4px; background: #000; }
p { font: 14px system-ui, sans-serif; color: #5f6873; }
"""

_COLUMNS = (
    ("cluster", "group", 55, True),
    ("term", "term", 190, True),
    ("mentioned", "mentioned", 85, True),
    ("in_group", "in the group", 100, False),
    ("in_all", "in all", 100, False),
    ("odds_ratio", "odds ratio", 80, False),
    ("p_holm", "corrected p", 90, True),
)
"""Field, title, width and whether it sorts: text of numbers does not."""


def serve(study: Study, port: int, announce: Callable[[str], None] = print) -> None:
    """Serve the explorer on 127.0.0.1 until it is interrupted.

    Parameters
    ----------
    study : Study
        The study; it must have groups.
    port : int
        Port, 0 for any free one.
    announce : callable
        Is told where to look.

    Raises
    ------
    InputError
        There is nothing to explore yet, or the port is taken.
    """
    server = start_server(study, port)
    announce(f"exploring {study.url} at http://127.0.0.1:{server.port}/ (Ctrl-C ends it)")
    try:
        server.run_until_shutdown()
    except KeyboardInterrupt:
        server.stop()


def start_server(study: Study, port: int) -> Server:
    """A started server whose event loop is not running yet.

    Raises
    ------
    InputError
        There is nothing to explore yet, or the port is taken.
    """
    _refuse_taken(port)
    data.read_explored(study)  # tells now, not in the browser, if there is nothing to see
    application = Application(FunctionHandler(lambda document: fill(document, study)))
    _have_event_loop()
    origins = [f"{host}:{port}" for host in ("127.0.0.1", "localhost")] if port else None
    server = Server({"/": application}, port=port, address="127.0.0.1", allow_websocket_origin=origins)
    if not port:
        server._tornado.websocket_origins.update(f"{host}:{server.port}" for host in ("127.0.0.1", "localhost"))
    server.start()
    return server


def _have_event_loop() -> None:
    """A loop for the server where none is running yet: newer Pythons make none by themselves."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.set_event_loop(asyncio.new_event_loop())


def _refuse_taken(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            raise InputError(f"port {port}: cannot be used ({error}); choose another with --port") from None


def fill(document: Document, study: Study) -> None:
    """Put the explorer into a Bokeh document: one session of one browser tab."""
    Session(data.read_explored(study)).show(document)


class Session:
    """The widgets of one browser tab and what happens when they are used."""

    def __init__(self, explored: data.Explored) -> None:
        reported = explored.view.reported
        if reported is None:
            raise ValueError("explored: holds no reported grouping")
        self.explored = explored
        self.grouping: Grouping = reported
        self.points = ColumnDataSource()
        self.tests = ColumnDataSource()
        self.shares = ColumnDataSource()
        self.headline = Div(stylesheets=[_CSS])
        self.slices = Div(text="<p>Click a volume on the map.</p>", stylesheets=[_CSS], min_height=250)
        self.facts = Div(stylesheets=[_CSS])
        self._make_controls()
        self.regroup()

    def show(self, document: Document) -> None:
        """Lay everything out."""
        document.title = "popclust explorer"
        controls = row(self.descriptor, self.n_clusters, self.seed, self.colour)
        table = column(Div(text="<h3>Significant associations</h3>", stylesheets=[_CSS]), self._table())
        left = column(self._map(), table)
        right = column(self.slices, self.facts, self._topics())
        document.add_root(column(controls, self.headline, row(left, right)))

    def regroup(self) -> None:
        """Show the grouping that the controls ask for."""
        wish = (self.descriptor.value, int(self.n_clusters.value), int(self.seed.value))
        self.grouping = data.nearest_grouping(self.explored.groupings.grid, *wish)
        self.clusters = data.clusters_of(self.explored, self.grouping)
        self.headline.text = data.grouping_html(self.explored, self.grouping)
        self.tests.data = data.association_table(self.explored, self.grouping).to_dict("list")
        self.recolour()
        self.pick(self.points.selected.indices)

    def recolour(self) -> None:
        """Colour the map by what is chosen."""
        volumes = self.explored.volumes
        looks = data.appearance(self.explored, self.clusters, self.colour.value)
        self.points.data = {
            **{name: volumes[name].tolist() for name in ("x", "y", "volume_id", "kernel", "scanner")},
            "group": self.clusters["cluster"].tolist(),
            **looks.to_dict("list"),
        }

    def pick(self, indices: list[int]) -> None:
        """Show the volume that was clicked."""
        topics = [str(t) for t in range(self.explored.topic_share.shape[1])]
        everybody = self.explored.topic_share.mean(axis=0)
        if not indices:
            self.shares.data = {"topic": topics, "share": [0.0] * len(topics), "all": everybody.tolist()}
            return
        index = indices[0]
        self.slices.text = data.slices_html(self.explored, index)
        self.facts.text = data.volume_html(self.explored, self.clusters, index)
        self.shares.data = {
            "topic": topics,
            "share": self.explored.topic_share[index].tolist(),
            "all": everybody.tolist(),
        }

    def _make_controls(self) -> None:
        known = self.explored.groupings.grid
        names = [(d, DESCRIPTOR_TITLES.get(d, d)) for d in known["descriptor"].unique()]
        numbers = known["n_clusters"]
        low, high = int(numbers.min()), int(numbers.max())
        self.descriptor = Select(title="groups formed on", options=names, value=self.grouping.descriptor, width=150)
        self.n_clusters = Slider(
            title="number of groups K",
            start=low,
            end=max(high, low + 1),
            step=1,
            value=self.grouping.n_clusters,
            width=260,
        )
        seeds = [str(s) for s in sorted(known["seed"].unique())]
        self.seed = Select(title="seed", options=seeds, value=str(self.grouping.seed), width=80)
        self.colour = Select(title="colour by", options=data.colour_choices(self.explored), value="cluster", width=230)
        self.descriptor.on_change("value", lambda attr, old, new: self.regroup())
        self.n_clusters.on_change("value_throttled", lambda attr, old, new: self.regroup())
        self.seed.on_change("value", lambda attr, old, new: self.regroup())
        self.colour.on_change("value", lambda attr, old, new: self.recolour())
        self.points.selected.on_change("indices", lambda attr, old, new: self.pick(new))
        self.tests.selected.on_change("indices", lambda attr, old, new: self._colour_by_term(new))

    def _colour_by_term(self, rows: list[int]) -> None:
        """A click on an association colours the map by its term."""
        if rows:
            self.colour.value = f"term:{self.tests.data['term_id'][rows[0]]}"

    def _map(self) -> Any:
        plot = figure(
            width=700, height=520, tools="tap,pan,wheel_zoom,box_zoom,reset", active_scroll="wheel_zoom",
            toolbar_location="above", title="near volumes look alike (t-SNE)", match_aspect=True,
        )  # fmt: skip
        plot.toolbar.logo = None
        plot.scatter(
            "x", "y", source=self.points, size=10, marker="marker", fill_color="colour", line_color="white",
            line_width=0.5, legend_group="category", selection_line_color=INK, selection_line_width=2.5,
            nonselection_fill_alpha=0.75, nonselection_line_color="white",
        )  # fmt: skip
        tips = [("volume", "@volume_id"), ("group", "@group"), ("kernel", "@kernel"), ("scanner", "@scanner")]
        plot.add_tools(HoverTool(tooltips=tips))
        plot.axis.visible = False
        plot.grid.visible = False
        plot.outline_line_color = "#dfe3e8"
        plot.add_layout(plot.legend[0], "right")
        plot.legend[0].border_line_color = None
        return plot

    def _topics(self) -> Any:
        plot = figure(
            width=500, height=230, x_range=self.shares.data["topic"], title="topics of the volume; dashes: population",
            toolbar_location=None, tools="",
        )  # fmt: skip
        plot.vbar(x="topic", top="share", width=0.75, color=BLUE, source=self.shares)
        plot.scatter(x="topic", y="all", marker="dash", size=16, color=MUTED, line_width=2, source=self.shares)
        plot.y_range.start = 0
        plot.xgrid.visible = False
        plot.outline_line_color = None
        return plot

    def _table(self) -> DataTable:
        formats = {"p_holm": ScientificFormatter(precision=1, power_limit_low=-1)}
        columns = [
            TableColumn(field=f, title=t, width=w, sortable=s, formatter=formats.get(f, StringFormatter()))
            for f, t, w, s in _COLUMNS
        ]
        return DataTable(source=self.tests, columns=columns, index_position=None, width=700, height=260)
