"""The flow with real registration, in worker-owned children: kills, worker counts, and what the transform is worth."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from small_study import digest, kill_workers, make_study

from popclust.dataflow.client import connect
from popclust.dataflow.demo import registration_errors_mm, truth_of_volumes
from popclust.dataflow.pipeline import run
from popclust.settings import ComputeSettings
from popclust.study import Study

REGISTER = {
    "transforms": "register",
    "n_resolutions": 2,
    "n_iterations": 60,
    "n_samples": 1000,
    "grid_spacing_mm": 40.0,
    "field_spacing_mm": 10.0,
}


def _study(folder: Path, population: Path) -> Study:
    templates = [str(population / "atlas" / "template_01.nii.gz")]
    atlas: dict[str, Any] = {"volume": str(population / "atlas" / "atlas.nii.gz"), "templates": templates}
    return make_study(folder, population, atlas={**atlas, "spacing_mm": 6.0}, normalize=REGISTER)


@pytest.mark.full
def test_killed_workers_one_worker_and_two_give_the_same_bytes(population: Path, tmp_path: Path):
    calm, troubled = _study(tmp_path / "calm", population), _study(tmp_path / "troubled", population)
    with connect("", ComputeSettings(n_workers=2)) as client:
        run(calm, client)
    killed = threading.Event()
    with connect("", ComputeSettings(n_workers=1)) as client:
        assert client is not None
        killer = threading.Thread(target=kill_workers, args=(client, troubled, ("normalize", "extract"), killed))
        killer.start()
        flow = run(troubled, client)
        killer.join()
    assert killed.is_set()
    assert flow.n_quarantined == 0
    ours, theirs = digest(troubled), digest(calm)
    assert [name for name in theirs if ours.get(name) != theirs[name]] == []


@pytest.mark.full
def test_registration_finds_the_true_positions(population: Path, tmp_path: Path):
    study = _study(tmp_path / "s", population)
    with connect("", ComputeSettings(n_workers=2)) as client:
        run(study, client, until="normalize")
    truth = truth_of_volumes(study, population)
    quality = study.read_table("quality")
    accepted = quality.loc[quality["accepted"], "volume_id"].tolist()
    healthy = [v for v in accepted if truth.loc[v, "group"] != "effusion"]
    assert len(healthy) >= 6
    errors = registration_errors_mm(study, truth, healthy)
    still = np.concatenate([_start_errors(truth.loc[v]) for v in healthy])
    assert errors.mean() < 8
    assert errors.mean() < 0.5 * still.mean()


def _start_errors(row: pd.Series) -> np.ndarray:
    """What is left of the truth when only the centres are brought together."""
    atlas_mm, volume_mm = (np.stack(list(row[c])) for c in ("points_atlas_mm", "points_volume_mm"))
    return np.linalg.norm((volume_mm - volume_mm.mean(axis=0)) - (atlas_mm - atlas_mm.mean(axis=0)), axis=1)
