"""What the explorer says of several volumes: a test on the spot, who is in a cell of the matrix, who is alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from markupsafe import Markup
from numpy.typing import NDArray
from statsmodels.stats.multitest import multipletests

from popclust.evaluation.fisher import fisher_exact
from popclust.presentation.explorer_data import Explored
from popclust.presentation.profiles import odds_ratio_text, p_text

N_NEIGHBOURS = 6
"""Volumes shown as alike."""
N_TERMS = 12
"""Terms shown of a test."""


def exploratory_test(explored: Explored, indices: Sequence[int]) -> pd.DataFrame:
    """Fisher's exact test of every term: patients in a selection against all others with a report.

    A patient is in the selection if any volume is, and has a term if any report on the map says so. Whoever chooses
    volumes by looking at them finds something: the p-values tell where to look, they prove nothing.

    Parameters
    ----------
    explored : Explored
        The study.
    indices : sequence of int
        Volumes on the map.

    Returns
    -------
    DataFrame
        term_id, term, V, R, C, B, odds_ratio, p_value, p_holm (over the terms), the smallest p first.
    """
    terms = list(explored.term_names)
    chosen = set(explored.volumes["volume_id"].iloc[list(indices)])
    person, _ = pd.factorize(explored.of_patient)
    n_people = int(person.max(initial=-1)) + 1
    report, term = np.nonzero(explored.has_term[terms].to_numpy(bool))
    table = np.zeros((n_people, len(terms)), bool)
    table[person[report], term] = True
    inside = np.zeros(n_people, bool)
    inside[person[explored.has_term.index.isin(chosen)]] = True
    V, C = table[inside].sum(axis=0), table.sum(axis=0)
    R, B = int(inside.sum()), len(table)
    test = fisher_exact(V, R, C, B)
    out = pd.DataFrame(
        {"term_id": terms, "term": [explored.term_names[t] for t in terms], "V": V, "R": R, "C": C, "B": B}
    )
    out = out.assign(odds_ratio=test.odds_ratio, p_value=test.p_value)
    out["p_holm"] = multipletests(out["p_value"], method="holm")[1] if len(out) else out["p_value"]
    return out.sort_values(["p_value", "term"], ignore_index=True)


def selection_html(explored: Explored, indices: Sequence[int], title: str = "") -> str:
    """Who is in a selection, and the test of it, escaped."""
    patients = pd.Series(explored.patient[list(indices)]).nunique()
    head = Markup("<h3>{}</h3><p>{} volumes of {} patients.</p>").format(
        title or "Selection", f"{len(indices):,}", f"{patients:,}"
    )
    if not explored.term_names:
        return str(head + Markup("<p>There are no terms to test.</p>"))
    tests = exploratory_test(explored, indices)
    rows = Markup("").join(
        Markup("<tr><td>{}</td><td>{} of {}</td><td>{} of {}</td><td>{}</td><td>{}</td></tr>").format(
            row.term, row.V, row.R, row.C, row.B, odds_ratio_text(row.odds_ratio), p_text(row.p_value)
        )
        for row in tests.head(N_TERMS).itertuples()
    )
    return str(
        head
        + Markup(
            "<p><b>Exploratory</b>: the volumes were chosen by looking, so p says where to look and proves nothing.</p>"
            "<table><thead><tr><th>term</th><th>patients in it</th><th>in all</th><th>odds ratio</th><th>p</th></tr>"
            "</thead><tbody>"
        )
        + rows
        + Markup("</tbody></table>")
    )


def volumes_of_cell(explored: Explored, clusters: pd.DataFrame, cluster: int, term_id: str) -> list[int]:
    """Places on the map of a group's volumes whose report affirms a term."""
    has_term = explored.has_term[term_id].reindex(explored.volumes["volume_id"], fill_value=False).to_numpy(bool)
    return np.flatnonzero((clusters["cluster"].to_numpy() == cluster) & has_term).tolist()


