"""Words and topics where they are: the features of one volume, in its own space, as colours on its slices."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.colors import to_rgb
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from popclust.normalization.stored_maps import load_field
from popclust.population.vocabulary import COUNTED, FOCAL, VOCABULARIES
from popclust.presentation.profiles import VOCABULARY_TITLES, word_title
from popclust.presentation.style import GROUP_COLOURS
from popclust.presentation.view import read_store
from popclust.presentation.word_pictures import feature_rows, near_focal, read_vocabularies, topic_of_word
from popclust.study import Study

NOTHING, STRONGEST = "", "topics"
N_TOPICS = 5
"""Topics of a volume that are painted together."""
REACH_MM = 4.0
"""A feature colours what lies this near."""
_OPACITY = 0.55
_ONE_COLOUR = "#d55e00"

Paint = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""(n, 3) zyx mm -> (n, 4) red, green, blue and opacity, 0 .. 1."""


@dataclass(frozen=True)
class Seen:
    """Features of a volume."""

    position_mm: NDArray[np.float64]
    """(feature, 3) zyx, in the volume."""
    word: NDArray[np.intp]
    """(feature,) place of its word among all words."""
    said_by: NDArray[np.float64]
    """(topic, feature) probability that each topic said the feature's word: Bayes' rule with the volume's shares."""


