"""What is written in a figure, where it stands, and whether it can be read."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.text import Text

from popclust.presentation.style import house_style

ROOM_PX = 1.5
"""Boxes hold a little air around the letters."""


def drawn_texts(figure: Figure) -> list[tuple[str, np.ndarray]]:
    """Every text that is really drawn, with the box (left, bottom, right, top) of its ink in pixels."""
    found: list[Text] = []
    draw = Text.draw

    def noted(self: Text, renderer: object, *args: object, **kwargs: object) -> None:
        draw(self, renderer, *args, **kwargs)
        if self.get_visible() and self.get_text().strip():
            found.append(self)

    with house_style():
        figure.canvas.draw()
        with patch.object(Text, "draw", noted):
            figure.canvas.draw()
    return [(t.get_text(), np.array(t.get_window_extent().extents)) for t in dict.fromkeys(found)]


def unreadable(figure: Figure) -> list[str]:
    """Texts that are cut by the figure's edge, or run into another; legends that lie on axes."""
    texts = drawn_texts(figure)
    words, boxes = [t for t, _ in texts], np.array([b for _, b in texts])
    width, height = figure.get_size_inches() * figure.dpi
    low, high = boxes[:, :2] + ROOM_PX, boxes[:, 2:] - ROOM_PX
    is_cut = (low < 0).any(axis=1) | (high > [width, height]).any(axis=1)
    meets = ((low[:, None] < high[None]) & (low[None] < high[:, None])).all(axis=2)
    pairs = np.argwhere(np.triu(meets, 1))
    wrong = [f"cut: {words[i]!r} {boxes[i].round()} in {width:.0f} x {height:.0f}" for i in np.flatnonzero(is_cut)]
    wrong += [f"overlap: {words[i]!r} and {words[j]!r}" for i, j in pairs]
    legends = [a.get_window_extent() for a in figure.findobj(Legend)]
    panels = [a.get_window_extent() for a in figure.axes]
    wrong += ["a legend lies on data" for legend in legends for p in panels if legend.shrunk(0.98, 0.98).overlaps(p)]
    return wrong
