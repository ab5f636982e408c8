"""What is counted: the units that carry a report, the groups they are in, the terms they have.

Groups are formed on all volumes; tests count only units with a report, and a report without terms counts. The unit is
a patient (one volume each: the earliest with a report, then the first by volume_id) or, as in the paper, a volume.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from popclust.errors import InputError
from popclust.population.groupings import Groupings
from popclust.settings import AssociateSettings


@dataclass(frozen=True)
class ReportTerms:
    """Terms of reports, by volume."""

    present: pd.DataFrame
    """(volume, term) bool; index volume_id, columns term_id. A volume without a row has none of the terms."""
    labels: pd.Series
    """Preferred name of each term; index term_id."""

    @classmethod
    def from_mentions(cls, mentions: pd.DataFrame, statuses: tuple[str, ...] = ("affirmed",)) -> ReportTerms:
        """Terms with at least one mention of these statuses.

        Parameters
        ----------
        mentions
            Columns volume_id, term_id, term, status: the table `mentions` of a study.
        statuses
            Statuses that count.
        """
        counted = mentions[mentions["status"].isin(statuses)].drop_duplicates(["volume_id", "term_id"])
        present = pd.crosstab(counted["volume_id"], counted["term_id"]).astype(bool)
        labels = counted.drop_duplicates("term_id").set_index("term_id")["term"].sort_index()
        return cls(present, labels)


@dataclass(frozen=True)
class CountedPopulation:
    """The units of the tests and everything that is tested about them; arrays only, cheap to send."""

    grid: pd.DataFrame
    """(grouping,) columns descriptor, n_clusters, seed, sorted."""
    cluster: NDArray[np.int16]
    """(grouping, unit) group of every unit, 0 .. n_clusters - 1."""
    has_term: NDArray[np.bool_]
    """(unit, term) whether the unit's report has the term."""
    term_id: tuple[str, ...]
    """(term,) identifiers of the tested terms."""
    term: tuple[str, ...]
    """(term,) their names."""
    volume_id: NDArray[np.object_]
    """(unit,) the volume a unit is counted by, ascending by patient and date."""
    patient: NDArray[np.int64]
    """(unit,) code of the unit's patient."""
    stratum: NDArray[np.int64]
    """(unit,) code of the stratum that reports never leave when they are permuted."""

    @property
    def n_units(self) -> int:
        """Units with a report: B of every table."""
        return self.has_term.shape[0]

    @cached_property
    def n_clusters(self) -> NDArray[np.int64]:
        """(grouping,) number of groups."""
        return self.grid["n_clusters"].to_numpy(np.int64)

    @cached_property
    def first_cell(self) -> NDArray[np.int64]:
        """(grouping + 1,) where each grouping's groups begin among all groups of all groupings."""
        return np.concatenate([[0], np.cumsum(self.n_clusters)])

    def take(self, units: NDArray) -> CountedPopulation:
        """The population of these units alone (indices or a mask), with the same terms and groupings."""
        return replace(
            self,
            cluster=np.ascontiguousarray(self.cluster[:, units]),
            has_term=self.has_term[units],
            volume_id=self.volume_id[units],
            patient=self.patient[units],
            stratum=self.stratum[units],
        )

    def only(self, groupings: NDArray) -> CountedPopulation:
        """The population with these groupings alone (a mask)."""
        grid = self.grid[groupings].reset_index(drop=True)
        return replace(self, grid=grid, cluster=self.cluster[groupings])


