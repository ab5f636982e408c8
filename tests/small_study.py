"""A small study of simulated people with known transforms, run once for all tests of the flow."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from popclust import storage
from popclust.dataflow.flow import Flow
from popclust.schema import TABLES
from popclust.study import Study

N_VOLUMES = 12
KEY = "11" * 32 + "\n"
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "atlas": {"spacing_mm": 6.0},
    "normalize": {"transforms": "given", "min_ncc": -1.0, "max_failure_probability": 1.0, "min_lung_dice": 0.0},
    "haralick": {"spacing_mm": 4.0, "window_mm": 20.0, "step_mm": 12.0},
    "sift": {"spacing_mm": 4.0},
    "extract": {"training_rows": 300},
    "vocabulary": {
        "n_words_haralick": 20,
        "n_words_micro_sift": 10,
        "n_words_macro_sift": 10,
        "block_rows": 512,
        "n_degraded": 2,
    },
    "topics": {"n_topics": 5},
    "cluster": {"n_clusters_max": 4, "seeds": [0, 1]},
    "repeat": {"n_runs": 2},
    "associate": {"min_term_count": 2, "n_permutations": 20, "n_one_kind": 19},
}
DERIVED = [t for t in TABLES if t not in ("quarantine", "replication")]


def make_study(folder: Path | str, population: Path, **changes: Mapping[str, Any]) -> Study:
    """A study of a simulated population, with a key of its own that is always the same."""
    named: dict[str, Mapping[str, Any]] = {
        "ingest": {"sources": [str(population / "DICOM")]},
        "atlas": {"volume": str(population / "atlas" / "atlas.nii.gz")},
        "normalize": {"given_folder": str(population / "transforms")},
        "terms": {"reports": str(population / "reports.csv")},
    }
    sections = {*SETTINGS, *named, *changes}
    overrides = {s: {**SETTINGS.get(s, {}), **named.get(s, {}), **changes.get(s, {})} for s in sections}
    study = Study.create(str(folder), overrides)
    key = Path(study.secret_path("key"))
    key.parent.mkdir(mode=0o700, parents=True)
    key.touch(mode=0o600)
    key.write_text(KEY)
    return study


def copy_study(study: Study, folder: Path) -> Study:
    """The finished study at another place with its secrets, to be changed."""
    shutil.copytree(study.url, folder)
    shutil.copytree(f"{study.url}.secret", f"{folder}.secret")
    return Study.open(str(folder))


def set_setting(study: Study, name: str, value: str) -> Study:
    """Change one line of study.toml."""
    path = Path(study.path("study.toml"))
    lines = path.read_text().splitlines()
    places = [i for i, line in enumerate(lines) if line.removeprefix("# ").startswith(f"{name} = ")]
    assert len(places) == 1, f"{name} is not one line of study.toml"
    lines[places[0]] = f"{name} = {value}"
    path.write_text("\n".join(lines) + "\n")
    return Study.open(study.url)


def made_by(flow: Flow) -> dict[str, set[str]]:
    """Parts that a run made, by stage."""
    return {stage: set(parts) for stage, parts in flow.made.items() if parts}


def kill_workers(client: Any, study: Study, stages: tuple[str, ...], killed: threading.Event) -> None:
    """SIGKILL every worker once in each stage, when three parts are done."""
    for stage in stages:
        deadline = time.monotonic() + 240
        while len(study.names_done(stage)) < 3:
            if time.monotonic() > deadline:
                return
            time.sleep(0.02)
        for pid in client.run(os.getpid).values():
            os.kill(pid, signal.SIGKILL)
    killed.set()


def digest(study: Study) -> dict[str, bytes]:
    """Bytes of every table and store that a study derives."""
    stores = [f"{s}.zarr" for s in ("word_counts", "groupings", "repeats", "topics", "terms")]
    parts = ("vocabulary", "features", "normalized", "model", "volumes", "atlas")
    below = (f"{place}/{name}" for place in (*stores, *parts) for name in storage.files_below(study.path(place)))
    return {f: study.read_bytes(f) for f in [*(f"{t}.parquet" for t in DERIVED), *below]}
