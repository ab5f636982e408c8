"""Replication: true associations of one site are found again at another, false ones are not, the rest is underpowered.

python benchmarks/replication.py --json     pairs of made-up sites: topics and reports of 400 patients each
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace

import numpy as np
import pandas as pd

from popclust.evaluation.associations import associate_counted
from popclust.evaluation.counting import CountedPopulation, ReportTerms, count_population
from popclust.evaluation.replication import NOT_REPLICATED, REPLICATED, UNDERPOWERED, replicate
from popclust.population.clustering import group_volumes
from popclust.settings import AssociateSettings

SETTINGS = AssociateSettings(n_permutations=0, min_term_count=10)
N_GROUPS, N_TOPICS, N_DRIVEN, N_OTHER = 5, 20, 15, 60


def site(
    people: dict[str, np.ndarray], scanner_seed: int, n: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """(patient, topic) shares on scanners of the site's own, which shift topics, and (patient, term) reports."""
    kind = rng.choice(N_GROUPS, n, p=(0.35, 0.25, 0.2, 0.1, 0.1))
    own = np.random.default_rng(scanner_seed)
    shift = np.exp(own.normal(0, 0.5, (2, N_TOPICS)))[rng.integers(0, 2, n)]
    weight = rng.gamma(people["topics"][kind]) * shift
    log_odds = people["frequency"] + np.hstack([people["effect"][kind], np.zeros((n, N_OTHER))])
    return weight / weight.sum(axis=1, keepdims=True), rng.random(log_odds.shape) < 1 / (1 + np.exp(-log_odds))


def counted(group: np.ndarray, has_term: np.ndarray, settings: AssociateSettings) -> CountedPopulation:
    volume_id = np.array([f"v{i:05d}" for i in range(len(group))], dtype=object)
    terms = [f"RID{t:03d}" for t in range(has_term.shape[1])]
    clusters = pd.DataFrame({"volume_id": volume_id, "descriptor": "lda", "n_clusters": N_GROUPS, "seed": 0})
    reports = ReportTerms(pd.DataFrame(has_term, index=volume_id, columns=terms), pd.Series(terms, index=terms))
    everyone, patient = pd.Series(True, index=volume_id), pd.Series(volume_id, index=volume_id)
    return count_population(clusters.assign(cluster=group), reports, everyone, patient, settings)


def one_pair(seed: int, n: int) -> pd.DataFrame:
    """Associations of a first site, tested at a second one that the first one's centres place."""
    rng = np.random.default_rng(seed)
    people = {
        "topics": 0.3 + 4.0 * rng.dirichlet(np.full(N_TOPICS, 0.2), N_GROUPS),
        "frequency": rng.uniform(-2.5, -0.5, N_DRIVEN + N_OTHER),
        "effect": rng.normal(0, 1.0, (N_GROUPS, N_DRIVEN)),
    }
    first, reports = site(people, 2 * seed, n, rng)
    second, other_reports = site(people, 2 * seed + 1, n, rng)
    groups = group_volumes(np.sqrt(first), N_GROUPS, 0)
    placed = np.linalg.norm(np.sqrt(second)[:, None] - groups.centres[None], axis=2).argmin(axis=1)
    tests = associate_counted(counted(groups.cluster, reports, SETTINGS), SETTINGS).associations
    found = tests[tests["p_holm"] <= SETTINGS.alpha]
    again = replicate(found, counted(placed, other_reports, replace(SETTINGS, min_term_count=1)), SETTINGS)
    return again.assign(is_true=again["term_id"].str[3:].astype(int) < N_DRIVEN)


def figures(n_pairs: int, n: int) -> dict[str, float]:
    """Outcomes of true associations with and without power, and of false ones."""
    table = pd.concat([one_pair(seed, n) for seed in range(n_pairs)])
    is_strong = table["power"] > SETTINGS.power
    kinds = {
        "true_with_power": table["is_true"] & is_strong,
        "true_without_power": table["is_true"] & ~is_strong,
        "false": ~table["is_true"],
    }
    out: dict[str, float] = {"n_pairs": n_pairs, "n_patients": n}
    for name, mask in kinds.items():
        out[f"{name}_n"] = int(mask.sum())
        for outcome in (REPLICATED, NOT_REPLICATED, UNDERPOWERED):
            out[f"{name}_{outcome.replace(' ', '_')}"] = float((table.loc[mask, "outcome"] == outcome).mean())
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--pairs", type=int, default=200, help="pairs of sites")
    parser.add_argument("--patients", type=int, default=400, help="patients of each site")
    arguments = parser.parse_args()
    begin = time.perf_counter()
    found = figures(arguments.pairs, arguments.patients)
    found["seconds"] = time.perf_counter() - begin
    if arguments.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(f"{name:40s} {value:12.4g}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
