"""The interactive explorer: a Bokeh server on loopback that reads the study and nothing else.

It holds no Dask client: who sees the page can look, not compute. Every user of the same machine can reach loopback, so
it is meant for a machine of one's own.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any

import numpy as np
from bokeh.application import Application
from bokeh.application.handlers.function import FunctionHandler
from bokeh.document import Document
from bokeh.layouts import column, row
from bokeh.models import ColumnDataSource, Div, TabPanel, Tabs
from bokeh.models.ui.ui_element import StyledElement
from bokeh.server.server import Server
from markupsafe import Markup

from popclust.errors import InputError
from popclust.parts import Done
from popclust.presentation import explorer_data as data
from popclust.presentation import explorer_selection as several
from popclust.presentation.explorer_compare import Compare
from popclust.presentation.explorer_map import WIDTH, map_of
from popclust.presentation.explorer_parts import (
    Controls,
    MatrixPlot,
    alike_table,
    associations_table,
    save_button,
    topics_plot,
)
from popclust.presentation.explorer_volume import VolumeViewer
from popclust.reported import Grouping
from popclust.study import Study

_CSS = """
h3 { margin: .2rem 0; font: 650 15px system-ui, sans-serif; }
table { border-collapse: collapse; font: 13px system-ui, sans-serif; }
th, td { text-align: left; vertical-align: top; padding: 2px 14px 2px 0; }
th { color: #5f6873; font-weight: 400; white-space: nowrap; }
img { margin-right: 4px; background: #000; }
.keys { list-style: none; margin: 4px 0; padding: 0; font: 13px system-ui, sans-serif; }
.key { display: inline-block; width: 12px; height: 12px; border: 1px solid #5f6873; vertical-align: -2px; }
p { font: 14px system-ui, sans-serif; color: #5f6873; }
"""

_TEMPLATE = (resources.files("popclust.presentation") / "explorer.html").read_text("utf-8")
"""The page around the widgets, for the keyboard and for those who hear it."""

_NARROW = """@media (max-width: 760px) {
  :host { max-width: calc(100vw - 16px) !important; }
  :host(.bk-Row) { flex-wrap: wrap !important; }
  :host(.bk-DataTable) { max-width: none !important; }
  :host(.bk-Legend) .bk-grid { display: flex; flex-wrap: wrap; max-width: calc(100vw - 40px); }
}"""
"""On a telephone: one column, and nothing wider than the window; tables scroll within it."""
_VOLUME, _GROUP, _SELECTION, _COMPARED = 0, 1, 2, 3
_WIDTH = 712
"""Of what stands beside the map."""
_WRAPS = {"flex-wrap": "wrap"}
"""One below the other where the window is narrow."""
_ONE_PLACE = 0.01
"""Points within this share of the map lie upon each other."""


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
    reader = Reader(study)
    reader.read()  # tells now, not in the browser, if there is nothing to see
    application = Application(FunctionHandler(lambda document: fill(document, reader)))
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


class Reader:
    """Reads the study once for all who look, and again when a run has changed it."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self._found: tuple[Done | None, ...] | None = None
        self._explored: data.Explored | None = None

    def read(self) -> data.Explored:
        """The study as it is now; raises as `read_explored`."""
        now = tuple(self._study.done(stage) for stage in ("ingest", "associate", "summarize"))
        if self._explored is None or now != self._found:
            self._explored, self._found = data.read_explored(self._study), now
        return self._explored


def fill(document: Document, reader: Reader) -> None:
    """Put the explorer into a Bokeh document: one session of one browser tab."""
    Session(reader.read()).show(document)


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
        self.cells = ColumnDataSource()
        self.shares = ColumnDataSource()
        self.alike = ColumnDataSource({"index": [], "volume_id": [], "distance": [], "group": []})
        self.headline = Div(stylesheets=[_CSS])
        self.viewer = VolumeViewer(explored.view.study, _CSS)
        self.facts = Div(stylesheets=[_CSS])
        self.card = Div(text="<p>Choose a group.</p>", stylesheets=[_CSS])
        self.chosen = Div(
            text="<p>Draw around volumes on the map, or click a cell of the matrix.</p>", stylesheets=[_CSS]
        )
        self._title = ""
        self._controls = Controls(explored, self.grouping)
        chosen = self._controls
        self.descriptor, self.n_clusters, self.seed = chosen.descriptor, chosen.n_clusters, chosen.seed
        self.colour, self.category, self.volume = chosen.colour, chosen.category, chosen.volume
        self.group, self.cell_group, self.cell_term = chosen.group, chosen.cell_group, chosen.cell_term
        self.map = map_of(explored.volumes[["x", "y"]].to_numpy(), self.points, "near volumes look alike (t-SNE)")
        self.matrix = MatrixPlot(self.cells)
        self.shares.data = self._shares_of(None)
        self.compare = Compare(explored, self.grouping, self.points, _CSS, self._select)
        self.tabs = self._make_tabs()
        self.regroup()
        self._listen()

    def show(self, document: Document) -> None:
        """Lay everything out."""
        document.title = "popclust explorer"
        document.template = _TEMPLATE
        grouping, looks = (self.descriptor, self.n_clusters, self.seed), (self.colour, self.category, self.volume)
        controls = row(*grouping, *looks, styles=_WRAPS)
        matrix = column(row(self.cell_group, self.cell_term), self.matrix.plot)
        table = associations_table(self.tests, len(self.explored.volumes))
        below = _tabs({"Associations": table, "Matrix": matrix}, WIDTH)
        left = column(self.map.plot, below)
        whole = column(controls, self.headline, row(left, self.tabs, styles=_WRAPS))
        for part in whole.select({"type": StyledElement}):
            part.stylesheets = [*part.stylesheets, _NARROW]
        document.add_root(whole)

    def _make_tabs(self) -> Tabs:
        """What is shown of one volume, of a group, of several volumes, of two groupings."""
        alike = Div(text="<h3>Alike by topics</h3>", stylesheets=[_CSS])
        volume = column(self.viewer.layout, self.facts, alike, alike_table(self.alike), topics_plot(self.shares))
        panels = {
            "Volume": volume,
            "Group": column(self.group, self.card),
            "Selection": column(self.chosen, save_button(self._to_csv)),
            "Two groupings": self.compare.layout,
        }
        tabs = _tabs(panels)
        tabs.on_change("active", lambda attr, old, new: self.compare.open() if new == _COMPARED else None)
        return tabs

    def regroup(self) -> None:
        """Show the grouping that the controls ask for."""
        wish = (self.descriptor.value, int(self.n_clusters.value), int(self.seed.value))
        self.grouping = data.nearest_grouping(self.explored.groupings.grid, *wish)
        self.clusters = data.clusters_of(self.explored, self.grouping)
        self.headline.text = data.grouping_html(self.explored, self.grouping)
        self.tests.data = data.association_table(self.explored, self.grouping).to_dict("list")
        self.all_tests = self.explored.tests_of(self.grouping)
        self.matrix.fill(self.all_tests, self.grouping.n_clusters, self.explored.view.alpha)
        numbers = [str(k) for k in range(self.grouping.n_clusters)]
        for control in (self.group, self.cell_group):
            control.update(options=["", *numbers], value="")
        self.compare.regroup(self.clusters, self.grouping)
        self.recolour()
        self.pick(self.points.selected.indices)

    def recolour(self) -> None:
        """Colour the map by what is chosen; the legend says the same."""
        rows = self.tests.selected.indices
        if rows and self.colour.value != f"term:{self.tests.data['term_id'][rows[0]]}":
            self.tests.selected.indices = []
        volumes = self.explored.volumes
        self.looks = data.appearance(self.explored, self.clusters, self.colour.value)
        said = {name: volumes[name].to_numpy(object) for name in ("volume_id", "kernel", "scanner")}
        self.map.show(self.looks, {**said, "group": self.clusters["cluster"].to_numpy()})
        self.category.update(options=["", *data.categories(self.looks)], value="")

    def pick(self, indices: list[int]) -> None:
        """Show the volume that was clicked, or test those that were drawn around."""
        title, self._title = self._title, ""
        if not title:  # else a second click on the same cell or row would be none
            for source in (self.cells, self.compare.flows):
                source.selected.indices = []
        is_one = bool(indices) and not title and self._is_one_click(indices)
        self.light(indices, indices[:1] if is_one else [])
        if not indices:
            self.shares.data = self._shares_of(None)
            return
        if not is_one:
            self.chosen.text = several.selection_html(self.explored, indices, title)
            self._turn_to(_SELECTION)
            return
        index = indices[0]
        self.viewer.show(str(self.explored.volumes["volume_id"].iloc[index]))
        self.facts.text = data.volume_html(self.explored, self.clusters, index)
        self.shares.data = self._shares_of(index)
        alike = several.neighbours_of(self.explored, index)
        self.alike.data = alike.assign(group=self.clusters["cluster"].to_numpy()[alike["index"]]).to_dict("list")
        self._turn_to(_VOLUME)

    def _turn_to(self, tab: int) -> None:
        """Show what was asked for; who compares groupings goes on comparing them."""
        if self.tabs.active != _COMPARED:
            self.tabs.active = tab

    def _shares_of(self, index: int | None) -> dict[str, list]:
        """Topics of a volume, 0 where none is shown, beside the population's."""
        share = self.explored.topic_share
        own = np.zeros(share.shape[1]) if index is None else share[index]
        topics = [str(t) for t in range(share.shape[1])]
        return {"topic": topics, "share": own.tolist(), "all": share.mean(axis=0).tolist()}

    def light(self, indices: list[int], of_whom: list[int]) -> None:
        """What is chosen stands out; a patient's volumes and cells of the matrix are ringed."""
        patient = self.explored.patient
        lit = np.flatnonzero(np.isin(patient, patient[of_whom])) if of_whom else np.zeros(0, np.intp)
        for one in (self.map, self.compare):
            one.light(np.asarray(indices, np.intp), lit)
        self.matrix.ring(several.cells_of(self.explored, self.clusters, lit))

    def _is_one_click(self, indices: list[int]) -> bool:
        """A click on points that lie upon each other selects them all: the first is meant."""
        place = self.explored.volumes[["x", "y"]].to_numpy()[indices]
        return len(indices) == 1 or float(np.ptp(place, axis=0).max()) < _ONE_PLACE

    def _to_csv(self) -> str:
        chosen = self.points.selected.indices
        return several.selection_csv(self.explored, self.clusters, self.looks, self.colour.value, chosen)

    def _listen(self) -> None:
        self.descriptor.on_change("value", lambda attr, old, new: self.regroup())
        self.n_clusters.on_change("value", lambda attr, old, new: self.regroup())
        self.seed.on_change("value", lambda attr, old, new: self.regroup())
        self.colour.on_change("value", lambda attr, old, new: self.recolour())
        self.category.on_change("value", lambda attr, old, new: self._select_category(new))
        self.volume.on_change("value", lambda attr, old, new: self._go_to(new.strip()))
        self.group.on_change("value", lambda attr, old, new: self._show_group(new))
        for control in (self.cell_group, self.cell_term):
            control.on_change("value", lambda attr, old, new: self._select_chosen_cell())
        self.points.selected.on_change("indices", lambda attr, old, new: self.pick(new))
        self.tests.selected.on_change("indices", lambda attr, old, new: self._colour_by_term(new))
        self.cells.selected.on_change("indices", lambda attr, old, new: self._select_cell(new))
        self.alike.selected.on_change("indices", lambda attr, old, new: self._go_to_neighbour(new))

    def _colour_by_term(self, rows: list[int]) -> None:
        """A click on an association colours the map by its term."""
        if rows:
            self.colour.value = f"term:{self.tests.data['term_id'][rows[0]]}"

    def _select_cell(self, rows: list[int]) -> None:
        """A click on a cell of the matrix selects its patients."""
        if not rows:
            return
        cell = {name: values[rows[0]] for name, values in self.cells.data.items()}
        self._show_cell(int(cell["cluster"]), str(cell["term_id"]), str(cell["term"]))

    def _select_chosen_cell(self) -> None:
        """The same without a mouse."""
        group, term_id = self.cell_group.value, self.cell_term.value
        if group and term_id:
            self._show_cell(int(group), term_id, self.explored.term_names[term_id])

    def _show_cell(self, cluster: int, term_id: str, term: str) -> None:
        found = several.volumes_of_cell(self.explored, self.clusters, cluster, term_id)
        title = f"Group {cluster} with {term}"
        self._select(found, title)
        if not found:
            self._say(f"{title}: no volume.")

    def _select_category(self, name: str) -> None:
        """All volumes of a colour: what a lasso does, without a mouse."""
        if name:
            self._select(np.flatnonzero(self.looks["category"].to_numpy() == name).tolist(), name)

    def _go_to(self, volume_id: str) -> None:
        """A volume by its name."""
        if not volume_id:
            return
        found = np.flatnonzero(self.explored.volumes["volume_id"].to_numpy() == volume_id).tolist()
        if found:
            self.points.selected.indices = found
        else:
            self._say(f"There is no volume {volume_id!r} on the map.")

    def _say(self, text: str) -> None:
        self.chosen.text = str(Markup("<p>{}</p>").format(text))
        self._turn_to(_SELECTION)

    def _show_group(self, name: str) -> None:
        """The card of a group; its volumes stand out on the map."""
        if name:
            k, alpha = int(name), self.explored.view.alpha
            self.card.text = several.group_html(self.explored, self.clusters, self.all_tests, k, alpha)
            self._select(np.flatnonzero(self.clusters["cluster"].to_numpy() == k).tolist(), f"Group {k}")
            self._turn_to(_GROUP)

    def _go_to_neighbour(self, rows: list[int]) -> None:
        if rows:
            self.points.selected.indices = [int(self.alike.data["index"][rows[0]])]
            self.alike.selected.indices = []  # the list is another one now

    def _select(self, indices: list[int], title: str) -> None:
        self._title = title
        if indices == self.points.selected.indices:
            self.pick(indices)  # no change, so nobody is told
        self.points.selected.indices = indices
        if not indices:
            self._title = ""


def _tabs(panels: Mapping[str, Any], width: int = _WIDTH) -> Tabs:
    """Linked, since Bokeh's layout else passes over figures in tabs that lie deep below another figure."""
    found = [TabPanel(title=title, child=child) for title, child in panels.items()]
    return Tabs(tabs=found, width=width, link_layouts=True)
