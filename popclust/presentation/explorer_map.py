"""The explorer's maps: of few volumes as dots that the browser holds, of many as a picture that the server paints.

Both have a legend of their own: Bokeh's is made once and stays as it was when the colours change.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import pandas as pd
from bokeh.core.properties import value
from bokeh.events import RangesUpdate, SelectionGeometry, Tap
from bokeh.models import ColumnDataSource, HoverTool, Legend, LegendItem, Range1d, TapTool
from bokeh.plotting import figure
from matplotlib.path import Path
from numpy.typing import NDArray

from popclust.presentation.explorer_data import categories
from popclust.presentation.shading import Window, shaded, told_apart
from popclust.presentation.style import INK, shortened

MANY = 3000
"""More volumes than these are painted by the server."""
MAX_RINGS = 400
"""More volumes than these are told by their colour alone."""
WIDTH, _HEIGHT = 620, 560
"""Of a map; what stands below the first is as wide, so that a panel fits beside both in a window of 1366."""
_PICTURE = (460, 560)
"""Rows and columns of the picture."""
_NEAR_PX = 12
"""A click this near a volume means it."""
_WAIT_MS = 120
"""A view that moves is painted when it rests this long."""


class Map(Protocol):
    """What both kinds can do."""

    plot: Any
    legend: Legend

    def show(self, looks: pd.DataFrame, said: Mapping[str, NDArray]) -> None:
        """Colour volumes: columns category, colour, marker; `said` is what is told of each when it is pointed at."""

    def light(self, indices: NDArray[np.integer], lit: NDArray[np.integer]) -> None:
        """Let the chosen volumes stand out, and ring those of a patient."""


def map_of(place: NDArray[np.float64], points: ColumnDataSource, title: str, suffix: str = "") -> Map:
    """The kind of map that suits the number of volumes.

    Parameters
    ----------
    place : (volume, 2) array
        Places in the unit square.
    points : ColumnDataSource
        Its selection is what was chosen on any map.
    title : str
        What the map says of itself.
    suffix : str
        Of the columns of `points` that this map colours by, where several share them.
    """
    if len(place) <= MANY:
        return DotMap(place, points, title, suffix)
    return PaintedMap(place, points, title)


class DotMap:
    """Every volume a dot with a colour and a marker."""

    def __init__(self, place: NDArray[np.float64], points: ColumnDataSource, title: str, suffix: str = "") -> None:
        self._points, self._suffix = points, suffix
        plot = figure(
            width=WIDTH, height=_HEIGHT, tools="lasso_select,box_select,pan,wheel_zoom,box_zoom,reset",
            active_scroll="wheel_zoom", active_drag="pan", toolbar_location="above", title=title, match_aspect=True,
        )  # fmt: skip
        plot.add_tools(TapTool(mode="replace"))  # else a click on one of several that are chosen lets all go
        self._dots = plot.scatter(
            "x", "y", source=points, size=float(np.clip(220 / np.sqrt(max(1, len(place))), 4, 10)),
            marker=f"marker{suffix}", fill_color=f"colour{suffix}", line_color="white", line_width=0.5,
            selection_line_color=INK, selection_line_width=2, nonselection_fill_alpha=0.35,
            nonselection_line_color="white",
        )  # fmt: skip
        self._place, self._rings = place, _rings(plot)
        tips = [("volume", "@volume_id"), ("group", f"@group{suffix}"), ("", f"@category{suffix}")]
        plot.add_tools(HoverTool(tooltips=[*tips, ("scanner", "@scanner")], renderers=[self._dots]))
        self.legend = _bare(plot)
        self.plot: Any = plot

    def show(self, looks: pd.DataFrame, said: Mapping[str, NDArray]) -> None:
        """Colour volumes; see :class:`Map`."""
        own = {f"{name}{self._suffix}": looks[name].tolist() for name in ("category", "colour", "marker")}
        group = {f"group{self._suffix}": said["group"].tolist()}
        others = {name: values.tolist() for name, values in said.items() if name != "group"}
        x, y = self._place.T.tolist()
        self._points.data = {**dict(self._points.data), "x": x, "y": y, **others, **group, **own}
        first_of = categories(looks)
        self.legend.ncols = _columns(list(first_of))
        self.legend.items = [
            LegendItem(label=value(shortened(name, 30)), renderers=[self._dots], index=index)
            for name, index in first_of.items()
        ]

    def light(self, indices: NDArray[np.integer], lit: NDArray[np.integer]) -> None:
        """Ring volumes; what is chosen the browser knows."""
        self._rings.data = _at(self._place[lit])


class PaintedMap:
    """A picture of all volumes, painted anew when the view moves; near ones are dots that say what they are."""

    def __init__(self, place: NDArray[np.float64], points: ColumnDataSource, title: str) -> None:
        self._place, self._points = place, points
        edges = _extent(place)
        plot = figure(
            width=WIDTH, height=_HEIGHT, tools="lasso_select,box_select,pan,wheel_zoom,box_zoom,reset",
            active_scroll="wheel_zoom", active_drag="pan", toolbar_location="above", title=title,
            x_range=Range1d(*edges[0]), y_range=Range1d(*edges[1]),
        )  # fmt: skip
        self._picture = ColumnDataSource({"image": [], "x": [], "y": [], "dw": [], "dh": []})
        plot.image_rgba("image", x="x", y="y", dw="dw", dh="dh", source=self._picture)
        self._near = ColumnDataSource(
            {n: [] for n in ("x", "y", "volume_id", "group", "category", "scanner", "colour")}
        )
        dots = plot.scatter(
            "x", "y", source=self._near, size=7, fill_color="colour", line_color="white", line_width=0.5
        )
        self._chosen_rings, self._rings = _rings(plot, INK, 9, 1.5), _rings(plot)
        self._key = ColumnDataSource({"category": [], "colour": []})
        self._key_dots = plot.scatter(np.nan, np.nan, source=self._key, size=9, fill_color="colour", line_color=None)
        tips = [(n, f"@{f}") for n, f in (("volume", "volume_id"), ("group", "group"), ("", "category"))]
        plot.add_tools(HoverTool(tooltips=[*tips, ("scanner", "@scanner")], renderers=[dots]))
        plot.on_event(Tap, self._tapped)
        plot.on_event(SelectionGeometry, self._drawn_around)
        plot.on_event(RangesUpdate, lambda event: self._paint_soon())
        self.legend = _bare(plot)
        self.plot: Any = plot
        self._looks = pd.DataFrame({"category": [], "colour": []})
        self._said: Mapping[str, NDArray] = {}
        self._code = np.zeros(len(place), np.int64)
        self._chosen: NDArray[np.integer] = np.zeros(0, np.int64)
        self._is_waiting = False

    def show(self, looks: pd.DataFrame, said: Mapping[str, NDArray]) -> None:
        """Colour volumes; see :class:`Map`."""
        first_of = categories(looks)
        names = list(first_of)
        colours = told_apart(looks["colour"].iloc[list(first_of.values())].tolist())
        self._key.data = {"category": names, "colour": colours}
        self._code = pd.Index(names).get_indexer(pd.Index(looks["category"]))
        self._looks, self._said = looks, said
        self.legend.ncols = _columns(names)
        self.legend.items = [
            LegendItem(label=value(shortened(name, 30)), renderers=[self._key_dots], index=i)
            for i, name in enumerate(names)
        ]
        self.paint()

    def light(self, indices: NDArray[np.integer], lit: NDArray[np.integer]) -> None:
        """Chosen volumes stand out of the others; see :class:`Map`."""
        self._chosen = indices
        self._chosen_rings.data = _at(self._place[indices] if len(indices) <= MAX_RINGS else self._place[:0])
        self._rings.data = _at(self._place[lit])
        self.paint()

    def paint(self) -> None:
        """The view as it is now."""
        window = self.window
        left, right, bottom, top = window
        x, y = self._place.T
        near = np.flatnonzero((x >= left) & (x <= right) & (y >= bottom) & (y <= top))
        is_near = len(near) <= MANY
        colours = self._key.data["colour"]
        radius = 1 if len(near) > 20_000 else 2
        image = shaded(self._place, self._code, colours, window, _PICTURE, radius, self._chosen)
        self._picture.data = {
            "image": [image], "x": [left], "y": [bottom], "dw": [right - left], "dh": [top - bottom],
        }  # fmt: skip
        dots = near if is_near else near[:0]
        self._near.data = {
            **_at(self._place[dots]),
            **{name: self._said[name][dots].tolist() for name in ("volume_id", "group", "scanner")},
            "category": self._looks["category"].to_numpy()[dots].tolist(),
            "colour": [colours[k] for k in self._code[dots]],
        }

    @property
    def window(self) -> Window:
        """What is seen."""
        ranges = self.plot.x_range, self.plot.y_range
        left, right, bottom, top = (float(v) for r in ranges for v in (r.start, r.end))
        return left, right, bottom, top

    def nearest(self, x: float, y: float) -> int | None:
        """The volume at a place of the map; None where there is none near."""
        left, right, bottom, top = self.window
        off = (self._place - (x, y)) / ((right - left) / _PICTURE[1], (top - bottom) / _PICTURE[0])
        distance = np.hypot(*off.T)
        index = int(distance.argmin())
        return index if distance[index] <= _NEAR_PX else None

    def within(self, geometry: Mapping[str, Any]) -> list[int]:
        """The volumes inside what was drawn: a polygon, or a rectangle."""
        if geometry["type"] == "rect":
            low = np.array([min(geometry[f"{a}0"], geometry[f"{a}1"]) for a in "xy"])
            high = np.array([max(geometry[f"{a}0"], geometry[f"{a}1"]) for a in "xy"])
            return np.flatnonzero(((self._place >= low) & (self._place <= high)).all(axis=1)).tolist()
        if geometry["type"] != "poly" or len(geometry["x"]) < 3:
            return []
        corners = np.column_stack([geometry["x"], geometry["y"]]).astype(float)
        return np.flatnonzero(Path(corners).contains_points(self._place)).tolist()

    def _tapped(self, event: Any) -> None:
        index = self.nearest(event.x, event.y)
        self._points.selected.indices = [] if index is None else [index]

    def _drawn_around(self, event: Any) -> None:
        if event.final:
            self._points.selected.indices = self.within(event.geometry)

    def _paint_soon(self) -> None:
        document = self.plot.document
        if document is None:
            self.paint()
        elif not self._is_waiting:
            self._is_waiting = True
            document.add_timeout_callback(self._rested, _WAIT_MS)

    def _rested(self) -> None:
        self._is_waiting = False
        self.paint()


def _rings(plot: Any, colour: str = "#d4006a", size: int = 15, width: float = 2.5) -> ColumnDataSource:
    source = ColumnDataSource({"x": [], "y": []})
    plot.scatter("x", "y", source=source, size=size, fill_color=None, line_color=colour, line_width=width)
    return source


def _at(place: NDArray[np.float64]) -> dict[str, list[float]]:
    return {"x": place[:, 0].tolist(), "y": place[:, 1].tolist()}


def _extent(place: NDArray[np.float64]) -> list[tuple[float, float]]:
    low, high = place.min(axis=0), place.max(axis=0)
    margin = 0.02 * np.maximum(high - low, 1e-9)
    return list(zip((low - margin).tolist(), (high + margin).tolist(), strict=True))


def _columns(names: list[str]) -> int:
    """As many columns of a legend as fit below a map."""
    longest = max((len(shortened(name, 30)) for name in names), default=0)
    return max(1, (WIDTH - 20) // (34 + 7 * longest))


def _bare(plot: Any) -> Legend:
    """No axes (they mean nothing), and a legend below the map, as wide as it whatever the names are."""
    plot.toolbar.logo = None
    plot.axis.visible = False
    plot.grid.visible = False
    plot.outline_line_color = "#dfe3e8"
    legend = Legend(items=[], border_line_color=None, label_text_font_size="11px", spacing=3, location="top_left")
    plot.add_layout(legend, "below")
    return legend
