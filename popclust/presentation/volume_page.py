"""One page about one volume, on demand: slices with masks, quality of its registration, topics and words, group."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup

from popclust.errors import InputError
from popclust.imaging.ome_zarr import read_ome_zarr
from popclust.presentation.acquisition_figure import ACQUISITION, acquisition_values
from popclust.presentation.explorer_data import data_uri
from popclust.presentation.funnel import quality_sentence, selection_sentence
from popclust.presentation.pictures import read_lungs
from popclust.presentation.profiles import VOCABULARY_TITLES
from popclust.presentation.slices import AXIS_OF_PLANE, BAR_MM, WINDOWS_HU, slice_tile
from popclust.presentation.summary import policy_hash
from popclust.presentation.view import StudyView, read_store, read_view
from popclust.study import Study

TILE_PX = 420
"""Edge of a slice."""
N_WORDS = 8
"""Words told of a volume: those it has most of, against the population."""
_MEASURES = {
    "ncc": "correlation with the atlas",
    "lung_dice": "Dice of the lungs",
    "coverage": "atlas lung in the field of view",
    "folding": "folded lung voxels",
    "inverse_error_mm": "there and back (mm)",
    "failure_probability": "probability that it failed",
}


@dataclass(frozen=True)
class Slice:
    """A slice on the page."""

    data_uri: str
    """The image."""
    alt: str
    """Which plane in which window."""


@dataclass(frozen=True)
class Share:
    """A topic or a word of the volume against the population."""

    name: str
    """Which."""
    own: float
    """Its share in the volume."""
    everybody: float
    """Its mean share in the population."""


def volume_page(study: Study, volume_id: str) -> str:
    """The page as text: self-contained, every value escaped.

    Parameters
    ----------
    study : Study
        What is not made yet is left out; voxels are shown where `summarize.show_examples` allows it.
    volume_id : str
        Pseudonym of the series.

    Raises
    ------
    InputError
        The cohort does not hold this volume.
    """
    view = read_view(study)
    seen = view.cohort[view.cohort["volume_id"] == volume_id]
    if seen.empty:
        raise InputError(f"{study.url}: no volume {volume_id!r} in cohort.parquet, which holds {len(view.cohort):,}")
    style = resources.files("popclust.presentation").joinpath("summary.css").read_text("utf-8")
    template = resources.files("popclust.presentation").joinpath("volume.html").read_text("utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(template).render(
        volume_id=volume_id,
        style=Markup(style),  # the package's own file
        style_hash=policy_hash(style),
        slices=_slices(study, volume_id),
        bar_mm=BAR_MM,
        facts=_facts(view, seen.iloc[0]),
        quality=_quality(view, volume_id),
        topics=_topics(study, volume_id),
        words=_words(study, volume_id),
    )


def _slices(study: Study, volume_id: str) -> list[Slice]:
    """Three planes in the lung window with the lungs outlined, and in the soft tissue window without."""
    shows = study.settings.summarize.show_examples
    if not shows or not study.exists("volumes", f"{volume_id}.ome.zarr", "zarr.json"):
        return []
    volume, lungs = read_ome_zarr(study.path("volumes", f"{volume_id}.ome.zarr")), read_lungs(study, volume_id)
    out = []
    for window, outline in (("lung", True), ("soft tissue", False)):
        low, high = WINDOWS_HU[window]
        for plane in AXIS_OF_PLANE:
            tile = slice_tile(volume, lungs, plane, TILE_PX, outline=outline, marks=True, window_hu=WINDOWS_HU[window])
            words = f"{plane}, {window} window ({low:.0f} to {high:.0f} HU)"
            out.append(Slice(data_uri(tile), words + (", lungs outlined" if outline and lungs is not None else "")))
    return out


def _facts(view: StudyView, row: pd.Series) -> list[tuple[str, str]]:
    own = acquisition_values(view.cohort[view.cohort["volume_id"] == row["volume_id"]]).iloc[0]
    group = view.groups[view.groups["volume_id"] == row["volume_id"]]
    facts = [(title, str(own[name])) for name, title in ACQUISITION.items()]
    if not row["included"]:
        facts.insert(0, ("not included", " ".join(selection_sentence(str(code)) for code in row["reasons"])))
    for kept_out in view.quarantine[view.quarantine["volume_id"] == row["volume_id"]].itertuples():
        facts.insert(0, (f"in quarantine at {kept_out.stage}", str(kept_out.message)))
    if len(group):
        one = group.iloc[0]
        facts.insert(0, ("group", f"{one['cluster']} (distance to its centre {one['distance']:.3f})"))
    return facts


def _quality(view: StudyView, volume_id: str) -> list[tuple[str, str]]:
    rows = view.quality[view.quality["volume_id"] == volume_id]
    if rows.empty:
        return []
    row = rows.iloc[0]
    said = [("accepted", "yes" if row["accepted"] else " ".join(quality_sentence(str(c)) for c in row["reasons"]))]
    said += [(title, f"{row[name]:.3g}") for name, title in _MEASURES.items() if not pd.isna(row[name])]
    return [*said, ("template", str(row["template_id"])), ("what told most", "; ".join(map(str, row["telling"])))]


def _topics(study: Study, volume_id: str) -> list[Share]:
    topics = read_store(study, "topics")
    share = None if topics is None else _row(topics["topic_of_volume"], volume_id)
    if topics is None or share is None:
        return []
    everybody = topics["topic_of_volume"].to_numpy().mean(axis=0)
    order = np.argsort(-share, kind="stable")[:N_WORDS]
    return [Share(f"topic {t}", float(share[t]), float(everybody[t])) for t in order]


def _words(study: Study, volume_id: str) -> list[Share]:
    words = read_store(study, "word_counts")
    counts = None if words is None else _row(words["counts"], volume_id)
    if words is None or counts is None:
        return []
    vocabulary = words["vocabulary"].to_numpy()
    out = []
    for name, title in VOCABULARY_TITLES.items():
        own = np.flatnonzero(vocabulary == name)
        every = words["counts"].to_numpy()[:, own].sum(axis=0, dtype=np.float64)
        mine = counts[own] / max(float(counts[own].sum()), 1.0)
        theirs = every / max(float(every.sum()), 1.0)
        order = np.argsort(theirs - mine, kind="stable")[:N_WORDS]
        out += [Share(f"{title}, word {w}", float(mine[w]), float(theirs[w])) for w in order if mine[w] > theirs[w]]
    return sorted(out, key=lambda share: share.everybody - share.own)[:N_WORDS]


def _row(array: Any, volume_id: str) -> Any:
    """The volume's row of an array, None where it has none."""
    at = np.flatnonzero(array["volume"].to_numpy().astype(object) == volume_id)
    return array.to_numpy()[at[0]] if len(at) else None
