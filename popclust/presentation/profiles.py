"""What makes a group: its topics, its visual words, its terms, its most typical volumes (Fig. 6b-e of the paper)."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from popclust.population.vocabulary import FOCAL
from popclust.presentation.association_figure import clipped_log2
from popclust.presentation.slices import Pictured
from popclust.presentation.style import (
    BLUE,
    FAINT,
    INK,
    MUTED,
    RED,
    group_colour,
    house_style,
    new_figure,
    shortened,
    without_frame,
)

MAX_TERMS = 8
"""Terms in a profile at most."""
N_EXAMPLES = 5
"""Typical volumes shown."""

VOCABULARY_TITLES = {"haralick": "texture", "micro_sift": "small shapes", "macro_sift": "large shapes"}
"""What a vocabulary is called in figures."""

VOCABULARY_COLOURS = {"haralick": "#00785a", "micro_sift": "#8a5a9e", "macro_sift": "#b8860b"}
_LARGEST_OR = 64.0
_WIDTH_IN, _EXAMPLES_IN = 10.4, 1.55


@dataclass(frozen=True)
class GroupProfile:
    """What a profile shows of one group."""

    cluster: int
    """The group."""
    n_volumes: int
    """Volumes in it."""
    topic_share: NDArray[np.float64]
    """(topic,) mean share of each topic in the group."""
    topic_share_all: NDArray[np.float64]
    """(topic,) the same in the population."""
    word_share: NDArray[np.float64]
    """(word,) mean share of each visual word among its vocabulary's, in the group."""
    word_share_all: NDArray[np.float64]
    """(word,) the same in the population."""
    vocabulary_of_word: NDArray
    """(word,) vocabulary."""
    terms: pd.DataFrame
    """From :func:`significant_terms`: columns of associations.parquet."""
    examples: tuple[Pictured, ...] = ()
    """The volumes nearest the group's centre."""
    is_unstable: bool = False
    """It hardly comes back when the chain is learnt again."""


def word_title(vocabulary: str, number: int) -> str:
    """A word in plain words, by its vocabulary and its number in there.

    >>> word_title("haralick", 7), word_title("focal", 0)
    ('texture, word 7', 'focal densities')
    """
    return "focal densities" if vocabulary == FOCAL else f"{VOCABULARY_TITLES[vocabulary]}, word {number}"


def word_shares(counts: NDArray[np.integer], vocabulary_of_word: NDArray) -> NDArray[np.float64]:
    """Counts (volume, word) as shares of each volume's features of the same vocabulary."""
    shares = counts.astype(np.float64)
    for name in np.unique(vocabulary_of_word):
        own = vocabulary_of_word == name
        sums = shares[:, own].sum(axis=1, keepdims=True)
        shares[:, own] /= np.where(sums > 0, sums, 1.0)
    return shares


def over_represented(associations: pd.DataFrame, cluster: int, alpha: float) -> pd.DataFrame:
    """Rows of the terms mentioned significantly more often in a group, by p, then odds ratio."""
    own = associations[(associations["cluster"] == cluster) & (associations["direction"] > 0)]
    own = own[own["p_holm"] <= alpha]
    order = own.sort_values(["p_holm", "odds_ratio", "term"], ascending=[True, False, True])
    return order.reset_index(drop=True)


def significant_terms(associations: pd.DataFrame, cluster: int, alpha: float) -> pd.DataFrame:
    """Rows of a group's significant terms: those mentioned more often, then those less often, each by p."""
    own = associations[(associations["cluster"] == cluster) & (associations["p_holm"] <= alpha)]
    further = own["direction"] * clipped_log2(own["odds_ratio"].to_numpy(), np.inf)
    order = own.assign(is_less=own["direction"] < 0, nearer=-further).sort_values(
        ["is_less", "p_holm", "nearer", "term"]
    )
    return order[own.columns].reset_index(drop=True)


def shown_terms(terms: pd.DataFrame, n_terms: int = MAX_TERMS) -> pd.DataFrame:
    """The strongest of :func:`significant_terms`: at least three of either direction where there are as many."""
    is_more = (terms["direction"] > 0).to_numpy()
    n_more, n_less = int(is_more.sum()), int((~is_more).sum())
    n_less = min(n_less, max(3, n_terms - n_more))
    return pd.concat([terms[is_more].head(n_terms - n_less), terms[~is_more].head(n_less)], ignore_index=True)


def profile_figure(profile: GroupProfile) -> Figure:
    """One group: topics and visual words against the population's, terms with odds ratios, typical volumes."""
    with house_style():
        below = _EXAMPLES_IN if profile.examples else 0.0
        height = 3.35 + below
        figure = new_figure(_WIDTH_IN, height, None)

        def axes_at(left: float, bottom: float, width: float, high: float) -> Axes:
            return figure.add_axes((left / _WIDTH_IN, bottom / height, width / _WIDTH_IN, high / height))

        _draw_topics(axes_at(0.9, below + 2.0, 4.0, 1.0), profile)
        _draw_words(axes_at(0.9, below + 0.45, 4.0, 1.0), profile)
        _draw_terms(axes_at(6.95, below + 0.6, 2.2, 2.4), shown_terms(profile.terms))
        if profile.examples:
            _draw_examples(axes_at(0.9, 0.2, 9.4, 0.98), profile.examples)
    return figure


def odds_ratio_text(odds_ratio: float) -> str:
    """An odds ratio to two digits.

    >>> odds_ratio_text(12.34), odds_ratio_text(0.066), odds_ratio_text(float("inf"))
    ('12', '0.066', '∞')
    """
    return "∞" if np.isinf(odds_ratio) else f"{odds_ratio:.0f}" if odds_ratio >= 10 else f"{odds_ratio:.2g}"


