"""What the summary says, as plain values: every number and sentence of the page, without its layout."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from popclust.presentation.captions import n_of
from popclust.presentation.profiles import odds_ratio_text, over_represented, p_text
from popclust.presentation.view import StudyView
from popclust.reported import AGREED, UNSTABLE, with_outcomes
from popclust.settings import Settings, field_docs

MAX_ROWS = 300
"""Rows of a table on the page; the study's tables hold all."""

_PATHS = {
    *("ingest.sources", "ingest.key_file", "atlas.volume", "atlas.templates", "normalize.given_folder"),
    *("terms.reports", "terms.lexicon", "cluster.external"),
}
"""Settings whose values are places outside the study: they may name patients, so the page does not show them."""


@dataclass(frozen=True)
class Fact:
    """A number of the headline."""

    value: str
    """The number."""
    label: str
    """What it counts."""


@dataclass(frozen=True)
class GroupRow:
    """A row of the table of groups."""

    cluster: int
    """The group."""
    n_volumes: int
    """Volumes in it."""
    share: float
    """Their share of the volumes grouped."""
    n_patients: int
    """Patients in it."""
    stability: float | None
    """Mean Jaccard overlap with its best match in runs of the chain, or under other seeds; None with a single one."""
    is_unstable: bool
    """It comes back less than `reported.UNSTABLE`."""
    terms: str
    """Terms mentioned more often."""


@dataclass(frozen=True)
class AssociationRow:
    """A row of the table of associations."""

    cluster: int
    """The group."""
    term: str
    """Preferred name."""
    is_more: bool
    """Mentioned more often than outside the group."""
    n_in_group: str
    """'V of R'."""
    n_in_all: str
    """'C of B'."""
    share_in_group: float
    """V / R, by which the column is sorted."""
    share_in_all: float
    """C / B."""
    odds_ratio: str
    """With its 95 % interval."""
    odds_ratio_value: float
    """By which the column is sorted."""
    p_holm: str
    """Corrected p."""
    p_holm_value: float
    """By which the column is sorted."""
    outcome: str
    """Within strata of technical variables, with what explains it away; empty where that was not asked."""
    outcome_personal: str
    """The same of age and sex."""
    replication: str
    """On patients that were not learnt on, with its power."""


@dataclass(frozen=True)
class SettingRow:
    """A setting that is not the default."""

    name: str
    """section.name"""
    value: str
    """As a person reads it."""
    default: str
    """The default."""
    doc: str
    """What it is."""


def headline(view: StudyView) -> list[Fact]:
    """The numbers on top of the page."""
    grouped = view.groups["volume_id"]
    patients = view.cohort.set_index("volume_id")["patient_id"].reindex(grouped)
    with_report = int(grouped.isin(set(view.reports["volume_id"])).sum())
    facts = [
        Fact(f"{len(view.cohort):,}", "series seen"),
        Fact(f"{len(grouped):,}", "volumes grouped"),
        Fact(f"{patients.nunique():,}", "patients"),
        Fact(f"{with_report:,}", "volumes with a report"),
        Fact(f"{view.n_groups:,}", "groups (K)"),
    ]
    if view.gate is not None:
        facts.append(Fact(f"{int((view.gate['outcome'] == 'survives').sum()):,}", "associations that survive"))
    if view.record.get("Q") is not None:
        facts.append(Fact(f"{view.record['Q']:,}", "significant associations (Q)"))
    return facts


def verdict(view: StudyView) -> str:
    """The result in one or two sentences: how far it stands comes first."""
    if view.reported is None or view.groups.empty:
        return "No groups have been formed yet."
    pieces = view.n_groups
    no_groups = (
        f"No groups: one population cut into {pieces} pieces is as compact as these {len(view.groups):,} volumes. "
        if view.record.get("has_groups") is False
        else ""
    )
    unstable = int(view.groups.groupby("cluster")["unstable"].any().sum())
    shaken = f" {unstable} of {pieces} groups hardly come back when all is learnt again." if unstable else ""
    return no_groups + _found(view) + shaken


