"""The explorer in a process of its own, and what a browser shows of it."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import psutil
from chromium import Page
from numpy.typing import NDArray
from PIL import Image

from popclust.study import Study


@contextmanager
def served(study: Study, before: str = "") -> Iterator[tuple[str, psutil.Process]]:
    """The explorer in a process of its own; `before` is Python that it runs first."""
    code = (
        f"{before}\nimport sys; from popclust.study import Study; from popclust.presentation.explorer import serve; "
        "serve(Study.open(sys.argv[1]), 0, lambda line: print(line, flush=True))"
    )
    command = [sys.executable, "-W", "error", "-c", code, study.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert "http://127.0.0.1:" in line
            yield line.split(" at ")[1].split()[0], psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait(20)


def open_explorer(tab: Page, url: str) -> None:
    """Go there, and wait for the map with its legend: the document as a whole never rests, for what is not shown."""
    tab.goto(url)
    tab.wait_for("window.Bokeh && Bokeh.documents.length > 0 && Bokeh.index.roots.length > 0", 300)
    tab.wait_for(f"{LEGEND}.length > 0", 120)


PARTS = """(function parts(n) { return (n.shadowRoot ? parts(n.shadowRoot) : []).concat(
  n.nodeType === 1 ? [n] : [], ...[...n.childNodes].map(parts)); })(document.body)"""
"""Every element, in whatever shadow root."""
NAME_OF = """((n) => (n.id && n.getRootNode().querySelector(`label[for="${n.id}"]`)?.textContent)
  || (n.getAttribute("aria-label") ?? n.textContent.slice(0, 40)))"""
"""What an element is called: JavaScript, a function."""
FOCUS = f"""(() => {{
  let n = document.activeElement;
  while (n.shadowRoot?.activeElement) n = n.shadowRoot.activeElement;
  return {NAME_OF}(n); }})()"""
"""What is named that has the keyboard."""


def point_at(tab: Page, condition: str) -> None:
    """Click the middle of the first element n that fulfils a condition, and is shown."""
    wanted = f"{PARTS}.find((n) => ({condition}) && n.getBoundingClientRect().width > 0)"
    tab.wait_for(f"{wanted} !== undefined")
    tab.evaluate(f"{wanted}.scrollIntoView({{ block: 'nearest' }})")
    x, y, width, height = tab.evaluate(f"(({{ x, y, width, height }}) => [x, y, width, height])"
                                       f"({wanted}.getBoundingClientRect())")  # fmt: skip
    tab.click(x + width / 2, y + height / 2)


def turn_to(tab: Page, title: str) -> None:
    """Click a tab by its title."""
    point_at(tab, f"n.className.includes?.('bk-tab') && n.textContent === '{title}'")


def tab_place(tab: Page, place: tuple[float, float]) -> tuple[float, float]:
    """Where on the screen a place of the map is."""
    x, y = tab.evaluate(
        """((x, y) => {
          const find = (view) => view.model.type === "Figure" ? view
            : (view.child_views ?? []).map(find).find((found) => found);
          const plot = find(Bokeh.index.roots[0]);
          const box = plot.el.getBoundingClientRect();
          return [box.x + plot.frame.x_scale.compute(x), box.y + plot.frame.y_scale.compute(y)];
        })(X, Y)""".replace("X, Y", f"{place[0]}, {place[1]}")
    )
    return x, y


def place_of_volume(tab: Page, index: int) -> tuple[float, float]:
    """Where on the screen a volume of the map is."""
    x, y = tab.evaluate(
        """((index) => {
          const find = (view) => view.model.type === "Figure" ? view
            : (view.child_views ?? []).map(find).find((found) => found);
          const plot = find(Bokeh.index.roots[0]);
          const { x, y } = plot.model.renderers[0].data_source.data;
          const box = plot.el.getBoundingClientRect();
          return [box.x + plot.frame.x_scale.compute(x[index]), box.y + plot.frame.y_scale.compute(y[index])];
        })(INDEX)""".replace("INDEX", str(index))
    )
    return x, y


def shown_text(tab: Page) -> str:
    """Text of all shadow roots."""
    return str(
        tab.evaluate(
            """(() => {
              const texts = (node) => (node.shadowRoot ? [...node.shadowRoot.childNodes].map(texts).join(" ") : "")
                + (node.nodeType === 3 ? node.textContent : node.tagName === "STYLE" ? ""
                  : [...node.childNodes].map(texts).join(" "));
              return texts(document.body);
            })()"""
        )
    )


IMAGES = """(function images(n) { return (n.shadowRoot ? images(n.shadowRoot) : []).concat(
  n.tagName === 'IMG' ? [n] : [], ...[...n.childNodes].map(images)); })(document.body)"""
"""Every picture, in whatever shadow root."""
_MAP = """(() => { const find = (v) => v.model.type === 'Figure' ? v : (v.child_views ?? []).map(find).find((f) => f);
  return find(Bokeh.index.roots[0]); })()"""
_LEGEND_MODEL = f"{_MAP}.model.below.find((m) => m.type === 'Legend')"
LEGEND = f"""{_LEGEND_MODEL}.items.map((i) =>
    [i.label.value, i.renderers[0].data_source.data.category[i.index]])"""
"""What the legend says, and the category of the point that each entry is drawn by."""
SWATCHES = f"""{_MAP}.renderer_views.get({_LEGEND_MODEL}).entries.map(({{ label_el, glyph: {{ canvas }} }}) =>
  [label_el.textContent, [...canvas.getContext("2d").getImageData(canvas.width / 2, canvas.height / 2, 1, 1).data]])"""
"""What the legend shows: its texts, and the colour (red, green, blue, opacity) in the middle of each one's mark."""


