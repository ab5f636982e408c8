"""The words that stand with a figure."""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.figure import Figure

from popclust.study import Study


@dataclass(frozen=True)
class Caption:
    """What stands under a figure."""

    name: str
    """File name without its ending."""
    title: str
    """Heading."""
    caption: str
    """One line on how to read it."""
    alt: str
    """What it shows, for those who do not see it."""


@dataclass(frozen=True)
class Drawn:
    """A figure with its caption."""

    figure: Figure
    """The drawing."""
    caption: Caption
    """Its words."""


def read_captions(study: Study) -> list[Caption]:
    """Captions of the figures that were written, in order."""
    if not study.exists("figures", "captions.json"):
        return []
    return [Caption(**c) for c in study.read_json("figures", "captions.json")]


def n_of(n: int, noun: str) -> str:
    """A number and its noun, '1 volume' or '2 volumes'."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"
