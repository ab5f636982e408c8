"""Descriptors -> groups, over K and seeds."""

from __future__ import annotations

from typing import Any

from threadpoolctl import threadpool_limits

from popclust.dataflow.learning import fit_of_groups
from popclust.dataflow.stage import Stage, Work
from popclust.parts import Made
from popclust.population.clustering import BASELINE, group_over_seeds, matrix_of, numbers_of_clusters
from popclust.population.groupings import Groupings
from popclust.study import Study


def calls(study: Study, n_volumes: int) -> dict[str, tuple[Any, ...]]:
    """Arguments of `group` for every descriptor, their plain rival among them, and number of groups."""
    settings = study.settings.cluster
    numbers = numbers_of_clusters(n_volumes, settings)
    return {f"{d}-{k}": (study, d, k) for d in (*settings.descriptors, BASELINE) for k in numbers}


def group(study: Study, descriptor: str, n_clusters: int) -> Groupings:
    """The groupings of one descriptor and one number of groups, over all seeds."""
    words, topics = study.read_dataset("word_counts"), study.read_dataset("topics")
    matrix = matrix_of(descriptor, words, topics, study.settings.encode)
    settings = study.settings.cluster
    fit = fit_of_groups(settings, len(matrix))
    with threadpool_limits(1):
        table = group_over_seeds(matrix, words.volume.values.tolist(), descriptor, n_clusters, settings, fit)
    return Groupings.from_table(table)


def build(work: Work) -> Made:
    """Write groupings.zarr."""
    found = work.map(group, calls(work.study, len(work.passing("encode"))))
    groupings = Groupings.concatenated(list(found.values()))
    work.study.write_dataset("groupings", groupings.to_dataset())
    n_volumes, n_groupings = len(groupings.volume_id), len(groupings.grid)
    n_clusters_max = int(groupings.grid["n_clusters"].max())
    return Made({"n_volumes": n_volumes, "n_groupings": n_groupings, "n_clusters_max": n_clusters_max})


STAGE = Stage(
    name="cluster",
    version=3,
    title="group volumes",
    sections=("cluster", "encode"),
    reads=("topics", "encode"),
    build_needs=lambda known: [known.marker("topics")],
    build=build,
    results=("groupings.zarr",),
)
