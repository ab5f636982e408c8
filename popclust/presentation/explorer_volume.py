"""The explorer's view of one volume: three planes to scroll through, in any window, with the lungs outlined."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from bokeh.layouts import column, row
from bokeh.models import Checkbox, CustomJS, Div, Select, Slider
from markupsafe import escape

from popclust.imaging.ome_zarr import StoredGrid, StoredVolume
from popclust.imaging.volume import Volume
from popclust.presentation.explorer_data import data_uri
from popclust.presentation.explorer_paint import NOTHING, Paint, Painter
from popclust.presentation.pictures import read_lungs
from popclust.presentation.slices import AXIS_OF_PLANE, WINDOWS_HU, Plane, middle_of_most, slice_tile
from popclust.study import Study

TILE_PX = 230
"""Edge of a picture."""
_NAME = """
for (const model of named) {
  const part = Bokeh.index.find_one(model)?.shadow_el.querySelector(".noUi-handle, input");
  part?.setAttribute("aria-label", model.title ?? model.label);
}
"""
"""Bokeh does not name the handle of a slider, nor a box to tick, for those who hear the page."""


class VolumeViewer:
    """Three pictures with their sliders."""

    def __init__(self, study: Study, css: str) -> None:
        self.study = study
        self.volume_id = ""
        self.volume: StoredVolume | None = None
        self.lungs: Volume | None = None
        self.note = Div(stylesheets=[css])
        self.window = Select(title="window", options=list(WINDOWS_HU), value="lung", width=120)
        self._painter = Painter(study)
        choices = self._painter.choices
        self._names = {value: name for named in choices.values() for value, name in named}
        self.painted = Select(title="paint on the slices", options=choices, value=NOTHING, width=260)
        self.key = Div(stylesheets=[css])
        self._paint: Paint | None = None
        self.outline = Checkbox(label="outline of the lungs", active=True)
        self.pictures = {p: Div(stylesheets=[css], width=TILE_PX, height=TILE_PX) for p in AXIS_OF_PLANE}
        self.sliders = {
            p: Slider(title=f"{p} slice", start=0, end=1, step=1, value=0, width=TILE_PX - 20) for p in AXIS_OF_PLANE
        }
        for plane, slider in self.sliders.items():
            slider.on_change("value", partial(self._moved, plane))
        self.window.on_change("value", lambda attr, old, new: self.redraw())
        self.outline.on_change("active", lambda attr, old, new: self.redraw())
        self.painted.on_change("value", lambda attr, old, new: self.redraw())
        columns = [column(self.pictures[p], self.sliders[p]) for p in AXIS_OF_PLANE]
        controls = row(self.window, self.painted, self.outline)
        self.slices: Any = column(controls, row(*columns), self.key)
        named = [self.outline, *self.sliders.values()]
        self.slices.js_on_change("visible", CustomJS(args={"named": named}, code=_NAME))
        self.layout: Any = column(self.note, self.slices)
        self._say("Click a volume on the map.")

    def show(self, volume_id: str) -> None:
        """Read a volume and show its middle: where most lung is."""
        self.volume_id, self.volume, self.lungs = volume_id, None, None
        if not self.study.settings.summarize.show_examples:
            self._say("Slices are not shown (summarize.show_examples is off).")
            return
        if not self.study.exists("volumes", f"{volume_id}.ome.zarr", "zarr.json"):
            self._say("The study holds no voxels of this volume.")
            return
        self._say("")
        volume = StoredVolume(self.study.path("volumes", f"{volume_id}.ome.zarr"))
        self.lungs = read_lungs(self.study, volume_id)
        for plane, axis in AXIS_OF_PLANE.items():
            n_slices = volume.grid.shape[axis]
            self.sliders[plane].update(end=max(1, n_slices - 1), value=self._middle(volume.grid, axis))
        self.volume = volume  # from here on a slider draws
        self.redraw()

    def redraw(self) -> None:
        """All three planes anew, and what their colours say."""
        if self.volume is None:
            return
        self._paint, self.key.text = self._painter.paint(self.volume_id, self.painted.value)
        for plane in AXIS_OF_PLANE:
            self._draw(plane)

    def _moved(self, plane: Plane, attr: str, old: int, new: int) -> None:
        self._draw(plane)

    def _draw(self, plane: Plane) -> None:
        if self.volume is None:
            return
        axis, grid = AXIS_OF_PLANE[plane], self.volume.grid
        index = min(int(self.sliders[plane].value), grid.shape[axis] - 1)
        tile = slice_tile(
            self.volume.slice(axis, index),
            self.lungs,
            plane,
            TILE_PX,
            outline=self.outline.active,
            marks=True,
            position_mm=grid.origin_mm[axis] + index * grid.spacing_mm[axis],
            window_hu=WINDOWS_HU[self.window.value],
            paint=self._paint,
        )
        n_slices = grid.shape[axis]
        alt = f"{plane} slice {index + 1} of {n_slices} of {self.volume_id}, {self.window.value} window"
        if self._paint is not None:
            alt += f", painted: {self._names[self.painted.value]}"
        picture = f'<img alt="{escape(alt)}" src="{data_uri(tile)}" width="{TILE_PX}" height="{TILE_PX}">'
        self.pictures[plane].text = picture

    def _middle(self, grid: StoredGrid, axis: int) -> int:
        """Index of the plane with most lung, the middle one without a mask."""
        if self.lungs is None or not self.lungs.voxels.any():
            return grid.shape[axis] // 2
        area = self.lungs.voxels.sum(axis=tuple(a for a in range(3) if a != axis))
        place = self.lungs.origin_mm[axis] + middle_of_most(area) * self.lungs.spacing_mm[axis]
        index = round((place - grid.origin_mm[axis]) / grid.spacing_mm[axis])
        return int(np.clip(index, 0, grid.shape[axis] - 1))

    def _say(self, text: str) -> None:
        """A line in place of slices; without text, the slices."""
        self.note.update(text=f"<p>{escape(text)}</p>", visible=bool(text))
        self.slices.visible = not text  # all at once: the browser lays the page out anew for each
