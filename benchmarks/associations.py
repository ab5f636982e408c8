"""Associations: exactness and speed, calibration of the null, and the confounder gate.

python benchmarks/associations.py --json                   exactness, speed, memory
python benchmarks/associations.py --calibration 1000       null populations, without and with repeated scans
python benchmarks/associations.py --confounders 20         scanners alone, and disease beside scanners
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from fractions import Fraction
from functools import partial
from math import comb, log

import numpy as np
import pandas as pd
import pyarrow as pa

from popclust.evaluation.associations import AssociationResult, associate_counted, holm
from popclust.evaluation.confounders import predictability
from popclust.evaluation.counting import CountedPopulation, ReportTerms, count_population
from popclust.evaluation.fisher import fisher_exact
from popclust.evaluation.gate import SURVIVES, gate, stratify
from popclust.evaluation.odds_ratios import odds_ratio_intervals
from popclust.evaluation.permutation import null_criterion
from popclust.evaluation.technical_effects import remove_technical_effects
from popclust.settings import AssociateSettings

DESCRIPTORS = ("haralick", "sift", "concatenated", "lda")


# --- exactness -------------------------------------------------------------------------------------------------------


def random_tables(n: int, rng: np.random.Generator) -> np.ndarray:
    """(n, 4) V, R, C, B: likely tables, any table that the margins allow, tiny and large populations."""
    B = np.where(rng.random(n) < 0.9, rng.integers(2, 8000, n), rng.integers(8000, 100_000, n))
    B = np.where(rng.random(n) < 0.1, rng.integers(2, 30, n), B)
    R = (B * rng.random(n) ** 2).astype(int)
    C = (B * rng.random(n) ** 2).astype(int)
    low, high = np.maximum(0, R + C - B), np.minimum(R, C)
    kind = rng.random(n)
    V = rng.hypergeometric(R, B - R, C)
    V = np.where(kind < 0.3, rng.integers(low, high + 1), V)
    V = np.where((kind > 0.95), np.where(rng.random(n) < 0.5, low, high), V)
    return np.stack([V, R, C, B], axis=1)


def exact_log_p(V: int, R: int, C: int, B: int) -> float:
    """Two-sided ln p in whole numbers, for tables whose p a double cannot hold."""
    ways = [comb(C, x) * comb(B - C, R - x) for x in range(max(0, R + C - B), min(R, C) + 1)]
    observed = comb(C, V) * comb(B - C, R - V)
    p = Fraction(sum(w for w in ways if w <= observed), comb(B, R))
    shift = max(0, p.denominator.bit_length() - p.numerator.bit_length())
    return log(Fraction(p.numerator << shift, p.denominator)) - shift * log(2.0)


def relative(value: np.ndarray, reference: np.ndarray) -> float:
    """Largest relative difference; both infinite, both NaN or both zero are equal."""
    same = (value == reference) | (np.isnan(value) & np.isnan(reference))
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.abs(value - reference) / np.abs(reference)
    return float(np.nan_to_num(np.where(same, 0.0, error), nan=np.inf).max(initial=0.0))


def scipy_tests(tables: np.ndarray) -> np.ndarray:
    """(table, 2) p and odds ratio by a loop over scipy."""
    from scipy.stats import fisher_exact as scipy_fisher

    tests = [scipy_fisher([[v, r - v], [c - v, b - r - c + v]]) for v, r, c, b in tables.tolist()]
    return np.array([(test.pvalue, test.statistic) for test in tests])


def exactness(n_tables: int, seed: int, n_processes: int) -> dict[str, float]:
    """Compare with scipy and statsmodels; both are timed on the same first tables, alone."""
    from statsmodels.stats.multitest import multipletests

    tables = random_tables(n_tables, np.random.default_rng(seed))
    fisher_exact(*tables.T)
    timed = tables[: min(n_tables, 10_000)]
    begin = time.perf_counter()
    fisher_exact(*timed.T)
    seconds = time.perf_counter() - begin
    begin = time.perf_counter()
    first = scipy_tests(timed)
    scipy_seconds = time.perf_counter() - begin
    with ProcessPoolExecutor(n_processes) as pool:
        rest = list(pool.map(scipy_tests, np.array_split(tables[len(timed) :], 20)))
    ours = fisher_exact(*tables.T)
    p, odds = np.concatenate([first, *(part for part in rest if len(part))]).T
    held = p > 1e-300
    small = [i for i in np.flatnonzero(~held) if tables[i, 3] < 8000][:10]
    exact = np.array([exact_log_p(*tables[i].tolist()) for i in small])
    families = ours.p_value[: n_tables // 20 * 20].reshape(-1, 20).T
    gc.freeze()  # statsmodels collects garbage in every call
    corrected = np.stack([multipletests(family, method="holm")[1] for family in families.T], axis=1)
    errors = {
        "log_p_error": relative(ours.log_p[held], np.minimum(0.0, np.log(p[held]))),
        "odds_ratio_error": relative(ours.odds_ratio, odds),
        "holm_error": relative(holm(families), corrected),
        "log_p_error_below_1e-300": relative(ours.log_p[small], exact),
    }
    return {
        "max_relative_error": max(errors.values()),
        **errors,
        **agreement(tables, ours.p_value),
        "n_tables": n_tables,
        "n_below_1e-300": int(np.sum(~held)),
        "scipy_ratio": scipy_seconds / seconds,
        "scipy_us_per_table": 1e6 * scipy_seconds / len(timed),
        "us_per_table": 1e6 * seconds / len(timed),
    }


def agreement(tables: np.ndarray, p_value: np.ndarray) -> dict[str, float]:
    """Tables whose 95 % interval and test disagree on whether the odds ratio is 1."""
    begin = time.perf_counter()
    interval = odds_ratio_intervals(*tables.T)
    holds_one = (interval.low <= 1.0) & (interval.high >= 1.0)
    return {
        "n_interval_disagrees_with_test": int(np.sum(holds_one != (p_value > 0.05))),
        "interval_us_per_table": 1e6 * (time.perf_counter() - begin) / len(tables),
    }


# --- the paper's size ------------------------------------------------------------------------------------------------


def nearest_centre(x: np.ndarray, n_clusters: int, rng: np.random.Generator, n_iterations: int = 0) -> np.ndarray:
    """Groups by Lloyd's k-means from random volumes: n_iterations = 0 only assigns."""
    centres = x[rng.choice(len(x), n_clusters, replace=False)]
    for _ in range(n_iterations):
        labels = np.argmin((centres**2).sum(axis=1) - 2 * x @ centres.T, axis=1)
        count = np.bincount(labels, minlength=n_clusters)
        sums = np.stack([np.bincount(labels, weights=column, minlength=n_clusters) for column in x.T], axis=1)
        centres = np.where(count[:, None] > 0, sums / np.maximum(count, 1)[:, None], centres)
    return np.asarray(np.argmin((centres**2).sum(axis=1) - 2 * x @ centres.T, axis=1))