def choose(tab: Page, title: str, wanted: str) -> None:
    """Choose in one of the explorer's selects what is called so, once it is offered."""
    select = f"{PARTS}.find((n) => n.tagName === 'SELECT' && {NAME_OF}(n) === {json.dumps(title)})"
    tab.wait_for(f"[...({select}?.options ?? [])].some((o) => o.value === {json.dumps(wanted)})")
    tab.evaluate(f"(({{ n }}) => {{ n.value = {json.dumps(wanted)}; n.dispatchEvent(new Event('change')); }})"
                 f"({{ n: {select} }})")  # fmt: skip


def figure_places(tab: Page, title: str, places: Sequence[Sequence[object]]) -> list[tuple[float, float]]:
    """Where on the screen places (x, y) of the figure are whose title begins so; it is scrolled into view."""
    found = f"""(() => {{
      const all = (v) => [v, ...(v.child_views ?? []).flatMap(all)];
      const plot = all(Bokeh.index.roots[0]).find((v) => v.model.type === "Figure"
        && v.model.title?.text?.startsWith({json.dumps(title)}));
      plot.el.scrollIntoView({{ block: "nearest" }});
      const box = plot.el.getBoundingClientRect(), {{ x_scale, y_scale }} = plot.frame;
      return {json.dumps(places)}.map(([x, y]) => [box.x + x_scale.compute(x), box.y + y_scale.compute(y)]);
    }})()"""
    return [(x, y) for x, y in tab.evaluate(found)]


def seen(tab: Page) -> NDArray[np.uint8]:
    """The pixels (row, column, 3) of the window."""
    return pixels_of(tab.call("Page.captureScreenshot", format="png")["data"])


def pixels_of(png: str) -> NDArray[np.uint8]:
    """Pixels (row, column, 3) of a PNG in base64."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB"))


def around(picture: NDArray[np.uint8], place: tuple[float, float], size: int) -> NDArray[np.uint8]:
    """The square of a picture around a place (x, y)."""
    left, top = (round(v - size / 2) for v in place)
    return picture[max(0, top) : top + size, max(0, left) : left + size]


def until(condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.1)


def in_sight(text: str) -> str:
    """Whether a person sees a text: JavaScript."""
    return (
        f"{PARTS}.some((n) => n.tagName !== 'OPTION' && n.checkVisibility({{ visibilityProperty: true }})"
        f" && [...n.childNodes].some((c) => c.nodeType === 3 && c.textContent.includes({json.dumps(text)})))"
    )


def lasso(tab: Page, corners: Sequence[tuple[float, float]]) -> None:
    """Choose the lasso in the map's toolbar and draw around places of the map, once the page has come to rest."""
    found = """(() => {
      const all = (n) => (n.shadowRoot ? all(n.shadowRoot) : []).concat([n], ...[...n.childNodes].map(all));
      const one = all(document.body).find((n) => n.className?.includes?.("bk-LassoSelectTool")
        || (n.title ?? "").startsWith("Lasso"));
      const box = one.getBoundingClientRect();
      return [box.x + box.width / 2, box.y + box.height / 2, one.className.includes("bk-active")]; })()"""

    def look() -> tuple[list[Any], list[tuple[float, float]]]:
        return tab.evaluate(found), [tab_place(tab, corner) for corner in corners]

    def is_chosen() -> bool:
        (x, y, is_active), places = look()
        time.sleep(0.3)
        if look() != ([x, y, is_active], places):  # what moves away is not hit
            return False
        if not is_active:
            tab.click(x, y)
        return bool(is_active)

    until(is_chosen, "the lasso is chosen")
    tab.drag(look()[1])


def wait_for_text(tab: Page, wanted: str, seconds: float = 240.0) -> str:
    """All text, once it has what is wanted."""
    end = time.monotonic() + seconds
    while wanted not in (text := shown_text(tab)):
        assert time.monotonic() < end, f"never shown: {wanted}; {text[:2000]}"
        time.sleep(0.1)
    return text
