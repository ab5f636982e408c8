"""How far the reported associations can be trusted, in a sentence per question."""

from __future__ import annotations

import pandas as pd

from popclust.presentation.view import read_or_empty
from popclust.study import Study


def trust_rows(study: Study) -> list[tuple[str, str]]:
    """Questions with their answers, from the tables in validity/; none where nothing was tested."""
    tables = {name: read_or_empty(study, f"validity/{name}") for name in {name for name, _, _ in _ANSWERS}}
    return [(question, answer(tables[name])) for name, question, answer in _ANSWERS if len(tables[name])]


def _split_half(table: pd.DataFrame) -> str:
    halves = [
        f"K = {row.n_clusters} chosen on the {row.chosen_on} half: Q = {row.Q_tested} on the other "
        f"(p = {row.p_value:.3g}), {row.n_replicated} associations found by both"
        for row in table.itertuples()
    ]
    return "; ".join(halves) + "."


def _technical(table: pd.DataFrame) -> str:
    return _outcomes(table, "")


def _personal(table: pd.DataFrame) -> str:
    return _outcomes(table, "_personal")


def _outcomes(table: pd.DataFrame, suffix: str) -> str:
    outcome, because = table[f"outcome{suffix}"], table[f"because{suffix}"]
    parts = [f"{int((outcome == 'survives').sum())} of {len(table)} associations survive"]
    for name, words in (("explained away", "are explained away"), ("cannot tell", "cannot be told")):
        own = because[outcome == name].str.split(", ").explode().value_counts()
        named = ", ".join(_readable(v) for v in own.index[:3] if v)
        n = int((outcome == name).sum())
        parts.append(f"{n} {words}" + (f", most often by {named}" if named else ""))
    return "; ".join(parts) + "."


def _replication(table: pd.DataFrame) -> str:
    outcomes = table["replication"].value_counts()
    return (
        f"{outcomes.get('replicated', 0)} of {len(table)} associations are found on half of the patients, with topics "
        f"and groups learnt there, and confirmed on the others; {outcomes.get('not replicated', 0)} are not, "
        f"{outcomes.get('underpowered', 0)} are underpowered (median power {table['power'].median():.2f})."
    )


def _confounders(table: pd.DataFrame) -> str:
    different = table[table["p_holm"] <= 0.05].sort_values("p_holm").head(6)
    if different.empty:
        return (
            "No group differs from the rest in what is known of scanner, patient or registration (corrected p > 0.05)."
        )
    named = [f"group {r.cluster} in {_readable(r.variable)} (effect {r.effect:+.2f})" for r in different.itertuples()]
    return f"Groups differ from the rest: {', '.join(named)}."


def _predicted(table: pd.DataFrame) -> str:
    known = table.dropna(subset=["accuracy"])
    if known.empty:
        return "Too few patients of each kind to ask."
    rows = [f"{_readable(r.variable)} {r.accuracy:.2f} (chance {r.chance:.2f})" for r in known.itertuples()]
    return f"Balanced accuracy across patients: {', '.join(rows)}."


def _structure(table: pd.DataFrame) -> str:
    row = table.iloc[0]
    if pd.isna(row["has_groups"]):
        return "Not asked."
    said = "Yes" if row["has_groups"] else "No"
    return (
        f"{said}: of populations of one kind that are cut into {row['n_clusters']}, scanners aside, a share of "
        f"{row['p_value']:.2g} is as compact."
    )


def _repeats(table: pd.DataFrame) -> str:
    numbers = table["n_clusters"].value_counts().sort_index()
    chosen = ", ".join(f"{n} in {times}" for n, times in numbers.items())
    among = "" if table["others"].isna().all() else f", and with each other by {table['others'].mean():.2f}"
    return (
        f"{len(table)} runs of the chain agree with the groups reported by {table['agreement'].mean():.2f} "
        f"(adjusted Rand index, mean){among}; K was {chosen}."
    )


def _power(table: pd.DataFrame) -> str:
    finite = table.loc[table["odds_ratio_above"] < float("inf"), "odds_ratio_above"]
    if finite.empty:
        return "No association of any size could have been found."
    return (
        f"Half of the (group, term) pairs would show an odds ratio of {finite.median():.1f} with probability "
        f"{table['power'].iloc[0]:.0%}; {len(table) - len(finite)} of {len(table)} could not show any."
    )


def _term_noise(table: pd.DataFrame) -> str:
    both = table.iloc[-1]
    missed, made_up = both["miss_rate"], both["false_mention_rate"]
    return (
        f"With {missed:.0%} of findings missed and {made_up:.0%} of mentions made up on top: Q = {both['Q_mean']:.0f} "
        f"instead of {both['Q']}, {both['share_found_again']:.0%} of the associations found again."
    )


def _readable(name: str) -> str:
    return str(name).removesuffix("_mm").removesuffix("_years").replace("_", " ")


_ANSWERS = (
    ("structure", "Are there groups at all?", _structure),
    ("repeats", "Do the groups come back when all is learnt again?", _repeats),
    ("gate", "Could they be the scanner?", _technical),
    ("gate", "Could they be age or sex?", _personal),
    ("gate", "Do they hold on patients that were not learnt on?", _replication),
    ("split_half", "Do they hold on patients that did not choose K?", _split_half),
    ("confounders", "Do groups differ in anything else?", _confounders),
    ("predicted", "Do the topics know the scanner?", _predicted),
    ("power", "What could have been found?", _power),
    ("term_noise", "What if the reports are read wrongly?", _term_noise),
)
