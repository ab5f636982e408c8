"""The explorer in a process of its own, and what a browser shows of it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psutil
from chromium import Page

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
LEGEND = """(() => { const find = (v) => v.model.type === 'Figure' ? v : (v.child_views ?? []).map(find).find((f) => f);
  return find(Bokeh.index.roots[0]).model.right[0].items.map((i) =>
    [i.label.value, i.renderers[0].data_source.data.category[i.index]]); })()"""
"""What the legend says, and the category of the point that each entry is drawn by."""


def choose(tab: Page, title: str, wanted: str) -> None:
    """Choose in one of the explorer's selects, as a person does."""
    tab.evaluate(
        f"(() => {{ const m = Bokeh.documents[0].all_models ?? [...Bokeh.documents[0]._all_models.values()];"
        f" const one = [...m].find((x) => x.type === 'Select' && x.title === '{title}'); one.value = '{wanted}'; }})()"
    )


def lasso(tab: Page, corners: Sequence[tuple[float, float]]) -> None:
    """Choose the lasso in the map's toolbar and draw around places of the map."""
    x, y = tab.evaluate(
        """(() => {
          const all = (n) => (n.shadowRoot ? all(n.shadowRoot) : []).concat([n], ...[...n.childNodes].map(all));
          const one = all(document.body).find((n) => n.className?.includes?.("bk-LassoSelectTool")
            || (n.title ?? "").startsWith("Lasso"));
          const box = one.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2]; })()"""
    )
    tab.click(x, y)
    tab.drag([tab_place(tab, corner) for corner in corners])


def wait_for_text(tab: Page, wanted: str, seconds: float = 20.0) -> str:
    """All text, once it has what is wanted."""
    end = time.monotonic() + seconds
    while wanted not in (text := shown_text(tab)):
        assert time.monotonic() < end, f"never shown: {wanted}; {text[:2000]}"
        time.sleep(0.1)
    return text
