"""The search for one person twice, in tasks by name: keys of volumes, who meets by them, and a close look at who does.

What a task reads of the population it reads from the study, and what it makes it writes there: keys in shares by their
value, pairs in shares by their first volume. No task holds more than one share, beside the names of the volumes.
Nothing is removed before all have ended: a task that was given to another worker may still be at work on the first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from io import BytesIO
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from popclust import storage
from popclust.errors import DamagedError
from popclust.features.sift3d import Keypoints
from popclust.population.duplicate_keys import MIN_SHARED, PAIR, joined, pairs_that_share, share_of_keys
from popclust.population.duplicates import identifying_keys, look_closely
from popclust.study import Study

FOLDER = "duplicates"
"""Where keys and pairs lie while they are wanted."""
VOLUMES_OF_TASK = 512
"""Volumes whose keys one task sorts: 75 MB."""
VOLUMES_OF_SHARE = 500
"""Volumes for each share of the keys: what all have there are some 6 million keys, 75 MB."""
READ_S, SHARE_READ = 0.017, 9e-5
"""Seconds that a close look at a pair takes, and the share of all pairs that meet: as measured, see docs/sift3d.md."""
_MIN_TASKS = 8
_KEY = np.dtype([("key", "<u8"), ("volume", "<u4")])


@dataclass(frozen=True)
class Search:
    """How the search is cut into tasks."""

    n_volumes: int
    volumes_of_task: int
    n_shares: int
    """Of the keys, and of the pairs that meet by them."""

    @classmethod
    def of(cls, n_volumes: int) -> Search:
        """Few volumes too are spread over the workers."""
        size = min(VOLUMES_OF_TASK, -(-n_volumes // _MIN_TASKS))
        n_shares = min(n_volumes, max(_MIN_TASKS, -(-n_volumes // VOLUMES_OF_SHARE)))
        return cls(n_volumes, max(1, size), n_shares)

    @property
    def volumes_of_largest(self) -> float:
        """Volumes that the largest task is about."""
        return max(self.volumes_of_task, self.n_volumes / max(1, self.n_shares))

    @property
    def looking_s(self) -> tuple[float, float]:
        """Seconds of all close looks at pairs of strangers, and of the longest task: its volumes meet all others."""
        everywhere = READ_S * SHARE_READ * self.n_volumes * (self.n_volumes - 1) / 2
        return everywhere, 2 * everywhere / max(1, self.n_shares)

    @property
    def starts(self) -> range:
        """First volume of every task that writes keys."""
        return range(0, self.n_volumes, self.volumes_of_task)


def prepare(study: Study, patients: Mapping[str, str]) -> Search:
    """Number the volumes person by person for the tasks, and say how these are cut."""
    table = pd.DataFrame(sorted((p, v) for v, p in patients.items()), columns=["patient", "volume_id"])
    table["person"] = pd.factorize(table["patient"])[0].astype(np.uint32)
    table[["volume_id", "person"]].to_parquet(buffer := BytesIO(), index=False)
    study.write_bytes(buffer.getvalue(), FOLDER, "volumes.parquet")
    return Search.of(len(table))


def write_keys(study: Study, search: Search, start: int) -> None:
    """Write the keys of some volumes, each share to a file of its own."""
    names = _volumes(study)["volume_id"].iloc[start : start + search.volumes_of_task]
    with threadpool_limits(1):
        keys = [identifying_keys(stored_keypoints(study, name)) for name in names]
    volume = np.repeat(np.arange(start, start + len(names), dtype=np.uint32), [len(k) for k in keys])
    key = np.concatenate(keys)
    order = np.argsort(key, kind="stable")
    rows = np.empty(len(key), _KEY)
    rows["key"], rows["volume"] = key[order], volume[order]
    for share, part in _parts(rows, share_of_keys(rows["key"], search.n_shares)):
        study.write_bytes(part.tobytes(), FOLDER, "keys", f"{share}", f"{start}")


def meet(study: Study, search: Search, share: int) -> None:
    """Write which volumes of different people share how many keys of one share, each share of pairs to a file."""
    rows = _read(study, _KEY, "keys", share)
    pairs = pairs_that_share(rows["key"], rows["volume"], _volumes(study)["person"].to_numpy())
    of_pair = pairs["first"].astype(np.int64) * search.n_shares // max(1, search.n_volumes)
    for to, part in _parts(pairs, of_pair):
        study.write_bytes(part.tobytes(), FOLDER, "pairs", f"{to}", f"{share}")


def look(study: Study, search: Search, share: int) -> list[dict[str, Any]]:
    """Pairs of one share that show one person, as rows of duplicates.parquet."""
    met = _met(study, share)
    names = _volumes(study)["volume_id"].to_numpy()
    pairs = [(str(names[a]), str(names[b])) for a, b in zip(met["first"], met["second"], strict=True)]
    with threadpool_limits(1):
        return [asdict(pair) for pair in look_closely(pairs, partial(stored_keypoints, study))]


def _met(study: Study, share: int) -> NDArray[np.void]:
    """Pairs of one share that share enough keys."""
    rows = joined([_read(study, PAIR, "pairs", share)])
    return rows[rows["n_shared"] >= MIN_SHARED]


def _volumes(study: Study) -> pd.DataFrame:
    return pd.read_parquet(BytesIO(study.read_bytes(FOLDER, "volumes.parquet")))


def _parts(rows: NDArray[np.void], share: NDArray[np.integer]) -> Iterator[tuple[int, NDArray[np.void]]]:
    """Rows by the share they fall to; shares rise."""
    found, starts = np.unique(share, return_index=True)
    yield from zip(found.tolist(), np.split(rows, starts[1:]), strict=False)  # of no rows there is one part


def _read(study: Study, kind: np.dtype[np.void], *place: object) -> NDArray[np.void]:
    """Rows of all files of a share, in the order of the files' names."""
    folder = study.path(FOLDER, *map(str, place))
    found = storage.read_many(folder, storage.names(folder))
    return np.concatenate([np.zeros(0, kind), *(np.frombuffer(data, kind) for _, data in found)])


def stored_keypoints(study: Study, volume_id: str) -> Keypoints:
    """What `ingest` kept of a volume.

    Raises
    ------
    DamagedError
        It cannot be read.
    """
    name = f"volumes/{volume_id}.keypoints.zarr"
    try:
        return Keypoints.load(study.open_group(name))
    except Exception as error:  # every codec has exceptions of its own
        raise DamagedError(f"{name} cannot be read ({type(error).__name__})", "ingest", volume_id) from error
