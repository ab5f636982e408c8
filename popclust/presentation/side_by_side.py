"""Groups side by side on the same scales: words, topics, the same terms, slices (Fig. 6b-e of the paper)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from popclust.presentation.association_figure import clipped_log2
from popclust.presentation.captions import n_of
from popclust.presentation.profiles import VOCABULARY_COLOURS, VOCABULARY_TITLES, GroupProfile
from popclust.presentation.slices import mosaic
from popclust.presentation.style import (
    BLUE,
    INK,
    MUTED,
    RED,
    group_colour,
    house_style,
    new_figure,
    shortened,
    without_frame,
)

N_TERMS = 12
"""Terms that are shown of every group."""
N_SLICES = 2
"""Typical volumes of a group."""
_WIDTH_IN, _TOP_IN, _SLICES_IN = 3.5, 5.75, 1.0
_LIMIT = 6.0


@dataclass(frozen=True)
class Card:
    """One group among others."""

    profile: GroupProfile
    """Its words, topics and typical volumes."""
    terms: pd.DataFrame
    """The same terms in every card: term, odds_ratio and p_holm in this group; columns of associations.parquet."""


@dataclass(frozen=True)
class Scales:
    """Ends of the axes, the same for all groups of a study."""

    word_low: float
    """Smallest difference of a word's share, in per cent."""
    word_high: float
    """Largest."""
    topic: float
    """Largest mean share of a topic."""

    @classmethod
    def of(cls, profiles: Sequence[GroupProfile]) -> Scales:
        """Those that hold every group."""
        more = [_word_differences(p) for p in profiles]
        low, high = (float(f([getattr(m, name)() for m in more])) for f, name in ((min, "min"), (max, "max")))
        topic = max(float(max(p.topic_share.max(), p.topic_share_all.max())) for p in profiles)
        return cls(min(low, -1e-3) * 1.05, max(high, 1e-3) * 1.05, topic * 1.05)


def shared_terms(associations: pd.DataFrame, n_terms: int = N_TERMS) -> list[str]:
    """The term_ids that tell groups apart best, by their smallest p; the most frequent first."""
    best = associations.groupby("term_id", sort=False).agg(p=("p_value", "min"), C=("C", "max"), term=("term", "first"))
    kept = best.sort_values(["p", "term"]).head(n_terms)
    return [str(t) for t in kept.sort_values(["C", "term"], ascending=[False, True]).index]


def cards_of(profiles: Sequence[GroupProfile], associations: pd.DataFrame) -> list[Card]:
    """A card for every profile, with the same terms.

    Parameters
    ----------
    profiles : sequence of GroupProfile
        All groups.
    associations : DataFrame
        Rows of associations.parquet of their grouping; may be empty.
    """
    order = shared_terms(associations)
    cards = []
    for profile in profiles:
        own = associations[associations["cluster"] == profile.cluster].set_index("term_id")
        cards.append(Card(profile, own.reindex(order)[["term", "odds_ratio", "p_holm"]].reset_index(drop=True)))
    return cards


def side_by_side_figure(cards: Sequence[Card], scales: Scales, alpha: float) -> Figure:
    """Any number of groups, one column each.

    Parameters
    ----------
    cards : sequence of Card
        The groups.
    scales : Scales
        Ends of the axes.
    alpha : float
        A term with corrected p <= alpha is a filled bar, others are hollow.
    """
    has_slices = any(c.profile.examples for c in cards)
    below = _SLICES_IN if has_slices else 0.0
    wide, high = _WIDTH_IN * len(cards), _TOP_IN + below
    with house_style():
        figure = new_figure(wide, high, None)
        for number, card in enumerate(cards):
            left = number * _WIDTH_IN

            def axes_at(x: float, y: float, width: float, height: float, left: float = left) -> Axes:
                return figure.add_axes(((left + x) / wide, y / high, width / wide, height / high))

            _draw_words(axes_at(0.5, below + 4.35, 2.9, 0.85), card.profile, scales)
            _draw_topics(axes_at(0.5, below + 3.05, 2.9, 0.8), card.profile, scales)
            _draw_terms(axes_at(1.75, below + 0.4, 1.65, 2.2), card.terms, alpha)
            if has_slices:
                _draw_slices(axes_at(0.1, 0.05, 3.3, 0.84), card.profile)
            title = f"group {card.profile.cluster}: {n_of(card.profile.n_volumes, 'volume')}"
            figure.text((left + 0.1) / wide, (high - 0.2) / high, title, weight="bold", fontsize=12, va="center")
    return figure


