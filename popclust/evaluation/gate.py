"""Does an association hold within strata of a scanner, or of age? It survives, is explained away, or one cannot tell.

An association survives a variable where its odds ratio holds within strata of that variable, and is explained away
where it falls toward 1. Losing significance is neither: where too little is left within strata, nothing can be told.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from popclust.evaluation.attenuation import log_odds_ratios, retained, share_left, within_interval
from popclust.evaluation.counting import CountedPopulation
from popclust.evaluation.strata import number_of_strata, strata_codes, strata_tables
from popclust.settings import AssociateSettings

SURVIVES, EXPLAINED, CANNOT_TELL = "survives", "explained away", "cannot tell"
"""The outcomes."""
JOINT = "technical (jointly)"
"""Name of the stratification by all technical variables at once."""

KEY = ["descriptor", "n_clusters", "seed", "cluster", "term_id", "term"]
STRATIFIED = [
    *(*KEY, "variable", "role", "n_strata", "information", "odds_ratio", "ci_low", "ci_high"),
    *("retained", "retained_low", "retained_high", "shuffled_low", "shuffled_high", "outcome"),
]
"""Columns of the table of stratified associations."""
GATE = [*KEY, "outcome", "because", "outcome_personal", "because_personal"]
"""Columns of the table of outcomes; replication is added where groups are learnt on halves."""

_HALF = 0.5
_MIN_JOINT_INFORMATION = 0.25


@dataclass(frozen=True)
class _Found:
    """The associations that are asked about, in one grouping."""

    rows: pd.DataFrame
    population: CountedPopulation
    cells: tuple[NDArray[np.int64], NDArray[np.int64]]
    """Group and column of the term."""

    def tables(self, codes: NDArray[np.int64]) -> NDArray[np.int64]:
        """(stratum, association, 4) counts."""
        return strata_tables(codes, self.population.cluster[0], self.population.has_term, self.cells)


def stratify(
    population: CountedPopulation, associations: pd.DataFrame, variables: pd.DataFrame, settings: AssociateSettings
) -> pd.DataFrame:
    """Look at the significant associations of one grouping within strata of every variable.

    An association survives a variable where more than half of its log odds ratio is left within strata, whichever value
    in the interval of that share is the true one. It is explained away where less than half is left, by the same
    interval, or where the interval holds nothing left (0) and does not hold all left (1); and only if no more is left
    than after stratification by the variable shuffled between patients. Intervals have the confidence 1 - alpha: an
    association that was found at this level survives a variable that has nothing to do with it. Every patient counts
    once, where volumes are counted too: visits are no people.

    Parameters
    ----------
    population
        Units, terms and the one grouping.
    associations
        Table of associations; its rows of this grouping with p_holm <= alpha are looked at.
    variables
        Columns by volume_id, as `confounders.confounder_variables` gives them. One that no unit has a value of is left
        out.
    settings
        alpha, n_strata, n_shuffled, and technical and personal: the variables that decide, the technical ones singly
        and jointly.

    Returns
    -------
    DataFrame
        One row per association and variable, columns as in STRATIFIED. The joint strata of all technical variables may
        explain an association away, where they leave a quarter of the information; that they leave little does not
        count against one that survives each variable.
    """
    population = population.take(np.unique(population.patient, return_index=True)[1])
    grid = population.grid.iloc[0]
    same = (associations["descriptor"] == grid["descriptor"]) & (associations["n_clusters"] == grid["n_clusters"])
    same &= (associations["seed"] == grid["seed"]) & (associations["p_holm"] <= settings.alpha)
    rows = associations.loc[same, KEY].reset_index(drop=True)
    if rows.empty:
        return pd.DataFrame(columns=STRATIFIED)
    column = {term_id: t for t, term_id in enumerate(population.term_id)}
    terms = rows["term_id"].map(column).to_numpy(np.int64)
    found = _Found(rows, population, (rows["cluster"].to_numpy(np.int64), terms))
    parts = []
    for index, (name, codes) in enumerate(_stratifications(population, variables, settings).items()):
        rng = np.random.default_rng(np.random.SeedSequence(settings.seed, spawn_key=(4, index)))
        parts.append(_stratify_by(found, codes, settings, rng).assign(variable=name, role=_role(name, settings)))
    return pd.concat(parts, ignore_index=True)[STRATIFIED] if parts else pd.DataFrame(columns=STRATIFIED)


def _role(name: str, settings: AssociateSettings) -> str:
    if name == JOINT or name in settings.technical:
        return "technical"
    return "personal" if name in settings.personal else "other"


def _stratifications(
    population: CountedPopulation, variables: pd.DataFrame, settings: AssociateSettings
) -> Mapping[str, NDArray[np.int64]]:
    """(unit,) strata by each variable of which something is known, and by all technical ones jointly."""
    rows = variables[~variables.index.duplicated()].reindex(population.volume_id)
    n_strata = number_of_strata(settings.n_strata, population.n_units)
    codes = {str(name): strata_codes(rows[name], n_strata) for name in rows.columns if rows[name].notna().any()}
    technical = [codes[name] for name in settings.technical if name in codes and np.unique(codes[name]).size > 1]
    if len(technical) > 1:
        codes[JOINT] = np.unique(np.stack(technical), axis=1, return_inverse=True)[1].ravel()
    return codes


def _stratify_by(
    found: _Found, codes: NDArray[np.int64], settings: AssociateSettings, rng: np.random.Generator
) -> pd.DataFrame:
    ratios = log_odds_ratios(found.tables(codes))
    odds_ratio = within_interval(ratios, settings.alpha)
    left = retained(ratios, settings.alpha)
    low, high = _reference(found, codes, settings, rng)
    survives = left.low > _HALF
    falls = (left.high < _HALF) | ((left.low <= 0.0) & (left.high < 1.0) & (left.value < _HALF))
    explained = falls & (left.value < low)
    columns = {
        "n_strata": ratios.n_strata,
        "information": ratios.information,
        **{"odds_ratio": odds_ratio.value, "ci_low": odds_ratio.low, "ci_high": odds_ratio.high},
        **{"retained": left.value, "retained_low": left.low, "retained_high": left.high},
        **{"shuffled_low": low, "shuffled_high": high},
        "outcome": np.where(survives, SURVIVES, np.where(explained, EXPLAINED, CANNOT_TELL)),
    }
    return found.rows.assign(**columns)


def _reference(
    found: _Found, codes: NDArray[np.int64], settings: AssociateSettings, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(association,) range, at the level alpha, of what is left where the variable is shuffled between patients."""
    shares = []
    for _ in range(settings.n_shuffled):
        shares.append(share_left(found.tables(rng.permutation(codes))))
    low, high = np.quantile(np.stack(shares), (settings.alpha / 2, 1 - settings.alpha / 2), axis=0)
    return low, high


