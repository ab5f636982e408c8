"""The lines of the summary that nobody should miss: what speaks against trusting it, and what to know of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from popclust.presentation.captions import n_of
from popclust.presentation.profiles import p_text
from popclust.presentation.summary_content import selected_p_value
from popclust.presentation.view import StudyView
from popclust.reported import UNSTABLE


@dataclass(frozen=True)
class Banner:
    """One line that nobody should miss."""

    level: Literal["warning", "note"]
    """How loud."""
    text: str
    """The line."""


def banners(view: StudyView) -> list[Banner]:
    """Lines on top of the page: warnings first."""
    lines = [*_warnings(view), *_notes(view)]
    return sorted(lines, key=lambda b: b.level != "warning")


def _warnings(view: StudyView) -> list[Banner]:
    texts = []
    if view.study.settings.normalize.transforms == "given":
        texts.append("Known transforms were given: nothing was registered.")
    if n_quarantined := view.quarantine["volume_id"].nunique():
        texts.append(
            f"{n_of(n_quarantined, 'volume')} in quarantine: errors kept them out of this population. "
            "popclust retry lets them try again."
        )
    if n_same := len({*view.duplicates["volume_a"], *view.duplicates["volume_b"]}):
        texts.append(
            f"{n_of(n_same, 'volume')} show a person who is in the cohort under another pseudonym too "
            "(duplicates.parquet): the tests count such a person once, unless they count volumes."
        )
    p_value = selected_p_value(view)
    has_found = bool((view.reported_associations()["p_holm"] <= view.alpha).any())
    if has_found and p_value is not None and p_value > view.alpha:
        texts.append(f"The associations may be chance: permuted reports give as many with p = {p_text(p_value)}.")
    stability = view.groups["stability"].mean()
    if stability < UNSTABLE:
        texts.append(
            f"The groups change with the seed: a group overlaps its best match in other runs by {stability:.2f} "
            "on average (Jaccard)."
        )
    return [Banner("warning", text) for text in texts]


def _notes(view: StudyView) -> list[Banner]:
    n_grouped = len(view.groups)
    n_without = n_grouped - int(view.groups["volume_id"].isin(set(view.reports["volume_id"])).sum())
    texts = []
    if view.reports.empty:
        texts.append("No reports were given: the groups are not tested against findings.")
    elif n_without:
        texts.append(
            f"{n_without:,} of {n_grouped:,} grouped volumes without a report: they shape the groups, but no test "
            "counts them."
        )
    if not view.reports.empty and "min_term_count" in view.record:
        unit = "patients" if view.record.get("unit") == "patient" else "volumes"
        texts.append(
            f"Minimum term count in force: {view.record['min_term_count']:,}. Terms that fewer {unit} with a report "
            f"have were not tested; {view.record.get('n_tested_terms', 0):,} terms were."
        )
    if view.study.settings.summarize.show_examples:
        texts.append("This page shows CT slices of patients: pass it on as you would pass on the images.")
    return [Banner("note", text) for text in texts]
