"""The section of a report in which a finding stands."""

from __future__ import annotations

from collections.abc import Sequence

from popclust.reports.cleaning import LINE_BREAK, PARAGRAPH_BREAK
from popclust.reports.matching import SENTENCE_ENDS, Hit

BODY = ""
"""Text under no heading."""
REPORTING = frozenset({"findings", "impression"})
"""Sections in which findings are reported: a blank line does not end them."""


def valid_headings(cues: Sequence[Hit], folded: str) -> list[Hit]:
    """Without the phrases that look like a heading but stand within a sentence."""
    if not any(c.pattern.heading for c in cues):
        return list(cues)
    ends = frozenset(SENTENCE_ENDS)
    return [c for c in cues if c.pattern.heading is None or c.start == 0 or folded[c.start - 1] in ends]


def sections(names: Sequence[Hit], cues: Sequence[Hit]) -> list[str]:
    """The section of each name: the last heading before it.

    Under a heading that is no report of findings (indication, comparison, technique ...) a blank line leads back to the
    body, so that a report whose findings have no heading of their own is not lost; where no heading reports findings a
    new line does.
    """
    reports = any(c.pattern.heading is not None and c.pattern.heading.section in REPORTING for c in cues)
    breaks = (PARAGRAPH_BREAK,) if reports else (PARAGRAPH_BREAK, LINE_BREAK)
    changes: list[tuple[int, str]] = []
    section, begun = BODY, 0
    for start, end, pattern in cues:
        if pattern.heading is not None:
            section, begun = pattern.heading.section, end
            changes.append((start, section))
        elif pattern.mark in breaks and section != BODY and section not in REPORTING and start > begun:
            section = BODY
            changes.append((start, section))
    if not changes:
        return [BODY] * len(names)
    found, i = [], 0
    section = BODY
    for name in names:
        while i < len(changes) and changes[i][0] <= name.start:
            section = changes[i][1]
            i += 1
        found.append(section)
    return found
