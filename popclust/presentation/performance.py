"""Where a run's time went: how busy its workers were, which parts took longest, what they needed; one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from popclust.presentation.style import GROUP_COLOURS, INK, MUTED, house_style, new_figure, to_svg

_N_LONGEST = 20
_N_BINS = 400


@dataclass(frozen=True)
class Performance:
    """What the events of one run tell."""

    stages: pd.DataFrame
    """A row per stage: ``n``, ``n_failed``, ``core_seconds``, ``median_s``, ``longest_s``, ``peak_mb``, ``span_s``,
    ``utilisation`` (core seconds over span times workers there) and ``driver_s`` (what the launcher did itself)."""
    longest: pd.DataFrame
    """The parts that took longest."""
    n_workers: int
    """Worker processes that did something."""
    wall_s: float
    """From the run's begin to its last event."""
    utilisation: float
    """Core seconds of all tasks over the time that the workers were there, from their first task to their last."""
    idle_s: float
    """The rest of that time."""
    overlapped: float
    """Share of the workers' time in tasks from the first registration's begin to the last extraction's end; NaN where
    the run did neither."""

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "n_workers": self.n_workers,
            "wall_s": round(self.wall_s, 1),
            "utilisation": round(self.utilisation, 4),
            "idle_s": round(self.idle_s, 1),
            "overlapped": round(self.overlapped, 4),
            "stages": self.stages.round(4).reset_index().to_dict("records"),
            "longest": self.longest.to_dict("records"),
        }


def measure(events: pd.DataFrame, driver: str) -> Performance:
    """Sum up the events of one run.

    Parameters
    ----------
    events : pandas.DataFrame
        Columns ``stage``, ``part``, ``ended_s``, ``seconds``, ``peak_mb``, ``worker``, ``error``.
    driver : str
        The worker that stands for the launcher.
    """
    own = events["worker"] == driver
    tasks = events[~own].assign(started_s=lambda e: e["ended_s"] - e["seconds"])
    there = tasks.groupby("worker").agg(first=("started_s", "min"), last=("ended_s", "max"))
    present_s = float((there["last"] - there["first"]).sum())
    busy_s = float(tasks["seconds"].sum())
    driver_s = events[own].groupby("stage")["seconds"].sum()
    rows = {}
    for stage in dict.fromkeys(events["stage"]):
        of = tasks[tasks["stage"] == stage]
        span = float(of["ended_s"].max() - of["started_s"].min()) if len(of) else 0.0
        n_there = of["worker"].nunique()
        rows[stage] = {
            "n": len(of),
            "n_failed": int((of["error"] != "").sum()),
            "core_seconds": float(of["seconds"].sum()),
            "median_s": float(of["seconds"].median()) if len(of) else 0.0,
            "longest_s": float(of["seconds"].max()) if len(of) else 0.0,
            "peak_mb": float(of["peak_mb"].max()) if len(of) else 0.0,
            "span_s": span,
            "utilisation": float(of["seconds"].sum()) / (span * n_there) if span * n_there > 0 else 0.0,
            "driver_s": float(driver_s.get(stage, 0.0)),
        }
    stages = pd.DataFrame.from_dict(rows, orient="index").rename_axis("stage")
    columns = ["stage", "part", "seconds", "peak_mb", "error"]
    longest = tasks.sort_values(["seconds", "part"], ascending=[False, True])[columns].head(_N_LONGEST)
    wall_s = float(events["ended_s"].max())
    utilisation = busy_s / present_s if present_s > 0 else 0.0
    idle_s = max(0.0, present_s - busy_s)
    return Performance(stages, longest, len(there), wall_s, utilisation, idle_s, overlapped(tasks))


def overlapped(tasks: pd.DataFrame, first: str = "normalize", last: str = "extract") -> float:
    """Share of the workers' time that went into tasks while two stages ran one into the other.

    Parameters
    ----------
    tasks : pandas.DataFrame
        Columns ``stage``, ``ended_s``, ``seconds``, ``worker``; without the launcher.
    first, last : str
        From the begin of the first task of `first` to the end of the last of `last`; tasks of all stages count.

    Returns
    -------
    float
        Wall time in tasks over that span times the workers that had a task in it; NaN where a stage had no task.
    """
    begins, ends = (tasks[tasks["stage"] == s] for s in (first, last))
    if begins.empty or ends.empty:
        return float("nan")
    edges = np.array([(begins["ended_s"] - begins["seconds"]).min(), ends["ended_s"].max()])
    within = tasks[(tasks["ended_s"] > edges[0]) & (tasks["ended_s"] - tasks["seconds"] < edges[1])]
    return float(busy_workers(within, edges)[0]) / within["worker"].nunique()


