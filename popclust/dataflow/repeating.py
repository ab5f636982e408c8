"""The chain learnt again, in tasks by name: words, counts, topics and groups of every run, and what the runs agree on.

What a task reads of the population it reads from the study, and what it makes it writes there, in whole chunks of its
own: nothing that grows with the population passes through the scheduler.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from popclust import schema
from popclust.dataflow.learning import TrainingSample, fit_of_groups
from popclust.dataflow.stages import stage_named
from popclust.dataflow.stages.encode import count_focal, read_rows, vocabularies_of
from popclust.population.clustering import descriptor_matrix, group_by_centres, matrix_of, numbers_of_clusters
from popclust.population.duplicates import one_id_per_person
from popclust.population.nuisance import Nuisance
from popclust.population.repeats import (
    N_LEADING,
    agreed_groups,
    agreement_of_runs,
    leading,
    learnt_from,
    stability_in_runs,
)
from popclust.population.topics import fit_topics, scale_counts
from popclust.population.vocabulary import COUNTED, FOCAL, VOCABULARIES, FeatureScaling, Vocabulary, learn_vocabulary
from popclust.study import Study

FOLDER = "repeats"
"""Where the runs' words and counts lie while they are wanted."""
VOLUMES_OF_TASK = 32
"""Volumes that one task encodes: a chunk of the stored counts."""
_ROWS = 200_000
"""Training rows of a run's vocabulary at most."""


def volumes_of(study: Study) -> NDArray[np.object_]:
    """Volumes that were encoded, in their order, without reading their counts."""
    return np.asarray(study.open_group("word_counts.zarr")["volume"][...], dtype=object)  # type: ignore[index]


def learnt_volumes(study: Study, run: int) -> NDArray[np.bool_]:
    """(volume,) whether a run learns from it."""
    settings = study.settings.repeat
    patients = study.read_table("cohort").set_index("volume_id")["patient_id"]
    patients = one_id_per_person(patients, study.read_table("duplicates")).reindex(volumes_of(study))
    return learnt_from(patients.tolist(), settings.share, settings.seed, run)


def prepare(study: Study, n_runs: int) -> None:
    """Create what the tasks of all runs write into."""
    n_volumes, n_words = len(volumes_of(study)), len(words_of(study))
    out = study.open_group(FOLDER, "counts.zarr", mode="w")
    chunks = (1, min(VOLUMES_OF_TASK, n_volumes), n_words)
    schema.create_array(out, "repeat_counts", "counts", (n_runs, n_volumes, n_words), chunks=chunks)
    n_groupings = len(grid_of(study))
    out = study.open_group(FOLDER, "groups.zarr", mode="w")
    shape = (n_runs, n_groupings, n_volumes)
    schema.create_array(out, "repeat_groups", "cluster", shape, chunks=(1, n_groupings, n_volumes))
    shape_of_pooled = (n_runs, len(descriptors_of(study)), n_volumes, N_LEADING)
    schema.create_array(out, "repeat_groups", "pooled", shape_of_pooled, chunks=(1, 1, n_volumes, N_LEADING))
    for name in ("agreed", "distance", "stability"):
        schema.create_array(out, "repeat_groups", name, shape[1:], chunks=(1, n_volumes))


def words_of(study: Study) -> NDArray[np.str_]:
    """(word,) vocabulary of each word of a run; a vocabulary that finds fewer words leaves columns empty."""
    settings = study.settings.vocabulary
    return np.repeat(COUNTED, [*(getattr(settings, f"n_words_{v}") for v in VOCABULARIES), 1])


def descriptors_of(study: Study) -> list[str]:
    """Descriptors that are grouped again, in their order."""
    return sorted(study.settings.cluster.descriptors)


def grid_of(study: Study) -> list[tuple[str, int]]:
    """Descriptor and number of groups of every grouping of a run."""
    numbers = numbers_of_clusters(len(volumes_of(study)), study.settings.cluster)
    return [(d, k) for d in descriptors_of(study) for k in numbers]


