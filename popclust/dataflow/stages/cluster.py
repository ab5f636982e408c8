"""Descriptors -> groups, over K and seeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from threadpoolctl import threadpool_limits

from popclust.dataflow.inputs import source_of_volumes
from popclust.dataflow.learning import fit_of_groups
from popclust.dataflow.stage import Known, Stage, Work
from popclust.parts import Made
from popclust.population.clustering import BASELINE, group_over_seeds, matrix_of, numbers_of_clusters
from popclust.population.external import EXTERNAL, external_vectors, lined_up, read_table
from popclust.population.groupings import Groupings
from popclust.study import Study


def calls(study: Study, n_volumes: int) -> dict[str, tuple[Any, ...]]:
    """Arguments of `group` for every descriptor, their plain rival among them, and number of groups."""
    settings = study.settings.cluster
    numbers = numbers_of_clusters(n_volumes, settings)
    external = (EXTERNAL,) if settings.external else ()
    return {f"{d}-{k}": (study, d, k) for d in (*settings.descriptors, BASELINE, *external) for k in numbers}


def read_external(study: Study) -> Mapping[str, int]:
    """Write external.zarr from the table that the settings name; says what of it was left out.

    Raises
    ------
    InputError
        It cannot be read, or does not give every volume of the population a vector.
    """
    volume_id = study.read_dataset("word_counts").volume.values.tolist()
    sources = source_of_volumes(study).set_index("volume_id")["series_instance_uid"]
    table = read_table(study.resolve(study.settings.cluster.external))
    found = lined_up(table, volume_id, sources.to_dict())
    coords = {"volume": np.array(volume_id, dtype=object)}
    study.write_dataset("external", xr.Dataset({"vectors": (("volume", "feature"), found.vectors)}, coords=coords))
    return {"n_features": found.vectors.shape[1], "n_constant": found.n_constant, "n_unused": found.n_unused}


def group(study: Study, descriptor: str, n_clusters: int) -> Groupings:
    """The groupings of one descriptor and one number of groups, over all seeds."""
    words, topics = study.read_dataset("word_counts"), study.read_dataset("topics")
    if descriptor == EXTERNAL:
        matrix = external_vectors(study)
    else:
        matrix = matrix_of(descriptor, words, topics, study.settings.encode)
    settings = study.settings.cluster
    fit = fit_of_groups(settings, len(matrix))
    with threadpool_limits(1):
        table = group_over_seeds(matrix, words.volume.values.tolist(), descriptor, n_clusters, settings, fit)
    return Groupings.from_table(table)


def needs(known: Known) -> list[str]:
    """The topics, and what lies in the table of external vectors."""
    path = known.study.settings.cluster.external
    return [known.marker("topics"), *([f"external {known.digest(known.study.resolve(path))}"] if path else [])]


def build(work: Work) -> Made:
    """Write groupings.zarr."""
    external: Mapping[str, int] = {}
    if work.study.settings.cluster.external:
        external = work.once(read_external, work.study)
        work.line(f"{external['n_features']} external features, {external['n_constant']} constant ones left out")
    found = work.map(group, calls(work.study, len(work.passing("encode"))))
    groupings = Groupings.concatenated(list(found.values()))
    work.study.write_dataset("groupings", groupings.to_dataset())
    n_volumes, n_groupings = len(groupings.volume_id), len(groupings.grid)
    n_clusters_max = int(groupings.grid["n_clusters"].max())
    record: dict[str, Any] = {"n_volumes": n_volumes, "n_groupings": n_groupings, "n_clusters_max": n_clusters_max}
    return Made(record | ({"external": dict(external)} if external else {}))


STAGE = Stage(
    name="cluster",
    version=5,
    title="group volumes",
    sections=("cluster", "encode"),
    reads=("topics", "encode"),
    build_needs=needs,
    build=build,
    results=("groupings.zarr", "external.zarr"),
)
