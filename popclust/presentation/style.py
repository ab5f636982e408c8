"""Colours, type sizes and file bytes that all figures share."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

INK = "#1b1f24"
"""Text and outlines."""
MUTED = "#5f6873"
"""Second text: 5.6 to 1 on white."""
FAINT = "#c9ced6"
"""What stands behind the data."""
BLUE = "#2166ac"
"""Means, and terms that are mentioned less often (OR < 1)."""
RED = "#b2182b"
"""What is reported, and terms that are mentioned more often (OR > 1)."""
OUTLINE_RGB = (255, 176, 0)
"""Lung outline on a CT slice: stands out from every grey."""

GROUP_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#7a5cc4", "#6e6e6e")
"""Okabe and Ito's colours, yellow and black replaced: they differ for colour-blind eyes too."""
GROUP_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
"""After the last colour the marker changes: group = colour + 8 x marker."""

DPI = 130

_STYLE = {
    "svg.hashsalt": "popclust",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.parse_math": False,  # names come from reports and headers: a $ is a $
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.axisbelow": True,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": "#e7eaee",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "image.interpolation": "antialiased",
}


@contextmanager
def house_style() -> Iterator[None]:
    """Draw with the project's style, whatever the user's matplotlibrc says."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield


def new_figure(width_in: float, height_in: float, layout: Literal["constrained"] | None = "constrained") -> Figure:
    """A figure of its own: no window, no global list of figures."""
    figure = Figure(figsize=(width_in, height_in), dpi=DPI, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def to_png(figure: Figure) -> bytes:
    """PNG bytes; equal figures give equal bytes."""
    return _saved(figure, "png", {"Software": None})


def to_svg(figure: Figure) -> bytes:
    """SVG bytes; equal figures give equal bytes."""
    return _saved(figure, "svg", {"Date": None, "Creator": None})


def group_colour(cluster: int) -> str:
    """Colour of a group."""
    return GROUP_COLOURS[cluster % len(GROUP_COLOURS)]


def group_marker(cluster: int) -> str:
    """Marker of a group; with its colour it is unique up to 64 groups."""
    return GROUP_MARKERS[cluster // len(GROUP_COLOURS) % len(GROUP_MARKERS)]


def without_frame(axes: Axes) -> None:
    """Hide ticks and spines where axes have no unit."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def shortened(text: str, limit: int = 42) -> str:
    """Text of at most `limit` characters on one line, without characters that steer the layout.

    >>> shortened("interlobular septal thickening", 12)
    'interlobula…'
    >>> shortened("B70f" + chr(0x202E) + " s")
    'B70f s'
    """
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= limit else f"{line[: limit - 1].rstrip()}…"


def natural_key(text: str) -> list[tuple[int, float, str]]:
    """What names are sorted by: their numbers as numbers.

    >>> sorted(["group 10", "group 2", "3 to 4", "below 3"], key=natural_key)
    ['below 3', '3 to 4', 'group 2', 'group 10']
    """
    parts = re.split(r"(\d+(?:\.\d+)?)", text.removeprefix("below "))
    key = [(0, float(p), "") if i % 2 else (1, 0.0, p.casefold()) for i, p in enumerate(parts) if p]
    return [*key[:1], (-1, 0.0, ""), *key[1:]] if text.startswith("below ") else key


def _settle(figure: Figure) -> None:
    """Lay the figure out for good: the solver's last bits differ from call to call, and names in an SVG follow them."""
    if figure.get_layout_engine() is None:
        return
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        for which in ("original", "active"):
            place = axes.get_position(original=which == "original")
            axes.set_position(Bbox.from_bounds(*(round(value, 6) for value in place.bounds)), which=which)


def _saved(figure: Figure, file_format: str, metadata: dict[str, None]) -> bytes:
    sink = io.BytesIO()
    with house_style():
        _settle(figure)
        figure.savefig(sink, format=file_format, dpi=DPI, metadata=metadata)
    return sink.getvalue()
