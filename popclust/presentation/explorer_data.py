"""What the explorer shows, without how: volumes on the map, what they are coloured by, what is known of one of them."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from popclust.errors import InputError
from popclust.population.groupings import StoredGroupings
from popclust.presentation.acquisition_figure import ACQUISITION, acquisition_values, in_steps
from popclust.presentation.captions import n_of
from popclust.presentation.criterion_figures import DESCRIPTOR_TITLES
from popclust.presentation.figures import map_of_population
from popclust.presentation.maps import MIN_MAP_VOLUMES, place_beside
from popclust.presentation.profiles import odds_ratio_text
from popclust.presentation.slices import Tile
from popclust.presentation.style import FAINT, RED, group_colour, group_marker, natural_key
from popclust.presentation.view import StudyView, read_store, read_view, tests_of, volume_descriptors
from popclust.reported import AGREED, Grouping
from popclust.study import Study

MAX_TERMS = 200
"""Terms offered for colouring: the most frequent."""
MAX_CATEGORIES = 16
"""Rarer values are coloured together."""


@dataclass(frozen=True)
class Explored:
    """All that one session of the explorer needs; volumes are those on the map, in its order."""

    view: StudyView
    """The study's tables."""
    volumes: pd.DataFrame
    """volume_id, x, y, the columns of ACQUISITION, template, strongest topic."""
    topic_share: NDArray[np.float64]
    """(volume, topic) shares."""
    has_term: pd.DataFrame
    """(volume, term) bool by volume_id; only volumes with a report."""
    term_names: dict[str, str]
    """Name of each term, the most frequent first."""
    groupings: StoredGroupings
    """All that can be chosen."""

    @cached_property
    def root_share(self) -> NDArray[np.float64]:
        """(volume, topic) roots of the shares: their distances are Hellinger's, as those that groups are formed on."""
        total = self.topic_share.sum(axis=1, keepdims=True)
        return np.sqrt(self.topic_share / np.where(total > 0, total, 1.0))

    @cached_property
    def patient(self) -> NDArray[np.object_]:
        """(volume,) whose each is."""
        of_volume = self.view.cohort.set_index("volume_id")["patient_id"]
        return of_volume.reindex(self.volumes["volume_id"]).to_numpy(object)

    @cached_property
    def of_patient(self) -> pd.Series:
        """(report,) whose each row of `has_term` is."""
        of_volume = self.view.cohort.set_index("volume_id")["patient_id"]
        return of_volume.reindex(self.has_term.index)

    def tests_of(self, grouping: Grouping) -> pd.DataFrame:
        """Tests of a grouping: rows of associations.parquet, read when they are asked for."""
        if grouping == self.view.reported or self.view.associations.empty:
            return self.view.reported_associations()
        return tests_of(self.view.study, grouping)


def read_explored(study: Study) -> Explored:
    """Read a study for exploration.

    Raises
    ------
    InputError
        No groups are reported yet, or too few volumes are grouped for a map.
    """
    view = read_view(study, all_tests=False)
    if view.reported is None or len(view.groups) < MIN_MAP_VOLUMES:
        raise InputError(f"{study.url}: too little is grouped to explore; `popclust run {study.url}` goes on")
    place = _place(view)
    volumes = place[["volume_id", "x", "y"]].merge(acquisition_values(view.cohort), on="volume_id", how="left")
    volumes = volumes.merge(_more_values(view), on="volume_id", how="left")
    topics = read_store(study, "topics")
    if topics is None:
        raise InputError(f"{study.url}: topics.zarr is missing; `popclust run {study.url}` makes it")
    share = topics["topic_of_volume"].sel(volume=volumes["volume_id"].astype(object).to_numpy()).to_numpy()
    volumes["topic"] = [f"topic {t}" for t in share.argmax(axis=1)]
    has_term, names = _terms(view, volumes["volume_id"])
    if not study.exists("groupings.zarr", "zarr.json"):
        raise InputError(f"{study.url}: groupings.zarr is missing; `popclust run {study.url}` makes it")
    return Explored(view, volumes, share, has_term, names, StoredGroupings.open(study))


def clusters_of(explored: Explored, grouping: Grouping) -> pd.DataFrame:
    """One row per volume on the map, in their order: its group, distance and stability in a grouping."""
    frame = explored.groupings.table(grouping).set_index("volume_id")
    return frame.loc[explored.volumes["volume_id"]].reset_index()


def colour_choices(explored: Explored) -> dict[str, list[tuple[str, str]]]:
    """What volumes can be coloured by, under headings: (value, name)."""
    choices = {"population": [("cluster", "group"), ("topic", "strongest topic")]}
    choices["acquisition"] = [*ACQUISITION.items(), ("template_id", "template"), ("failure", "registration failed")]
    choices["person"] = [("age", "age (years)"), ("sex", "sex")]
    if explored.term_names:
        choices["term in the report"] = [(f"term:{t}", name) for t, name in explored.term_names.items()]
    return choices