def _found(view: StudyView) -> str:
    """What was found of the groups, whether or not there are any."""
    tests = view.reported_associations()
    if tests.empty:
        return (
            f"{len(view.groups):,} volumes fall into {view.n_groups} groups, the most stable number tried. "
            "Without terms to test, what the groups mean is not known."
        )
    found = tests[tests["p_holm"] <= view.alpha]
    text = _standing(view, found, tests["term_id"].nunique())
    p_value = selected_p_value(view)
    if p_value is not None and len(found):
        text += f" Against permuted reports, the choice of K repeated each time: p = {p_text(p_value)}."
    return text


def _standing(view: StudyView, found: pd.DataFrame, n_terms: int) -> str:
    """What was found, beside what of it technical variables do not explain."""
    groups, terms = (found[column].nunique() for column in ("cluster", "term_id"))
    if not groups:
        return (
            f"Nothing stands: none of {n_terms:,} terms is significantly associated with any of {view.n_groups} groups."
        )
    linked = f"{groups} of {view.n_groups} groups with {terms} of {n_terms:,} terms tested"
    if view.gate is None:
        return f"{n_of(len(found), 'significant association')} link {linked}."
    outcomes = view.gate["outcome"].value_counts()
    survive, explained, unknown = (int(outcomes.get(o, 0)) for o in ("survives", "explained away", "cannot tell"))
    counted = n_of(len(found), "significant association")
    rest = ((explained, "are explained away"), (unknown, "cannot be told"))
    others = ", ".join(f"{n:,} {outcome}" for n, outcome in rest if n) or "none is explained away"
    if not survive:
        return (
            f"Nothing stands: none of {counted} survives a look within strata of scanner, dose and registration; "
            f"{others}. They link {linked}."
        )
    personal = int(((view.gate["outcome"] == "survives") & (view.gate["outcome_personal"] == "survives")).sum())
    return (
        f"{survive:,} of {counted} survive: their odds ratios hold within strata of scanner, dose and registration "
        f"({personal:,} within strata of age and sex too); {others}. All {len(found):,} link {linked}."
    )


def selected_p_value(view: StudyView) -> float | None:
    """P-value of the reported Q against permutations that repeat the choice of K; None without permutations."""
    if view.reported is None or view.criterion.empty:
        return None
    value = view.criterion.loc[view.reported.rows(view.criterion), "p_value_selected"]
    return None if value.empty or pd.isna(value.iloc[0]) else float(value.iloc[0])


def group_rows(view: StudyView) -> list[GroupRow]:
    """The table of groups."""
    patients = view.cohort.set_index("volume_id")["patient_id"]
    tests, rows = view.reported_associations(), []
    for key, own in view.groups.groupby("cluster"):
        k, stability = int(str(key)), own["stability"].mean()
        rows.append(
            GroupRow(
                cluster=k,
                n_volumes=len(own),
                share=len(own) / len(view.groups),
                n_patients=int(patients.reindex(own["volume_id"]).nunique()),
                stability=None if np.isnan(stability) else float(stability),
                is_unstable=bool(stability < UNSTABLE),
                terms=", ".join(str(t) for t in over_represented(tests, k, view.alpha)["term"].head(6)),
            )
        )
    return rows


def association_rows(view: StudyView, limit: int = MAX_ROWS) -> list[AssociationRow]:
    """Significant associations of the reported grouping: those that survive first, then the smallest p."""
    found = with_outcomes(view.reported_associations(), view.gate, view.alpha).head(limit)
    return [_association_row(row) for row in found.to_dict("records")]


def changed_settings(settings: Settings) -> list[SettingRow]:
    """Settings that differ from their defaults, with their meaning."""
    rows = []
    for section in dataclasses.fields(settings):
        chosen, default = getattr(settings, section.name), getattr(Settings(), section.name)
        section_type: type = type(chosen)
        docs = field_docs(section_type)
        for item in dataclasses.fields(chosen):
            value, usual = getattr(chosen, item.name), getattr(default, item.name)
            name = f"{section.name}.{item.name}"
            if value != usual:
                shown = "set (a place outside the study is not shown)" if name in _PATHS else readable(value)
                rows.append(SettingRow(name, shown, readable(usual), docs[item.name].replace("`", "")))
    return rows


