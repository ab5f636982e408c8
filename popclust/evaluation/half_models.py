"""Replication within a study: topics and groups learnt on half of the patients, the others placed by the half-model.

Words are those of the whole study: they are learnt without any report, and only from what volumes look like.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from popclust.evaluation.associations import run_tests
from popclust.evaluation.counting import CountedPopulation
from popclust.evaluation.odds_ratios import detection_power
from popclust.evaluation.permutation import group_sizes
from popclust.evaluation.replication import (
    NOT_REPLICATED,
    REPLICATED,
    UNDERPOWERED,
    replicate,
    safeguard_odds_ratio,
)
from popclust.population.clustering import descriptor_matrix, group_volumes
from popclust.population.external import EXTERNAL
from popclust.population.model import Model
from popclust.population.topics import TopicModel, fit_topics, scale_counts
from popclust.settings import AssociateSettings, EncodeSettings, TopicsSettings

HALVES = [
    *("descriptor", "n_clusters", "seed", "cluster", "term_id", "term", "learnt_on", "cluster_of_half", "overlap"),
    *("found", "odds_ratio", "R", "C", "B", "odds_ratio_again", "ci_low", "ci_high", "p_value", "power", "outcome"),
]
"""Columns of the table of halves."""
_MIN_PER_GROUP = 3
_FIRST, _SECOND = "first", "second"


@dataclass(frozen=True)
class Learnable:
    """What topics and groups are learnt from."""

    volume_id: NDArray[np.object_]
    """(volume,) all grouped volumes."""
    patient: NDArray[np.object_]
    """(volume,) their patients."""
    counts: NDArray[np.integer]
    """(volume, word) word counts."""
    vocabulary_of_word: NDArray[np.object_]
    """(word,) vocabulary of each word."""
    encode: EncodeSettings
    """Masses."""
    topics: TopicsSettings
    """Of the topics."""
    vectors: NDArray[np.float64] | None = None
    """(volume, feature) vectors of another tool, where groups are of these."""


def half_of_patients(patient: NDArray[np.object_], seed: int) -> NDArray[np.bool_]:
    """(volume,) whether its patient is in the first half; the larger half where patients are odd in number."""
    patients = np.unique(patient)
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(5,)))
    return np.isin(patient, rng.permutation(patients)[: (patients.size + 1) // 2])


def learn_and_place(
    learnable: Learnable, learns: NDArray[np.bool_], descriptor: str, n_clusters: int, seed: int
) -> NDArray[np.int64] | None:
    """Learn topics and groups on some volumes and place all (volume,); None where they are too few for K groups."""
    if learns.sum() < _MIN_PER_GROUP * n_clusters or not (~learns).any():
        return None
    if descriptor == EXTERNAL and learnable.vectors is not None:
        centres = group_volumes(learnable.vectors[learns], n_clusters, seed).centres
        return np.asarray(np.linalg.norm(learnable.vectors[:, None] - centres[None], axis=2).argmin(axis=1), np.int64)
    words = learnable.vocabulary_of_word
    scaled = scale_counts(learnable.counts[learns], words, learnable.encode)
    nothing = TopicModel(np.ones((1, scaled.shape[1])), learnable.topics.doc_topic_prior)
    topics = fit_topics(scaled, learnable.topics) if descriptor == "lda" else nothing
    matrix = descriptor_matrix(descriptor, scaled, words, topics.transform(scaled))
    # groups that runs of the chain agree on have no seed of their own
    found = group_volumes(matrix, n_clusters, max(seed, 0))
    if np.unique(found.cluster).size < n_clusters:
        return None
    counts = learnable.counts[learns]
    model = Model.frozen(descriptor, counts, words, learnable.encode, topics, found.cluster)
    return np.asarray(model.assign(learnable.counts).nearest, np.int64)


def replicate_in_halves(
    learnable: Learnable,
    reported: pd.DataFrame,
    clusters: NDArray[np.int64],
    count: Callable[[NDArray[np.object_], NDArray[np.int64]], CountedPopulation | None],
    settings: AssociateSettings,
) -> pd.DataFrame:
    """Each reported association, found on one half of the patients and tested on the other, both ways.

    Parameters
    ----------
    learnable
        What is learnt from.
    reported
        Significant associations of the reported grouping.
    clusters
        (volume,) reported groups.
    count
        From volumes and their groups to a population of one grouping; None where none of them has a report.
    settings
        Section [associate] of the study.

    Returns
    -------
    DataFrame
        A row per association and half that learns, columns as in HALVES. The group is the one of the half-model that
        overlaps the reported group most. It is replicated where the half finds the association as the study does, and
        the other half confirms it (`replicate`); `power` is the probability of both, for an odds ratio that is believed
        to be exceeded. R, C, B, the odds ratio again and p are those of the other half.
    """
    if reported.empty:
        return pd.DataFrame(columns=HALVES)
    first = half_of_patients(learnable.patient, settings.seed)
    grid = reported.iloc[0]
    descriptor, n_clusters, seed = str(grid["descriptor"]), int(grid["n_clusters"]), int(grid["seed"])
    parts = []
    for name, learns in ((_FIRST, first), (_SECOND, ~first)):
        placed = learn_and_place(learnable, learns, descriptor, n_clusters, seed)
        learnt = None if placed is None else count(learnable.volume_id[learns], placed[learns])
        held = None if placed is None else count(learnable.volume_id[~learns], placed[~learns])
        if placed is None or learnt is None or held is None:
            parts.append(_underpowered(reported).assign(learnt_on=name))
            continue
        own, overlap = matched_groups(clusters, placed, n_clusters)
        asked = reported.assign(
            cluster_of_half=own[reported["cluster"]], overlap=overlap[reported["cluster"]], learnt_on=name
        )
        parts.append(_one_way(asked, learnt, held, settings))
    return pd.concat(parts, ignore_index=True)[HALVES]


def matched_groups(
    reported: NDArray[np.int64], placed: NDArray[np.int64], n_clusters: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(cluster,) group of a half-model that overlaps each reported group most, and their Jaccard overlap."""
    both = np.zeros((n_clusters, n_clusters))
    np.add.at(both, (reported, placed), 1)
    union = both.sum(axis=1, keepdims=True) + both.sum(axis=0) - both
    jaccard = np.divide(both, union, out=np.zeros_like(both), where=union > 0)
    return jaccard.argmax(axis=1), jaccard.max(axis=1)