def appearance(explored: Explored, clusters: pd.DataFrame, choice: str) -> pd.DataFrame:
    """Category, colour and marker of every volume on the map.

    Parameters
    ----------
    explored : Explored
        The study.
    clusters : DataFrame
        From :func:`clusters_of`.
    choice : str
        A value of :func:`colour_choices`.

    Returns
    -------
    DataFrame
        Columns category, colour, marker.
    """
    if choice.startswith("term:"):
        return _term_appearance(explored, choice.removeprefix("term:"))
    if choice == "cluster":
        codes = clusters["cluster"].to_numpy()
        names = [f"group {k}" for k in codes]
    else:
        values = explored.volumes[choice].fillna("not stated").astype(str)
        counts = values.value_counts().sort_index().sort_values(ascending=False, kind="stable")
        kept = counts.index[: MAX_CATEGORIES - 1 if len(counts) > MAX_CATEGORIES else MAX_CATEGORIES]
        codes = pd.Categorical(values, kept).codes.astype(int)
        codes = np.where(codes < 0, len(kept), codes)
        names = [v if c < len(kept) else "other" for v, c in zip(values, codes, strict=True)]
    return pd.DataFrame(
        {
            "category": names,
            "colour": [group_colour(int(c)) for c in codes],
            "marker": [_BOKEH_MARKERS[group_marker(int(c))] for c in codes],
        }
    )


def categories(looks: pd.DataFrame) -> dict[str, int]:
    """What a legend names, in natural order, each with the first volume that shows it; the vague ones last.

    Parameters
    ----------
    looks : DataFrame
        From :func:`appearance`.
    """
    first = looks["category"].drop_duplicates()
    order = sorted(first.items(), key=lambda item: (item[1] in _VAGUE, natural_key(item[1])))
    return {str(name): int(index) for index, name in order}


def association_table(explored: Explored, grouping: Grouping) -> pd.DataFrame:
    """Significant associations of a grouping as text and numbers, the smallest p first."""
    found = explored.tests_of(grouping)
    found = found[found["p_holm"] <= explored.view.alpha].sort_values(["p_holm", "p_value", "term", "cluster"])
    return pd.DataFrame(
        {
            "cluster": found["cluster"].to_numpy(),
            "term_id": found["term_id"].to_numpy(),
            "term": found["term"].to_numpy(),
            "mentioned": np.where(found["direction"] > 0, "▲ more", "▼ less"),
            "in_group": [f"{v:,} of {r:,}" for v, r in zip(found["V"], found["R"], strict=True)],
            "in_all": [f"{c:,} of {b:,}" for c, b in zip(found["C"], found["B"], strict=True)],
            "odds_ratio": [odds_ratio_text(o) for o in found["odds_ratio"]],
            "p_holm": found["p_holm"].to_numpy(),
        }
    )


def seed_choices(known: pd.DataFrame) -> list[tuple[str, str]]:
    """Seeds of groupings that can be chosen: (value, name)."""
    return [(str(s), "agreed" if s == AGREED else str(s)) for s in sorted(known["seed"].unique())]


def grouping_name(grouping: Grouping) -> str:
    """A grouping in words.

    >>> grouping_name(Grouping("lda", 6, AGREED))
    'LDA topics, K = 6, agreed on by the runs'
    """
    descriptor = DESCRIPTOR_TITLES.get(grouping.descriptor, grouping.descriptor)
    seed = "agreed on by the runs" if grouping.seed == AGREED else f"seed {grouping.seed}"
    return f"{descriptor}, K = {grouping.n_clusters}, {seed}"


def grouping_html(explored: Explored, grouping: Grouping) -> str:
    """One line on the chosen grouping."""
    words = Markup("<b>{}</b>").format(grouping_name(grouping))
    if grouping == explored.view.reported:
        words += Markup(" (reported)")
    criterion = explored.view.criterion
    rows = criterion[grouping.rows(criterion)]
    if len(rows):
        same = (criterion["descriptor"] == grouping.descriptor) & (criterion["n_clusters"] == grouping.n_clusters)
        mean = criterion.loc[same, "Q"].mean()
        found = n_of(int(rows["Q"].iloc[0]), "significant association")
        words += Markup(": Q = {}; mean over seeds {}").format(found, f"{mean:.1f}")
    return str(words)


def volume_html(explored: Explored, clusters: pd.DataFrame, index: int) -> str:
    """What is known of one volume, escaped."""
    row, group = explored.volumes.iloc[index], clusters.iloc[index]
    stability = "" if np.isnan(group["stability"]) else f", stability {group['stability']:.2f}"
    lines = [
        ("group", f"{group['cluster']} (distance to its centre {group['distance']:.3f}{stability})"),
        *((title, row[name]) for name, title in ACQUISITION.items()),
        ("template", row["template_id"]),
        ("terms in the report", _terms_text(explored, str(row["volume_id"]))),
    ]
    body = Markup("").join(Markup("<tr><th>{}</th><td>{}</td></tr>").format(name, value) for name, value in lines)
    return str(Markup("<h3>{}</h3><table>{}</table>").format(row["volume_id"], body))


