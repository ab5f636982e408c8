"""What the figures, the summary and the explorer read of a study, with what is missing left empty."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from popclust import schema
from popclust.population.clustering import matrix_of
from popclust.population.external import EXTERNAL
from popclust.reported import Grouping
from popclust.study import Study


@dataclass(frozen=True)
class StudyView:
    """The tables of a study and the grouping that is reported."""

    study: Study
    """The study."""
    cohort: pd.DataFrame
    """Every series seen."""
    quality: pd.DataFrame
    """Registration quality; empty before normalize."""
    associations: pd.DataFrame
    """Tests of groups with terms; empty without reports."""
    criterion: pd.DataFrame
    """Q of every grouping; empty without reports."""
    reports: pd.DataFrame
    """One row per report; empty without reports."""
    quarantine: pd.DataFrame
    """Volumes kept out by an error."""
    duplicates: pd.DataFrame
    """Pairs of volumes that show one person under two pseudonyms."""
    reported: Grouping | None
    """The grouping that figures and summary show; None before associate."""
    groups: pd.DataFrame
    """Rows of clusters.parquet of the reported grouping, by volume_id."""
    record: dict[str, Any]
    """What the stage associate left: minimum term count in force, unit, number of terms tested."""
    nuisance_share: tuple[float, ...] = ()
    """Of texture, what degraded copies move, over the variance, along each direction; the largest first."""
    n_removed: int = 0
    """Directions of texture that are left out for it."""
    gate: pd.DataFrame | None = None
    """What becomes of significant associations within strata; None where that was not asked."""

    @property
    def n_groups(self) -> int:
        """Number of groups reported."""
        return self.reported.n_clusters if self.reported else 0

    @property
    def alpha(self) -> float:
        """Level of a significant association."""
        return self.study.settings.associate.alpha

    def reported_associations(self) -> pd.DataFrame:
        """Tests of the reported grouping."""
        if self.reported is None:
            return self.associations.iloc[:0]
        return self.associations[self.reported.rows(self.associations)].reset_index(drop=True)


def read_view(study: Study, *, all_tests: bool = True) -> StudyView:
    """Read what is there; a table that is not made yet is empty.

    Parameters
    ----------
    study : Study
        The study.
    all_tests : bool
        Read the tests of all groupings, or of the reported one alone: at 700 groupings they are millions.
    """
    record = study.record("associate") if study.done("associate") else {}
    has_tests = record.get("Q") is not None
    texture = study.record("vocabulary")["words"]["haralick"] if study.done("vocabulary") else {}
    reported = study.reported.grouping if record else None
    return StudyView(
        study=study,
        cohort=read_or_empty(study, "cohort"),
        quality=read_or_empty(study, "quality"),
        associations=tests_of(study, None if all_tests else reported)
        if has_tests
        else schema.empty_table("associations"),
        criterion=read_or_empty(study, "criterion") if has_tests else schema.empty_table("criterion"),
        reports=read_or_empty(study, "reports"),
        quarantine=read_or_empty(study, "quarantine"),
        duplicates=read_or_empty(study, "duplicates"),
        reported=reported,
        groups=read_or_empty(study, "clusters") if record else schema.empty_table("clusters"),
        record=record,
        nuisance_share=tuple(texture.get("nuisance_share", ())),
        n_removed=texture.get("n_removed", 0),
        gate=study.read_table("validity/gate") if has_tests and study.exists("validity/gate.parquet") else None,
    )


def tests_of(study: Study, grouping: Grouping | None) -> pd.DataFrame:
    """Tests of one grouping, or of all; empty where they are not made yet."""
    if grouping is None or not study.exists("associations.parquet"):
        return read_or_empty(study, "associations")
    return study.read_table("associations", where=asdict(grouping)).reset_index(drop=True)


def read_or_empty(study: Study, name: str) -> pd.DataFrame:
    """A table of the study, without rows where it is not made yet."""
    return study.read_table(name) if study.exists(f"{name}.parquet") else schema.empty_table(name)


def volume_descriptors(study: Study, descriptor: str, volume_ids: pd.Series) -> NDArray[np.float64]:
    """The (volume, feature) matrix that a descriptor's groups were formed on, in the order of `volume_ids`."""
    wanted = volume_ids.astype(object).to_numpy()
    if descriptor == EXTERNAL:
        return np.asarray(study.read_dataset("external").vectors.sel(volume=wanted), np.float64)
    words, topics = (study.read_dataset(name).sel(volume=wanted) for name in ("word_counts", "topics"))
    return matrix_of(descriptor, words, topics, study.settings.encode)


def read_store(study: Study, name: str) -> xr.Dataset | None:
    """A store of the study, None where it is not made yet."""
    return study.read_dataset(name) if study.exists(f"{name}.zarr", "zarr.json") else None
