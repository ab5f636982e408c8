"""What stands on the page's first screen: who was looked at, when, and how far each finding stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from popclust.presentation.view import StudyView
from popclust.reported import UNSTABLE


@dataclass(frozen=True)
class Standing:
    """How many significant associations there are of a kind."""

    n: int
    """How many."""
    label: str
    """What they are."""
    meaning: str
    """In a sentence."""
    kind: str
    """good, bad or open: how it is coloured."""


_OUTCOMES = (
    ("survives", "survive", "Still there where scanner, dose and registration are alike.", "good"),
    ("explained away", "explained away", "Gone where scanner, dose and registration are alike.", "bad"),
    ("cannot tell", "cannot tell", "Too few patients are alike in scanner, dose and registration to say.", "open"),
)


def standing(view: StudyView) -> list[Standing]:
    """Significant associations by what technical variables leave of them, and by whether their group is stable.

    Empty where nothing was found, or where neither was asked.
    """
    tests = view.reported_associations()
    found = tests[tests["p_holm"] <= view.alpha]
    if found.empty:
        return []
    rows = []
    if view.gate is not None:
        counts = view.gate["outcome"].value_counts()
        rows += [Standing(int(counts.get(name, 0)), *words) for name, *words in _OUTCOMES]
    unstable = unstable_groups(view)
    if unstable is not None:
        n = int(found["cluster"].isin(unstable).sum())
        meaning = f"Their group overlaps its best match in other runs by less than {UNSTABLE:g}."
        rows.append(Standing(n, "in unstable groups", meaning, "open" if n else "good"))
    return rows


def unstable_groups(view: StudyView) -> set[int] | None:
    """Groups that come back less than :data:`UNSTABLE` under other seeds; None with a single seed."""
    stability = view.groups.groupby("cluster")["stability"].mean()
    return None if stability.isna().all() else {int(k) for k in stability.index[stability < UNSTABLE]}


def population(view: StudyView) -> str:
    """Who was looked at, in a line: what the study says of itself, then what the headers say."""
    said = view.study.settings.summarize.population.strip()
    grouped = view.cohort[view.cohort["volume_id"].isin(set(view.groups["volume_id"]))]
    if grouped.empty:
        return said
    people = grouped.drop_duplicates("patient_id")
    facts = [f"{len(grouped):,} volumes of {len(people):,} patients"]
    ages = people["age_years"].dropna()
    if len(ages):
        of = _unless_all(len(ages), people)
        facts.append(f"median age {ages.median():.0f} ({ages.min():.0f} to {ages.max():.0f}){of}")
    known = people["sex"].isin(["F", "M"])
    if known.any():
        facts.append(f"{(people.loc[known, 'sex'] == 'F').mean():.0%} women{_unless_all(int(known.sum()), people)}")
    named = grouped[["manufacturer", "model"]].dropna(how="all")
    n_models = len(named.drop_duplicates())
    models = f"{n_models:,} scanner model{'' if n_models == 1 else 's'}{_unless_all(len(named), grouped)}"
    facts.append(models if n_models else "scanners not known")
    return f"{said.rstrip('.')}. {', '.join(facts)}." if said else f"{', '.join(facts)}."


def _unless_all(n_known: int, rows: pd.DataFrame) -> str:
    """How many a fact is known of, where it is not known of every row."""
    return "" if n_known == len(rows) else f" (known of {n_known:,})"


def made_on(run_card: Mapping[str, Any]) -> str:
    """Date of the run, ISO; empty where it is not known.

    >>> made_on({"run_id": "20260102T030405.000000Z"})
    '2026-01-02'
    """
    stamp = pd.to_datetime(str(run_card.get("run_id", ""))[:8], format="%Y%m%d", errors="coerce")
    return "" if pd.isna(stamp) else stamp.strftime("%Y-%m-%d")
