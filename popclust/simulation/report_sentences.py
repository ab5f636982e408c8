"""What radiologists write: sentences per finding and language, and the frame of a report.

Written apart from the trigger tables of :mod:`popclust.reports` on purpose: a list tested against itself proves
nothing. Present, absent and uncertain mentions stand in that order.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sentences:
    """Ways to mention one finding in one language."""

    present: tuple[str, ...]
    """The finding is there."""
    absent: tuple[str, ...]
    """It is not."""
    uncertain: tuple[str, ...]
    """It may be."""
    question: str
    """How an indication asks about it or a history recalls it: neither says that it is there."""


@dataclass(frozen=True)
class Frame:
    """What stands around the findings."""

    headings: tuple[tuple[str, str, str], ...]
    """Variants of the headings for indication, findings and impression."""
    indications: tuple[str, ...]
    """Reasons for the examination that name no finding."""
    fillers: tuple[str, ...]
    """Sentences of normal anatomy that name no finding."""
    unremarkable: str
    """The impression where there is nothing to say."""
    resolved: str
    """How a finding of an earlier examination is said to be gone; a finding's question follows."""
