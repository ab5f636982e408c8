"""Whether reported groups stand when all is learnt again, and whether groups are claimed where there are none.

    python benchmarks/stability.py [--json] [--chains 5] [--runs 8] [--fresh 50] [--nulls 200] [--planted 40]

`chain_ari`: people of six kinds whose features are mixtures of tissues (`--volumes`), words, topics, K and groups
learnt by `--chains` independent chains, each with `--runs` repeats over seeds and resamples of 80 % of the people; mean
adjusted Rand index between the groups that the chains report, beside that of single chains, and both against the truth.
`jaccard_error`: largest difference, over reported groups, between their stability over the repeats and that over
`--fresh` other ones; the mean over the chains. `null_claimed`, `planted_claimed`: share of populations at the level of
word counts of which groups are claimed (evaluation/structure.py): one overdispersed population, with and without
scanners, and planted kinds that k-means recovers with an adjusted Rand index of .8 or more; groups are of topics.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score
from threadpoolctl import threadpool_limits

from popclust.evaluation.prediction import as_good_as_best, gain_of_units
from popclust.evaluation.structure import examine_structure
from popclust.population.clustering import descriptor_matrix, exact_kmeans, group_by_centres
from popclust.population.repeats import agreed_groups, leading, learnt_from, stability_in_runs
from popclust.population.topics import fit_topics, scale_counts
from popclust.population.vocabulary import VOCABULARIES, learn_vocabulary
from popclust.settings import EncodeSettings, TopicsSettings, VocabularySettings

N_KINDS = 6
NUMBERS = range(2, 11)
WORDS = {"n_words_haralick": 60, "n_words_micro_sift": 30, "n_words_macro_sift": 30}
TOPICS = TopicsSettings(n_iterations=25)


@dataclass(frozen=True)
class People:
    """Made up people: features by vocabulary (volume, row, d), kinds, and what their reports say."""

    rows: dict[str, NDArray[np.float32]]
    kind: NDArray[np.int64]
    has_term: NDArray[np.bool_]


@dataclass(frozen=True)
class Chain:
    """One chain: descriptors and the groups of every K."""

    matrix: NDArray[np.float64]
    groups: dict[int, NDArray[np.int64]]
    number: int
    """The K that reports choose."""


def make_people(n: int, seed: int, effect: float = 0.8) -> People:
    """People whose lungs are mixtures of 40 tissues; the kind shifts the mixture, scanner and person the features."""
    rng = np.random.default_rng([seed, 77])
    kind = rng.permutation(np.arange(n) % N_KINDS)
    scanner, rows = rng.integers(0, 3, n), {}
    for name, n_rows, strength, width in zip(VOCABULARIES, (200, 50, 50), (1.0, 0.5, 0.5), (12, 20, 20), strict=True):
        centres, base = rng.normal(0, 1, (40, width)), rng.dirichlet(np.ones(40))
        profile = base * np.exp(effect * strength * rng.normal(0, 1, (N_KINDS, 40)))
        profile /= profile.sum(axis=1, keepdims=True)
        shift = 0.06 * rng.normal(0, 1, (3, width))
        made = np.empty((n, n_rows, width), np.float32)
        for i in range(n):
            tissue = rng.choice(40, n_rows, p=rng.dirichlet(np.maximum(40 * profile[kind[i]], 1e-3)))
            noise = rng.normal(0, 0.45, (n_rows, width)) + 0.06 * rng.normal(0, 1, width)
            made[i] = centres[tissue] + noise + shift[scanner[i]]
        rows[name] = made
    has_term = rng.random((n, 12)) < np.where(np.arange(12)[None] % N_KINDS == kind[:, None], 0.85, 0.06)
    return People(rows, kind, has_term)


def learn_chain(people: People, seed: int, learnt: NDArray[np.bool_]) -> Chain:
    """Words, topics and groups learnt from some people, all put into the groups."""
    counts, words = [], []
    for name, rows in people.rows.items():
        flat = rows[learnt].reshape(-1, rows.shape[2])
        settings = replace(VocabularySettings(**WORDS), spatial_weight=0.0, seed=seed)
        vocabulary = learn_vocabulary(name, flat, np.zeros((len(flat), 3), np.float32), settings)
        counts.append(np.stack([vocabulary.counts(r, np.zeros((len(r), 3), np.float32)) for r in rows]))
        words += [name] * counts[-1].shape[1]
    scaled = scale_counts(np.hstack(counts), np.array(words, object), EncodeSettings())
    topics = fit_topics(scaled[learnt], replace(TOPICS, seed=seed)).transform(scaled)
    matrix = descriptor_matrix("lda", scaled, np.array(words, object), topics)
    groups = {k: group_by_centres(matrix, exact_kmeans(matrix[learnt], k, seed)).cluster for k in NUMBERS}
    return Chain(matrix, groups, chosen_number(people, groups))


def chosen_number(people: People, groups: dict[int, NDArray[np.int64]]) -> int:
    """The smallest K that foretells reports as well as the best."""
    numbers = np.array(sorted(groups))
    stacked = np.stack([groups[k] for k in numbers])
    population: Any = SimpleNamespace(has_term=people.has_term, grid=numbers, cluster=stacked, n_clusters=numbers)
    return int(numbers[int(np.argmax(as_good_as_best(gain_of_units(population), np.arange(len(numbers)))))])


def chains(args: argparse.Namespace) -> dict[str, Any]:
    """Single chains and chains with repeats."""
    people = make_people(args.volumes, args.seed)
    patients, everybody = [str(i) for i in range(args.volumes)], np.ones(args.volumes, bool)
    main = [learn_chain(people, s, everybody) for s in range(args.chains)]
    n_repeats = args.chains * args.runs
    repeats = [
        learn_chain(people, 1000 + r, learnt_from(patients, 0.8, 0, r)) for r in range(max(n_repeats, args.fresh))
    ]
    reported, errors = [], []
    at_own = np.stack([r.groups[r.number] for r in repeats])
    for c, chain in enumerate(main):
        own = np.arange(c * args.runs, (c + 1) * args.runs)
        pooled = np.hstack([leading(repeats[r].matrix) for r in own])
        groups = {k: agreed_groups(pooled, chain.matrix, k).cluster for k in NUMBERS}
        reported.append(groups[chosen_number(people, groups)])
        shown = stability_in_runs(reported[-1], at_own[own])
        fresh = stability_in_runs(reported[-1], np.delete(at_own, own, axis=0))
        errors.append(float(np.abs(shown - fresh).max()))
    single = [c.groups[c.number] for c in main]
    return {
        "chain_ari": _among(reported),
        "single_ari": _among(single),
        "truth_ari": _to(people.kind, reported),
        "single_truth_ari": _to(people.kind, single),
        "jaccard_error": round(float(np.mean(errors)), 3),
        "K": [int(g.max()) + 1 for g in reported],
        "single_K": [c.number for c in main],
        "n_volumes": args.volumes,
    }


def make_counts(
    n: int, seed: int, kinds: int = 1, effect: float = 0.0, scanner: float = 0.0
) -> tuple[NDArray, NDArray, NDArray]:
    """Word counts, kinds and scanners of volumes of an overdispersed population, kinds planted or not."""
    rng = np.random.default_rng([seed, kinds])
    kind, machine, counts = rng.permutation(np.arange(n) % kinds), rng.integers(0, 3, n), []
    concentration, common = rng.uniform(15, 60), rng.uniform(0, 0.3)
    for n_words, total, strength in ((60, 3000, 1.0), (30, 60, 0.5), (30, 60, 0.5)):
        base = np.log(rng.dirichlet(np.ones(n_words)))
        of_kind = effect * strength * rng.normal(0, 1, (kinds, n_words))
        of_scanner, factors = scanner * rng.normal(0, 1, (3, n_words)), rng.normal(0, 1, (3, n_words))
        share = np.exp(base + of_kind[kind] + of_scanner[machine] + common * rng.normal(0, 1, (n, 3)) @ factors)
        share /= share.sum(axis=1, keepdims=True)
        drawn = rng.gamma(np.maximum(concentration * share, 1e-3))
        counts.append(np.stack([rng.multinomial(total, d / d.sum()) for d in drawn]))
    return np.hstack(counts), kind, machine


def claims(args: argparse.Namespace) -> dict[str, Any]:
    """How often groups are claimed, at K drawn between 2 and 8 for one population, at the planted K else."""
    words = np.repeat(np.array(VOCABULARIES, object), [60, 30, 30])

    def examine(counts: NDArray, machine: NDArray, n_clusters: int, kind: NDArray | None = None) -> tuple[bool, float]:
        scaled = scale_counts(counts, words, EncodeSettings())
        topics = fit_topics(scaled, replace(TOPICS, n_iterations=10)).transform(scaled)
        matrix = descriptor_matrix("lda", scaled, words, topics)
        found = group_by_centres(matrix, exact_kmeans(matrix, n_clusters, 0)).cluster
        ari = 0.0 if kind is None else adjusted_rand_score(kind, found)
        matrix = descriptor_matrix("concatenated", scaled, words, topics)  # as the stage associate does
        return bool(examine_structure(matrix, n_clusters, machine, args.null_draws).has_groups), ari

    out: dict[str, Any] = {"n_counted": args.counted, "n_null": args.nulls}
    for name, scanner in (("without", 0.0), ("with", 0.4)):
        found = []
        for seed in range(args.nulls // 2):
            counts, _, machine = make_counts(args.counted, seed, scanner=scanner)
            found.append(examine(counts, machine, 2 + seed % 7)[0])
        out[f"null_claimed_{name}_scanners"] = round(float(np.mean(found)), 3)
    out["null_claimed"] = round((out["null_claimed_with_scanners"] + out["null_claimed_without_scanners"]) / 2, 3)
    planted = []
    for seed in range(args.planted):
        kinds = 3 + seed % 4
        counts, kind, machine = make_counts(args.counted, seed, kinds, effect=0.8, scanner=0.2 * (seed % 2))
        planted.append(examine(counts, machine, kinds, kind))
    reachable = [claimed for claimed, ari in planted if ari >= 0.8]
    return out | {
        "planted_claimed": round(float(np.mean(reachable)), 3) if reachable else None,
        "n_planted": len(reachable),
    }


def _among(groups: list[NDArray]) -> float:
    return round(float(np.mean([adjusted_rand_score(a, b) for a, b in itertools.combinations(groups, 2)])), 3)


def _to(kind: NDArray, groups: list[NDArray]) -> float:
    return round(float(np.mean([adjusted_rand_score(kind, g) for g in groups])), 3)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {
        **{"chains": 5, "runs": 8, "fresh": 50, "volumes": 72, "seed": 1},
        **{"nulls": 200, "planted": 40, "counted": 100, "null-draws": 39},
    }.items():
        parser.add_argument(f"--{name}", type=int, default=default, help="default: %(default)s")
    parser.add_argument("--only", choices=("chains", "claims"), default=None)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with threadpool_limits(1):
        found = {} if args.only == "claims" else chains(args)
        found |= {} if args.only == "chains" else claims(args)
    if args.json:
        json.dump(found, sys.stdout, indent=1)
        print()
    else:
        print("\n".join(f"{name:30} {value}" for name, value in found.items()))


if __name__ == "__main__":
    main()