class Painter:
    """Paints any volume of a study."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self._vocabularies = read_vocabularies(study)
        self._topics = read_store(study, "topics")
        of_word = np.zeros(0, object) if self._topics is None else self._topics["vocabulary"].to_numpy()
        self._words = {name: np.flatnonzero(of_word == name) for name in COUNTED}
        self._vocabulary_of_word = of_word
        self._where_of_topic = _where(study, "topics")
        self._where_of_word = _where(study, "words")
        self._seen: tuple[str, Seen | None] = ("", None)

    @property
    def choices(self) -> dict[str, list[tuple[str, str]]]:
        """What can be painted, under headings: (value, name)."""
        found = {"": [(NOTHING, "nothing")]}
        if self._vocabularies is None or self._topics is None:
            return found
        found[""].append((STRONGEST, f"the {N_TOPICS} strongest topics"))
        found["topics"] = [(f"topic:{t}", self.topic_name(t)) for t in range(self._topics.sizes["topic"])]
        for vocabulary, title in VOCABULARY_TITLES.items():
            found[f"words: {title}"] = [(f"word:{w}", self.word_name(w)) for w in self._words[vocabulary].tolist()]
        return found

    def topic_name(self, topic: int) -> str:
        """A topic in plain words: its number, and where it lives."""
        return _with_place(f"topic {topic}", self._where_of_topic, topic)

    def word_name(self, word: int) -> str:
        """A word in plain words: its vocabulary and number, and where it lives."""
        vocabulary = str(self._vocabulary_of_word[word])
        number = word - int(self._words[vocabulary][0])
        return _with_place(word_title(vocabulary, number), self._where_of_word, word)

    def seen(self, volume_id: str) -> Seen | None:
        """The features of a volume; None where the study no longer holds them."""
        if self._seen[0] != volume_id:
            self._seen = (volume_id, self._read(volume_id))
        return self._seen[1]

    def paint(self, volume_id: str, choice: str) -> tuple[Paint | None, str]:
        """What to paint on a volume's slices, and the legend as HTML, escaped.

        Parameters
        ----------
        volume_id : str
            The volume.
        choice : str
            A value of :attr:`choices`.
        """
        if choice == NOTHING:
            return None, ""
        seen = self.seen(volume_id)
        if seen is None:
            return None, "<p>The study no longer holds the features of this volume.</p>"
        if not len(seen.word):
            return None, "<p>There is no feature in this volume.</p>"
        colours, legend = self._coloured(seen, choice)
        rows = Markup("").join(
            Markup('<li><span style="background:{}" class="key"></span> {}</li>').format(c, t) for c, t in legend
        )
        return _near(seen, colours), str(Markup('<ul class="keys">{}</ul>').format(rows))

    def _coloured(self, seen: Seen, choice: str) -> tuple[NDArray[np.float64], list[tuple[str, str]]]:
        """(feature, 4) colours, and what each colour says."""
        out = np.zeros((len(seen.word), 4))
        kind, _, number = choice.partition(":")
        if kind == "word":
            is_it = seen.word == int(number)
            out[is_it] = (*to_rgb(_ONE_COLOUR), 1.0)
            return out, [(_ONE_COLOUR, f"{self.word_name(int(number))} · {is_it.sum():,} places in this volume")]
        share = seen.said_by
        if kind == "topic":
            out[:, :3], out[:, 3] = to_rgb(_ONE_COLOUR), share[int(number)]
            own = f"{share[int(number)].mean():.0%} of the features in this volume; the stronger, the likelier"
            return out, [(_ONE_COLOUR, f"{self.topic_name(int(number))} · {own}")]
        strongest = np.argsort(-share.mean(axis=1), kind="stable")[:N_TOPICS]
        best, legend = share.argmax(axis=0), []
        for topic, colour in zip(strongest.tolist(), GROUP_COLOURS, strict=False):
            out[best == topic] = (*to_rgb(colour), 1.0)
            legend.append((colour, f"{self.topic_name(topic)} · {(best == topic).mean():.0%} of the features"))
        return out, legend

    def _read(self, volume_id: str) -> Seen | None:
        study = self._study
        stored = all(study.exists(name, f"{volume_id}.zarr", "zarr.json") for name in ("features", "normalized"))
        if self._vocabularies is None or self._topics is None or not stored:
            return None
        group = study.open_group("features", f"{volume_id}.zarr")
        rows = feature_rows(group, study.settings.sift.micro_macro_mm)
        words, places = [np.zeros(0, np.intp)], [np.zeros((0, 3))]
        for name in VOCABULARIES:
            features, positions = rows[name]
            if len(features) and len(self._words[name]):
                words.append(self._words[name][0] + self._vocabularies[name].nearest(features, positions).word)
                places.append(np.asarray(positions, np.float64))
        focal = near_focal(group)[0]
        if len(self._words[FOCAL]):
            words.append(np.repeat(self._words[FOCAL], len(focal)))
            places.append(np.asarray(focal, np.float64))
        to_volume = load_field(study.open_group("normalized", f"{volume_id}.zarr"), "to_volume")
        word = np.concatenate(words)
        own = self._topics["topic_of_volume"].sel(volume=volume_id).to_numpy()
        said_by = topic_of_word(self._topics["word_of_topic"].to_numpy(), own)[:, word]
        return Seen(np.asarray(to_volume(np.concatenate(places)), np.float64), word, said_by)


def _near(seen: Seen, colours: NDArray[np.float64]) -> Paint:
    """Every place has the colour of the nearest feature that has one, within :data:`REACH_MM`."""
    is_shown = colours[:, 3] > 0.02
    shown = colours[is_shown]
    tree = cKDTree(seen.position_mm[is_shown]) if is_shown.any() else None

    def paint(points_mm: NDArray[np.float64]) -> NDArray[np.float64]:
        out = np.zeros((len(points_mm), 4))
        if tree is not None:
            distance, index = tree.query(points_mm, distance_upper_bound=REACH_MM)
            is_near = np.isfinite(distance)
            out[is_near] = shown[index[is_near]]
            out[:, 3] *= _OPACITY
        return out

    return paint


def _where(study: Study, name: str) -> list[str]:
    """Where words or topics live, as the figures say it; empty where they are not drawn yet."""
    if not study.exists("figures", f"{name}.csv"):
        return []
    return pd.read_csv(io.BytesIO(study.read_bytes("figures", f"{name}.csv")))["where"].astype(str).tolist()


def _with_place(name: str, where: list[str], number: int) -> str:
    return f"{name}: {where[number]}" if number < len(where) else name