def busy_workers(tasks: pd.DataFrame, edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean number of tasks at work in each interval of time.

    Parameters
    ----------
    tasks : pandas.DataFrame
        Columns ``ended_s`` and ``seconds``.
    edges : ndarray, shape (n + 1,)
        Seconds since the run's begin, ascending.

    >>> busy_workers(pd.DataFrame({"ended_s": [1.0, 2.0], "seconds": [1.0, 1.5]}), np.array([0.0, 1.0, 2.0])).tolist()
    [1.5, 1.0]
    """
    ended = tasks["ended_s"].to_numpy(float)
    started = ended - tasks["seconds"].to_numpy(float)
    # what lies before an edge, summed over the tasks; differences are what lies between two
    before = np.array([np.clip(edge - started, 0, ended - started).sum() for edge in edges])
    return np.diff(before) / np.diff(edges)


def draw(events: pd.DataFrame, driver: str) -> bytes:
    """The workers at work over time, by stage, as SVG; what the launcher does itself is hatched below the axis."""
    wall_s = max(float(events["ended_s"].max()), 1e-6)
    edges = np.linspace(0, wall_s, _N_BINS + 1)
    scale, unit = (3600, "hours") if wall_s > 7200 else (60, "minutes") if wall_s > 300 else (1, "seconds")
    own = events["worker"] == driver
    with house_style():
        figure = new_figure(9.5, 3.8)
        axes = figure.subplots()
        names = [s for s in dict.fromkeys(events["stage"]) if (events["stage"] == s).any()]
        layers = [busy_workers(events[~own & (events["stage"] == s)], edges) for s in names]
        colours = [GROUP_COLOURS[i % len(GROUP_COLOURS)] for i in range(len(names))]
        axes.stackplot(edges[:-1] / scale, layers, colors=colours, labels=names, step="post", linewidth=0)
        alone = busy_workers(events[own], edges)
        axes.fill_between(
            edges[:-1] / scale, -alone, 0, step="post", color=MUTED, linewidth=0, label="launcher, waits too"
        )
        n = events.loc[~own, "worker"].nunique()
        axes.axhline(n, color=INK, linewidth=0.8, linestyle=":")
        _label(axes, wall_s / scale, n, unit)
        return to_svg(figure)


def _label(axes: Axes, end: float, n_workers: int, unit: str) -> None:
    axes.set_xlim(0, end)
    axes.set_ylim(-1.2, n_workers * 1.08 + 0.2)
    axes.set_xlabel(f"{unit} since the run began")
    axes.set_ylabel("tasks at work")
    axes.set_title(f"{n_workers} workers (dotted), what they did, and the launcher (below 0)")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))


def page(events: pd.DataFrame, run_id: str, driver: str) -> bytes:
    """The page, whole in itself."""
    found = measure(events, driver)
    said = (
        f"{found.n_workers} workers, {found.wall_s:.0f} s; while they were there, {found.utilisation:.0%} of their "
        f"time went into tasks, {found.idle_s:.0f} core seconds were idle."
    )
    if np.isfinite(found.overlapped):
        said += f" From the first registration to the last extraction it was {found.overlapped:.1%}."
    stages = found.stages.reset_index()
    stages["utilisation"] = [f"{u:.0%}" for u in stages["utilisation"]]
    body = [
        f"<h1>Performance of run {escape(run_id)}</h1><p>{escape(said)}</p>",
        _inline(draw(events, driver)),
        "<h2>Stages</h2>",
        _table(stages.to_dict("records")),
        f"<h2>The {len(found.longest)} longest parts</h2>",
        _table(found.longest.to_dict("records")),
    ]
    style = (
        f"body{{font:15px/1.5 sans-serif;color:{INK};max-width:60rem;margin:2rem auto;padding:0 1rem}}"
        "table{border-collapse:collapse}td,th{padding:.15rem .7rem;text-align:right;border-bottom:1px solid #e7eaee}"
        "td:first-child,th:first-child{text-align:left}svg{max-width:100%;height:auto}"
    )
    head = f'<meta charset="utf-8"><title>Performance of run {escape(run_id)}</title><style>{style}</style>'
    return f"<!doctype html><html lang=en><head>{head}</head><body>{''.join(body)}</body></html>\n".encode()


def _inline(svg: bytes) -> str:
    """An SVG file's picture, without the head that it needs as a file."""
    text = svg.decode()
    return text[text.index("<svg") :]


def _table(rows: Sequence[Mapping[str, object]]) -> str:
    if not rows:
        return "<p>none</p>"
    head = "".join(f"<th>{escape(str(name))}</th>" for name in rows[0])
    cells = ("".join(f"<td>{escape(_said(v))}</td>" for v in row.values()) for row in rows)
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{c}</tr>' for c in cells)}</table>"


def _said(value: object) -> str:
    return f"{value:,.1f}" if isinstance(value, float) else str(value)