def neighbours_of(explored: Explored, index: int, n: int = N_NEIGHBOURS) -> pd.DataFrame:
    """The volumes whose topics are most alike, among those on the map: index, volume_id, distance, nearest first."""
    root = explored.root_share
    distance = np.linalg.norm(root - root[index], axis=1)
    distance[index] = np.inf
    names = explored.volumes["volume_id"].to_numpy(object)
    near = np.flatnonzero(distance <= np.partition(distance, min(n, len(distance)) - 1)[min(n, len(distance)) - 1])
    order = sorted(near[np.isfinite(distance[near])].tolist(), key=lambda i: (distance[i], str(names[i])))[:n]
    return pd.DataFrame({"index": order, "volume_id": names[order], "distance": distance[order]})


def selection_csv(
    explored: Explored, clusters: pd.DataFrame, looks: pd.DataFrame, choice: str, indices: Sequence[int]
) -> str:
    """The chosen volumes, or all where none is: pseudonyms, groups, what the map is coloured by, acquisition."""
    rows = explored.volumes.drop(columns=["x", "y"])
    rows.insert(1, "group", clusters["cluster"].to_numpy())
    rows.insert(2, "coloured_by", choice)
    rows.insert(3, "category", looks["category"].to_numpy())
    return rows.iloc[list(indices) or slice(None)].to_csv(index=False, lineterminator="\n")


def group_html(explored: Explored, clusters: pd.DataFrame, tests: pd.DataFrame, cluster: int, alpha: float) -> str:
    """What is known of a group, escaped."""
    own = clusters["cluster"].to_numpy() == cluster
    volumes = explored.volumes[own]
    patients = pd.Series(explored.patient[own]).nunique()
    stability = clusters.loc[own, "stability"].mean()
    found = tests[(tests["cluster"] == cluster) & (tests["p_holm"] <= alpha)].sort_values(["p_holm", "term"])
    lines = [
        ("volumes", f"{int(own.sum()):,} of {patients:,} patients"),
        ("stability", "–" if np.isnan(stability) else f"{stability:.2f}"),
        *(
            (title, ", ".join(found.loc[found["direction"] == way, "term"]) or "none")
            for title, way in (("mentioned more often", 1), ("mentioned less often", -1))
        ),
        ("topics above the population", _topics_above(explored, own)),
        *((title, _most_frequent(volumes[name])) for name, title in (("scanner", "scanners"), ("kernel", "kernels"))),
    ]
    body = Markup("").join(Markup("<tr><th>{}</th><td>{}</td></tr>").format(name, value) for name, value in lines)
    return str(Markup("<h3>Group {}</h3><table>{}</table>").format(cluster, body))


def cells_of(explored: Explored, clusters: pd.DataFrame, lit: NDArray[np.integer]) -> set[tuple[int, str]]:
    """Cells of the matrix (group, term_id) that volumes on the map stand in."""
    ids = explored.volumes["volume_id"].to_numpy(object)[lit]
    group = dict(zip(ids, clusters["cluster"].to_numpy()[lit].tolist(), strict=True))
    reported = explored.has_term.loc[explored.has_term.index.isin(ids), list(explored.term_names)]
    return {(group[v], str(t)) for v, row in reported.iterrows() for t in row.index[row.to_numpy(bool)]}


def matrix_cells(tests: pd.DataFrame, term_ids: Sequence[str], alpha: float) -> pd.DataFrame:
    """Cells of the matrix: cluster, term_id, term, V, R, C, odds_ratio, p_holm, strength (log2, 0 above alpha)."""
    cells = tests[tests["term_id"].isin(list(term_ids))].reset_index(drop=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        strength = np.nan_to_num(np.clip(np.log2(cells["odds_ratio"].to_numpy(float)), -5, 5))
    cells = cells.assign(strength=np.where(cells["p_holm"] <= alpha, strength, 0.0))
    return cells[["cluster", "term_id", "term", "V", "R", "C", "odds_ratio", "p_holm", "strength"]]


def _topics_above(explored: Explored, own: NDArray[np.bool_], n: int = 3) -> str:
    more = explored.topic_share[own].mean(axis=0) - explored.topic_share.mean(axis=0)
    order = [int(t) for t in np.argsort(-more, kind="stable")[:n] if more[t] > 0]
    return ", ".join(f"{t} (+{more[t]:.2f})" for t in order) or "none"


def _most_frequent(values: pd.Series, n: int = 3) -> str:
    counts = values.value_counts().sort_index().sort_values(ascending=False, kind="stable").head(n)
    return ", ".join(f"{name} ({count:,})" for name, count in counts.items())
