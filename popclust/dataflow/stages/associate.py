"""Groups and terms -> significant associations, Q, and the grouping that is reported."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from popclust.dataflow.stage import Stage, Work
from popclust.errors import InputError
from popclust.evaluation.associations import AssociationResult, associate_counted
from popclust.evaluation.chain_runs import examine_runs, numbers_chosen
from popclust.evaluation.confounders import confounder_variables
from popclust.evaluation.counting import CountedPopulation, ReportTerms, count_population, minimum_count
from popclust.evaluation.half_models import Learnable, outcome_of_halves, replicate_in_halves
from popclust.evaluation.permutation import null_criterion
from popclust.evaluation.structure import examine_structure
from popclust.evaluation.validity import examine
from popclust.parts import Made
from popclust.population.clustering import matrix_of
from popclust.population.duplicates import one_id_per_person
from popclust.population.external import EXTERNAL, external_vectors
from popclust.population.groupings import Groupings, read_groupings, read_repeats, runs_of
from popclust.reported import AGREED, UNSTABLE, Grouping
from popclust.reports.measured_errors import measured_errors
from popclust.schema import TABLES
from popclust.study import Study

_CHUNK_PERMUTATIONS = 100


def build(work: Work) -> Made:
    """Test every grouping; without a report, say which grouping is the most stable."""
    study = work.study
    if not study.record("terms")["n_volumes_with_report"]:
        work.line("no volume has a report: groups are formed, nothing is tested", "yellow")
        return Made(work.once(choose_without_reports, study))
    nulls = list(work.map(null_of_criterion, permutation_chunks(study)).values())
    return Made(work.once(run_tests, study, nulls))


def permutation_chunks(study: Study) -> dict[str, tuple[Any, ...]]:
    """Arguments of `null_of_criterion` for all permutations, in chunks."""
    n = study.settings.associate.n_permutations
    starts = range(0, n, _CHUNK_PERMUTATIONS)
    return {f"{first:07}": (study, first, min(n, first + _CHUNK_PERMUTATIONS)) for first in starts}


def null_of_criterion(study: Study, first: int, last: int) -> NDArray[np.int32]:
    """Q of every grouping under permutations first .. last - 1."""
    settings = study.settings.associate
    return null_criterion(counted_population(study), settings.alpha, settings.seed, first, last)


def run_tests(study: Study, nulls: Sequence[NDArray[np.int32]]) -> Mapping[str, Any]:
    """Write associations.parquet, criterion.parquet, validity/ and the reported clusters.parquet."""
    population, settings = counted_population(study), study.settings.associate
    null = np.concatenate(nulls) if nulls else None
    result = associate_counted(population, settings, null)
    study.write_table("associations", result.associations)
    study.write_table("criterion", result.criterion)
    _examine(study, population, result)
    reported = result.reported
    return {
        **_report(study, reported, lambda runs: numbers_chosen(counted_population(study, groupings=runs), settings)),
        "min_term_count": minimum_count(settings, population.n_units),
        "Q": int(result.criterion.loc[reported.rows(result.criterion), "Q"].iloc[0]),
        "n_units": population.n_units,
        "n_tested_terms": len(population.term_id),
    }


def choose_without_reports(study: Study) -> Mapping[str, Any]:
    """The grouping that is reported where no report says how many groups there are: the most stable one.

    Raises
    ------
    InputError
        There are no groups of the descriptor.
    """
    groupings = read_groupings(study)
    wanted = study.settings.associate.descriptor
    descriptor = wanted if wanted != "best" else "lda"
    own = groupings.grid["descriptor"] == descriptor
    if not own.any():
        raise InputError(
            f"{study.url}/study.toml: [associate] descriptor: no groups were formed with {descriptor!r} "
            "(see [cluster] descriptors)"
        )
    stability = pd.Series(groupings.stability[own].mean(axis=1), index=groupings.grid.loc[own, "n_clusters"])
    agreed = (groupings.grid.loc[own, "seed"] == AGREED).to_numpy()
    stability = stability[agreed] if agreed.any() else stability
    by_number = stability.groupby(level=0).mean().round(6).fillna(0.0)
    n_clusters = int(by_number.index[int(by_number.to_numpy().argmax())])
    reported = Grouping(descriptor, n_clusters, int(groupings.grid.loc[own, "seed"].min()))
    return {
        **_report(study, reported, lambda runs: [n_clusters] * runs.grid["seed"].nunique()),
        "Q": None,
        "n_units": 0,
        "n_tested_terms": 0,
    }


def counted_population(
    study: Study, minimum: int | None = None, groupings: Groupings | None = None
) -> CountedPopulation:
    """The units of the tests, from the study's tables.

    One person under two patient_ids is one. `minimum` stands in place of the settings' minimum count of a term,
    `groupings` in place of those of the study.

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
        groupings or read_groupings(study),
        ReportTerms(present, labels),
        has_report,
        one_id_per_person(cohort["patient_id"], study.read_table("duplicates")),
        settings,
        cohort["acquired_on"],
        cohort[list(settings.strata)] if settings.strata else None,
    )