def cluster_frame(
    descriptors: dict[str, np.ndarray], volume_id: np.ndarray, K: range, seeds: range, n_iterations: int = 0
) -> pd.DataFrame:
    """The long table of clusters, strings as they come from Parquet."""
    n = len(volume_id)
    keys = [(d, name, k, s) for d, name in enumerate(descriptors) for k in K for s in seeds]
    labels = np.empty((len(keys), n), dtype=np.int64)
    for row, (d, name, k, s) in enumerate(keys):
        labels[row] = nearest_centre(descriptors[name], k, np.random.default_rng([d, k, s]), n_iterations)
    code = pa.array(np.tile(np.arange(n, dtype=np.int32), len(keys)))
    name_code = pa.array(np.repeat(np.array([key[0] for key in keys], dtype=np.int32), n))
    columns = {
        "volume_id": pa.DictionaryArray.from_arrays(code, pa.array(volume_id)).dictionary_decode(),
        "descriptor": pa.DictionaryArray.from_arrays(name_code, pa.array(list(descriptors))).dictionary_decode(),
        "n_clusters": pa.array(np.repeat(np.array([key[2] for key in keys]), n)),
        "seed": pa.array(np.repeat(np.array([key[3] for key in keys]), n)),
        "cluster": pa.array(labels.ravel()),
    }
    return pa.table(columns).to_pandas()


