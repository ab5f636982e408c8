"""Volumes that are kept out, each with its stage and reason; only the driver writes the table."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

import pandas as pd

from popclust.dataflow.window import Outcome
from popclust.schema import TABLES
from popclust.study import Study

_COLUMNS = [c.name for c in TABLES["quarantine"]]


@dataclass
class Quarantine:
    """The table quarantine.parquet, kept in step with the run."""

    study: Study
    rows: dict[tuple[str, str], dict[str, object]] = field(default_factory=dict)
    """By (volume_id, stage)."""

    @classmethod
    def open(cls, study: Study) -> Quarantine:
        """Read the table, empty where there is none yet."""
        rows = study.read_table("quarantine").to_dict("records") if study.exists("quarantine.parquet") else []
        return cls(study, {(r["volume_id"], r["stage"]): {str(k): v for k, v in r.items()} for r in rows})

    def holds(self, volume_id: str, stage: str, marker: str) -> bool:
        """Whether this very attempt has failed before: other settings or input are worth another."""
        row = self.rows.get((volume_id, stage))
        return row is not None and row["marker"] == marker

    def add(self, stage: str, outcome: Outcome, marker: str) -> None:
        """Keep a volume out."""
        self.rows[outcome.key, stage] = {
            "volume_id": outcome.key,
            "stage": stage,
            "error": outcome.error,
            "message": outcome.message,
            "attempts": outcome.attempts,
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "marker": marker,
        }
        self._write()

    def release(self, volume_id: str | None = None, stage: str | None = None) -> int:
        """Let volumes try again; returns how many."""
        freed = [k for k in self.rows if volume_id in (None, k[0]) and stage in (None, k[1])]
        for key in freed:
            del self.rows[key]
        if freed:
            self._write()
        return len(freed)

    def __len__(self) -> int:
        return len({volume_id for volume_id, _ in self.rows})

    def _write(self) -> None:
        rows = [self.rows[k] for k in sorted(self.rows)]
        self.study.write_table("quarantine", pd.DataFrame(rows, columns=_COLUMNS))
