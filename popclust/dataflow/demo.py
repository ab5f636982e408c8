"""The demo: simulate a population with planted groups, run everything, score it."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from distributed import Client
from numpy.typing import NDArray
from rich.console import Console

from popclust.dataflow.client import connect
from popclust.dataflow.flow import Flow
from popclust.dataflow.inputs import source_of_volumes
from popclust.dataflow.pipeline import run
from popclust.dataflow.simulate import simulate
from popclust.dataflow.stages.associate import counted_population
from popclust.evaluation.associations import associate_counted
from popclust.imaging.ome_zarr import read_ome_zarr
from popclust.normalization.normalized import Normalized
from popclust.population.clustering import BASELINE
from popclust.population.groupings import Groupings
from popclust.reported import Reported
from popclust.reports.lexicon import load_lexicon
from popclust.simulation.scoring import PairScores, agreement, histogram_agreement, lung_histogram, score_pairs
from popclust.study import Study

N_TEMPLATES = 1
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    # Coarser than the defaults, so that two cores are done in minutes.
    "atlas": {
        "volume": "../population/atlas/atlas.nii.gz",
        "templates": [f"../population/atlas/template_{i + 1:02}.nii.gz" for i in range(N_TEMPLATES)],
        "spacing_mm": 5.0,
    },
    "normalize": {
        "n_resolutions": 2,
        "n_iterations": 100,
        "n_samples": 1500,
        "grid_spacing_mm": 30.0,
        "field_spacing_mm": 8.0,
        "n_best": 1,
    },
    # finer steps of HU where lung tissue is: what is above -100 HU counts as one level
    "haralick": {"spacing_mm": 3.0, "step_mm": 9.0, "range_hu": [-1000.0, -100.0]},
    "sift": {"spacing_mm": 3.0},
    "vocabulary": {"n_words_haralick": 100, "n_words_micro_sift": 60, "n_words_macro_sift": 60, "n_degraded": 6},
    "cluster": {"n_clusters_max": 12},
    "associate": {"min_term_count": 6, "n_permutations": 200},
}


def run_demo(out: str, n_volumes: int, seed: int, scheduler: str, console: Console) -> int:
    """Simulate, run, score; returns the number of volumes in quarantine.

    Writes OUT/population, OUT/study and OUT/scores.json.

    Raises
    ------
    InputError
        OUT holds a population already.
    """
    started = time.monotonic()
    folder = Path(out).absolute()
    with connect(scheduler) as client:
        console.print(f"1/3  simulate {n_volumes} people in {folder / 'population'}")
        simulate(client, str(folder / "population"), n_volumes, seed, n_templates=N_TEMPLATES, console=console)
        study = _make_study(folder, seed)
        console.print(f"2/3  run the study {study.url}")
        flow = run(study, client, console=console)
        console.print("3/3  score against what was planted")
        scores = score(flow, client, folder / "population")
    scores["seconds"] = round(time.monotonic() - started, 1)
    (folder / "scores.json").write_text(json.dumps(scores, indent=1) + "\n")
    _print(scores, flow, folder, console)
    return flow.n_quarantined


def score(flow: Flow, client: Client | None, population: Path) -> dict[str, Any]:
    """Scores of a finished study of a simulated population."""
    study, reported = flow.study, flow.study.reported
    truth = truth_of_volumes(study, population)
    clusters = dict(zip(reported.clusters["volume_id"], reported.clusters["cluster"].tolist(), strict=True))
    groups = truth["group"].to_dict()
    seeds = study.settings.cluster.seeds
    volumes = list(clusters)
    histograms = flow.map(histogram_of, {v: (study, v) for v in volumes})
    pairs = _score_associations(study, truth, reported)
    errors = registration_errors_mm(study, truth, volumes)
    return {
        "ari": round(agreement(groups, clusters), 4),
        "ari_hu_histogram": round(histogram_agreement(histograms, groups, reported.grouping.n_clusters, seeds), 4),
        "ari_zones": round(_baseline_agreement(study, groups, reported.grouping.n_clusters), 4),
        "n_clusters": reported.grouping.n_clusters,
        "n_planted": int(truth.loc[volumes, "group"].nunique()),
        "n_volumes": len(volumes),
        "Q": reported.Q,
        "associations_recall": round(pairs.recall, 4),
        "associations_jaccard": round(pairs.jaccard, 4),
        "associations_false_share": round(pairs.false_share, 4),
        "associations_true": pairs.n_true,
        "associations_found": pairs.n_found,
        "registration_error_mm_mean": round(float(errors.mean()), 3),
        "registration_error_mm_p95": round(float(np.percentile(errors, 95)), 3),
        "min_term_count": reported.min_term_count,
    }


def _baseline_agreement(study: Study, groups: Mapping[str, str], n_clusters: int) -> float:
    """Mean adjusted Rand index, over the seeds, of the groups that histograms of six zones form."""
    found = Groupings.from_dataset(study.read_dataset("groupings"))
    own = (found.grid["descriptor"] == BASELINE) & (found.grid["n_clusters"] == n_clusters)
    rows = found.cluster[own.to_numpy()]
    return float(np.mean([agreement(groups, dict(zip(found.volume_id, r.tolist(), strict=True))) for r in rows]))


def histogram_of(study: Study, volume_id: str) -> NDArray[np.float64]:
    """Lung histogram of one volume, over the same lungs as the features."""
    normalized = Normalized.load(study.open_group("normalized", f"{volume_id}.zarr"))
    return lung_histogram(read_ome_zarr(study.path("volumes", f"{volume_id}.ome.zarr")), normalized.lung)


def registration_errors_mm(study: Study, truth: pd.DataFrame, volumes: list[str]) -> NDArray[np.float64]:
    """Distance of each true point of the volumes from where the transform puts it."""
    errors = []
    for volume_id in volumes:
        row = truth.loc[volume_id]
        atlas_mm, volume_mm = (np.stack(list(row[c])) for c in ("points_atlas_mm", "points_volume_mm"))
        normalized = Normalized.load(study.open_group("normalized", f"{volume_id}.zarr"))
        errors.append(np.linalg.norm(normalized.to_volume(atlas_mm) - volume_mm, axis=1))
    return np.concatenate(errors)


def _make_study(folder: Path, seed: int) -> Study:
    overrides = {
        **SETTINGS,
        "ingest": {"sources": ["../population/DICOM"]},
        "terms": {"reports": "../population/reports.csv"},
        "summarize": {"population": "Simulated people: nothing here is a finding about patients"},
    }
    study = Study.create(str(folder / "study"), overrides)
    key = Path(study.secret_path("key"))
    key.parent.mkdir(mode=0o700, exist_ok=True)
    key.touch(mode=0o600)
    # Nobody's secret: the people are made up, and the same seed shall give the same pseudonyms.
    key.write_text(hashlib.sha256(f"popclust demo {seed}".encode()).hexdigest() + "\n")
    return study


def truth_of_volumes(study: Study, population: Path) -> pd.DataFrame:
    """Rows of truth.parquet by volume_id; a series that was exported twice has one."""
    truth = pd.read_parquet(population / "truth.parquet").drop_duplicates("series_instance_uid")
    sources = source_of_volumes(study)[["volume_id", "series_instance_uid"]]
    return truth.merge(sources, on="series_instance_uid").set_index("volume_id")


def _score_associations(study: Study, truth: pd.DataFrame, reported: Reported) -> PairScores:
    """The same tests on the same groups and units, with the planted findings in place of the reports."""
    settings = study.settings.associate
    population = counted_population(study, minimum=0)
    population = population.only(reported.grouping.rows(population.grid))
    counts_as = load_lexicon().rolled_up(study.settings.terms.roll_up)
    findings = [{counts_as.get(t, t) for t in f} for f in truth.loc[list(population.volume_id), "findings"]]
    term_id = tuple(sorted(set().union(*findings)))
    has_term = np.array([[t in f for t in term_id] for f in findings])
    frequent = has_term.sum(axis=0) >= settings.min_term_count
    terms = tuple(t for t, is_frequent in zip(term_id, frequent, strict=True) if is_frequent)
    planted = replace(population, has_term=has_term[:, frequent], term_id=terms, term=terms)
    true = associate_counted(planted, settings).associations
    return score_pairs(reported.tests, true, settings.alpha)


def _print(scores: Mapping[str, Any], flow: Flow, folder: Path, console: Console) -> None:
    study = flow.study
    lines = (
        f"{scores['n_volumes']} volumes, {scores['n_planted']} planted groups, {scores['n_clusters']} found "
        f"(Q = {scores['Q']}, terms in at least {scores['min_term_count']} {study.settings.associate.unit}s)",
        f"adjusted Rand index          {scores['ari']:.2f}   (lung HU histograms: {scores['ari_hu_histogram']:.2f}, "
        f"of six zones: {scores['ari_zones']:.2f})",
        f"true associations found      {scores['associations_recall']:.2f}   of {scores['associations_true']}",
        f"found that are not true      {scores['associations_false_share']:.2f}   of {scores['associations_found']}",
        f"registration error           {scores['registration_error_mm_mean']:.1f} mm "
        f"(95 %: {scores['registration_error_mm_p95']:.1f} mm)",
        f"time                         {scores['seconds'] / 60:.1f} minutes",
        f"look at  {study.path('summary', 'index.html')}",
        f"explore  popclust explore {study.url}",
        f"scores   {folder / 'scores.json'}",
    )
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
