"""The same person under two pseudonyms: every new volume's keypoints are compared with those of all others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd
from threadpoolctl import threadpool_limits

from popclust import schema
from popclust.dataflow.stage import Stage, Work, each
from popclust.errors import DamagedError
from popclust.features.sift3d import Keypoints
from popclust.imaging.pseudonyms import keyed_digest
from popclust.parts import Made
from popclust.population.duplicates import DuplicatePair, find_duplicates, one_id_per_person
from popclust.study import Study

_PAIRS_OF_TASK = 8_000_000
"""About an hour and a quarter: a task that outlives its worker's walltime would never end."""


def compare(study: Study, volume_ids: Sequence[str]) -> dict[str, Made]:
    """Compare volumes with each other and with the rest of the population.

    Whether two volumes show one person depends on these two alone, so what was found before stays found. Of two
    volumes that are both new the later by name looks for the other, whichever task comes first.
    """
    new = sorted(volume_ids)
    finished = set(study.names_done("duplicates"))  # names alone: the markers of all would be the population's size
    cohort = study.read_columns("cohort", ["volume_id", "included"])
    others = set(cohort.loc[cohort["included"], "volume_id"])
    known = sorted(v for v in others.difference(new) if v in finished or v < new[-1])
    with threadpool_limits(1):
        pairs = find_duplicates(_StoredKeypoints.of(study, new), _StoredKeypoints.of(study, known))
    found: dict[str, list[Any]] = {v: [] for v in new}
    for pair in pairs:
        of = pair.volume_a if pair.volume_a in found else pair.volume_b
        contents = [_content(study, v) for v in (pair.volume_a, pair.volume_b)]
        found[of].append({**asdict(pair), "contents": contents})
    return {v: Made({"pairs": found[v]}) for v in new}


def _content(study: Study, volume_id: str) -> str | None:
    """What a volume's images are known by."""
    done = study.done("ingest", volume_id)
    return done.output if done else None


def gather(work: Work) -> Made:
    """Write duplicates.parquet: pairs of volumes under different patient_ids."""
    study, present = work.study, work.passing("ingest")
    patient = study.read_table("cohort").set_index("volume_id")["patient_id"]
    fields = list(DuplicatePair.__dataclass_fields__)
    rows = {}
    for record in study.records("duplicates", sorted(work.finished("duplicates"))).values():
        for pair in record["pairs"]:
            a, b = pair["volume_a"], pair["volume_b"]
            is_current = pair["contents"] == [present.get(a), present.get(b)]
            if is_current and patient[a] != patient[b]:
                rows[a, b] = {name: pair[name] for name in fields}
    table = pd.DataFrame([rows[k] for k in sorted(rows)], columns=list(schema.names("duplicates")))
    table["same_person_as"] = table["volume_a"].map(one_id_per_person(patient, table))
    study.write_table("duplicates", table)
    counts = {"n_pairs": len(rows), "n_volumes": len({v for pair in rows for v in pair})}
    # The tests depend on who is whom alone.
    return Made(counts, output=keyed_digest(work.key, "duplicates", repr(sorted(rows))))


def say(record: Mapping[str, Any], line: Callable[..., None]) -> None:
    """Say how many volumes show somebody twice."""
    if n := record["n_volumes"]:
        line(
            f"{n} volumes show a person who is in the cohort under another pseudonym too (duplicates.parquet)", "yellow"
        )


@dataclass(frozen=True)
class _StoredKeypoints(Mapping[str, Keypoints]):
    """Keypoints by volume_id, read when asked for."""

    study: Study
    volume_ids: Mapping[str, None]
    """In their order."""

    @classmethod
    def of(cls, study: Study, volume_ids: Sequence[str]) -> _StoredKeypoints:
        """Those of some volumes."""
        return cls(study, dict.fromkeys(volume_ids))

    def __contains__(self, volume_id: object) -> bool:
        return volume_id in self.volume_ids

    def __getitem__(self, volume_id: str) -> Keypoints:
        name = f"volumes/{volume_id}.keypoints.zarr"
        try:
            return Keypoints.load(self.study.open_group(name))
        except Exception as error:  # every codec has exceptions of its own
            raise DamagedError(f"{name} cannot be read ({type(error).__name__})", "ingest", volume_id) from error

    def __iter__(self) -> Iterator[str]:
        return iter(self.volume_ids)

    def __len__(self) -> int:
        return len(self.volume_ids)


STAGE = Stage(
    name="duplicates",
    version=4,
    title="look for one person twice",
    reads=("ingest",),
    needs=lambda known: {v: [content] for v, content in known.passing("ingest").items()},
    batch_task=compare,
    batch_size=256,
    batch_pairs=_PAIRS_OF_TASK,
    build_needs=lambda known: [known.output("ingest"), *each(known.finished("duplicates"))],
    build=gather,
    results=("duplicates.parquet",),
    say=say,
)
