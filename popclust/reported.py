"""One grouping of the population among many, and the one that a study reports."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

AGREED = -1
"""Seed of a grouping that was not begun at random, but by what runs of the whole chain agree on."""
UNSTABLE = 0.5
"""A group whose mean Jaccard overlap with its best match in runs is below this is unstable (docs/stability.md)."""


@dataclass(frozen=True)
class Grouping:
    """One grouping of the population."""

    descriptor: str
    """Volume descriptor."""
    n_clusters: int
    """Number of groups K."""
    seed: int
    """Seed of k-means; :data:`AGREED` where it begins with what runs of the chain agree on."""

    def rows(self, frame: pd.DataFrame) -> NDArray[np.bool_]:
        """Rows of a frame (columns descriptor, n_clusters, seed) that belong to this grouping."""
        same = (frame["n_clusters"] == self.n_clusters) & (frame["seed"] == self.seed)
        return (same & (frame["descriptor"] == self.descriptor)).to_numpy(bool)

    def of(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Those rows."""
        return frame[self.rows(frame)].reset_index(drop=True)


@dataclass(frozen=True)
class Reported:
    """The grouping that a study reports, with what was found about it."""

    grouping: Grouping
    """Descriptor, K and seed."""
    Q: int | None
    """Significant associations; None where no report could say."""
    unit: str
    """What is counted: volume or patient."""
    min_term_count: int
    """Units with a report that a term must have to be tested."""
    n_tested_terms: int
    """Terms tested."""
    clusters: pd.DataFrame
    """Rows of clusters.parquet: one per volume."""
    associations: pd.DataFrame
    """The significant associations, those that survive first: columns of associations.parquet, and
    of validity/gate.parquet what became of each within strata. Empty without reports."""
    tests: pd.DataFrame
    """All tests of this grouping: rows of associations.parquet; empty without reports."""
    has_groups: bool | None = None
    """Whether there is more than one population that was cut into pieces; None where that was not asked."""

    @property
    def unstable(self) -> tuple[int, ...]:
        """Groups that come back less than :data:`UNSTABLE`: nothing should be built on them."""
        return tuple(sorted(set(self.clusters.loc[self.clusters["unstable"], "cluster"].tolist())))

    def __repr__(self) -> str:
        g = self.grouping
        shaken = f", {len(self.unstable)} unstable" if self.unstable else ""
        shaken += ", no more than one population cut into pieces" if self.has_groups is False else ""
        tests = "no reports" if self.Q is None else f"Q = {self.Q} of {self.n_tested_terms} terms tested"
        return (
            f"<Reported: {g.descriptor}, {g.n_clusters} groups{shaken} of {len(self.clusters)} volumes, "
            f"{'agreed on by runs of the chain' if g.seed == AGREED else f'seed {g.seed}'}, {tests}>"
        )


_OUTCOMES = ["outcome", "because", "outcome_personal", "because_personal"]
_ORDER = {"survives": 0, "cannot tell": 1, "explained away": 2}


def with_outcomes(tests: pd.DataFrame, gate: pd.DataFrame | None, alpha: float) -> pd.DataFrame:
    """The significant tests of one grouping with what the gate says of each: what survives first, then by p.

    Parameters
    ----------
    tests
        Rows of associations.parquet of one grouping.
    gate
        The table validity/gate; None where it was not made: the outcomes are missing.
    alpha
        Level of a significant association.
    """
    found = tests[tests["p_holm"] <= alpha]
    key = ["cluster", "term_id"]
    if gate is None:
        found = found.assign(**dict.fromkeys(_OUTCOMES, None))
    else:
        found = found.merge(gate[[*key, *_OUTCOMES]], on=key, how="left")
    order = found["outcome"].map(_ORDER).fillna(len(_ORDER))
    by = found.assign(order=order).sort_values(["order", "p_holm", "p_value", "term", "cluster"])
    return by.drop(columns="order").reset_index(drop=True)