def p_text(p_value: float) -> str:
    """A p-value, short.

    >>> p_text(0.0312), p_text(0.00004), p_text(0.0)
    ('0.031', '4e-05', '< 1e-300')
    """
    return "< 1e-300" if p_value == 0 else f"{p_value:.0e}" if p_value < 0.00095 else f"{p_value:.2g}"


def _draw_topics(axes: Axes, profile: GroupProfile) -> None:
    topics = np.arange(len(profile.topic_share))
    axes.bar(topics, profile.topic_share, color=group_colour(profile.cluster), width=0.74)
    axes.hlines(profile.topic_share_all, topics - 0.45, topics + 0.45, color=INK, lw=1.4, label="population")
    axes.set_title("topics" if not profile.is_unstable else "topics (this group is unstable)")
    axes.set_ylabel("mean share", fontsize=9)
    axes.yaxis.set_label_coords(-0.125, 0.5)
    axes.set_xlim(-0.7, len(topics) - 0.3)
    axes.set_xticks(topics[:: max(1, len(topics) // 20)])
    axes.tick_params(labelsize=8)
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.03), borderaxespad=0.0, handlelength=1.2)


def _draw_words(axes: Axes, profile: GroupProfile) -> None:
    more = (profile.word_share - profile.word_share_all) * 100
    for name, title in VOCABULARY_TITLES.items():
        own = np.flatnonzero(profile.vocabulary_of_word == name)
        if len(own):
            axes.bar(own, more[own], width=1.0, color=VOCABULARY_COLOURS[name], lw=0)
            axes.text(
                own.mean() / len(more), -0.04, title, transform=axes.transAxes, ha="center", va="top", fontsize=9,
                color=VOCABULARY_COLOURS[name],
            )  # fmt: skip
    axes.axhline(0, color=MUTED, lw=0.8)
    axes.set_title("visual words against the population")
    axes.set_ylabel("difference\nin share (%)", fontsize=9)
    axes.yaxis.set_label_coords(-0.125, 0.5)  # however wide the numbers
    axes.yaxis.set_major_locator(MaxNLocator(3))
    axes.set_xlim(-1, len(more))
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(labelsize=8)


def _draw_terms(axes: Axes, terms: pd.DataFrame) -> None:
    axes.set_title("terms mentioned more or less often")
    if terms.empty:
        without_frame(axes)
        axes.text(0.0, 0.93, "none reaches significance", transform=axes.transAxes, color=MUTED, va="top")
        return
    for row, term in enumerate(terms.to_dict("records")):
        _draw_interval(axes, row, term["odds_ratio"], term["ci_low"], term["ci_high"])
    axes.axvline(1, color=MUTED, lw=0.8)
    axes.set_xscale("log", base=2)
    axes.set_xlim(1 / _LARGEST_OR, _LARGEST_OR)
    ticks = {1 / 32: "1/32", 1 / 8: "1/8", 1 / 2: "1/2", 2: "2", 8: "8", 32: "32"}
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.minorticks_off()
    axes.set_ylim(MAX_TERMS - 0.4, -0.8)
    rows = np.arange(len(terms))
    axes.set_yticks(rows, [_folded(t) for t in terms["term"]])
    axes.set_xlabel("odds ratio, 95 % interval; arrows: it goes on", fontsize=8.5)
    axes.tick_params(axis="y", length=0, labelsize=9)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    beside = axes.secondary_yaxis("right")
    texts = [f"{odds_ratio_text(o)}   p {p_text(p)}" for o, p in zip(terms["odds_ratio"], terms["p_holm"], strict=True)]
    beside.set_yticks(rows, texts)
    beside.tick_params(length=0, labelsize=8.5, pad=8)
    beside.spines["right"].set_visible(False)


def _draw_interval(axes: Axes, row: int, odds_ratio: float, low: float, high: float) -> None:
    """An odds ratio with its interval; what lies beyond the axis is an arrow at its end."""
    colour, ends = RED if odds_ratio > 1 else BLUE, (1 / _LARGEST_OR, _LARGEST_OR)
    middle, low_end, high_end = np.clip([odds_ratio, low, high], *ends)
    axes.hlines(row, low_end, high_end, color=colour, lw=1.6)
    for marker, end, is_beyond in (("<", low_end, low < ends[0]), (">", high_end, high > ends[1])):
        if is_beyond:
            axes.plot(end, row, marker=marker, color=colour, ms=5, clip_on=False)
    if ends[0] <= odds_ratio <= ends[1]:
        axes.plot(middle, row, marker="s", color=colour, ms=6, clip_on=False)


def _draw_examples(axes: Axes, examples: tuple[Pictured, ...]) -> None:
    gap = 6
    pairs = [np.concatenate([e.coronal, e.axial], axis=1) for e in examples]
    height, width = pairs[0].shape[:2]
    canvas = np.full((height, N_EXAMPLES * (width + gap) - gap, 3), 255, dtype=np.uint8)
    for number, pair in enumerate(pairs):
        canvas[:, number * (width + gap) : number * (width + gap) + width] = pair
    axes.imshow(canvas)
    without_frame(axes)
    axes.set_title("most typical volumes: coronal and axial slice")
    for number, example in enumerate(examples):
        left = number * (width + gap)
        axes.text(left, height + 4, example.volume_id[:16], va="top", fontsize=7, color=MUTED)
    axes.axhline(height, color=FAINT, lw=0)


def _folded(term: str, width: int = 26) -> str:
    return textwrap.fill(shortened(term, 2 * width), width, max_lines=2, placeholder="…")
