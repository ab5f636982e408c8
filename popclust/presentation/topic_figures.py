"""Topics and visual words as pictures: where in the atlas they live, and what they look like."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import ndimage

from popclust.presentation.captions import Caption, Drawn
from popclust.presentation.profiles import VOCABULARY_TITLES, word_title
from popclust.presentation.slices import WINDOW_WORDS, Tile, mosaic
from popclust.presentation.style import INK, MUTED, house_style, new_figure, without_frame
from popclust.presentation.view import StudyView, read_store
from popclust.presentation.word_pictures import (
    PATCH_MM,
    PATCH_PX,
    Place,
    WordsSeen,
    look_at_words,
    read_patches,
    telling_words,
)
from popclust.presentation.word_places import CELL_MM, where_in_words

N_TOP_WORDS = 3
"""Words shown of a topic."""
_WIDTH_IN, _TILE_IN = 10.4, 0.72
_COLUMNS = 8
_SHADES = LinearSegmentedColormap.from_list("share", ["#f2f4f7", "#8fb8d8", "#0b4f8a", "#2a1a52"])


@dataclass(frozen=True)
class TopicPicture:
    """What is drawn of one topic."""

    topic: int
    """The topic."""
    top_words: Sequence[int]
    """Its most telling words."""
    share_of_words: Sequence[float]
    """Their shares in the topic."""


def draw_words(view: StudyView) -> Iterator[Drawn]:
    """A figure for every topic and every vocabulary; none where the study no longer holds what they are drawn from.

    Also writes figures/words.csv and figures/topics.csv. Without `summarize.show_examples` there are maps, and no
    voxel of a patient.
    """
    topics = read_store(view.study, "topics")
    if topics is None or view.groups.empty:
        return
    seen = look_at_words(view.study, view.groups["volume_id"].astype(str), topics)
    if seen is None:
        return
    view.study.write_bytes(word_table(seen).to_csv(index=False, lineterminator="\n").encode(), "figures", "words.csv")
    share = topics["topic_of_volume"].to_numpy().mean(axis=0)
    table = topic_table(seen, share).to_csv(index=False, lineterminator="\n")
    view.study.write_bytes(table.encode(), "figures", "topics.csv")
    shows = view.study.settings.summarize.show_examples
    patches = read_patches(view.study, (p for places in seen.places for p in places)) if shows else {}
    word_of_topic = topics["word_of_topic"].to_numpy()
    for topic, words in enumerate(telling_words(word_of_topic, share, N_TOP_WORDS).tolist()):
        picture = TopicPicture(topic, words, [float(word_of_topic[topic, w]) for w in words])
        yield Drawn(topic_figure(seen, picture, patches), _topic_caption(seen, picture, float(share[topic])))
    for vocabulary, title in VOCABULARY_TITLES.items():
        n_words = int(np.count_nonzero(seen.vocabulary_of_word == vocabulary))
        if patches and n_words:
            yield Drawn(words_figure(seen, vocabulary, patches), _words_caption(vocabulary, title, n_words))


def word_table(seen: WordsSeen) -> pd.DataFrame:
    """One row per word: vocabulary, number, share of its vocabulary's features, where it lives in plain words."""
    numbers = pd.Series(seen.vocabulary_of_word).groupby(seen.vocabulary_of_word).cumcount()
    return pd.DataFrame(
        {
            "vocabulary": seen.vocabulary_of_word,
            "word": numbers,
            "share": seen.share_of_word.round(6),
            "where": [where_in_words(*rows) for rows in zip(seen.parts_of_word, seen.parts_of_all, strict=True)],
        }
    )


def topic_table(seen: WordsSeen, share: NDArray[np.float64]) -> pd.DataFrame:
    """One row per topic: its share of the population, where it lives in plain words."""
    where = [where_in_words(row, seen.parts_of_all_topics) for row in seen.parts_of_topic]
    return pd.DataFrame({"topic": range(len(where)), "share": np.asarray(share).round(6), "where": where})


