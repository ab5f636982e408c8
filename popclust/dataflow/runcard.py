"""The run card: what ran, with what, on what input, how long. Outputs trace back to it."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeGuard

import fsspec

import popclust
from popclust import settings
from popclust.dataflow.progress import StageProgress
from popclust.errors import InputError
from popclust.study import Study

_PACKAGES = (
    *("dask", "distributed", "dask-ml", "zarr", "itk", "itk-elastix", "numba", "numpy", "scipy", "scikit-learn"),
    *("statsmodels", "pandas", "xarray", "pydicom"),
)


@dataclass
class RunCard:
    """Filled while the run goes on; written at its end, however it ends."""

    study: Study
    run_id: str = field(default_factory=lambda: datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ"))
    inputs: dict[str, str] = field(default_factory=dict)
    """Marker of each stage over the population: a hash, keyed where it comes from outside, of all that it rests on."""
    records: dict[str, Any] = field(default_factory=dict)
    """What stages over the population left."""
    started: float = field(default_factory=time.monotonic)

    def as_dict(self, state: str, stages: list[StageProgress], n_workers: int) -> Mapping[str, Any]:
        """The card's contents."""
        return {
            "run_id": self.run_id,
            "state": state,
            "popclust": popclust.__version__,
            "python": platform.python_version(),
            "platform": platform.platform(),
            "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
            "source_digest": popclust.source_digest(),
            "settings": settings.printable(self.study.settings),
            "inputs": self.inputs,
            "records": self.records,
            "n_workers": n_workers,
            "stages": [s.as_dict() for s in stages],
            "seconds": round(time.monotonic() - self.started, 1),
        }

    def write(self, state: str, stages: list[StageProgress], n_workers: int) -> None:
        """Write runs/<run_id>.json."""
        self.study.write_json(self.as_dict(state, stages, n_workers), "runs", f"{self.run_id}.json")


def read_card(path: str) -> dict[str, Any]:
    """Read a run card by path or URL.

    Raises
    ------
    InputError
        It is not there, or is no run card.
    """
    fs, root = fsspec.core.url_to_fs(path)
    try:
        card = json.loads(fs.cat_file(root))
    except (FileNotFoundError, IsADirectoryError):
        raise InputError(f"{path}: there is no run card here; they lie in STUDY/runs/") from None
    except ValueError:
        raise InputError(f"{path}: not a run card (not JSON)") from None
    if not isinstance(card, dict) or "run_id" not in card:
        raise InputError(f"{path}: not a run card (run_id is missing)")
    return card


def differences(a: Mapping[str, Any], b: Mapping[str, Any], path: str = "") -> list[tuple[str, Any, Any]]:
    """What differs between two run cards: (name, in a, in b), sorted by name; times are left out.

    >>> differences({"x": {"y": 1}}, {"x": {"y": 2}})
    [('x.y', 1, 2)]
    """
    out = []
    for key in sorted(set(a) | set(b)):
        name = f"{path}.{key}" if path else key
        left, right = a.get(key), b.get(key)
        if key in ("seconds", "seconds_left", "steps", "run_id"):  # as many tasks as there are workers
            continue
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            out += differences(left, right, name)
        elif _is_table(left) and _is_table(right):
            out += differences(_by_stage(left), _by_stage(right), name)
        elif left != right:
            out.append((name, left, right))
    return out


def _is_table(value: Any) -> TypeGuard[list[Mapping[str, Any]]]:
    return isinstance(value, list) and bool(value) and all(isinstance(v, Mapping) and "stage" in v for v in value)


def _by_stage(rows: list[Mapping[str, Any]]) -> dict[str, Any]:
    return {str(r["stage"]): {k: v for k, v in r.items() if k != "stage"} for r in rows}