def seeds(settings: Settings) -> list[tuple[str, str]]:
    """Every seed in force."""
    sections = {f.name: dataclasses.asdict(getattr(settings, f.name)) for f in dataclasses.fields(settings)}
    return [
        (f"{section}.{name}", readable(values[name]))
        for section, values in sections.items()
        for name in ("seed", "seeds")
        if name in values
    ]


def run_facts(run_card: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Versions and sizes of the run card."""
    facts = [
        ("run", run_card.get("run_id")),
        ("popclust", run_card.get("popclust")),
        ("Python", run_card.get("python")),
        ("platform", run_card.get("platform")),
        ("worker processes", run_card.get("n_workers")),
        ("wall time", duration(run_card.get("seconds"))),
    ]
    return [(name, str(value)) for name, value in facts if value not in (None, "")]


def duration(seconds: Any) -> str:
    """Seconds for a person.

    >>> duration(12.3), duration(301.2), duration(7322), duration(None)
    ('12 s', '5 min 1 s', '2 h 2 min', '')
    """
    if seconds is None:
        return ""
    whole = round(float(seconds))
    if whole < 60:
        return f"{float(seconds):.1f} s" if float(seconds) < 10 else f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def readable(value: Any) -> str:
    """A setting's value for a person."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple | list):
        return ", ".join(readable(v) for v in value) or "none"
    return str(value) if value != "" else "none"


def how_grouped(view: StudyView) -> str:
    """How the reported groups began, and what their stability is measured on."""
    if view.reported is None:
        return ""
    n_runs = view.study.settings.repeat.n_runs
    if view.reported.seed != AGREED:
        return (
            f"seed {view.reported.seed}; group 0 is the largest. Stability is the mean Jaccard overlap of a group with "
            "its best match under the other seeds of the last step alone"
        )
    return (
        f"begun with what {n_runs} runs of the whole chain agree on; group 0 is the largest. Stability is the mean "
        "Jaccard overlap of a group with its best match in those runs, each of which learnt words, topics, K and "
        f"groups again from {view.study.settings.repeat.share:.0%} of the patients"
    )


def _association_row(row: Mapping[Any, Any]) -> AssociationRow:
    odds_ratio, low, high = (odds_ratio_text(row[name]) for name in ("odds_ratio", "ci_low", "ci_high"))
    return AssociationRow(
        cluster=int(row["cluster"]),
        term=str(row["term"]),
        is_more=row["direction"] > 0,
        n_in_group=f"{row['V']:,} of {row['R']:,}",
        n_in_all=f"{row['C']:,} of {row['B']:,}",
        share_in_group=row["V"] / max(row["R"], 1),
        share_in_all=row["C"] / max(row["B"], 1),
        odds_ratio=f"{odds_ratio} ({low} to {high})",
        odds_ratio_value=min(float(row["odds_ratio"]), 1e300),
        p_holm=p_text(row["p_holm"]),
        p_holm_value=float(row["p_holm"]),
        outcome=_outcome_text(row["outcome"], row["because"]),
        outcome_personal=_outcome_text(row["outcome_personal"], row["because_personal"]),
        replication=_replication_text(row["replication"], row["power"]),
    )


def _outcome_text(outcome: Any, because: Any) -> str:
    if outcome is None or pd.isna(outcome):
        return ""
    return f"{outcome}: {readable_variables(because)}" if because else str(outcome)


def _replication_text(outcome: Any, power: Any) -> str:
    return "" if outcome is None or pd.isna(outcome) else f"{outcome} (power {power:.2f})"


def readable_variables(names: str) -> str:
    """Names of variables, joined by ', ', for a person.

    >>> readable_variables("slice_thickness_mm, age_years")
    'slice thickness, age'
    """
    units = ("_mm", "_years", "_hu")
    plain = [next((n.removesuffix(u) for u in units if n.endswith(u)), n) for n in names.split(", ")]
    return ", ".join(n.replace("_", " ") for n in plain)
