"""The gate: what is true is kept, what a scanner or age explains is said to be so.

python benchmarks/gate.py --json                           made-up populations, 200 of each kind
python benchmarks/gate.py --real FOLDER --json             real headers and findings: ctrate_valid_*.csv in FOLDER
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from popclust.evaluation.associations import associate_counted
from popclust.evaluation.counting import ReportTerms, count_population
from popclust.evaluation.gate import CANNOT_TELL, EXPLAINED, SURVIVES, stratify
from popclust.settings import AssociateSettings

SETTINGS = AssociateSettings(n_permutations=0, min_term_count=10)
N_GROUPS = 6
N_TERMS = 20


@dataclass(frozen=True)
class Made:
    """A population whose groups and terms are known."""

    group: np.ndarray
    """(patient,) group."""
    has_term: np.ndarray
    """(patient, term) whether the report has the term."""
    variables: pd.DataFrame
    """(patient,) what is known of each."""
    driven: np.ndarray
    """(term,) terms that have to do with the group, in truth or through a variable."""


def terms_given(log_odds: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.asarray(rng.random(log_odds.shape) < 1 / (1 + np.exp(-log_odds)))


def base(n: int, rng: np.random.Generator) -> np.ndarray:
    return np.tile(rng.uniform(-2.5, -1.0, N_TERMS), (n, 1))


def scanner_only(n: int, rng: np.random.Generator) -> Made:
    """Three scanners decide half of the groups, and the frequency of half of the terms; nothing else does."""
    scanner = rng.choice(3, n, p=(0.5, 0.3, 0.2))
    group = np.where(rng.random(n) < 0.5, 2 * scanner + rng.integers(0, 2, n), rng.integers(0, N_GROUPS, n))
    log_odds = base(n, rng)
    log_odds[:, :10] += rng.normal(0, 1.5, (3, 10))[scanner]
    variables = pd.DataFrame({"scanner": np.array(["A", "B", "C"])[scanner]})
    return Made(group, terms_given(log_odds, rng), variables, np.arange(N_TERMS) < 10)


def coin_flip(n: int, rng: np.random.Generator) -> Made:
    """Groups that differ in half of the terms, and two scanners that have nothing to do with either."""
    group = rng.choice(N_GROUPS, n, p=(0.3, 0.2, 0.2, 0.1, 0.1, 0.1))
    log_odds = base(n, rng)
    log_odds[:, :10] += rng.normal(0, 1.2, (N_GROUPS, 10))[group]
    variables = pd.DataFrame({"scanner": np.where(rng.random(n) < 0.5, "A", "B")})
    return Made(group, terms_given(log_odds, rng), variables, np.arange(N_TERMS) < 10)


def beside_scanner(n: int, rng: np.random.Generator) -> Made:
    """Groups that differ in half of the terms; two scanners, each twice as frequent in half of the groups."""
    made = coin_flip(n, rng)
    scanner = rng.random(n) < np.where(made.group % 2 == 0, 2 / 3, 1 / 3)
    return Made(made.group, made.has_term, pd.DataFrame({"scanner": np.where(scanner, "A", "B")}), made.driven)


def age_driven(n: int, rng: np.random.Generator) -> Made:
    """Age decides groups, with noise, and the frequency of half of the terms; nothing else does."""
    age = rng.normal(60, 15, n).clip(18, 90)
    rank = np.argsort(np.argsort(age + rng.normal(0, 10, n)))
    log_odds = base(n, rng)
    log_odds[:, :10] += rng.choice((-1, 1), 10) * rng.uniform(0.5, 1.2, 10) * ((age - 60) / 15)[:, None]
    variables = pd.DataFrame({"age_years": age.round()})
    return Made(rank * N_GROUPS // n, terms_given(log_odds, rng), variables, np.arange(N_TERMS) < 10)


def outcomes(made: Made, settings: AssociateSettings = SETTINGS) -> pd.DataFrame:
    """Outcome of every significant association with a driven term, by variable."""
    volume_id = np.array([f"v{i:05d}" for i in range(len(made.group))], dtype=object)
    terms = pd.Index([f"RID{t:03d}" for t in range(made.has_term.shape[1])])
    clusters = pd.DataFrame(
        {"volume_id": volume_id, "descriptor": "lda", "n_clusters": int(made.group.max()) + 1, "seed": 0}
    ).assign(cluster=made.group)
    everyone, patient = pd.Series(True, index=volume_id), pd.Series(volume_id, index=volume_id)
    reports = ReportTerms(pd.DataFrame(made.has_term, index=volume_id, columns=terms), pd.Series(terms, index=terms))
    population = count_population(clusters, reports, everyone, patient, settings)
    found = associate_counted(population, settings).associations
    table = stratify(population, found, made.variables.set_index(volume_id), settings)
    table = table.merge(found[["cluster", "term_id", "odds_ratio", "p_value"]].rename(columns={"odds_ratio": "crude"}))
    return table[made.driven[table["term_id"].str[3:].astype(int)]]


def shuffled(make: Callable[[int, np.random.Generator], Made], n: int, rng: np.random.Generator) -> Made:
    """The population with its variables dealt out anew."""
    made = make(n, rng)
    return Made(made.group, made.has_term, made.variables.iloc[rng.permutation(n)].reset_index(drop=True), made.driven)


def shares(name: str, tables: list[pd.DataFrame]) -> dict[str, float]:
    """Share of each outcome over the associations of all populations."""
    table = pd.concat(tables)
    outcome = table["outcome"]
    beyond = (table["retained"] < table["shuffled_low"]) | (table["retained"] > table["shuffled_high"])
    return {
        f"{name}_n": len(table),
        **{f"{name}_{o.replace(' ', '_')}": float((outcome == o).mean()) for o in (SURVIVES, EXPLAINED, CANNOT_TELL)},
        f"{name}_beyond_reference": float(beyond.mean()),
    }


def simulated(n_populations: int, n_patients: int) -> dict[str, float]:
    """All kinds of made-up populations."""
    kinds: dict[str, Callable[[int, np.random.Generator], Made]] = {
        "scanner_only": scanner_only,
        "true_coin_flip": coin_flip,
        "true_beside_scanner": beside_scanner,
        "age_driven": age_driven,
        "shuffled_scanner": lambda n, rng: shuffled(scanner_only, n, rng),
        "shuffled_age": lambda n, rng: shuffled(age_driven, n, rng),
    }
    out: dict[str, float] = {"n_populations": n_populations, "n_patients": n_patients}
    for index, (name, make) in enumerate(kinds.items()):
        generators = [np.random.default_rng([seed, index]) for seed in range(n_populations)]
        out |= shares(name, [outcomes(make(n_patients, rng)) for rng in generators])
    return out


def real_table(folder: Path) -> tuple[pd.DataFrame, np.ndarray, list[str]]:
    """One series per patient: scanner model and findings."""
    headers = pd.read_csv(folder / "ctrate_valid_headers.csv")
    labels = pd.read_csv(folder / "ctrate_valid_labels.csv")
    table = headers.merge(labels, on="VolumeName")
    table["patient"] = table["VolumeName"].str.split("_").str[1]
    first = table.drop_duplicates("patient").reset_index(drop=True)
    findings = list(labels.columns[1:])
    return first, first[findings].to_numpy(bool), findings


def real(folder: Path, n_repeats: int) -> dict[str, float]:
    """Groups that are the scanner models, and a group that is planted within them."""
    table, has_term, _ = real_table(folder)
    model = pd.factorize(table["ManufacturerModelName"], sort=True)[0]
    variables = pd.DataFrame({"scanner": table["ManufacturerModelName"]})
    everything = np.ones(has_term.shape[1], dtype=bool)
    disguised = outcomes(Made(model, has_term, variables, everything))
    planted = []
    for seed in range(n_repeats):
        rng = np.random.default_rng(seed)
        finding = has_term[:, seed % has_term.shape[1]]
        group = (rng.random(len(table)) < np.where(finding, 0.6, 0.15)).astype(int)
        planted.append(outcomes(Made(group, has_term, variables, everything)))
    return {
        "real_n_patients": len(table),
        "real_n_models": int(model.max()) + 1,
        **shares("real_models", [disguised]),
        **shares("real_planted", planted),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--real", type=Path, metavar="FOLDER", help="folder with ctrate_valid_headers.csv and _labels.csv"
    )
    parser.add_argument("--populations", type=int, default=200, help="made-up populations of each kind")
    parser.add_argument("--patients", type=int, default=1200, help="patients of each")
    arguments = parser.parse_args()
    begin = time.perf_counter()
    made = None if arguments.real else simulated(arguments.populations, arguments.patients)
    figures = made or real(arguments.real, 18)
    figures["seconds"] = time.perf_counter() - begin
    if arguments.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:40s} {value:12.4g}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
