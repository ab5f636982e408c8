"""Which volumes a report is of, and whether reports and volumes found each other at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from popclust.errors import InputError

_KEYS = ("study_id", "accession_id", "volume_id")
"""Pseudonyms by which a report finds its volumes; the first that finds some counts: all of an examination."""
_N_EXAMPLES = 3


@dataclass
class Join:
    """The included volumes by their pseudonyms, and what came of the reports so far."""

    volumes: Mapping[str, Mapping[str, Sequence[str]]]
    """Volumes by each of the pseudonyms, by name of the pseudonym."""
    n_volumes: int
    """Included volumes."""
    n_reports: int = 0
    """Reports with a text."""
    n_empty: int = 0
    """Reports without a text: they say nothing, least of all that a finding is absent."""
    n_without_volume: int = 0
    """Reports of no included volume."""
    n_contradictory: int = 0
    """Reports whose study and accession number are those of different volumes: they are of none."""
    joined: set[str] = field(default_factory=set)
    """Volumes with a report."""
    lost: list[str] = field(default_factory=list)
    """Pseudonyms of some reports that found no volume."""

    @classmethod
    def to_cohort(cls, cohort: pd.DataFrame) -> Join:
        """Ready for reports on the included volumes of cohort.parquet."""
        included = cohort[cohort["included"]]
        volumes: dict[str, dict[str, list[str]]] = {name: {} for name in _KEYS}
        for name, found in volumes.items():
            for volume_id, value in zip(included["volume_id"], included[name], strict=True):
                if not pd.isna(value):
                    found.setdefault(str(value), []).append(str(volume_id))
        return cls(volumes, len(included))

    def volumes_of(self, pseudonyms: Mapping[str, str], *, has_text: bool) -> list[str]:
        """Volumes that a report is of; none for one without a text."""
        if not has_text:
            self.n_empty += 1
            return []
        self.n_reports += 1
        found = [f for name in _KEYS if (f := list(self.volumes[name].get(pseudonyms.get(name, ""), ())))]
        if not found:
            self.n_without_volume += 1
            if len(self.lost) < _N_EXAMPLES:
                self.lost.append(next((p for name in _KEYS if (p := pseudonyms.get(name))), "no identifier"))
            return []
        if any(set(found[0]).isdisjoint(other) for other in found[1:]):
            self.n_contradictory += 1
            return []
        self.joined.update(found[0])
        return found[0]

    def check(self, min_share: float) -> None:
        """Stop where hardly a report found a volume and hardly a volume a report: the identifiers do not match.

        Raises
        ------
        InputError
            Both shares are below `min_share`.
        """
        n_found = self.n_reports - self.n_without_volume - self.n_contradictory
        of_reports = n_found / max(self.n_reports, 1)
        of_volumes = len(self.joined) / max(self.n_volumes, 1)
        if self.n_reports == 0 or max(of_reports, of_volumes) >= min_share:
            return
        alone = sorted({p for name in _KEYS[:2] for p, v in self.volumes[name].items() if self.joined.isdisjoint(v)})
        raise InputError(
            f"reports: {n_found} of {self.n_reports} reports found a volume, {len(self.joined)} of {self.n_volumes} "
            f"volumes a report; pseudonyms of reports: {', '.join(self.lost)}; of volumes: "
            f"{', '.join(alone[:_N_EXAMPLES])}; are these the reports of this cohort, with identifiers as in DICOM? "
            "[terms] min_joined = 0 goes on all the same"
        )