def terms_of(has_term: np.ndarray, volume_id: np.ndarray) -> ReportTerms:
    """Numbered terms."""
    present = pd.DataFrame(has_term, index=volume_id, columns=[f"RID{t:03d}" for t in range(has_term.shape[1])])
    return ReportTerms(present, pd.Series(present.columns, index=present.columns))


def names(n: int) -> np.ndarray:
    return np.array([f"v{i:06d}" for i in range(n)], dtype=object)


def paper_size(n_permutations: int, n_threads: int) -> dict[str, float]:
    """7,812 volumes, 5,886 reports, 69 terms, K = 2..60, 5 seeds, 4 descriptors."""
    rng = np.random.default_rng(0)
    volume_id = names(7812)
    disease = rng.random((7812, 10)) < 0.1
    descriptors = {name: disease @ rng.normal(0, 2, (10, 8)) + rng.normal(size=(7812, 8)) for name in DESCRIPTORS}
    chance = np.geomspace(0.01, 0.3, 69) * np.where(disease[:, np.arange(69) % 10], 2.5, 0.83)
    terms = terms_of(rng.random(chance.shape) < chance, volume_id)
    clusters = cluster_frame(descriptors, volume_id, range(2, 61), range(5))
    has_report = pd.Series(np.arange(7812) < 5886, index=volume_id)
    patient = pd.Series(volume_id, index=volume_id)
    settings = AssociateSettings(n_permutations=n_permutations, min_term_count=1)
    timed, cpu = [0.0], 0.0
    for _ in range(2):  # the first loads what was compiled
        begin, begin_cpu = time.perf_counter(), time.process_time()
        population = count_population(clusters, terms, has_report, patient, settings)
        counted = time.perf_counter()
        result = associate_counted(population, settings)
        timed = [counted - begin, time.perf_counter() - counted]
        cpu = time.process_time() - begin_cpu
    one = population.only((population.grid["descriptor"] == "lda").to_numpy())
    null_criterion(one, settings.alpha, settings.seed, 0, 1)
    begin = time.perf_counter()
    null = spread_null(one, settings, n_threads)
    associate_counted(one, settings, null)
    return {
        "paper_size_seconds": sum(timed),
        "of_it_lining_up_seconds": timed[0],
        "paper_size_cpu_seconds": cpu,
        "n_tests": int(population.first_cell[-1]) * len(population.term_id),
        "n_terms": len(population.term_id),
        "n_rows_kept": len(result.associations),
        "permutation_seconds": time.perf_counter() - begin,
        "n_permutations": n_permutations,
        "n_threads": n_threads,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def spread_null(population: CountedPopulation, settings: AssociateSettings, n_threads: int) -> np.ndarray:
    """The null in chunks over threads: the kernels leave the interpreter's lock."""
    edges = np.linspace(0, settings.n_permutations, 2 * n_threads + 1).astype(int)
    part = partial(null_criterion, population, settings.alpha, settings.seed)
    with ThreadPoolExecutor(n_threads) as pool:
        return np.concatenate(list(pool.map(part, edges[:-1], edges[1:])))


# --- calibration -----------------------------------------------------------------------------------------------------


def null_population(seed: int, repeats: bool) -> tuple[pd.DataFrame, ReportTerms, pd.Series]:
    """400 patients whose looks and reports have nothing to do with each other; 30 % scanned three times or nobody."""
    rng = np.random.default_rng([seed, repeats])
    n_scans = np.where(rng.random(400) < 0.3, 3, 1) if repeats else np.ones(400, dtype=int)
    patient = np.repeat(np.arange(400), n_scans)
    looks = rng.normal(size=(400, 6)) + 2.0 * rng.normal(size=(4, 6))[rng.integers(0, 4, 400)]
    x = looks[patient] + 0.2 * rng.normal(size=(patient.size, 6))
    sick = rng.normal(size=(400, 1))  # terms of a report go together
    chance = 1 / (1 + np.exp(-(rng.uniform(-2.5, -0.5, 30) + sick)))
    lasting = rng.random((400, 30)) < chance
    has_term = lasting[patient] ^ (rng.random((patient.size, 30)) < 0.02)
    volume_id = names(patient.size)
    clusters = cluster_frame({"lda": x}, volume_id, range(2, 16), range(5), 4)
    return clusters, terms_of(has_term, volume_id), pd.Series(patient, index=volume_id)


def p_values(
    clusters: pd.DataFrame, terms: ReportTerms, patient: pd.Series, settings: AssociateSettings
) -> tuple[float, float, int]:
    """p_value_selected, p_value at the reported K, and Q."""
    has_report = pd.Series(True, index=patient.index)
    population = count_population(clusters, terms, has_report, patient, settings)
    null = null_criterion(population, settings.alpha, settings.seed, 0, settings.n_permutations)
    result = associate_counted(population, settings, null)
    row = result.criterion[result.reported.rows(result.criterion)].iloc[0]
    return float(row["p_value_selected"]), float(row["p_value"]), int(row["Q"])


def calibrate_one(n_permutations: int, seed: int) -> list[tuple[float, float, int]]:
    """One null population of each kind, analysed rightly and wrongly."""
    volume = AssociateSettings(n_permutations=n_permutations, unit="volume", min_term_count=10, seed=seed)
    patient = AssociateSettings(n_permutations=n_permutations, unit="patient", min_term_count=10, seed=seed)
    clusters, terms, patients = null_population(seed, repeats=False)
    again, again_terms, again_patients = null_population(seed, repeats=True)
    nobody_twice = pd.Series(np.arange(len(again_patients)), index=again_patients.index)
    return [
        p_values(clusters, terms, patients, patient),
        p_values(again, again_terms, again_patients, patient),
        p_values(again, again_terms, again_patients, volume),
        p_values(again, again_terms, nobody_twice, volume),
    ]


def calibration(n_populations: int, n_permutations: int, n_processes: int) -> dict[str, float]:
    """Share of null populations that look significant."""
    begin = time.perf_counter()
    with ProcessPoolExecutor(n_processes) as pool:
        runs = list(pool.map(partial(calibrate_one, n_permutations), range(n_populations), chunksize=5))
    values = np.array(runs)  # (population, analysis, (selected p, p, Q))
    selected, chosen = (values[:, :, column] < 0.05 for column in (0, 1))
    return {
        "null_share_below_005": float(selected[:, 0].mean()),
        "naive_share": float(chosen[:, 0].mean()),
        "any_association_share": float((values[:, 0, 2] > 0).mean()),
        "repeats_patient_share": float(selected[:, 1].mean()),
        "repeats_patient_naive_share": float(chosen[:, 1].mean()),
        "repeats_blocks_share": float(selected[:, 2].mean()),
        "repeats_blocks_naive_share": float(chosen[:, 2].mean()),
        "repeats_ignored_share": float(selected[:, 3].mean()),
        "n_populations": n_populations,
        "n_permutations": n_permutations,
        "seconds": time.perf_counter() - begin,
    }


# --- confounders -----------------------------------------------------------------------------------------------------


def scanner_population(seed: int, disease: bool, n: int) -> dict[str, np.ndarray]:
    """Two scanners that change looks and 20 of 60 terms; with disease, 6 diseases that do the same to 24 others."""
    rng = np.random.default_rng([seed, disease])
    scanner = rng.random(n) < 0.5
    sick = rng.random((n, 6)) < (0.12 if disease else 0.0)
    x = rng.normal(size=(n, 10))
    x[:, 0] += 3.0 * scanner
    x[:, 1:7] += 4.0 * sick
    log_odds = np.tile(rng.uniform(-3.0, -1.0, 60), (n, 1))
    log_odds[:, :20] += 1.0 * scanner[:, None]
    log_odds[:, 20:44] += 2.0 * np.repeat(sick, 4, axis=1)
    has_term = rng.random((n, 60)) < 1 / (1 + np.exp(-log_odds))
    return {"x": x, "scanner": scanner, "has_term": has_term, "kernel": scanner ^ (rng.random(n) < 0.1)}


def find(
    x: np.ndarray, has_term: np.ndarray, settings: AssociateSettings
) -> tuple[CountedPopulation, AssociationResult]:
    volume_id = names(len(x))
    clusters = cluster_frame({"lda": x}, volume_id, range(2, 21), range(5), 20)
    everyone = pd.Series(True, index=volume_id)
    population = count_population(
        clusters, terms_of(has_term, volume_id), everyone, pd.Series(volume_id, volume_id), settings
    )
    result = associate_counted(population, settings)
    return population.only(result.reported.rows(population.grid)), result


def confound_one(n: int, disease: bool, seed: int) -> dict[str, float]:
    """Naive associations, what the gate leaves of them, and removal of the scanner's effect."""
    settings = AssociateSettings(n_permutations=0)
    made = scanner_population(seed, disease, n)
    population, result = find(made["x"], made["has_term"], settings)
    variables = pd.DataFrame(
        {"scanner": np.where(made["scanner"], "A", "B"), "kernel": np.where(made["kernel"], "B70f", "B80f")},
        index=names(n),
    )
    verdict = gate(stratify(population, result.associations, variables, settings))
    term, survives = verdict["term_id"].str[3:].astype(int), verdict["outcome"] == SURVIVES
    tied, real = term < 20, (term >= 20) & (term < 44)
    after = remove_technical_effects(made["x"], variables)
    again = find(after, made["has_term"], settings)[1]
    scanner, volume_id = variables["scanner"], names(n)
    return {
        "n_clusters": result.reported.n_clusters,
        "found": len(verdict),
        "survive": int(survives.sum()),
        "found_scanner": int(tied.sum()),
        "survive_scanner": int(survives[tied].sum()),
        "found_disease": int(real.sum()) if disease else 0,
        "survive_disease": int(survives[real].sum()) if disease else 0,
        "accuracy_before": predictability(made["x"], scanner, volume_id).balanced_accuracy,
        "accuracy_after": predictability(after, scanner, volume_id).balanced_accuracy,
        "Q_after_removal": int(again.criterion["Q"][again.reported.rows(again.criterion)].iloc[0]),
    }


def confounding(n_populations: int, n: int, n_processes: int) -> dict[str, float]:
    """Scanners alone, then disease beside the same scanners."""
    out: dict[str, float] = {"n_populations": n_populations, "n_patients": n}
    with ProcessPoolExecutor(n_processes) as pool:
        for name, disease in (("scanners", False), ("disease", True)):
            runs = pd.DataFrame(list(pool.map(partial(confound_one, n, disease), range(n_populations))))
            total = runs.sum()
            out[f"{name}_found"] = int(total["found"])
            out[f"{name}_marked_share"] = float(1 - total["survive"] / total["found"])
            out[f"{name}_populations_with_survivors"] = int((runs["survive"] > 0).sum())
            out[f"{name}_accuracy_before"] = float(runs["accuracy_before"].mean())
            out[f"{name}_accuracy_after"] = float(runs["accuracy_after"].mean())
            out[f"{name}_Q_before"] = float(runs["found"].mean())
            out[f"{name}_Q_after_removal"] = float(runs["Q_after_removal"].mean())
    out["disease_real_found"] = int(total["found_disease"])
    out["disease_real_kept_share"] = float(total["survive_disease"] / total["found_disease"])
    out["disease_scanner_found"] = int(total["found_scanner"])
    out["disease_scanner_marked_share"] = float(1 - total["survive_scanner"] / max(1, total["found_scanner"]))
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--calibration", type=int, metavar="N", help="N null populations of each kind")
    parser.add_argument("--confounders", type=int, metavar="N", help="N populations with scanners of each kind")
    parser.add_argument("--tables", type=int, default=100_000, help="random tables")
    parser.add_argument("--permutations", type=int, help="default: 1,000; 199 per population for calibration")
    parser.add_argument("--patients", type=int, default=5886, help="patients of a population with scanners")
    parser.add_argument("--workers", type=int, default=2, help="threads or processes")
    arguments = parser.parse_args()
    if arguments.calibration:
        figures = calibration(arguments.calibration, arguments.permutations or 199, arguments.workers)
    elif arguments.confounders:
        figures = confounding(arguments.confounders, arguments.patients, arguments.workers)
    else:
        size = paper_size(arguments.permutations or 1000, arguments.workers)
        figures = {**exactness(arguments.tables, 0, arguments.workers), **size}
    if arguments.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:34s} {value:12.4g}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