def learn_run(study: Study, run: int, name: str) -> None:
    """Learn one vocabulary of a run from the training rows of the volumes that it learns from."""
    learnt = volumes_of(study)[learnt_volumes(study, run)]
    n_of_volume = max(1, _ROWS // len(learnt))
    rows = np.concatenate([TrainingSample(study, v).rows(name, slice(0, n_of_volume)) for v in learnt])
    settings = replace(study.settings.vocabulary, seed=_seed(study, run))
    group = study.open_group(FOLDER, str(run), f"{name}.zarr", mode="w")
    known = vocabularies_of(study)[name]
    if len(rows) == 0:
        replace(known, centres=known.centres[:0]).save(group)
        return
    features, positions_mm = rows[:, : rows.shape[1] - 3], rows[:, rows.shape[1] - 3 :]
    scaling = FeatureScaling.fitted(features, positions_mm, settings.spatial_weight)
    nuisance = _carried(known.scaling.nuisance, known.scaling.spread, scaling.spread)
    with threadpool_limits(1):
        learn_vocabulary(name, features, positions_mm, settings, nuisance=nuisance).save(group)


def count_chunk(study: Study, n_runs: int, start: int, stop: int) -> None:
    """Count the words of all runs in some volumes, each of which is read once."""
    words = [
        {name: Vocabulary.load(study.open_group(FOLDER, str(run), f"{name}.zarr")) for name in VOCABULARIES}
        for run in range(n_runs)
    ]
    first = dict(zip(*np.unique(words_of(study), return_index=True), strict=True))
    counts = np.zeros((n_runs, stop - start, len(words_of(study))), np.uint32)
    for at, volume_id in enumerate(volumes_of(study)[start:stop]):
        study.check_part("extract", str(volume_id), stage_named("extract").files_of(str(volume_id)))
        rows = read_rows(study, str(volume_id))
        counts[:, at, first[FOCAL]] = count_focal(study, str(volume_id))
        for run, vocabularies in enumerate(words):
            for name, (features, positions_mm) in rows.items():
                found = vocabularies[name].counts(features, positions_mm)
                counts[run, at, first[name] : first[name] + len(found)] = found
    _array(study.open_group(FOLDER, "counts.zarr", mode="r+"), "counts")[:, start:stop] = counts


def group_run(study: Study, run: int) -> None:
    """Learn the topics and the groups of a run, and put every volume into them."""
    learnt = learnt_volumes(study, run)
    words = words_of(study)
    counts = np.asarray(_array(study.open_group(FOLDER, "counts.zarr"), "counts")[run])
    seed = _seed(study, run)
    scaled = scale_counts(counts, words, study.settings.encode)
    grid = grid_of(study)
    cluster = np.zeros((len(grid), len(learnt)), np.uint16)
    fit = fit_of_groups(study.settings.cluster, len(learnt))
    out = study.open_group(FOLDER, "groups.zarr", mode="r+")
    with threadpool_limits(1):
        topics = fit_topics(scaled[learnt], replace(study.settings.topics, seed=seed)).transform(scaled)
        for at, descriptor in enumerate(descriptors_of(study)):
            matrix = descriptor_matrix(descriptor, scaled, words, topics)
            _array(out, "pooled")[run, at] = leading(matrix)
            for row, (name, n_clusters) in enumerate(grid):
                if name == descriptor:
                    learns = learnt if learnt.sum() >= n_clusters else np.ones(len(learnt), bool)
                    cluster[row] = group_by_centres(matrix, fit(matrix[learns], n_clusters, seed)).cluster
    _array(out, "cluster")[run] = cluster


def agree(study: Study, descriptor: str) -> None:
    """Groups of one descriptor that begin with what the runs agree on, for every number of groups."""
    words, topics = study.read_dataset("word_counts"), study.read_dataset("topics")
    matrix = matrix_of(descriptor, words, topics, study.settings.encode)
    out = study.open_group(FOLDER, "groups.zarr", mode="r+")
    pooled = np.asarray(_array(out, "pooled")[:, descriptors_of(study).index(descriptor)])
    pooled = pooled.transpose(1, 0, 2).reshape(len(matrix), -1)
    fit = fit_of_groups(study.settings.cluster, len(matrix))
    for row, (name, n_clusters) in enumerate(grid_of(study)):
        if name != descriptor:
            continue
        runs = np.asarray(_array(out, "cluster")[:, row])
        with threadpool_limits(1):
            found = agreed_groups(pooled, matrix, n_clusters, fit)
        _array(out, "agreed")[row] = found.cluster.astype(np.uint16)
        _array(out, "distance")[row] = found.distance.astype(np.float32)
        _array(out, "stability")[row] = stability_in_runs(found.cluster, runs)[found.cluster].astype(np.float32)


def gather(study: Study, n_runs: int) -> Mapping[str, Any]:
    """Write repeats.zarr, and remove what the runs leave besides."""
    grid, ids = grid_of(study), volumes_of(study)
    group = study.open_group(FOLDER, "groups.zarr")
    cluster, agreed, distance, stability = (
        np.asarray(_array(group, name)[...]) for name in ("cluster", "agreed", "distance", "stability")
    )
    learnt = np.stack([learnt_volumes(study, run) for run in range(n_runs)])
    dataset = xr.Dataset(
        {
            "cluster": (("run", "grouping", "volume"), cluster),
            "learnt": (("run", "volume"), learnt),
            "agreed": (("grouping", "volume"), agreed),
            "distance": (("grouping", "volume"), distance),
            "stability": (("grouping", "volume"), stability),
        },
        coords={
            "volume": ids,
            "descriptor": ("grouping", np.array([d for d, _ in grid], object)),
            "n_clusters": ("grouping", np.array([k for _, k in grid], np.int64)),
        },
    )
    study.write_dataset("repeats", dataset)
    study.remove(FOLDER)
    agreement = {f"{d} {k}": round(agreement_of_runs(cluster[:, row]), 6) for row, (d, k) in enumerate(grid)}
    return {"n_runs": n_runs, "n_volumes": len(ids), "n_learnt": learnt.sum(axis=1).tolist(), "agreement": agreement}


def _seed(study: Study, run: int) -> int:
    """Another one than the chain's own, for every run another."""
    return (study.settings.repeat.seed + 1 + run) * 7919 % (2**31 - 2)


def _array(group: zarr.Group, name: str) -> zarr.Array:
    array = group[name]
    if not isinstance(array, zarr.Array):
        raise TypeError(f"{name!r} is not an array")
    return array


def _carried(nuisance: Nuisance, spread: NDArray[np.float64], new_spread: NDArray[np.float64]) -> Nuisance:
    """The same directions left out where features are scaled by another spread (d,)."""
    ratio = spread / new_spread
    return replace(nuisance, projection=ratio[:, None] * nuisance.projection / ratio[None, :])