def topic_map(seen: WordsSeen, topic: int, axis: int, blur_mm: float = 10.0) -> NDArray[np.float64]:
    """Share of a topic where it is looked through the lungs along an axis, as a multiple of its share everywhere.

    Parameters
    ----------
    seen : WordsSeen
        The topics' mass in the cells of the atlas.
    topic : int
        The topic.
    axis : int
        0: seen from the feet, 1: seen from the front with the head up.
    blur_mm : float
        Sigma of the Gaussian that both masses are smoothed with in the plane.

    Returns
    -------
    ndarray
        (row, column); nan outside the lungs.
    """
    flat = [ndimage.gaussian_filter(m.sum(axis=axis), blur_mm / CELL_MM) for m in _masses(seen, topic)]
    everywhere = seen.topic_of_cell[topic].sum() / max(float(seen.topic_of_cell.sum()), 1e-300)
    share = flat[0] / np.maximum(flat[1], 1e-300) / max(everywhere, 1e-300)
    lungs = seen.parts.cells.voxels.any(axis=axis)
    out = np.where(lungs & (flat[1] > 0), share, np.nan)
    return out[::-1] if axis == 1 else out


def topic_figure(seen: WordsSeen, picture: TopicPicture, patches: Mapping[Place, Tile]) -> Figure:
    """One topic: its map from the front and from the feet, and patches of its most telling words.

    Parameters
    ----------
    seen : WordsSeen
        Where words and topics live.
    picture : TopicPicture
        The topic.
    patches : mapping of Place to tile
        Empty: the words are told, not shown.
    """
    height = 2.0
    with house_style():
        figure = new_figure(_WIDTH_IN, height, None)

        def axes_at(left: float, width: float) -> Axes:
            return figure.add_axes((left / _WIDTH_IN, 0.34 / height, width / _WIDTH_IN, 1.36 / height))

        for left, axis, name in ((0.12, 1, "from the front"), (1.66, 0, "from the feet")):
            _draw_map(axes_at(left, 1.4), topic_map(seen, picture.topic, axis), name)
        left = 3.35
        for word, share in zip(picture.top_words, picture.share_of_words, strict=True):
            width = N_TOP_WORDS * _TILE_IN
            _draw_word(axes_at(left, width), seen, word, share, patches)
            left += width + 0.17
        where = where_in_words(seen.parts_of_topic[picture.topic], seen.parts_of_all_topics)
        figure.text(0.12 / _WIDTH_IN, 1.86 / height, f"topic {picture.topic}: {where}", weight="bold", fontsize=11)
    return figure


def words_figure(seen: WordsSeen, vocabulary: str, patches: Mapping[Place, Tile]) -> Figure:
    """Every word of a vocabulary: patches nearest its centre, its share, and where it lives.

    Parameters
    ----------
    seen : WordsSeen
        Where words live.
    vocabulary : str
        Which vocabulary.
    patches : mapping of Place to tile
        The pictures.
    """
    own = np.flatnonzero(seen.vocabulary_of_word == vocabulary)
    n_rows = -(-len(own) // _COLUMNS)
    with house_style():
        figure = new_figure(_WIDTH_IN, 0.62 * n_rows + 0.1, None)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, _WIDTH_IN), ylim=(figure.get_figheight(), 0))
        without_frame(axes)
        for number, word in enumerate(own.tolist()):
            row, column = divmod(number, _COLUMNS)
            left, top = 0.08 + column * 1.29, 0.08 + row * 0.62
            tiles = mosaic(tiles_of(seen.places[word], patches), len(seen.places[word]) or 1)
            axes.imshow(tiles, extent=(left, left + 0.4 * tiles.shape[1] / PATCH_PX, top + 0.4, top), aspect="auto")
            words = f"{number} · {seen.share_of_word[word]:.1%} · {_short(seen, word)}"
            axes.text(left, top + 0.42, words, fontsize=5.6, va="top", color=INK)
        axes.set(xlim=(0, _WIDTH_IN), ylim=(figure.get_figheight(), 0))
    return figure