def _one_way(
    asked: pd.DataFrame, learnt: CountedPopulation, held: CountedPopulation, settings: AssociateSettings
) -> pd.DataFrame:
    tests, R = run_tests(learnt, settings.alpha), group_sizes(learnt)
    column = {term_id: t for t, term_id in enumerate(learnt.term_id)}
    term = asked["term_id"].map(column)
    is_tested = term.notna().to_numpy()
    cluster, at = asked["cluster_of_half"].to_numpy(np.int64), term.fillna(0).to_numpy(np.int64)
    C = np.where(is_tested, learnt.has_term.sum(axis=0)[at] if learnt.term_id else 0, 0).astype(np.int64)
    V = np.where(is_tested, tests.V[cluster, at] if learnt.term_id else 0, 0).astype(np.int64)
    p_holm = tests.p_holm[cluster, at] if learnt.term_id else np.ones(len(asked))
    B = np.full(len(asked), learnt.n_units, np.int64)
    direction = asked["direction"].to_numpy(np.int64)
    found = is_tested & (p_holm <= settings.alpha) & (np.sign(V * B - R[cluster] * C) == direction)
    in_half = asked.assign(cluster=cluster, V=V, R=R[cluster], C=C, B=B).reset_index(drop=True)
    again = replicate(in_half, held, settings)
    new_R, new_C, new_B = (again[name].to_numpy(np.int64) for name in ("R", "C", "B"))
    safe = safeguard_odds_ratio(asked)
    finds = detection_power(R[cluster], C, B, safe, settings.alpha / int(learnt.n_clusters[0]))
    power = finds * detection_power(new_R, new_C, new_B, safe, settings.alpha)
    otherwise = np.where(power >= settings.power, NOT_REPLICATED, UNDERPOWERED)
    same = ("R", "C", "B", "odds_ratio_again", "ci_low", "ci_high", "p_value")
    columns = {name: again[name].to_numpy() for name in same}
    is_again = found & (again["outcome"] == REPLICATED).to_numpy()
    outcome = np.where(is_again, REPLICATED, otherwise)
    return asked.reset_index(drop=True).assign(found=found, **columns, power=power, outcome=outcome)


def _underpowered(reported: pd.DataFrame) -> pd.DataFrame:
    """Rows where a half is too small to be learnt from."""
    numbers = dict.fromkeys(("overlap", "odds_ratio_again", "ci_low", "ci_high", "p_value"), np.nan)
    counts = dict.fromkeys(("R", "C", "B"), 0)
    return reported.assign(cluster_of_half=-1, found=False, power=0.0, outcome=UNDERPOWERED, **numbers, **counts)


def outcome_of_halves(halves: pd.DataFrame, power: float) -> pd.DataFrame:
    """Outcome of each reported association from both ways.

    Replicated where it is on one way at least; otherwise not replicated if one of the two would have been with the
    wanted power, else underpowered.

    Parameters
    ----------
    halves
        The table of `replicate_in_halves`.
    power
        Probability from which on a miss says something.

    Returns
    -------
    DataFrame
        cluster, term_id, replication, power: the probability that one way at least replicates it.
    """
    rows = []
    for (cluster, term_id), own in halves.groupby(["cluster", "term_id"], sort=False):
        chance = float(1.0 - np.prod(1.0 - own["power"].to_numpy(np.float64)))
        missed = NOT_REPLICATED if chance >= power else UNDERPOWERED
        outcome = REPLICATED if (own["outcome"] == REPLICATED).any() else missed
        rows.append((cluster, term_id, outcome, chance))
    return pd.DataFrame(rows, columns=["cluster", "term_id", "replication", "power"])