def gate(stratified: pd.DataFrame) -> pd.DataFrame:
    """One outcome per association from all technical variables, and one from what is personal.

    Parameters
    ----------
    stratified
        The table of `stratify`.

    Returns
    -------
    DataFrame
        Columns as in GATE. Explained away by any variable; survives where it survives each; else cannot tell. `because`
        names the variables that explain it away or cannot tell, joined by ', '.
    """
    if stratified.empty:
        return pd.DataFrame(columns=GATE)
    verdict = stratified[KEY].drop_duplicates(ignore_index=True)
    for role, suffix in (("technical", ""), ("personal", "_personal")):
        decided = _decide(verdict, stratified[stratified["role"] == role])
        verdict[f"outcome{suffix}"], verdict[f"because{suffix}"] = decided
    return verdict[GATE]


def _decide(verdict: pd.DataFrame, rows: pd.DataFrame) -> tuple[list[str], list[str]]:
    silent = (rows["variable"] == JOINT) & (
        (rows["outcome"] != EXPLAINED) | (rows["information"] < _MIN_JOINT_INFORMATION)
    )
    outcomes, reasons = [], []
    by_association = dict(iter(rows[~silent].groupby(KEY, sort=False)))
    for key in verdict[KEY].itertuples(index=False, name=None):
        own = by_association.get(key)
        outcome = _worst(own["outcome"]) if own is not None else CANNOT_TELL
        outcomes.append(outcome)
        named = [] if own is None or outcome == SURVIVES else own.loc[own["outcome"] == outcome, "variable"].tolist()
        reasons.append(", ".join(named))
    return outcomes, reasons


def _worst(outcomes: pd.Series) -> str:
    return next((o for o in (EXPLAINED, CANNOT_TELL) if (outcomes == o).any()), SURVIVES)
