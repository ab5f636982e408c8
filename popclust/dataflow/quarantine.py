"""Volumes that are kept out, each with its stage and reason.

Every failure is a small file of its own, so that the five-thousandth costs what the first did; the table
quarantine.parquet is made from them whenever a stage ends. Only the driver writes either.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from popclust import schema, storage
from popclust.dataflow.window import Outcome
from popclust.errors import DamagedError, InputError
from popclust.parts import canonical
from popclust.study import Study

_FOLDER = "quarantine"


@dataclass
class Quarantine:
    """Who is kept out, kept in step with the run."""

    study: Study
    rows: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    """By (volume_id, stage)."""
    _is_written: bool = False

    @classmethod
    def open(cls, study: Study) -> Quarantine:
        """Read who is kept out; nobody where there is nothing yet. A row that cannot be read frees its volume."""
        rows = {}
        for stage in storage.names(study.path(_FOLDER)):
            folder = study.path(_FOLDER, stage)
            for name, data in storage.read_many(folder, storage.names(folder)):
                try:
                    row = dict(json.loads(data))
                    rows[str(row["volume_id"]), str(row["stage"])] = row
                except (ValueError, KeyError):
                    storage.remove(f"{folder}/{name}")
        return cls(study, rows, _says(study, rows))

    def holds(self, volume_id: str, stage: str, marker: str) -> bool:
        """Whether this very attempt has failed before: other settings or input are worth another."""
        row = self.rows.get((volume_id, stage))
        return row is not None and row["marker"] == marker

    def add(self, stage: str, outcome: Outcome, marker: str) -> None:
        """Keep a volume out."""
        row = {
            "volume_id": outcome.key,
            "stage": stage,
            "error": outcome.error,
            "message": outcome.message,
            "attempts": outcome.attempts,
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "marker": marker,
        }
        self.rows[outcome.key, stage] = row
        self.study.write_bytes(canonical(row), _FOLDER, stage, f"{outcome.key}.json")
        self._is_written = False

    def release(self, volume_id: str | None = None, stage: str | None = None) -> int:
        """Let volumes try again; returns how many."""
        if volume_id is not None and stage is not None:
            freed = [(volume_id, stage)] if (volume_id, stage) in self.rows else []
        else:
            freed = [k for k in self.rows if volume_id in (None, k[0]) and stage in (None, k[1])]
        for key in freed:
            del self.rows[key]
            self.study.remove(_FOLDER, key[1], f"{key[0]}.json")
            self._is_written = False
        return len(freed)

    def __len__(self) -> int:
        return len({volume_id for volume_id, _ in self.rows})

    def write(self) -> None:
        """Write the table, where it does not say already who is kept out; an empty one where nobody is."""
        if self._is_written:
            return
        rows = [self.rows[k] for k in sorted(self.rows)]
        self.study.write_table("quarantine", pd.DataFrame(rows, columns=list(schema.names("quarantine"))))
        self._is_written = True


def _says(study: Study, rows: Mapping[tuple[str, str], Mapping[str, Any]]) -> bool:
    """Whether the table is there, whole, and has these rows."""
    try:
        table = study.read_table("quarantine")
    except (InputError, DamagedError):
        return False
    said = zip(table["volume_id"], table["stage"], table["marker"], strict=True)
    return set(said) == {(*key, row["marker"]) for key, row in rows.items()}


def count_quarantined(study: Study) -> int:
    """How many volumes are kept out now, from the names of the files alone: nothing is read or mended."""
    stages = storage.names(study.path(_FOLDER))
    return len({name for stage in stages for name in storage.names(study.path(_FOLDER, stage))})