def data_uri(tile: Tile) -> str:
    """A tile as a PNG data URI."""
    sink = io.BytesIO()
    Image.fromarray(tile).save(sink, "PNG")
    return f"data:image/png;base64,{base64.b64encode(sink.getvalue()).decode()}"


def nearest_grouping(known: pd.DataFrame, descriptor: str, n_clusters: int, seed: int) -> Grouping:
    """The grouping that exists nearest to a wish: same descriptor, nearest K, then nearest seed."""
    own = known[known["descriptor"] == descriptor]
    off = own.assign(k=(own["n_clusters"] - n_clusters).abs(), s=(own["seed"] - seed).abs())
    best = off.sort_values(["k", "n_clusters", "s", "seed"]).iloc[0]
    return Grouping(descriptor, int(best["n_clusters"]), int(best["seed"]))


_VAGUE = ("other", "not stated", "not mentioned", "no report")

_BOKEH_MARKERS = {
    "o": "circle",
    "s": "square",
    "^": "triangle",
    "D": "diamond",
    "v": "inverted_triangle",
    "P": "plus",
    "X": "hex",
    "*": "star",
}


def _more_values(view: StudyView) -> pd.DataFrame:
    """Template, probability of failure, age and sex of every volume as text, '' where not known."""
    quality = view.quality[["volume_id", "template_id"]].assign(
        failure=in_steps(view.quality["failure_probability"], (0.01, 0.05, 0.2))
    )
    cohort = view.cohort[["volume_id"]].assign(
        age=in_steps(view.cohort["age_years"], (40, 50, 60, 70, 80)), sex=view.cohort["sex"].fillna("")
    )
    return cohort.merge(quality, on="volume_id", how="left").replace("", "not stated")


def _place(view: StudyView) -> pd.DataFrame:
    """The map that summarize drew if it is of the reported grouping, else a new one."""
    if view.study.exists("figures", "map.csv"):
        frame = pd.read_csv(io.BytesIO(view.study.read_bytes("figures", "map.csv")), dtype={"volume_id": str})
        known = view.groups.set_index("volume_id")["cluster"].reindex(frame["volume_id"])
        if len(frame) and known.eq(frame["cluster"].to_numpy()).all():
            return _with_the_others(view, frame)
    return map_of_population(view)


def _with_the_others(view: StudyView, frame: pd.DataFrame) -> pd.DataFrame:
    """The map with the volumes that an earlier popclust left out of it."""
    if len(frame) == len(view.groups) or view.reported is None:
        return frame
    known, shown = frame.set_index("volume_id"), view.groups.reset_index(drop=True)
    is_placed = shown["volume_id"].isin(known.index).to_numpy()
    placed = known.loc[shown.loc[is_placed, "volume_id"], ["x", "y"]].to_numpy()
    place = place_beside(
        volume_descriptors(view.study, view.reported.descriptor, shown["volume_id"]), is_placed, placed
    )
    return shown[["volume_id", "cluster"]].assign(x=place[:, 0], y=place[:, 1])


def _terms(view: StudyView, volume_ids: pd.Series) -> tuple[pd.DataFrame, dict[str, str]]:
    terms = read_store(view.study, "terms")
    if terms is None or view.associations.empty:
        return pd.DataFrame(index=pd.Index([], name="volume_id")), {}
    ids, labels = terms["term"].values.tolist(), terms["label"].values.tolist()
    present = pd.DataFrame(terms["has_term"].to_numpy(), index=terms["volume"].values.tolist(), columns=ids)
    present = present.loc[present.index.isin(set(volume_ids))]
    names = dict(zip(ids, labels, strict=True))
    counts = present.sum().sort_values(ascending=False, kind="stable")
    frequent = [str(t) for t, n in counts.items() if n > 0][:MAX_TERMS]
    return present, {t: names[t] for t in frequent}


def _term_appearance(explored: Explored, term_id: str) -> pd.DataFrame:
    mentioned = explored.has_term[term_id].reindex(explored.volumes["volume_id"]).astype(object)
    looks = {
        True: ("mentioned", RED, "square"),
        False: ("not mentioned", "#8fa3b8", "circle"),
    }
    rows = [looks.get(m, ("no report", FAINT, "plus")) for m in mentioned]
    return pd.DataFrame(rows, columns=["category", "colour", "marker"])


def _terms_text(explored: Explored, volume_id: str) -> str:
    if volume_id not in explored.has_term.index:
        return "no report"
    row = explored.has_term.loc[volume_id]
    return ", ".join(name for t, name in explored.term_names.items() if row[t]) or "none"
