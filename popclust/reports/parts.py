"""The tables of organs and observations, and of the findings that they make together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from popclust.reports.concepts import LANGUAGES, Name
from popclust.reports.package_tables import read_table
from popclust.reports.text import alternatives


@dataclass(frozen=True, slots=True)
class Composed:
    """A finding that an observation makes with an organ."""

    term_id: str
    """Identifier; empty: with this organ the observation is no finding."""
    organs: frozenset[str]
    """The parts that it is made with."""
    is_nearest: bool
    """Only the organ beside the observation counts, not any in the sentence."""
    limit_mm: float
    """The least size; 0 where none is asked for."""


@cache
def part_names() -> dict[str, tuple[Name, ...]]:
    """How organs and observations are called."""
    return {
        row["part"]: tuple(
            Name(text, language)
            for language in LANGUAGES
            for name in row[language].split(";")
            for text in alternatives(name)
            if text
        )
        for row in read_table("parts.csv")
    }


@cache
def composed_findings() -> dict[str, tuple[Composed, ...]]:
    """The findings that each observation may make."""
    found: dict[str, tuple[Composed, ...]] = {}
    for row in read_table("findings_composed.csv"):
        organs = frozenset(row["organs"].split(";"))
        _known({row["observation"], *organs})
        finding = Composed(row["term_id"], organs, row["reach"] == "nearest", float(row["limit_mm"] or 0))
        found[row["observation"]] = (*found.get(row["observation"], ()), finding)
    return found


def _known(parts: Iterable[str]) -> None:
    unknown = sorted(set(parts) - set(part_names()))
    if unknown:
        raise ValueError(f"findings_composed.csv: no part {unknown[0]!r} in parts.csv")