def _word_differences(profile: GroupProfile) -> np.ndarray:
    return (profile.word_share - profile.word_share_all) * 100


def _draw_words(axes: Axes, profile: GroupProfile, scales: Scales) -> None:
    more = _word_differences(profile)
    for name, title in VOCABULARY_TITLES.items():
        own = np.flatnonzero(profile.vocabulary_of_word == name)
        if len(own):
            axes.bar(own, more[own], width=1.0, color=VOCABULARY_COLOURS[name], lw=0)
            axes.text(
                own.mean() / len(more), -0.04, title, transform=axes.transAxes, ha="center", va="top", fontsize=7,
                color=VOCABULARY_COLOURS[name],
            )  # fmt: skip
    axes.axhline(0, color=MUTED, lw=0.8)
    axes.set(xlim=(-1, len(more)), ylim=(scales.word_low, scales.word_high), xticks=[])
    axes.set_title("words against the population (%)", fontsize=9, weight="normal", pad=3)
    axes.spines["bottom"].set_visible(False)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.tick_params(labelsize=7)


def _draw_topics(axes: Axes, profile: GroupProfile, scales: Scales) -> None:
    topics = np.arange(len(profile.topic_share))
    axes.bar(topics, profile.topic_share, color=group_colour(profile.cluster), width=0.74)
    axes.hlines(profile.topic_share_all, topics - 0.45, topics + 0.45, color=INK, lw=1.2)
    axes.set(xlim=(-0.7, len(topics) - 0.3), ylim=(0, scales.topic))
    axes.set_xticks(topics[:: max(1, -(-len(topics) // 10))])
    axes.set_title("mean share of topics; dashes: population", fontsize=9, weight="normal", pad=3)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.tick_params(labelsize=7)


def _draw_terms(axes: Axes, terms: pd.DataFrame, alpha: float) -> None:
    axes.set_title("terms, odds ratio (filled: significant)", fontsize=9, weight="normal", pad=3, x=-0.94)
    if terms.empty:
        without_frame(axes)
        axes.text(-0.94, 0.93, "no terms were tested", transform=axes.transAxes, color=MUTED, va="top", fontsize=8)
        return
    rows, log = np.arange(len(terms)), clipped_log2(terms["odds_ratio"].to_numpy(float), _LIMIT)
    colours = [RED if value > 0 else BLUE for value in log]
    is_found = (terms["p_holm"] <= alpha).to_numpy()
    faces = [c if filled else "none" for c, filled in zip(colours, is_found, strict=True)]
    axes.barh(rows, log, height=0.68, color=faces, edgecolor=colours, lw=0.8)
    axes.axvline(0, color=MUTED, lw=0.8)
    axes.set(xlim=(-_LIMIT, _LIMIT), ylim=(N_TERMS - 0.4, -0.6))
    axes.set_yticks(rows, [shortened(str(t), 26) for t in terms["term"]])
    axes.set_xticks([-5, -2, 0, 2, 5], ["1/32", "1/4", "1", "4", "32"])
    axes.tick_params(labelsize=7)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")


def _draw_slices(axes: Axes, profile: GroupProfile) -> None:
    tiles = [tile for e in profile.examples[:N_SLICES] for tile in (e.coronal, e.axial)]
    without_frame(axes)
    if tiles:
        axes.imshow(mosaic(tiles, 2 * N_SLICES))
        axes.set_anchor("W")
