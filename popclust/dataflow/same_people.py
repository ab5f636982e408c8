"""The same person under two pseudonyms: sought among the keypoints that ingest leaves beside every volume."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from threadpoolctl import threadpool_limits

from popclust.dataflow.flow import Flow
from popclust.features.sift3d import Keypoints
from popclust.population.duplicates import find_duplicates
from popclust.study import Study, marker_of

_PART, _VERSION = "same_people", 1


def same_people(flow: Flow, volumes: Mapping[str, str]) -> Mapping[str, list[str]]:
    """Volumes by volume_id, each with those of other patient_ids that show the same person.

    Parameters
    ----------
    flow : Flow
        The run; what an earlier one found for the same volumes is taken over.
    volumes : mapping of str to str
        Ingest's markers by volume_id.
    """
    study = flow.study
    records = study.records("ingest", volumes)
    patients = {v: str(r["patient_id"]) for v, r in records.items() if r["included"]}
    marker = marker_of(_PART, _VERSION, {}, [f"{v} {volumes[v]}" for v in patients])
    if study.marker(_PART) != marker:
        found = flow.once("ingest", find_same_people, study, patients)
        study.begin(_PART)
        study.publish(_PART, marker, {"same_person_as": found})
    return dict(study.record(_PART)["same_person_as"])


def find_same_people(study: Study, patient_of_volume: Mapping[str, str]) -> dict[str, list[str]]:
    """Search the stored keypoints; pairs within one patient_id are known and left out."""
    others: defaultdict[str, list[str]] = defaultdict(list)
    with threadpool_limits(1):
        pairs = find_duplicates(_StoredKeypoints(study, tuple(sorted(patient_of_volume))))
    for pair in pairs:
        if patient_of_volume[pair.volume_a] != patient_of_volume[pair.volume_b]:
            others[pair.volume_a].append(pair.volume_b)
            others[pair.volume_b].append(pair.volume_a)
    return {volume_id: sorted(found) for volume_id, found in sorted(others.items())}


@dataclass(frozen=True)
class _StoredKeypoints(Mapping[str, Keypoints]):
    """Keypoints by volume_id, read when asked for."""

    study: Study
    volume_ids: tuple[str, ...]

    def __getitem__(self, volume_id: str) -> Keypoints:
        return Keypoints.load(self.study.open_group("volumes", f"{volume_id}.keypoints.zarr"))

    def __iter__(self) -> Iterator[str]:
        return iter(self.volume_ids)

    def __len__(self) -> int:
        return len(self.volume_ids)
