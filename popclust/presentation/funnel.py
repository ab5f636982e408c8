"""From the series seen to the volumes grouped: how many are left at every step, and why the others are not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from popclust.imaging.selection import REASONS
from popclust.presentation.style import BLUE, INK, MUTED, house_style, new_figure, shortened, without_frame

QUALITY_REASONS: dict[str, str] = {
    "low_ncc": "The registered lungs correlate too little with the atlas.",
    "low_lung_dice": "The lungs carried over from the atlas overlap too little with those seen in the volume.",
    "lung_outside": "Much of the lung seen in the volume lies outside the lungs carried over from the atlas.",
    "low_coverage": "The field of view shows too little of the lung.",
    "one_sided": "One side of the chest is hardly in the field of view.",
    "folding": "The transform folds space in too much of the lung.",
    "feet_first": "The volume fits the atlas better upside down: its positions may be wrong.",
    "face_down": "The volume fits the atlas better turned front to back: its positions may be wrong.",
    "mirrored": "Heart and lungs fit the atlas better mirrored: left and right are exchanged, or situs inversus.",
    "wrong_size": "The chest is far larger or smaller than an adult's: its spacing may be wrong.",
    "wrong_proportions": "The chest is stretched along one direction: its spacing may be wrong.",
    "likely_failed": "The registration probably failed.",
}
"""Sentences for the codes of quality.parquet."""


@dataclass(frozen=True)
class Loss:
    """Volumes that a step left out."""

    step: str
    """What was done when they were left out."""
    sentence: str
    """Why, for a person."""
    n_volumes: int
    """How many; a series that breaks several rules stands under each of them."""


@dataclass(frozen=True)
class Funnel:
    """The steps with what is left after each, and the losses."""

    steps: tuple[tuple[str, int], ...]
    """(name, volumes left)."""
    losses: tuple[Loss, ...]
    """By step, the most frequent first."""


def cohort_funnel(
    cohort: pd.DataFrame,
    quality: pd.DataFrame,
    quarantine: pd.DataFrame,
    n_grouped: int,
    n_with_report: int,
) -> Funnel:
    """Count the cohort from step to step.

    Parameters
    ----------
    cohort, quality, quarantine : DataFrame
        Columns as declared in the schema.
    n_grouped : int
        Volumes in the reported grouping.
    n_with_report : int
        Those of them with a report.
    """
    n_accepted = int(quality["accepted"].sum())
    steps = (
        ("series seen", len(cohort)),
        ("included", int(cohort["included"].sum())),
        ("registered and accepted", n_accepted),
        ("grouped", n_grouped),
        ("with a report", n_with_report),
    )
    losses = [
        *_losses("selection", cohort.loc[~cohort["included"], "reasons"], selection_sentence),
        *_losses("registration quality", quality.loc[~quality["accepted"], "reasons"], quality_sentence),
        *_quarantine_losses(quarantine),
    ]
    return Funnel(steps, tuple(losses))


def selection_sentence(code: str) -> str:
    """Why a series is not in the population."""
    return _sentence(code, REASONS)


def quality_sentence(code: str) -> str:
    """Why a registration was not accepted."""
    return _sentence(code, QUALITY_REASONS)


def funnel_figure(funnel: Funnel, max_losses: int = 7) -> Figure:
    """Bars of what is left after each step, with the reasons of exclusion in words."""
    names = [n for n, _ in funnel.steps]
    counts = [c for _, c in funnel.steps]
    losses = funnel.losses[:max_losses]
    with house_style():
        figure = new_figure(10.4, 2.9)
        bars, words = figure.subplots(1, 2, width_ratios=[1.0, 1.6])
        bars.barh(names, counts, color=BLUE, height=0.62)
        bars.invert_yaxis()
        bars.bar_label(bars.containers[0], labels=[f"{c:,}" for c in counts], padding=4, color=INK)
        bars.set_xlim(0, max([*counts, 1]) * 1.18)
        bars.set_xticks([])
        bars.spines["bottom"].set_visible(False)
        bars.tick_params(left=False)
        without_frame(words)
        words.set_xlim(0, 1)
        words.set_ylim(max(len(losses), 7), -0.9)
        words.text(0, -0.45, "left out, most frequent reasons", weight="bold")
        for row, loss in enumerate(losses):
            words.text(0.085, row + 0.35, f"{loss.n_volumes:,}", ha="right", weight="bold")
            words.text(0.105, row + 0.35, shortened(loss.sentence, 72), color=INK, fontsize=9)
        if not losses:
            words.text(0, 0.35, "nothing", color=MUTED)
    return figure


def _losses(step: str, reasons: Iterable[Iterable[str]], sentence: Callable[[str], str]) -> list[Loss]:
    codes = pd.Series([code for row in reasons for code in (list(row) or ["unstated"])], dtype=object)
    counts = (
        codes.value_counts()
        .rename_axis("code")
        .reset_index(name="n")
        .sort_values(["n", "code"], ascending=[False, True])
    )
    return [Loss(step, sentence(code), int(n)) for code, n in zip(counts["code"], counts["n"], strict=True)]


def _quarantine_losses(quarantine: pd.DataFrame) -> list[Loss]:
    """One line per stage and error; the message of the first stands for all."""
    grouped = quarantine.sort_values("volume_id").groupby(["stage", "error"], sort=True)
    lines = [(rows["volume_id"].nunique(), str(stage), str(error), rows) for (stage, error), rows in grouped]
    lines.sort(key=lambda line: (-line[0], line[1], line[2]))
    return [
        Loss(f"quarantine in {stage}", str(rows["message"].iloc[0]) or error, n_volumes)
        for n_volumes, stage, error, rows in lines
    ]


def _sentence(code: str, known: Mapping[str, str]) -> str:
    return known.get(code) or f"{code.replace('_', ' ').capitalize()}."
