"""The tables of trigger phrases and section headings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from popclust.reports.package_tables import read_table
from popclust.reports.text import alternatives, fold_phrase

STATUSES = ("affirmed", "negated", "uncertain", "historical", "hypothetical", "other_person")
"""What a report may say of a finding."""

_KINDS = (*STATUSES, "leaning", "stop", "link", "present", "soft_stop", "or", "none")


@dataclass(frozen=True, slots=True)
class Trigger:
    """A phrase that says something about findings near it."""

    kind: str
    """A status, ``"leaning"`` (uncertain, but a negation before it wins: "no opacity to suggest pneumonia"),
    ``"affirmed"`` (wins over a negation farther away), ``"stop"`` (scopes end here), ``"link"`` (so do all but that of
    a history: "status post lobectomy for cancer"), ``"present"`` (here that of a history does), ``"soft_stop"``
    (scopes end here if no "or" follows that would carry a list on), ``"or"``, or ``"none"`` (hides the triggers and
    full stops inside it)."""
    before: bool
    """It governs what follows it."""
    after: bool
    """It governs what precedes it."""
    scope: int
    """Tokens that it reaches; 0: to the next stop or the end of the sentence."""


@dataclass(frozen=True, slots=True)
class Heading:
    """The heading of a section of a report."""

    section: str
    """Name of the section."""


@cache
def triggers(language: str) -> dict[str, tuple[Trigger, ...]]:
    """The trigger phrases of a language, folded."""
    found: dict[str, tuple[Trigger, ...]] = {}
    for row in read_table(f"triggers_{language}.csv"):
        for phrase, trigger in _row(row):
            if trigger not in found.get(phrase, ()):
                found[phrase] = (*found.get(phrase, ()), trigger)
    return found


def _row(row: dict[str, str]) -> Iterator[tuple[str, Trigger]]:
    if row["kind"] not in _KINDS:
        raise ValueError(f"triggers: unknown kind {row['kind']!r}")
    ways = row["direction"]
    trigger = Trigger(row["kind"], ways in ("pre", "both"), ways in ("post", "both"), int(row["scope"]))
    for text in alternatives(row["phrase"]):
        phrase = fold_phrase(text)
        if phrase.strip():
            yield phrase, trigger


@cache
def headings(language: str) -> dict[str, Heading]:
    """The section headings of a language, folded."""
    rows = [row for row in read_table("sections.csv") if row["language"] == language]
    return {fold_phrase(h): Heading(row["section"]) for row in rows for h in row["headings"].split(";")}