def _report(study: Study, reported: Grouping, numbers: Callable[[Groupings], Sequence[int]]) -> dict[str, Any]:
    """Write the reported groups, and how they come back in the runs of the chain, each with its own K."""
    clusters, repeats = read_groupings(study).table(reported), read_repeats(study)
    settings, record = study.settings.associate, dict[str, Any]()
    if repeats is not None and reported.descriptor != EXTERNAL:  # nobody learnt those vectors again
        runs = runs_of(repeats, reported.descriptor)
        found = examine_runs(
            clusters["cluster"].to_numpy(), runs, numbers(runs), repeats.learnt.values.sum(axis=1).tolist()
        )
        clusters = clusters.assign(stability=found.stability, unstable=found.stability < UNSTABLE)
        study.write_table("validity/repeats", found.table)
        record = {"chain_agreement": round(float(found.table["others"].mean()), 6)}
    study.write_table("clusters", clusters)
    record |= _examine_structure(study, reported)
    unstable = sorted(set(clusters.loc[clusters["unstable"], "cluster"].tolist()))
    record |= {**vars(reported), "unit": settings.unit, "min_term_count": settings.min_term_count}
    return record | {"n_unstable": len(unstable)}


def _examine_structure(study: Study, reported: Grouping) -> dict[str, Any]:
    """Write validity/structure.parquet: whether there are groups at all."""
    words, topics = study.read_dataset("word_counts"), study.read_dataset("topics")
    # looked for in the words, whatever the groups were formed on: topics bend one population towards their corners
    is_external = reported.descriptor == EXTERNAL
    matrix = external_vectors(study) if is_external else matrix_of("concatenated", words, topics, study.settings.encode)
    cohort = study.read_table("cohort").set_index("volume_id").reindex(words.volume.values)
    scanner = (cohort["manufacturer"].fillna("") + " " + cohort["model"].fillna("")).to_numpy(str)
    settings = study.settings.associate
    with threadpool_limits(1):
        found = examine_structure(matrix, reported.n_clusters, scanner, settings.n_one_kind, settings.seed)
    row = {**vars(reported), **vars(found), "has_groups": found.has_groups}
    study.write_table("validity/structure", pd.DataFrame([row]))
    return {"has_groups": found.has_groups}


def _examine(study: Study, population: CountedPopulation, result: AssociationResult) -> None:
    """Write validity/: how far the reported associations can be trusted."""
    variables = confounder_variables(study.read_table("cohort"), study.read_table("quality"))
    topics = study.read_dataset("topics").topic_of_volume
    shares = pd.DataFrame(topics.values, index=topics.volume.values)
    with threadpool_limits(1):
        validity = examine(population, result, study.settings.associate, variables, shares, measured_errors())
        halves = replicate_within(study, population, result)
    learnt = outcome_of_halves(halves, study.settings.associate.power)
    gated = validity.gate.merge(learnt, on=["cluster", "term_id"], how="left")
    for name, frame in {**vars(validity), "gate": gated, "replication": halves}.items():
        study.write_table(f"validity/{name}", frame)


def replicate_within(study: Study, population: CountedPopulation, result: AssociationResult) -> pd.DataFrame:
    """Every reported association, found on half of the patients and tested on the others."""
    settings = study.settings
    words = study.read_dataset("word_counts")
    cohort = study.read_table("cohort").set_index("volume_id")
    person = one_id_per_person(cohort["patient_id"], study.read_table("duplicates"))
    volume_id = words.volume.values.astype(object)
    is_external = result.reported.descriptor == EXTERNAL
    vectors = external_vectors(study) if is_external else None
    learnable = Learnable(
        volume_id=volume_id,
        patient=person.loc[volume_id].to_numpy(object),
        counts=words.counts.values,
        vocabulary_of_word=words.vocabulary.values,
        encode=settings.encode,
        topics=settings.topics,
        vectors=vectors,
    )
    tests = result.reported.of(result.associations)
    found = tests[tests["p_holm"] <= settings.associate.alpha].reset_index(drop=True)
    clusters = read_groupings(study).table(result.reported).set_index("volume_id").loc[volume_id, "cluster"]
    terms = ReportTerms(
        pd.DataFrame(population.has_term, index=population.volume_id, columns=list(population.term_id)),
        pd.Series(population.term, index=list(population.term_id)),
    )
    has_report = pd.Series(True, index=population.volume_id)
    unlimited = replace(settings.associate, min_term_count=1)

    def count(of: NDArray[np.object_], cluster: NDArray[np.int64]) -> CountedPopulation | None:
        table = pd.DataFrame({"volume_id": of, "descriptor": result.reported.descriptor, "seed": 0, "cluster": cluster})
        if not np.isin(of, population.volume_id).any():
            return None
        groupings = table.assign(n_clusters=result.reported.n_clusters)
        return count_population(groupings, terms, has_report, person, unlimited)

    return replicate_in_halves(learnable, found, clusters.to_numpy(np.int64), count, settings.associate)


STAGE = Stage(
    name="associate",
    version=10,
    title="test associations",
    sections=("encode", "topics", "associate"),
    reads=("encode", "cluster", "repeat", "terms", "topics", "ingest", "duplicates", "normalize"),
    build_needs=lambda known: [
        known.marker("cluster"),
        known.marker("repeat"),
        known.marker("terms"),
        known.output("ingest"),
        known.output("duplicates"),
        known.marker("normalize"),
    ],
    build=build,
    results=(
        "clusters.parquet",
        "associations.parquet",
        "criterion.parquet",
        *(f"{t}.parquet" for t in TABLES if t.startswith("validity/")),
    ),
)