def tiles_of(places: Sequence[Place], patches: Mapping[Place, Tile]) -> list[Tile]:
    """The patches of a word, grey where there is none."""
    nothing = np.full((PATCH_PX, PATCH_PX, 3), 225, np.uint8)
    return [patches.get(p, nothing) for p in places] or [nothing]


def _topic_caption(seen: WordsSeen, picture: TopicPicture, share: float) -> Caption:
    where = where_in_words(seen.parts_of_topic[picture.topic], seen.parts_of_all_topics)
    lives = "It is found everywhere alike" if where == "everywhere" else f"More of it than usual: {where}"
    return Caption(
        name=f"topic_{picture.topic:02d}",
        title=f"Topic {picture.topic}",
        caption=(
            f"{share:.1%} of the population. {lives}. Darker: more of the topic than elsewhere in the lungs. Its most "
            f"telling words with the patches nearest to them: axial, {PATCH_MM:.0f} mm wide, bar 10 mm, {WINDOW_WORDS}."
        ),
        alt=f"Maps of topic {picture.topic} in the lungs ({where}), and patches of {len(picture.top_words)} words.",
    )


def _words_caption(vocabulary: str, title: str, n_words: int) -> Caption:
    return Caption(
        name=f"words_{vocabulary}",
        title=f"Visual words: {title}",
        caption=(
            "Every word with the patches nearest to it, each of another volume: axial, "
            f"{PATCH_MM:.0f} mm wide, {WINDOW_WORDS}; its number, its share of all features, and where it lives."
        ),
        alt=f"Patches of {n_words} visual words.",
    )


def _masses(seen: WordsSeen, topic: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return seen.topic_of_cell[topic], seen.topic_of_cell.sum(axis=0)


def _draw_map(axes: Axes, share: NDArray[np.float64], name: str) -> None:
    axes.imshow(share, cmap=_SHADES, vmin=0, vmax=max(2.0, float(np.nanmax(share, initial=0.0))), interpolation="none")
    inside = np.isfinite(share)
    if inside.any() and not inside.all():
        axes.contour(inside, [0.5], colors=[MUTED], linewidths=0.7)
    without_frame(axes)
    for x, side in ((0.0, "R"), (1.0, "L")):
        axes.text(x, 0.98, side, transform=axes.transAxes, fontsize=8, color=MUTED, ha="center", va="top")
    axes.set_xlabel(name, fontsize=8, color=MUTED)


def _draw_word(axes: Axes, seen: WordsSeen, word: int, share: float, patches: Mapping[Place, Tile]) -> None:
    without_frame(axes)
    vocabulary = str(seen.vocabulary_of_word[word])
    number = word - int(np.flatnonzero(seen.vocabulary_of_word == vocabulary)[0])
    axes.set(xlim=(0, N_TOP_WORDS), ylim=(0, 1.36 / _TILE_IN))
    top = 1.36 / _TILE_IN
    if patches:
        tiles = mosaic(tiles_of(seen.places[word], patches), max(1, len(seen.places[word])), gap=1)
        wide = tiles.shape[1] / PATCH_PX
        axes.imshow(tiles, extent=(0, min(wide, N_TOP_WORDS), top - 1, top), aspect="auto")
        bar = 10.0 / PATCH_MM
        axes.plot([0.06, 0.06 + bar], [top - 0.93] * 2, color="white", lw=2, solid_capstyle="butt")
        axes.set(xlim=(0, N_TOP_WORDS), ylim=(0, top))
    axes.text(0, top - 1.08, word_title(vocabulary, number), fontsize=8.5, va="top", color=INK)
    where = where_in_words(seen.parts_of_word[word], seen.parts_of_all[word])
    axes.text(0, top - 1.36, f"{share:.1%} of the topic; {where}", fontsize=8, va="top", color=MUTED)


def _short(seen: WordsSeen, word: int) -> str:
    return where_in_words(seen.parts_of_word[word], seen.parts_of_all[word]).replace(", ", " ")
