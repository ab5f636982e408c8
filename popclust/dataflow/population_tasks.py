"""What is done for the whole population: read tables and stores, call pure functions, write tables and stores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from popclust.dataflow.learning import minibatch_centres
from popclust.errors import InputError
from popclust.evaluation.associations import AssociationResult, associate_counted
from popclust.evaluation.confounders import confounder_variables
from popclust.evaluation.counting import CountedPopulation, ReportTerms, count_population
from popclust.evaluation.permutation import null_criterion
from popclust.evaluation.validity import examine
from popclust.population.clustering import descriptor_matrix, exact_kmeans, group_over_seeds, numbers_of_clusters
from popclust.population.model import Model
from popclust.population.topics import TopicModel, fit_topics, scale_counts
from popclust.study import Study

_CHUNK_PERMUTATIONS = 100


def learn_topics(study: Study) -> Mapping[str, Any]:
    """Write topics.zarr."""
    words = study.read_dataset("word_counts")
    scaled = _scaled(study, words)
    with threadpool_limits(1):  # the order of sums must not depend on the machine's cores
        model = fit_topics(scaled, study.settings.topics)
        topic_of_volume = model.transform(scaled)
    dataset = xr.Dataset(
        {
            "topic_of_volume": (("volume", "topic"), topic_of_volume),
            "word_of_topic": (("topic", "word"), model.word_of_topic),
            "components": (("topic", "word"), model.components),
        },
        coords={"volume": words.volume.values, "vocabulary": ("word", words.vocabulary.values)},
        attrs={"doc_topic_prior": model.doc_topic_prior},
    )
    study.write_dataset("topics", dataset)
    return {"n_topics": int(dataset.sizes["topic"]), "n_volumes": int(dataset.sizes["volume"])}


def groupings(study: Study, n_volumes: int) -> dict[str, tuple[Any, ...]]:
    """Arguments of `group` for every descriptor and number of groups."""
    settings = study.settings.cluster
    return {f"{d}-{k}": (study, d, k) for d in settings.descriptors for k in numbers_of_clusters(n_volumes, settings)}


def group(study: Study, descriptor: str, n_clusters: int) -> pd.DataFrame:
    """Rows of clusters.parquet for one descriptor and one number of groups, over all seeds."""
    words, topics = study.read_dataset("word_counts"), study.read_dataset("topics")
    matrix = descriptor_matrix(
        descriptor, _scaled(study, words), words.vocabulary.values, topics.topic_of_volume.values
    )
    settings = study.settings.cluster
    is_exact = settings.engine == "exact" or (settings.engine == "auto" and len(matrix) <= settings.exact_limit)
    fit = exact_kmeans if is_exact else minibatch_centres
    with threadpool_limits(1):
        return group_over_seeds(matrix, words.volume.values.tolist(), descriptor, n_clusters, settings, fit)


def null_of_criterion(study: Study, first: int, last: int) -> NDArray[np.int32]:
    """Q of every grouping under permutations first .. last - 1."""
    settings = study.settings.associate
    return null_criterion(counted_population(study), settings.alpha, settings.seed, first, last)


def permutation_chunks(study: Study) -> dict[str, tuple[Any, ...]]:
    """Arguments of `null_of_criterion` for all permutations, in chunks."""
    n = study.settings.associate.n_permutations
    return {
        f"{first:07}": (study, first, min(n, first + _CHUNK_PERMUTATIONS)) for first in range(0, n, _CHUNK_PERMUTATIONS)
    }


def run_tests(study: Study, nulls: Sequence[NDArray[np.int32]]) -> Mapping[str, Any]:
    """Write associations.parquet, criterion.parquet and the frozen model of the reported grouping."""
    population = counted_population(study)
    null = np.concatenate(nulls) if nulls else None
    result = associate_counted(population, study.settings.associate, null)
    study.write_table("associations", result.associations)
    study.write_table("criterion", result.criterion)
    _examine(study, population, result)
    reported = result.reported
    _freeze(study, reported.descriptor, reported.n_clusters, reported.seed)
    rows = reported.rows(result.criterion)
    return {
        "descriptor": reported.descriptor,
        "n_clusters": reported.n_clusters,
        "seed": reported.seed,
        "Q": int(result.criterion.loc[rows, "Q"].iloc[0]),
        "unit": study.settings.associate.unit,
        "n_units": population.n_units,
        "n_tested_terms": len(population.term_id),
        "min_term_count": study.settings.associate.min_term_count,
    }


def counted_population(study: Study, minimum: int | None = None) -> CountedPopulation:
    """The units of the tests, from the study's tables; `minimum` in place of the settings' minimum count of a term.

    Raises
    ------
    InputError
        No grouped volume has a report.
    """
    cohort = study.read_table("cohort").set_index("volume_id")
    terms = study.read_dataset("terms")
    present = pd.DataFrame(terms.has_term.values, index=terms.volume.values, columns=terms.term.values)
    labels = pd.Series(terms.label.values, index=terms.term.values)
    has_report = pd.Series(True, index=terms.volume.values)
    settings = study.settings.associate
    if minimum is not None:
        settings = replace(settings, min_term_count=minimum)
    return count_population(
        study.read_table("clusters"),
        ReportTerms(present, labels),
        has_report,
        cohort["patient_id"],
        settings,
        cohort["acquired_on"],
        cohort[list(settings.strata)] if settings.strata else None,
    )


def _examine(study: Study, population: CountedPopulation, result: AssociationResult) -> None:
    """Write validity/: how far the reported associations can be trusted."""
    variables = confounder_variables(study.read_table("cohort"), study.read_table("quality"))
    topics = study.read_dataset("topics").topic_of_volume
    shares = pd.DataFrame(topics.values, index=topics.volume.values)
    with threadpool_limits(1):
        validity = examine(population, result, study.settings.associate, variables, shares)
    for name, frame in vars(validity).items():
        study.write_table(f"validity/{name}", frame)


def groups_without_reports(study: Study) -> Mapping[str, Any]:
    """The grouping that is reported where no report says how many groups there are.

    Raises
    ------
    InputError
        There are no groups.
    """
    clusters = study.read_table("clusters")
    wanted = study.settings.associate.descriptor
    descriptor = wanted if wanted != "best" else "lda"
    rows = clusters[clusters["descriptor"] == descriptor]
    if rows.empty:
        raise InputError(f"associate.descriptor: no groups were formed with {descriptor!r} (see cluster.descriptors)")
    # Without reports there is no Q: the most stable number of groups stands in, and the record says so.
    stability = rows.groupby("n_clusters")["stability"].mean().round(6)
    n_clusters = int(stability.index[int(stability.argmax())])
    seed = int(rows["seed"].min())
    _freeze(study, descriptor, n_clusters, seed)
    return {
        "descriptor": descriptor,
        "n_clusters": n_clusters,
        "seed": seed,
        "Q": None,
        "unit": study.settings.associate.unit,
        "n_units": 0,
        "n_tested_terms": 0,
        "min_term_count": study.settings.associate.min_term_count,
    }


def _freeze(study: Study, descriptor: str, n_clusters: int, seed: int) -> None:
    words, topics = study.read_dataset("word_counts"), study.read_dataset("topics")
    clusters = study.read_table("clusters")
    of = (clusters["descriptor"] == descriptor) & (clusters["n_clusters"] == n_clusters) & (clusters["seed"] == seed)
    cluster = clusters[of].set_index("volume_id").loc[words.volume.values, "cluster"].to_numpy(np.int64)
    topic_model = TopicModel(topics.components.values, float(topics.attrs["doc_topic_prior"]))
    masses = study.settings.encode
    with threadpool_limits(1):
        model = Model.frozen(descriptor, words.counts.values, words.vocabulary.values, masses, topic_model, cluster)
    model.save(study.open_group("model", "groups.zarr", mode="w"))


def _scaled(study: Study, words: xr.Dataset) -> NDArray[np.float64]:
    return scale_counts(words.counts.values, words.vocabulary.values, study.settings.encode)