def count_population(
    clusters: pd.DataFrame | Groupings,
    terms: ReportTerms,
    has_report: pd.Series,
    patient_of_volume: pd.Series,
    settings: AssociateSettings,
    acquired_on: pd.Series | None = None,
    strata: pd.DataFrame | None = None,
) -> CountedPopulation:
    """Choose the units of the tests and line up their groups and terms.

    Parameters
    ----------
    clusters
        All groupings, or their long table: columns volume_id, descriptor, n_clusters, seed, cluster; every grouping
        holds every volume once.
    terms
        Terms of the reports.
    has_report
        bool by volume_id; a volume that is absent has none.
    patient_of_volume
        Patient by volume_id.
    settings
        `unit` and `min_term_count` are used.
    acquired_on
        Sortable date by volume_id, by which the volume of a patient is chosen; missing dates come last.
    strata
        Columns by volume_id whose combinations reports never leave when they are permuted.

    Returns
    -------
    CountedPopulation
        Units ordered by patient, stratum, date, volume_id.

    Raises
    ------
    ValueError
        `clusters` does not hold every volume once per grouping, or a group number is outside 0 .. n_clusters - 1.
    InputError
        No volume in the groups has a report, or a volume's patient is not known.
    """
    groupings = clusters if isinstance(clusters, Groupings) else Groupings.from_table(clusters)
    units = _reported_volumes(groupings.volume_id, has_report, patient_of_volume)
    units["stratum"] = _stratum_codes(units["volume_id"], strata)
    units["date"] = units["volume_id"].map(acquired_on) if acquired_on is not None else 0
    units = _choose_units(units, settings.unit)
    has_term, term_id = _tested_terms(units["volume_id"], terms, minimum_count(settings, len(units)))
    return CountedPopulation(
        grid=groupings.grid,
        cluster=np.ascontiguousarray(groupings.cluster[:, units["row"].to_numpy()]),
        has_term=has_term,
        term_id=term_id,
        term=tuple(str(terms.labels.get(i, i)) for i in term_id),
        volume_id=units["volume_id"].to_numpy(object),
        patient=pd.factorize(units["patient"])[0].astype(np.int64),
        stratum=units["stratum"].to_numpy(np.int64),
    )


def minimum_count(settings: AssociateSettings, n_units: int) -> int:
    """Units that a term must be in to be tested: as settings say, or a twelfth of a small population, 5 at least.

    >>> [minimum_count(AssociateSettings(min_term_count=50), n) for n in (12, 72, 900)]
    [5, 6, 50]
    """
    return min(settings.min_term_count, max(5, n_units // 12))


def _stratum_codes(volume_id: pd.Series, strata: pd.DataFrame | None) -> NDArray[np.int64]:
    """One code per combination of values; missing is a value of its own."""
    if strata is None or strata.shape[1] == 0:
        return np.zeros(len(volume_id), dtype=np.int64)
    rows = strata[~strata.index.duplicated()].reindex(volume_id).reset_index(drop=True)
    codes = rows.groupby(list(rows.columns), dropna=False, sort=True, observed=True).ngroup()
    return np.asarray(codes, dtype=np.int64)


def _reported_volumes(
    volume_id: NDArray[np.object_], has_report: pd.Series, patient_of_volume: pd.Series
) -> pd.DataFrame:
    """Volumes with a report: volume_id, its row among all volumes, patient."""
    reported = has_report.index[has_report.to_numpy(bool)]
    units = pd.DataFrame({"volume_id": volume_id, "row": np.arange(volume_id.size)})
    units = units[units["volume_id"].isin(reported)]
    if units.empty:
        raise InputError("none of the grouped volumes has a report: there is nothing to test (see [terms] reports)")
    units = units.assign(patient=units["volume_id"].map(patient_of_volume))
    n_unknown = int(units["patient"].isna().sum())
    if n_unknown:
        raise InputError(f"the patient of {n_unknown} volumes with a report is not known")
    return units


def _choose_units(units: pd.DataFrame, unit: str) -> pd.DataFrame:
    if unit == "volume":
        return units.sort_values(["patient", "stratum", "date", "volume_id"], ignore_index=True)
    earliest = units.sort_values(["patient", "date", "volume_id"], ignore_index=True)
    return earliest.drop_duplicates("patient", ignore_index=True)


def _tested_terms(
    volume_id: pd.Series, terms: ReportTerms, min_term_count: int
) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
    """Terms in at least so many units, by identifier."""
    present = terms.present
    rows = pd.Index(present.index).get_indexer(pd.Index(volume_id))
    has_term = np.zeros((len(volume_id), present.shape[1]), dtype=bool)
    has_term[rows >= 0] = present.to_numpy(bool)[rows[rows >= 0]]
    term_id = np.asarray(present.columns.astype(str), dtype=object)
    order = np.argsort(term_id, kind="stable")
    tested = order[has_term.sum(axis=0)[order] >= max(1, min_term_count)]
    return np.ascontiguousarray(has_term[:, tested]), tuple(term_id[tested])
